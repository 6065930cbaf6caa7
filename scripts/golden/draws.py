"""Random small models, one function a family: sizes, layer patterns and options that no fixture was made for.

Every width is drawn by itself, so that few are multiples of a tile or a group. A draw may give whatever transformers
computes and docs/models.md does not refuse.
"""

import math
import random
from dataclasses import dataclass, field

import torch
import transformers as t

import embeddings
from families import published as earlier


@dataclass
class Drawn:
    model: type
    config: t.PreTrainedConfig
    # Rows and columns of patches, or of tiles, of each image of a second prompt.
    images: list[tuple[int, int]] = field(default_factory=list)
    # Of `tokenizer.MAKERS`, where the checkpoint has one.
    tokenizer: str = "bytes"
    # Of `families.published`: config.json in the words of earlier versions.
    published: object = None
    # Of `families.published`: tensors in the names of earlier versions.
    tensors: object = None
    # Grids, and rows and columns of patches of each, of each video of a third.
    videos: list[tuple[int, int, int]] = field(default_factory=list)
    # Samples of each sound of another.
    sounds: list[int] = field(default_factory=list)


class Draw(random.Random):
    def flag(self, chance: float = 0.5) -> bool:
        return self.random() < chance

    def even(self, low: int, high: int) -> int:
        return 2 * self.randint(low // 2, high // 2)

    def each(self, kinds: list, count: int) -> list:
        return [self.choice(kinds) for _ in range(count)]

    def maybe(self, key: str, value) -> dict:
        """A key that half of the configs leave to its default."""
        return {key: value} if self.flag() else {}


def sizes(d: Draw, layers: int = 5) -> dict:
    """What nearly every family has. Some configs check that the width is a multiple of the heads."""
    kv = d.randint(1, 3)
    heads = kv * d.randint(1, 4)
    return dict(
        hidden_size=heads * d.randint(2, max(2, 72 // heads)),
        intermediate_size=d.randint(5, 90),
        num_hidden_layers=d.randint(1, layers),
        num_attention_heads=heads,
        num_key_value_heads=kv,
        head_dim=d.even(4, 40),
        max_position_embeddings=d.choice([128, 333, 8192]),
        rms_norm_eps=d.choice([1e-6, 1e-5, 1e-2]),
    )


def theta(d: Draw) -> float:
    return d.choice([10.0, 10000.0, 50000.0, 1234567.0])


def rope(d: Draw, **more) -> dict:
    """`rope_parameters` of a kind that all families know."""
    kind = d.choice(["default", "linear", "llama3"])
    if kind == "linear":
        more |= dict(factor=d.choice([2.0, 3.7]))
    if kind == "llama3":
        low = d.choice([1.0, 2.0])
        more |= dict(factor=8.0, low_freq_factor=low, high_freq_factor=low * d.choice([1.5, 4.0]))
        more |= dict(original_max_position_embeddings=d.choice([32, 64, 100]))
    return dict(rope_parameters=dict(rope_type=kind, rope_theta=theta(d)) | more)


def experts(d: Draw, count: str, used: str, width: str) -> dict:
    number = d.randint(2, 9)
    return {count: number, used: d.randint(1, number), width: d.randint(4, 40)}


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


def grids(d: Draw, merge: int) -> list[tuple[int, int]]:
    return [(merge * d.randint(1, 4), merge * d.randint(1, 4)) for _ in range(d.randint(1, 3))]


def videos(d: Draw, merge: int) -> list[tuple[int, int, int]]:
    return [(d.randint(1, 3), merge * d.randint(1, 2), merge * d.randint(1, 2)) for _ in range(d.randint(1, 2))]


def image_tokens(vocab: int, names: list[str]) -> dict:
    """The last ids, where the tokenizers made here have them."""
    return {f"{name}_token_id": vocab - len(names) + i for i, name in enumerate(names)}


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


FAMILIES = dict(
    muse_glimmer=muse_glimmer,
    muse_spark=muse_spark,
    llama=llama,
    llama4=llama4,
    qwen2=qwen2,
    qwen3=qwen3,
    qwen3_moe=qwen3_moe,
    qwen3_5=qwen3_5,
    qwen3_5_moe=lambda d, text: qwen3_5(d, text, moe=True),
    glm4=glm4,
    glm4_moe=glm4_moe,
    glm4_moe_lite=glm4_moe_lite,
    glm_moe_dsa=glm_moe_dsa,
    gemma3=gemma3,
    gemma4=gemma4,
)


def embedding(d: Draw, family: str) -> embeddings.Fixture:
    """A model that embeds, with sentence-transformers' files."""
    heads = d.randint(1, 4)
    made = dict(
        bert=(t.BertModel, t.BertConfig, embeddings.word_pieces, bert(d, heads)),
        gemma3_embedding=(t.Gemma3TextModel, t.Gemma3TextConfig, embeddings.framed_pieces, gemma3_embedding(d)),
        qwen3_embedding=(t.Qwen3Model, t.Qwen3Config, embeddings.ended_bytes, sizes(d)),
    )
    model, config, tokenizer, settings = made[family]
    identity, tanh = torch.nn.Identity(), torch.nn.Tanh()
    dense = [(d.randint(5, 60), d.flag(), d.choice([identity, tanh])) for _ in range(d.choice([0, 0, 1, 2]))]
    return embeddings.Fixture(
        name=family,
        model=model,
        config=config,
        settings=settings,
        stored=d.choice(["float32", "float16", "bfloat16"]),
        tokenizer=tokenizer,
        pooling=d.choice(["mean", "cls", "lasttoken"]),
        dense=dense,
        normalize=d.flag(),
        prompts=d.choice([{}, {"query": "find: "}]),
        legacy=d.flag(),
        architecture="Qwen3ForCausalLM" if family == "qwen3_embedding" and d.flag() else None,
    )


def bert(d: Draw, heads: int) -> dict:
    return dict(
        hidden_size=heads * d.even(4, 20),
        num_attention_heads=heads,
        intermediate_size=d.randint(5, 90),
        num_hidden_layers=d.randint(1, 4),
        max_position_embeddings=d.choice([64, 200]),
        type_vocab_size=d.randint(1, 3),
        hidden_act=d.choice(["gelu", "gelu_new", "gelu_pytorch_tanh"]),
        layer_norm_eps=d.choice([1e-12, 1e-5, 0.02]),
    )


def gemma3_embedding(d: Draw) -> dict:
    own = sizes(d, 7) | dict(sliding_window=d.randint(2, 20), query_pre_attn_scalar=d.randint(4, 40))
    return own | dict(use_bidirectional_attention=True)


EMBEDDINGS = ["bert", "gemma3_embedding", "qwen3_embedding"]
