import transformers as t

from families import published as earlier

from .draw import Draw, Drawn, experts, grids, image_tokens, rope, sizes, theta, videos


def qwen2(d: Draw, text: dict) -> Drawn:
    text |= sizes(d) | rope(d)
    text.pop("head_dim")
    text["hidden_size"] = text["num_attention_heads"] * d.even(4, 16)
    text |= qwen_windows(d, text["num_hidden_layers"])
    published = d.choice([None, earlier.rope_keys_of_transformers_4, earlier.qwen_keys_of_transformers_4])
    if "layer_types" in text:
        published = None
    return Drawn(t.Qwen2ForCausalLM, t.Qwen2Config(**text), published=published)


def qwen_windows(d: Draw, layers: int) -> dict:
    if d.flag(0.3):
        return {}
    windows = dict(use_sliding_window=True, sliding_window=d.randint(2, 20), max_window_layers=d.randint(0, layers))
    kinds = ["sliding_attention", "full_attention"]
    return windows | (dict(layer_types=d.each(kinds, layers)) if d.flag(0.3) else {})


def qwen3(d: Draw, text: dict) -> Drawn:
    text |= sizes(d) | rope(d) | d.maybe("attention_bias", True)
    text |= qwen_windows(d, text["num_hidden_layers"])
    return Drawn(t.Qwen3ForCausalLM, t.Qwen3Config(**text))


def qwen3_moe(d: Draw, text: dict) -> Drawn:
    text |= sizes(d) | rope(d) | experts(d, "num_experts", "num_experts_per_tok", "moe_intermediate_size")
    layers = text["num_hidden_layers"]
    text |= dict(decoder_sparse_step=d.randint(1, 2), mlp_only_layers=[i for i in range(layers) if d.flag(0.2)])
    text |= d.maybe("norm_topk_prob", True) | d.maybe("attention_bias", True)
    if d.flag(0.4):
        text |= dict(use_sliding_window=True, sliding_window=d.randint(2, 20))
    published = d.choice([None, earlier.qwen_moe_keys_of_transformers_4])
    return Drawn(t.Qwen3MoeForCausalLM, t.Qwen3MoeConfig(**text), published=published)


def qwen3_5_text(d: Draw, text: dict) -> dict:
    keys = d.randint(1, 3)
    text |= sizes(d) | dict(
        head_dim=d.choice([8, 16, 24, 40]),
        linear_num_key_heads=keys,
        linear_num_value_heads=keys * d.randint(1, 3),
        linear_key_head_dim=d.randint(3, 40),
        linear_value_head_dim=d.randint(3, 24),
        linear_conv_kernel_dim=d.randint(2, 6),
    )
    if d.flag():
        text |= dict(layer_types=d.each(["linear_attention", "full_attention"], text["num_hidden_layers"]))
    # Of a head of 8 a quarter is one pair.
    part = d.choice([0.25, 0.5, 1.0])
    pairs = int(part * text["head_dim"]) // 2
    rows, columns = pairs // 3, pairs // 3
    turns = dict(mrope_section=[pairs - rows - columns, rows, columns]) if rows and d.flag() else {}
    kind = d.choice([dict(rope_type="default"), dict(rope_type="linear", factor=2.0)])
    return text | dict(rope_parameters=kind | dict(rope_theta=theta(d), partial_rotary_factor=part) | turns)


def qwen3_5(d: Draw, text: dict, moe: bool = False) -> Drawn:
    text = qwen3_5_text(d, text)
    if moe:
        text |= experts(d, "num_experts", "num_experts_per_tok", "moe_intermediate_size")
        text |= dict(shared_expert_intermediate_size=d.randint(4, 40))
    names = "Qwen3_5Moe" if moe else "Qwen3_5"
    of = lambda kind: getattr(t, names + kind)
    if d.flag(0.3):
        return Drawn(of("ForCausalLM"), of("TextConfig")(**text))
    tied = text.pop("tie_word_embeddings", False)
    merge, heads = d.randint(1, 3), d.randint(1, 3)
    vision = dict(
        depth=d.randint(1, 3),
        hidden_size=heads * 4 * d.randint(1, 4),
        intermediate_size=d.randint(5, 50),
        num_heads=heads,
        out_hidden_size=text["hidden_size"],
        patch_size=d.randint(2, 4),
        spatial_merge_size=merge,
        temporal_patch_size=d.randint(1, 2),
        num_position_embeddings=d.randint(2, 5) ** 2,
    )
    settings = dict(text_config=text, vision_config=vision, tie_word_embeddings=tied)
    sees = d.flag(0.8)
    settings |= image_tokens(text["vocab_size"], ["vision_start", "image", "vision_end", "video"]) if sees else {}
    model, config = of("ForConditionalGeneration"), of("Config")(**settings)
    if not sees:
        return Drawn(model, config)
    return Drawn(model, config, grids(d, merge), "qwen-images", videos=videos(d, merge))
