"""GLM-4, 4.5, 4.7-Flash and 5."""

from transformers import (
    Glm4Config,
    Glm4ForCausalLM,
    Glm4MoeConfig,
    Glm4MoeForCausalLM,
    Glm4MoeLiteConfig,
    Glm4MoeLiteForCausalLM,
    GlmMoeDsaConfig,
    GlmMoeDsaForCausalLM,
)

from .fixture import BASE, Fixture
from .published import partial_rope_key_of_transformers_4

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


FIXTURES = [
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
]
