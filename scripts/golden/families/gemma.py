"""Gemma 3 and 4."""

from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Gemma4Config,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
)

from .fixture import BASE, Fixture
from .published import (
    gemma_keys_as_first_published,
    gemma_keys_before_layers_had_their_own,
    gemma_keys_of_transformers_4,
    gemma_tensors_as_published,
)

GEMMA4 = dict(
    hidden_size=20,
    intermediate_size=34,
    num_hidden_layers=4,
    num_attention_heads=2,
    num_key_value_heads=2,
    head_dim=8,
    global_head_dim=12,
    max_position_embeddings=128,
    rms_norm_eps=1e-2,
    sliding_window=8,
    layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    final_logit_softcapping=5.0,
    rope_parameters=dict(
        sliding_attention=dict(rope_type="default", rope_theta=10000.0),
        full_attention=dict(rope_type="proportional", partial_rotary_factor=0.5, rope_theta=50000.0),
    ),
)


def gemma_images(text: dict, tower: dict) -> dict:
    """A tower with positions for 10 patches a side, and the ids of `tokenizer.GEMMA_IMAGE_TOKENS`."""
    small = dict(
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=8,
        patch_size=2,
        position_embedding_size=10,
        rms_norm_eps=1e-2,
    )
    ids = dict(boi_token_id=366, image_token_id=367, eoi_token_id=368, video_token_id=369)
    return dict(text_config=text, vision_config=small | tower) | ids


FIXTURES = [
    # What the large dense model has (values that are keys, fewer heads of them on full layers) and what the small ones
    # have (vectors of layers, two layers that take keys and values over and are twice as wide).
    Fixture(
        "gemma4",
        Gemma4ForCausalLM,
        Gemma4TextConfig,
        GEMMA4
        | dict(
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            num_kv_shared_layers=2,
            use_double_wide_mlp=True,
            hidden_size_per_layer_input=6,
        ),
        "bfloat16",
        tokenizer="sentencepiece",
        published=gemma_keys_before_layers_had_their_own,
        positions=20,
    ),
    # Experts beside the feed-forward of every layer, and what the large models' towers have: a mean that is scaled and
    # moved, and tokens of an image that see each other, more of them than a window has.
    Fixture(
        "gemma4-moe",
        Gemma4ForConditionalGeneration,
        Gemma4Config,
        gemma_images(
            GEMMA4
            | dict(
                num_hidden_layers=3,
                layer_types=["sliding_attention", "sliding_attention", "full_attention"],
                hidden_size_per_layer_input=0,
                enable_moe_block=True,
                num_experts=4,
                top_k_experts=2,
                moe_intermediate_size=12,
                use_bidirectional_attention="vision",
            ),
            dict(standardize=True, pooling_kernel_size=2),
        ),
        "bfloat16",
        tokenizer="gemma-images",
        positions=20,
        images=[(6, 8), (4, 2)],
    ),
    # The tower of the small models, whose products are cut to bounds, beside vectors of layers.
    Fixture(
        "gemma4-images",
        Gemma4ForConditionalGeneration,
        Gemma4Config,
        gemma_images(
            GEMMA4
            | dict(
                num_hidden_layers=2,
                layer_types=["sliding_attention", "full_attention"],
                hidden_size_per_layer_input=6,
            ),
            dict(num_hidden_layers=1, use_clipped_linears=True, rope_parameters=dict(rope_type="axial", rope_theta=20.0)),
        ),
        "bfloat16",
        tokenizer="gemma-images",
        positions=14,
        images=[(3, 9), (9, 3), (3, 3)],
        processor=dict(image_processor_type="Gemma4ImageProcessor", max_soft_tokens=70, patch_size=2),
    ),
    Fixture(
        "gemma3",
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        BASE
        | dict(
            head_dim=20,
            num_hidden_layers=3,
            sliding_window=8,
            sliding_window_pattern=2,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            query_pre_attn_scalar=24,  # not head_dim
        ),
        "bfloat16",
        tokenizer="sentencepiece",
        published=gemma_keys_of_transformers_4,
    ),
    # A tower of 6 patches a side, of which each 2 x 2 are a vector: 9 of an image, more than a window has, see each other in
    # both kinds of layers.
    Fixture(
        "gemma3-images",
        Gemma3ForConditionalGeneration,
        Gemma3Config,
        dict(
            text_config=BASE
            | dict(
                hidden_size=20,
                intermediate_size=28,
                num_attention_heads=2,
                num_key_value_heads=1,
                rms_norm_eps=1e-6,
                head_dim=12,
                num_hidden_layers=3,
                sliding_window=6,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                query_pre_attn_scalar=14,
                rope_parameters=dict(
                    sliding_attention=dict(rope_type="default", rope_theta=10000.0),
                    full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
                ),
            ),
            vision_config=dict(
                model_type="siglip_vision_model",
                hidden_size=12,
                intermediate_size=22,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=12,
                patch_size=2,
                layer_norm_eps=1e-2,
                vision_use_head=False,
            ),
            mm_tokens_per_image=9,
            boi_token_index=368,
            image_token_index=369,
            eoi_token_index=370,
        ),
        "bfloat16",
        tokenizer="gemma3-images",
        published=gemma_keys_as_first_published,
        published_tensors=gemma_tensors_as_published,
        positions=18,
        images=[(6, 6), (6, 6)],
        # As published, but for its sizes.
        processor=dict(
            do_convert_rgb=None,
            do_normalize=True,
            do_pan_and_scan=None,
            do_rescale=True,
            do_resize=True,
            image_mean=[0.5, 0.5, 0.5],
            image_processor_type="Gemma3ImageProcessor",
            image_seq_length=9,
            image_std=[0.5, 0.5, 0.5],
            pan_and_scan_max_num_crops=None,
            pan_and_scan_min_crop_size=None,
            pan_and_scan_min_ratio_to_activate=None,
            processor_class="Gemma3Processor",
            resample=2,
            rescale_factor=1 / 255,
            size=dict(height=12, width=12),
        ),
    ),
    # Both soft caps, and the linear RoPE scaling that the larger Gemma 3 have on their full layers.
    Fixture(
        "gemma3-softcap",
        Gemma3ForCausalLM,
        Gemma3TextConfig,
        BASE
        | dict(
            head_dim=16,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention"],
            query_pre_attn_scalar=16,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=2.5,
            rope_parameters=dict(
                sliding_attention=dict(rope_type="default", rope_theta=10000.0),
                full_attention=dict(rope_type="linear", factor=8.0, rope_theta=1000000.0),
            ),
        ),
        "float16",
        tokenizer="sentencepiece",
    ),
]
