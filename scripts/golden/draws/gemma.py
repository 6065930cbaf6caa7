import transformers as t

from families import published as earlier

from .draw import Draw, Drawn, experts, grids, image_tokens, sizes, theta


def gemma3(d: Draw, text: dict) -> Drawn:
    text |= sizes(d, 7) | dict(sliding_window=d.randint(2, 20), query_pre_attn_scalar=d.randint(4, 40))
    text |= d.maybe("attention_bias", d.flag()) | d.maybe("final_logit_softcapping", 4.0)
    if d.flag():
        text |= dict(layer_types=d.each(["sliding_attention", "full_attention"], text["num_hidden_layers"]))
    if d.flag():
        full = d.choice([dict(rope_type="default"), dict(rope_type="linear", factor=8.0)])
        local = dict(rope_type="default", rope_theta=theta(d))
        text |= dict(rope_parameters=dict(sliding_attention=local, full_attention=full | dict(rope_theta=theta(d))))
    if d.flag(0.4):
        return Drawn(t.Gemma3ForCausalLM, t.Gemma3TextConfig(**text))
    if "rope_parameters" not in text:
        # What larger ones have, which is not what they have where nothing is said.
        text |= dict(rope_scaling=dict(rope_type="linear", factor=8.0))
    tied = text.pop("tie_word_embeddings", True)
    vision, merge = siglip(d), d.randint(1, 3)
    vision["image_size"] = vision["patch_size"] * merge * (side := d.randint(1, 4))
    settings = dict(text_config=text, vision_config=vision, mm_tokens_per_image=side**2)
    settings |= dict(tie_word_embeddings=tied)
    model, images = t.Gemma3ForConditionalGeneration, []
    if d.flag(0.85):
        settings |= {f"{name}_token_index": text["vocab_size"] - 3 + i for i, name in enumerate(["boi", "image", "eoi"])}
        images = [(side * merge, side * merge)] * d.randint(1, 3)
    published = earlier.gemma_keys_as_first_published if "rope_scaling" in text and "layer_types" not in text and d.flag() else None
    named = d.choice([None, earlier.gemma_tensors_as_published, earlier.gemma_tensors_as_in_memory])
    return Drawn(
        model, t.Gemma3Config(**settings), images, "gemma3-images" if images else "bytes", published, tensors=named
    )


def siglip(d: Draw) -> dict:
    heads = d.randint(1, 3)
    return dict(
        model_type="siglip_vision_model",
        hidden_size=heads * d.even(2, 20),
        intermediate_size=d.randint(5, 50),
        num_hidden_layers=d.randint(1, 3),
        num_attention_heads=heads,
        patch_size=d.randint(1, 5),
        vision_use_head=False,
    ) | d.maybe("layer_norm_eps", 0.02)


def gemma4(d: Draw, text: dict) -> Drawn:
    text |= sizes(d, 12) | dict(sliding_window=d.randint(2, 20))
    text |= dict(global_head_dim=4 * d.randint(1, 12)) if d.flag(0.8) else {}
    text |= d.maybe("attention_bias", d.flag()) | d.maybe("final_logit_softcapping", 4.0)
    layers = text["num_hidden_layers"]
    if d.flag():
        kinds = d.each(["sliding_attention", "full_attention"], layers)
        text |= dict(layer_types=[*kinds[:-1], "full_attention"])
    if d.flag():
        text |= dict(attention_k_eq_v=True) | d.maybe("num_global_key_value_heads", 1)
    kind = d.choice(["large", "small", "moe"])
    width = 0 if kind != "small" else d.randint(2, 20)
    rows = text["vocab_size"] + d.choice([0, 0, 13])
    text |= dict(hidden_size_per_layer_input=width, vocab_size_per_layer_input=rows)
    if kind == "small" and "layer_types" in text:
        # Each kind of layer that takes keys over must have one to take them from.
        own = d.randint(1, layers)
        if set(text["layer_types"][:own]) == set(text["layer_types"]):
            text |= dict(num_kv_shared_layers=layers - own, use_double_wide_mlp=d.flag())
    if kind == "moe":
        text |= experts(d, "num_experts", "top_k_experts", "moe_intermediate_size") | dict(enable_moe_block=True)
    if d.flag():
        full = dict(rope_type="proportional", partial_rotary_factor=d.choice([0.25, 0.5, 1.0]), rope_theta=theta(d))
        local = dict(rope_type="default", rope_theta=theta(d))
        text |= dict(rope_parameters=dict(sliding_attention=local, full_attention=full))
    if d.flag():
        return Drawn(t.Gemma4ForCausalLM, t.Gemma4TextConfig(**text))
    tied, model = text.pop("tie_word_embeddings", True), t.Gemma4ForConditionalGeneration
    if d.flag(0.2):
        return Drawn(model, t.Gemma4Config(text_config=text, tie_word_embeddings=tied))
    # All of an image in one step, which a window may not hold.
    text |= dict(use_bidirectional_attention="vision") if d.flag() else {}
    vision = gemma4_vision(d)
    named = image_tokens(text["vocab_size"], ["boi", "image", "eoi", "video"])
    config = t.Gemma4Config(text_config=text, vision_config=vision, tie_word_embeddings=tied, **named)
    merge = vision["pooling_kernel_size"]
    return Drawn(model, config, grids(d, merge), "gemma-images")


def gemma4_vision(d: Draw) -> dict:
    heads = d.randint(1, 3)
    vision = dict(
        head_dim=4 * d.randint(1, 4),
        intermediate_size=d.randint(5, 50),
        num_hidden_layers=d.randint(1, 3),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        pooling_kernel_size=d.randint(2, 3),
        patch_size=d.randint(2, 4),
        position_embedding_size=d.choice([12, 300]),
        use_clipped_linears=d.flag(),
        standardize=d.flag(),
    )
    vision |= dict(hidden_size=heads * vision["head_dim"]) | d.maybe("rms_norm_eps", 0.02)
    return vision | (dict(rope_parameters=dict(rope_type="axial", rope_theta=theta(d))) if d.flag() else {})
