"""Llama 2, 3 and 4."""

from transformers import (
    Llama4Config,
    Llama4ForCausalLM,
    Llama4ForConditionalGeneration,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
)

from .fixture import BASE, Fixture
from .published import no_head_dim, rope_keys_of_transformers_4

LLAMA = BASE | dict(head_dim=16)
# Chunks of 7 positions, queries that grow every 5; a layer of experts beside a dense one.
LLAMA4_TEXT = dict(
    hidden_size=20,
    intermediate_size=12,
    intermediate_size_mlp=34,
    num_hidden_layers=4,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    num_local_experts=3,
    interleave_moe_layer_step=2,
    attention_chunk_size=7,
    floor_scale=5,
    attn_scale=0.4,
)
# Tiles of 4 x 4 patches, which become 4 vectors.
LLAMA4_VISION = dict(
    hidden_size=16,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=8,
    patch_size=2,
    vision_output_dim=12,
    projector_input_dim=12,
    projector_output_dim=12,
    rope_parameters=dict(rope_type="default", rope_theta=30.0),
)


FIXTURES = [
    Fixture(
        "llama",
        LlamaForCausalLM,
        LlamaConfig,
        LLAMA | dict(hidden_size=48, num_attention_heads=3, num_key_value_heads=1),
        "float32",
        published=no_head_dim,
    ),
    # Every bias that the family can have.
    Fixture(
        "llama-bias",
        LlamaForCausalLM,
        LlamaConfig,
        LLAMA | dict(attention_bias=True, mlp_bias=True),
        "float16",
        shard_bytes=40_000,
    ),
    # An original context for which all three bands of frequencies occur: wavelengths 6.3, then 32.4, against 16 and 64.
    Fixture(
        "llama3-rope",
        LlamaForCausalLM,
        LlamaConfig,
        LLAMA
        | dict(
            tie_word_embeddings=True,
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=500000.0,
                factor=8.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=64,
            ),
        ),
        "bfloat16",
        published=rope_keys_of_transformers_4,
        template_file=False,
    ),
    Fixture(
        "llama4",
        Llama4ForConditionalGeneration,
        Llama4Config,
        dict(text_config=LLAMA4_TEXT, vision_config=LLAMA4_VISION, image_token_index=308),
        "bfloat16",
        tokenizer="llama-images",
        positions=20,
        images=[(1, 2), (1, 1)],
        # As published, but for its sizes.
        processor=dict(
            crop_size=None,
            data_format="channels_first",
            default_to_square=True,
            device=None,
            do_center_crop=None,
            do_convert_rgb=True,
            do_normalize=True,
            do_rescale=True,
            do_resize=True,
            image_mean=[0.5, 0.5, 0.5],
            image_processor_type="Llama4ImageProcessorFast",
            image_std=[0.5, 0.5, 0.5],
            input_data_format=None,
            max_patches=4,
            processor_class="Llama4Processor",
            resample=2,
            rescale_factor=1 / 255,
            resize_to_max_canvas=False,
            return_tensors=None,
            size=dict(height=8, width=8),
        ),
    ),
    # Two experts a token on the layers of a list, no norms, biases, a table of factors that meet, a tied head; a layer
    # that rotates and sees all, and one that does neither.
    Fixture(
        "llama4-options",
        Llama4ForCausalLM,
        Llama4TextConfig,
        LLAMA4_TEXT
        | dict(
            num_hidden_layers=3,
            moe_layers=[1, 2],
            num_experts_per_tok=2,
            num_key_value_heads=2,
            use_qk_norm=False,
            attention_bias=True,
            attn_temperature_tuning=False,
            tie_word_embeddings=True,
            no_rope_layers=[1, 0, 1],
            layer_types=["chunked_attention", "chunked_attention", "full_attention"],
            rope_parameters=dict(
                rope_type="llama3",
                rope_theta=100.0,
                factor=4.0,
                low_freq_factor=1.0,
                high_freq_factor=1.0,
                original_max_position_embeddings=64,
            ),
        ),
        "bfloat16",
        published=rope_keys_of_transformers_4,
    ),
]
