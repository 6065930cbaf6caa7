"""Qwen 2, 3 and 3.5."""

from transformers import (
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
)

from .fixture import BASE, Fixture
from .published import (
    experts_of_a_layer_in_two_tensors,
    layers_by_interval,
    qwen_keys_of_transformers_4,
    qwen_moe_keys_of_transformers_4,
    rope_keys_of_transformers_4,
    with_guesses_of_the_token_after_the_next,
)

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


FIXTURES = [
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
]
