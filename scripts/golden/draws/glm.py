import transformers as t

from families import published as earlier

from .draw import Draw, Drawn, experts, rope, sizes


def glm4(d: Draw, text: dict) -> Drawn:
    # Where nobody says which, the padding is a token beyond small vocabularies.
    text |= sizes(d) | d.maybe("attention_bias", d.flag()) | dict(pad_token_id=None)
    text["head_dim"] = 4 * d.randint(1, 10)
    text |= rope(d, partial_rotary_factor=d.choice([0.5, 1.0])) if d.flag(0.7) else {}
    published = d.choice([None, earlier.partial_rope_key_of_transformers_4])
    return Drawn(t.Glm4ForCausalLM, t.Glm4Config(**text), published=published)


def glm_experts(d: Draw) -> dict:
    own = experts(d, "n_routed_experts", "num_experts_per_tok", "moe_intermediate_size")
    own |= dict(n_shared_experts=d.randint(1, 3), routed_scaling_factor=d.choice([1.0, 2.5]))
    return own | d.maybe("norm_topk_prob", d.flag())


def glm4_moe(d: Draw, text: dict) -> Drawn:
    text |= sizes(d) | glm_experts(d) | d.maybe("attention_bias", d.flag()) | d.maybe("use_qk_norm", True)
    text["head_dim"] = 4 * d.randint(1, 10)
    text |= dict(first_k_dense_replace=d.randint(0, text["num_hidden_layers"]))
    text |= rope(d, partial_rotary_factor=d.choice([0.5, 1.0])) if d.flag(0.7) else {}
    return Drawn(t.Glm4MoeForCausalLM, t.Glm4MoeConfig(**text))


def latent(d: Draw, text: dict) -> dict:
    text |= sizes(d, 4) | glm_experts(d) | d.maybe("attention_bias", d.flag())
    text.pop("head_dim")
    text |= dict(
        num_key_value_heads=text["num_attention_heads"],
        q_lora_rank=d.randint(3, 40),
        kv_lora_rank=d.randint(3, 40),
        qk_rope_head_dim=d.even(2, 16),
        qk_nope_head_dim=d.randint(2, 24),
        v_head_dim=d.randint(2, 24),
    )
    if d.flag():
        text |= dict(mlp_layer_types=d.each(["dense", "sparse"], text["num_hidden_layers"]))
    return text | (rope(d) if d.flag(0.7) else {})


def glm4_moe_lite(d: Draw, text: dict) -> Drawn:
    text = latent(d, text) | d.maybe("rope_interleave", d.flag())
    if d.flag(0.4):
        text["q_lora_rank"] = None
    return Drawn(t.Glm4MoeLiteForCausalLM, t.Glm4MoeLiteConfig(**text))


def glm_moe_dsa(d: Draw, text: dict) -> Drawn:
    text = latent(d, text) | dict(index_topk=d.randint(2, 24), index_n_heads=d.randint(1, 5))
    text["index_head_dim"] = text["qk_rope_head_dim"] + d.randint(0, 20)
    if d.flag():
        own = d.each(["full", "shared"], text["num_hidden_layers"] - 1)
        text["indexer_types"] = ["full", *own]
    return Drawn(t.GlmMoeDsaForCausalLM, t.GlmMoeDsaConfig(**text))
