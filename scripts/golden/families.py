"""The tiny checkpoints: one entry a family or variant, sizes chosen so that no width is a multiple of a group or tile."""

from dataclasses import dataclass, field
from typing import Callable

import torch
from transformers import (
    Gemma3Config,
    Gemma3ForCausalLM,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    Gemma4Config,
    Gemma4ForCausalLM,
    Gemma4ForConditionalGeneration,
    Gemma4TextConfig,
    Glm4Config,
    Glm4ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    Glm4MoeLiteConfig,
    Glm4MoeLiteForCausalLM,
    GlmMoeDsaConfig,
    GlmMoeDsaForCausalLM,
    Llama4Config,
    Llama4ForCausalLM,
    Llama4ForConditionalGeneration,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MuseGlimmerConfig,
    MuseGlimmerForConditionalGeneration,
    MuseSparkConfig,
    MuseSparkForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5Config,
    Qwen3_5ForCausalLM,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeConfig,
    Qwen3_5MoeForConditionalGeneration,
    Qwen3_5TextConfig,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
    SiglipVisionConfig,
)


@dataclass
class Fixture:
    name: str
    model: type
    config: type
    # Keys of the config beyond the tokenizer's.
    settings: dict
    # How the weights are stored: float32, float16, bfloat16.
    stored: str
    # "bytes": byte-level BPE, as Llama 3 and Qwen; "images", "sounds": the same with tokens for images, and sounds; "sentencepiece": spaces
    # as U+2581 and byte fallback, as Gemma.
    tokenizer: str = "bytes"
    # None for one file.
    shard_bytes: int | None = None
    # Rewrites config.json into the keys that published checkpoints use.
    published: Callable[[dict], None] = field(default=lambda config: None)
    # Rewrites the tensors into those of published checkpoints.
    published_tensors: Callable[[dict], dict] | None = None
    # Of the logits: more than a ring of the smallest windows holds.
    positions: int = 28
    # Rows and columns of patches, or of tiles, of each image of a second prompt.
    images: list[tuple[int, int]] = field(default_factory=list)
    # Grids of frames, and rows and columns of patches, of each video of a third prompt, in which the second image is too.
    videos: list[tuple[int, int, int]] = field(default_factory=list)
    # Samples of each sound of a fourth prompt.
    sounds: list[int] = field(default_factory=list)
    # preprocessor_config.json and video_preprocessor_config.json, where there are any.
    processor: dict | None = None
    video_processor: dict | None = None
    # False: the chat template goes into tokenizer_config.json, as older checkpoints have it.
    template_file: bool = True


BASE = dict(
    hidden_size=40,  # 32 + 8
    intermediate_size=76,  # 2 * 32 + 12
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
)
LLAMA = BASE | dict(head_dim=16)


