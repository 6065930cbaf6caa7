"""Rewrites what transformers saves into what published checkpoints hold: the keys of config.json, and tensors."""

from transformers import Gemma3TextConfig, SiglipVisionConfig

import torch


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
