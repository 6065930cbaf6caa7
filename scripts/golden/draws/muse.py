import math
from dataclasses import dataclass

import transformers as t

from .draw import Draw, Drawn, experts, grids, image_tokens, sizes, theta, videos


def muse_text(d: Draw, text: dict) -> dict:
    text |= sizes(d, 6) | dict(sliding_window=d.randint(2, 20)) | d.maybe("attention_bias", d.flag())
    layers, base = text["num_hidden_layers"], theta(d)
    scaling = d.choice([dict(rope_type="default"), dict(rope_type="linear", factor=2.0)])
    if d.flag():
        text |= dict(rope_parameters=scaling | dict(rope_theta=base))
        text |= dict(layer_rope_theta=d.each([base, 0], layers))
    if d.flag():
        text |= dict(layer_types=d.each(["sliding_attention", "full_attention"], layers))
    text |= d.maybe("qk_scale_factor", 2.5) | d.maybe("output_multiplier", 0.8)
    return text | d.maybe("final_logit_softcapping", 5.0) | d.maybe("post_norm_eps", 0.05)


MUSE_TOKENS = ["image_start", "image", "image_end", "video"]


def muse_vision(d: Draw, named: dict) -> tuple[dict, dict]:
    """Of the config, with the tokens of those `named`; and what a prompt has."""
    heads, merge, table, layers = d.randint(1, 3), d.randint(1, 3), d.randint(2, 5), d.randint(1, 5)
    vision = dict(
        hidden_size=heads * 4 * d.randint(1, 5),
        intermediate_size=d.randint(5, 50),
        num_hidden_layers=layers,
        num_attention_heads=heads,
        pos_emb_height=table,
        pos_emb_width=table,
        patch_size=d.randint(2, 4),
        patch_temporal=d.randint(1, 2),
        merge_size=merge,
        layer_norm_eps=d.choice([1e-5, 0.02]),
    )
    if d.flag():
        vision |= dict(layer_types=d.each(["full_attention", "window_attention"], layers))
    settings = dict(
        vision_config=vision,
        out_hidden_size=vision["hidden_size"] * merge**2,
        projector_hidden_size=d.randint(5, 40),
    )
    if not named or d.flag(0.2):
        return settings, dict(tokenizer="bytes")
    settings |= {key: named[key] for key in ("image_token_id", "video_token_id")}
    return settings, dict(images=grids(d, merge), videos=videos(d, merge), tokenizer="images")


def muse_glimmer(d: Draw, text: dict) -> Drawn:
    tied = text.pop("tie_word_embeddings", False)
    settings, shown = muse_vision(d, image_tokens(text["vocab_size"], MUSE_TOKENS))
    settings |= dict(text_config=muse_text(d, text)) | (dict(tie_word_embeddings=True) if tied else {})
    config = t.MuseGlimmerConfig(**settings)
    return Drawn(t.MuseGlimmerForConditionalGeneration, config, **shown)


def muse_spark(d: Draw, text: dict) -> Drawn:
    text.pop("tie_word_embeddings", None)
    hears = d.flag(0.7)
    names = MUSE_TOKENS + (["audio_start", "audio", "audio_end"] if hears else [])
    named = image_tokens(text["vocab_size"], names)
    settings, shown = muse_vision(d, named)
    text = muse_text(d, text) | experts(d, "num_local_experts", "num_experts_per_tok", "moe_intermediate_size")
    text |= dict(moe_hidden_size=d.randint(4, 40)) | d.maybe("routed_scaling_factor", 1.75)
    text |= d.maybe("residual_gate_temperature", 0.7)
    if d.flag():
        text |= dict(mlp_layer_types=d.each(["dense", "sparse"], text["num_hidden_layers"]))
    audio = muse_audio(d) | dict(out_hidden_size=text["hidden_size"])
    if hears:
        settings |= dict(audio_token_id=named["audio_token_id"])
        most = 12 * math.prod(audio["patch_sizes"])
        shown |= dict(sounds=[d.randint(1, most) for _ in range(d.randint(1, 3))], tokenizer="sounds")
    config = t.MuseSparkConfig(text_config=text, audio_config=audio, **settings)
    return Drawn(t.MuseSparkForConditionalGeneration, config, **shown)


def muse_audio(d: Draw) -> dict:
    stages = d.randint(1, 3)
    return dict(
        patch_sizes=[d.randint(1, 4) for _ in range(stages)],
        hidden_sizes=[d.randint(3, 20) for _ in range(stages)],
        depths=[d.randint(1, 2) for _ in range(stages)],
        num_hidden_layers=stages,
        mlp_ratio=d.choice([1.5, 2.0]),
        conv_kernel_size=d.choice([3, 5]),
    ) | d.maybe("rms_norm_eps", 0.02)


@dataclass
class Drafted:
    target: type
    target_config: t.PreTrainedConfig
    model: type
    config: t.PreTrainedConfig


def drafted(d: Draw) -> Drafted:
    """A drafter and its target, of so few tokens that some are accepted."""
    text = muse_text(d, dict(vocab_size=d.randint(8, 14)))
    text |= dict(num_hidden_layers=max(2, text["num_hidden_layers"]))
    layers = text["num_hidden_layers"]
    for key in ["layer_types", "layer_rope_theta"]:
        if key in text:
            text[key] += text[key][: layers - len(text[key])]
    target = t.MuseGlimmerConfig(text_config=text, vision_config=muse_vision(d, {})[0]["vision_config"])
    own = sizes(d, 4)
    kinds = ["sliding_attention", "full_attention"]
    config = t.MuseGlimmerAssistantConfig(
        **own | dict(hidden_size=text["hidden_size"]),
        rope_parameters=dict(rope_type="default", rope_theta=theta(d)),
        sliding_window=d.randint(2, 20),
        layer_types=d.each(kinds, own["num_hidden_layers"]),
        block_size=d.randint(2, 16),
        mask_token_id=d.randint(0, text["vocab_size"] - 1),
        target_layer_ids=[d.randint(0, layers - 2) for _ in range(d.randint(1, 4))],
    )
    return Drafted(t.MuseGlimmerForConditionalGeneration, target, t.MuseGlimmerAssistantModel, config)
