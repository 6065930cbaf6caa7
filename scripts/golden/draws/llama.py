import transformers as t

from families import published as earlier

from .draw import Draw, Drawn, experts, rope, sizes, theta


def llama(d: Draw, text: dict) -> Drawn:
    text |= sizes(d) | d.maybe("attention_bias", d.flag()) | d.maybe("mlp_bias", d.flag())
    text |= rope(d) if d.flag(0.8) else {}
    published = d.choice([None, earlier.rope_keys_of_transformers_4])
    if d.flag(0.3):
        # As Llama 2, which says nothing of heads.
        text["head_dim"] = None
        text["hidden_size"] = text["num_attention_heads"] * d.even(4, 16)
    return Drawn(t.LlamaForCausalLM, t.LlamaConfig(**text), published=published)


def llama4_text(d: Draw, text: dict) -> dict:
    text |= sizes(d) | experts(d, "num_local_experts", "num_experts_per_tok", "intermediate_size")
    layers = text["num_hidden_layers"]
    text |= dict(
        intermediate_size_mlp=d.randint(5, 70),
        attention_chunk_size=d.randint(3, 20),
        floor_scale=d.randint(3, 40),
        attn_scale=d.choice([0.1, 0.6]),
        attn_temperature_tuning=d.flag(0.7),
        use_qk_norm=d.flag(),
        attention_bias=d.flag(0.3),
    )
    text |= d.choice([{}, dict(interleave_moe_layer_step=2), dict(moe_layers=[i for i in range(layers) if d.flag()])])
    text |= d.choice([{}, dict(no_rope_layers=d.each([0, 1], layers)), dict(no_rope_layer_interval=2)])
    return text | rope(d)


def llama4(d: Draw, text: dict) -> Drawn:
    text = llama4_text(d, text)
    if d.flag():
        return Drawn(t.Llama4ForCausalLM, t.Llama4TextConfig(**text))
    text.pop("tie_word_embeddings", None)
    settings, images = dict(text_config=text, vision_config=llama4_vision(d)), []
    if d.flag(0.8):
        # The second of the last six tokens.
        settings |= dict(image_token_index=text["vocab_size"] - 5)
        images = [(d.randint(1, 2), d.randint(1, 3)) for _ in range(d.randint(1, 2))]
    model = t.Llama4ForConditionalGeneration
    return Drawn(model, t.Llama4Config(**settings), images, "llama-images" if images else "bytes")


def llama4_vision(d: Draw) -> dict:
    heads, merge, width = d.randint(1, 3), d.choice([1, 2, 2, 4]), d.randint(3, 40)
    dim, patch = heads * 4 * d.randint(1, 5), d.randint(2, 4)
    vision = dict(
        hidden_size=dim,
        intermediate_size=dim * merge**2,
        num_hidden_layers=d.randint(1, 3),
        num_attention_heads=heads,
        image_size=patch * merge * d.randint(1, 2),
        patch_size=patch,
        pixel_shuffle_ratio=1 / merge,
        vision_output_dim=width,
        projector_input_dim=width,
        projector_output_dim=width,
    )
    return vision | (dict(rope_parameters=dict(rope_type="default", rope_theta=theta(d))) if d.flag() else {})