def rope_keys_of_transformers_4(config: dict) -> None:
    """`rope_parameters` became `rope_theta` and `rope_scaling`; `dtype` became `torch_dtype`."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = None if rope["rope_type"] == "default" else rope
    config["torch_dtype"] = config.pop("dtype")


def gemma_keys_of_transformers_4(config: dict) -> None:
    """As Gemma 3's own config.json: two bases and a pattern in place of one table a layer type."""
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope["full_attention"]["rope_theta"]
    config["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    config["rope_scaling"] = None
    config["sliding_window_pattern"] = config.pop("_sliding_window_pattern")
    config.pop("layer_types")
    config["torch_dtype"] = config.pop("dtype")


def gemma_keys_as_first_published(config: dict) -> None:
    """As the first Gemma 3 with a tower: nothing that is what the reference implementation fills in."""
    config["torch_dtype"] = config.pop("dtype")
    for part, whole in [("text_config", Gemma3TextConfig), ("vision_config", SiglipVisionConfig)]:
        own = config[part]
        if "rope_parameters" in own:
            rope = own.pop("rope_parameters")["full_attention"]
            own["rope_scaling"] = dict(factor=rope["factor"], rope_type=rope["rope_type"])
            own.pop("_sliding_window_pattern", None)
        filled = whole().to_dict()
        config[part] = {
            key: value for key, value in own.items() if key == "model_type" or filled.get(key) != value
        }


def gemma_tensors_as_published(tensors: dict) -> dict:
    """The tower's have a name of its model in theirs."""
    return {name.replace("vision_tower.", "vision_tower.vision_model."): values for name, values in tensors.items()}


def gemma_tensors_as_in_memory(tensors: dict) -> dict:
    """As transformers 4 named them, and whoever saved what it held."""
    for before, after in [
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("vision_tower.", "model.vision_tower.vision_model."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ]:
        tensors = {after + name.removeprefix(before) if name.startswith(before) else name: v for name, v in tensors.items()}
    return tensors


def qwen_keys_of_transformers_4(config: dict) -> None:
    """Before `layer_types` the windowed layers were those from `max_window_layers` on."""
    rope_keys_of_transformers_4(config)
    config.pop("layer_types")


def qwen_moe_keys_of_transformers_4(config: dict) -> None:
    rope_keys_of_transformers_4(config)
    config["num_experts"] = config.pop("num_local_experts")


def partial_rope_key_of_transformers_4(config: dict) -> None:
    factor = config["rope_parameters"].pop("partial_rotary_factor")
    rope_keys_of_transformers_4(config)
    config["partial_rotary_factor"] = factor


def gemma_keys_before_layers_had_their_own(config: dict) -> None:
    """What differs on full layers was said once for all of them."""
    full = next(iter(config.pop("per_layer_config").values()))
    config["global_head_dim"] = full["head_dim"]
    config["num_global_key_value_heads"] = full["num_key_value_heads"]


def no_head_dim(config: dict) -> None:
    """Llama 2 left `head_dim` to be hidden_size / num_attention_heads."""
    config.pop("head_dim")


# Three heads whose parts are all of different widths.
LATENT = dict(
    hidden_size=20,
    intermediate_size=34,
    num_hidden_layers=2,
    num_attention_heads=3,
    num_key_value_heads=3,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    kv_lora_rank=13,
    qk_rope_head_dim=6,
    qk_nope_head_dim=10,
    v_head_dim=9,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=2,
    moe_intermediate_size=12,
    routed_scaling_factor=1.5,
)

# Small enough to be committed; the heads together are not the hidden size.
MUSE_TEXT = dict(
    hidden_size=20,
    intermediate_size=34,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=10,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
    sliding_window=8,
)
# A window of 3 patches a side, so that images have several, cut at the edges; the ids of `tokenizer.IMAGE_TOKENS`.
MUSE_VISION = dict(
    vision_config=dict(
        hidden_size=16,
        intermediate_size=20,
        num_hidden_layers=5,
        num_attention_heads=2,
        pos_emb_height=3,
        pos_emb_width=3,
        patch_size=2,
    ),
    out_hidden_size=64,
    projector_hidden_size=18,
    image_token_id=308,
    video_token_id=310,
)
# One frame a patch, squares of 9 patches, windows where the family has none and none where it has.
MUSE_VISION_OPTIONS = dict(
    vision_config=dict(
        hidden_size=24,
        intermediate_size=10,
        num_hidden_layers=3,
        num_attention_heads=2,
        pos_emb_height=4,
        pos_emb_width=4,
        patch_size=3,
        patch_temporal=1,
        merge_size=3,
        layer_norm_eps=0.02,
        layer_types=["full_attention", "window_attention", "window_attention"],
        rope_parameters=dict(rope_type="axial", rope_theta=100.0),
    ),
    out_hidden_size=216,
    projector_hidden_size=11,
    image_token_id=308,
    video_token_id=310,
)
MUSE_AUDIO = dict(
    patch_sizes=[2, 2],
    hidden_sizes=[4, 6],
    depths=[1, 1],
    num_hidden_layers=2,
    mlp_ratio=2.0,
    conv_kernel_size=3,
)
# Blocks one behind the other, convolutions longer than the rows of some steps, and a sound of 6 samples a vector.
MUSE_AUDIO_OPTIONS = dict(
    patch_sizes=[3, 2],
    hidden_sizes=[6, 10],
    depths=[2, 1],
    num_hidden_layers=2,
    mlp_ratio=1.75,
    conv_kernel_size=5,
    rms_norm_eps=0.01,
)
# Experts narrower than the model, of which no width fills a tile or a group.
MUSE_SPARK_TEXT = MUSE_TEXT | dict(
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=6,
    num_local_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=24,
    moe_hidden_size=12,
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


def spark(text: dict, audio: dict = MUSE_AUDIO) -> dict:
    """A text model between towers as small as they can be."""
    audio = dict(audio_config=audio | dict(out_hidden_size=text["hidden_size"]))
    return MUSE_VISION | audio | dict(text_config=text)


# As small as a tower can be.
QWEN3_5_VISION = dict(
    vision_config=dict(
        depth=1,
        hidden_size=8,
        intermediate_size=12,
        num_heads=2,
        patch_size=2,
        out_hidden_size=20,
        num_position_embeddings=4,
        temporal_patch_size=1,
        spatial_merge_size=1,
    )
)
# Heads of values that share heads of keys, and no width a multiple of a tile; 4 of 16 elements of a head are rotated.
QWEN3_5_TEXT = dict(
    hidden_size=20,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    max_position_embeddings=128,
    rms_norm_eps=1e-2,
    linear_num_key_heads=2,
    linear_num_value_heads=4,
    linear_key_head_dim=6,
    linear_value_head_dim=10,
    num_hidden_layers=4,
    layer_types=["linear_attention", "linear_attention", "full_attention", "linear_attention"],
)


def qwen_images(tower: dict, text: dict) -> dict:
    """A tower of 2 layers, and the ids of `tokenizer.QWEN_IMAGE_TOKENS`."""
    small = dict(depth=2, hidden_size=16, intermediate_size=20, num_heads=2, out_hidden_size=text["hidden_size"])
    return dict(
        vision_config=small | tower,
        text_config=text,
        vision_start_token_id=307,
        image_token_id=308,
        vision_end_token_id=309,
        video_token_id=310,
    )


def with_guesses_of_the_token_after_the_next(tensors: dict) -> dict:
    """Published checkpoints have such a layer, of the model's own kind; transformers knows none. Its weights are those of the
    first layer with attention in another order."""
    generator = torch.Generator().manual_seed(5)
    another = lambda tensor: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view(tensor.shape)
    suffix = ".self_attn.q_proj.weight"
    layer = min(name.removesuffix(suffix) for name in tensors if name.endswith(suffix) and "visual" not in name)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(f"{layer}.")}
    norm = tensors[f"{layer}.input_layernorm.weight"]
    dim = norm.shape[0]
    norms = ["norm", "pre_fc_norm_embedding", "pre_fc_norm_hidden"]
    noise = torch.randn(dim, 2 * dim, generator=generator)
    return (
        tensors
        | {name.replace(layer, "mtp.layers.0"): another(tensor) for name, tensor in own.items()}
        | {f"mtp.{name}.weight": another(norm) for name in norms}
        | {"mtp.fc.weight": (1.2 / (2 * dim) ** 0.5 * noise).to(norm.dtype)}
    )


def experts_of_a_layer_in_two_tensors(tensors: dict) -> dict:
    """As published; transformers saves the matrices of each expert."""
    together, layers = {}, set()
    for name, tensor in tensors.items():
        layer, found, _ = name.partition(".mlp.experts.")
        together |= {} if found else {name: tensor}
        layers |= {layer} if found else set()
    for layer in layers:
        count = tensors[f"{layer}.mlp.gate.weight"].shape[0]
        of = lambda expert, part: tensors[f"{layer}.mlp.experts.{expert}.{part}_proj.weight"]
        gate_up = [torch.cat([of(e, "gate"), of(e, "up")]) for e in range(count)]
        together[f"{layer}.mlp.experts.gate_up_proj"] = torch.stack(gate_up)
        together[f"{layer}.mlp.experts.down_proj"] = torch.stack([of(e, "down") for e in range(count)])
    return together


def layers_by_interval(config: dict) -> None:
    """`full_attention_interval` said what `layer_types` lists."""
    config.pop("layer_types")
    config["full_attention_interval"] = 3


FIXTURES = [
    # Five layers: the first and the last are full ones without rotation. Epsilons large enough that each is noticed.
    Fixture(
        "muse-glimmer",
        MuseGlimmerForConditionalGeneration,
        MuseGlimmerConfig,
        MUSE_VISION
        | dict(text_config=MUSE_TEXT | dict(num_hidden_layers=5, post_norm_eps=0.05, rms_norm_eps=0.02)),
        "bfloat16",
        tokenizer="videos",
        positions=20,
        images=[(6, 8), (2, 2)],
        video_processor=dict(
            video_processor_type="MuseGlimmerVideoProcessor",
            max_video_frame_tokens=12,
            num_frames=6,
            fps=2.0,
            patch_size=2,
            frame_timestamp_format="Time: {timestamp:.1f}s",
        ),
        videos=[(2, 4, 6), (1, 2, 2)],
    ),
    # Everything that a config can change: rotation on a full layer and none on a windowed one, biases, scaled RoPE,
    # a tied head, and another tower.
    Fixture(
        "muse-glimmer-options",
        MuseGlimmerForConditionalGeneration,
        MuseGlimmerConfig,
        MUSE_VISION_OPTIONS
        | dict(
            tie_word_embeddings=True,
            text_config=MUSE_TEXT
            | dict(
                hidden_size=36,
                num_hidden_layers=3,
                attention_bias=True,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                layer_rope_theta=[50000.0, 50000.0, 0],
                rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=50000.0),
                qk_scale_factor=2.5,
                output_multiplier=2.0,
                final_logit_softcapping=5.0,
            )
        ),
        "float16",
        tokenizer="images",
        positions=20,
        images=[(3, 3), (9, 6), (6, 12)],
    ),
    # As published: experts on every layer, the first and the last of five without window and rotation.
    Fixture(
        "muse-spark",
        MuseSparkForConditionalGeneration,
        MuseSparkConfig,
        spark(MUSE_SPARK_TEXT | dict(num_hidden_layers=5, post_norm_eps=0.05, rms_norm_eps=0.02)),
        "bfloat16",
        positions=20,
    ),
    # Everything that a config can change: a dense layer, weights of experts scaled, gates of another temperature, and
    # what `muse-glimmer-options` has.
    Fixture(
        "muse-spark-options",
        MuseSparkForConditionalGeneration,
        MuseSparkConfig,
        spark(
            MUSE_SPARK_TEXT
            | dict(
                hidden_size=36,
                num_hidden_layers=3,
                attention_bias=True,
                layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                layer_rope_theta=[50000.0, 50000.0, 0],
                rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=50000.0),
                qk_scale_factor=2.5,
                output_multiplier=0.8,
                final_logit_softcapping=5.0,
                mlp_layer_types=["sparse", "dense", "sparse"],
                num_experts_per_tok=3,
                routed_scaling_factor=1.75,
                residual_gate_temperature=0.5,
            )
        ),
        "float16",
        positions=20,
    ),
    # Its towers. The table of positions is read in another order where an image is not square.
    Fixture(
        "muse-spark-images",
        MuseSparkForConditionalGeneration,
        MuseSparkConfig,
        spark(MUSE_SPARK_TEXT | dict(num_hidden_layers=2), MUSE_AUDIO_OPTIONS) | dict(audio_token_id=312),
        "bfloat16",
        tokenizer="sounds",
        positions=20,
        images=[(6, 8), (2, 2), (8, 2)],
        videos=[(2, 4, 2), (1, 2, 6)],
        # 9 vectors, and 2 of which the last is of one sample.
        sounds=[54, 7],
    ),
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
        "qwen2",
        Qwen2ForCausalLM,
        Qwen2Config,
        BASE | dict(hidden_size=56, intermediate_size=76, num_key_value_heads=1),  # head_dim 14
        "bfloat16",
        published=rope_keys_of_transformers_4,
        template_file=False,
    ),
    Fixture(
        "qwen2-window",
        Qwen2ForCausalLM,
        Qwen2Config,
        BASE
        | dict(
            tie_word_embeddings=True, use_sliding_window=True, sliding_window=8, max_window_layers=1, num_hidden_layers=3
        ),
        "float16",
        published=qwen_keys_of_transformers_4,
    ),
    Fixture(
        "qwen3",
        Qwen3ForCausalLM,
        Qwen3Config,
        BASE | dict(head_dim=24, tie_word_embeddings=True),  # heads * head_dim is not the hidden size
        "bfloat16",
    ),
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
    # 6 of 12 elements of a head are rotated.
    Fixture(
        "glm4",
        Glm4ForCausalLM,
        Glm4Config,
        BASE
        | dict(
            hidden_size=20,
            intermediate_size=34,
            head_dim=12,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            attention_bias=True,
        ),
        "bfloat16",
        published=partial_rope_key_of_transformers_4,
        positions=20,
    ),
    # A dense layer and one of experts beside two shared ones.
    Fixture(
        "glm4-moe",
        Glm4MoeForCausalLM,
        Glm4MoeConfig,
        BASE
        | dict(
            hidden_size=20,
            intermediate_size=34,
            head_dim=12,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            attention_bias=True,
            use_qk_norm=True,
            n_routed_experts=4,
            num_experts_per_tok=2,
            n_shared_experts=2,
            moe_intermediate_size=12,
            routed_scaling_factor=1.5,
            first_k_dense_replace=1,
        ),
        "bfloat16",
        positions=20,
    ),
    # Latents of which one part is rotated; a dense layer and one of experts beside two shared ones.
    Fixture(
        "glm4-moe-lite",
        Glm4MoeLiteForCausalLM,
        Glm4MoeLiteConfig,
        LATENT | dict(q_lora_rank=14, attention_bias=True),
        "bfloat16",
        positions=20,
    ),
    # Queries of the input itself, pairs half a rotation apart, and layers by a list.
    Fixture(
        "glm4-moe-lite-options",
        Glm4MoeLiteForCausalLM,
        Glm4MoeLiteConfig,
        LATENT
        | dict(
            q_lora_rank=None,
            rope_interleave=False,
            tie_word_embeddings=True,
            mlp_layer_types=["sparse", "dense"],
            n_shared_experts=1,
            norm_topk_prob=False,
        ),
        "bfloat16",
        positions=20,
    ),
    # Of 20 positions queries meet 6: chosen by a layer, by the one before it, and by another.
    Fixture(
        "glm-moe-dsa",
        GlmMoeDsaForCausalLM,
        GlmMoeDsaConfig,
        LATENT
        | dict(
            num_hidden_layers=3,
            q_lora_rank=14,
            attention_bias=True,
            index_topk=6,
            index_head_dim=11,
            index_n_heads=5,
            indexer_types=["full", "shared", "full"],
            first_k_dense_replace=1,
            tie_word_embeddings=True,
        ),
        "bfloat16",
        positions=20,
    ),
    # A layer of experts, a dense one, and another of experts; 20 wide, so that no expert fills a tile or a group.
    Fixture(
        "qwen3-moe",
        Qwen3MoeForCausalLM,
        Qwen3MoeConfig,
        BASE
        | dict(
            hidden_size=20,
            intermediate_size=34,
            num_hidden_layers=3,
            head_dim=8,
            tie_word_embeddings=True,
            moe_intermediate_size=20,
            num_experts=4,
            num_experts_per_tok=2,
            norm_topk_prob=True,
            mlp_only_layers=[1],
        ),
        "bfloat16",
        published=qwen_moe_keys_of_transformers_4,
        positions=20,
    ),
    Fixture(
        "qwen3-5",
        Qwen3_5ForConditionalGeneration,
        Qwen3_5Config,
        QWEN3_5_VISION | dict(text_config=QWEN3_5_TEXT | dict(intermediate_size=34)),
        "bfloat16",
        published_tensors=with_guesses_of_the_token_after_the_next,
    ),
    # Its tower: squares of 4 patches of 2 frames. Of 4 frequencies of the text model 2 turn by time, 1 by row, 1 by column.
    Fixture(
        "qwen3-5-images",
        Qwen3_5ForConditionalGeneration,
        Qwen3_5Config,
        qwen_images(
            dict(patch_size=2, num_position_embeddings=9),
            QWEN3_5_TEXT
            | dict(
                intermediate_size=34,
                num_hidden_layers=3,
                layer_types=["linear_attention", "full_attention", "full_attention"],
                rope_parameters=dict(
                    rope_type="default", rope_theta=100.0, partial_rotary_factor=0.5, mrope_section=[2, 1, 1]
                ),
            ),
        ),
        "bfloat16",
        tokenizer="qwen-images",
        images=[(4, 6), (2, 2), (6, 2)],
        videos=[(3, 2, 6), (1, 6, 2)],
        # From 4 to 30 tokens an image.
        published_tensors=with_guesses_of_the_token_after_the_next,
        processor=dict(
            image_processor_type="Qwen2VLImageProcessorFast",
            size=dict(shortest_edge=64, longest_edge=480),
            patch_size=2,
            temporal_patch_size=2,
            merge_size=2,
            image_mean=[0.5, 0.5, 0.5],
            image_std=[0.5, 0.5, 0.5],
        ),
        video_processor=dict(
            video_processor_type="Qwen3VLVideoProcessor",
            size=dict(shortest_edge=64, longest_edge=960),
            patch_size=2,
            max_frames=5,
        ),
    ),
    # One frame a patch, squares of 9 patches, a slower tower, the whole of a head rotated, experts.
    Fixture(
        "qwen3-5-moe-images",
        Qwen3_5MoeForConditionalGeneration,
        Qwen3_5MoeConfig,
        qwen_images(
            dict(
                patch_size=3,
                num_position_embeddings=16,
                temporal_patch_size=1,
                spatial_merge_size=3,
                rope_parameters=dict(rope_type="axial", rope_theta=100.0),
            ),
            QWEN3_5_TEXT
            | dict(
                num_hidden_layers=2,
                layer_types=["full_attention", "linear_attention"],
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=20,
                shared_expert_intermediate_size=14,
                rope_parameters=dict(
                    rope_type="default", rope_theta=1000.0, partial_rotary_factor=1.0, mrope_section=[4, 1, 3]
                ),
            ),
        ),
        "float16",
        tokenizer="qwen-images",
        images=[(3, 6), (6, 9), (3, 3)],
        published_tensors=experts_of_a_layer_in_two_tensors,
    ),
    # A convolution of 2 rows, as many heads of keys as of values, the whole of a head rotated, and slower.
    Fixture(
        "qwen3-5-options",
        Qwen3_5ForCausalLM,
        Qwen3_5TextConfig,
        QWEN3_5_TEXT
        | dict(
            intermediate_size=34,
            tie_word_embeddings=True,
            num_hidden_layers=3,
            layer_types=["linear_attention", "linear_attention", "full_attention"],
            linear_num_value_heads=2,
            linear_key_head_dim=34,
            linear_conv_kernel_dim=2,
            rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=50000.0, partial_rotary_factor=1.0),
        ),
        "float16",
        published=layers_by_interval,
    ),
    Fixture(
        "qwen3-5-moe",
        Qwen3_5MoeForConditionalGeneration,
        Qwen3_5MoeConfig,
        QWEN3_5_VISION
        | dict(
            text_config=QWEN3_5_TEXT
            | dict(
                num_experts=4,
                num_experts_per_tok=2,
                moe_intermediate_size=20,
                shared_expert_intermediate_size=14,
            )
        ),
        "bfloat16",
        published_tensors=lambda tensors: experts_of_a_layer_in_two_tensors(with_guesses_of_the_token_after_the_next(tensors)),
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
