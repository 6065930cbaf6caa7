"""Muse Glimmer and Muse Spark."""

from transformers import (
    MuseGlimmerConfig,
    MuseGlimmerForConditionalGeneration,
    MuseSparkConfig,
    MuseSparkForConditionalGeneration,
)

from .fixture import Fixture

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


def spark(text: dict, audio: dict = MUSE_AUDIO) -> dict:
    """A text model between towers as small as they can be."""
    audio = dict(audio_config=audio | dict(out_hidden_size=text["hidden_size"]))
    return MUSE_VISION | audio | dict(text_config=text)


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
]
