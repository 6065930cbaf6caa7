"""Makes the fixtures of drafters that a model's own checkpoint holds, layers that guess the token after the next.

    golden/bin/python scripts/golden/heads.py

transformers leaves such layers out, so what is computed here is a reference of our own, made of its layers: for a
position the normed embedding of the token of the next one and the normed output of the target behind its last norm, in
this order, go through `mtp.fc`, a text model of one layer with attention and its norm; the target's head gives the logits,
and what it was given is read in the place of the target's output by the row of the next token. Rows turn by the position
of what was given. vLLM has it so (vllm/model_executor/models/qwen3_5_mtp.py, vllm/v1/spec_decode/llm_base_proposer.py), and
SGLang of GLM-4.5 and GLM-4.7-Flash (python/sglang/srt/models/glm4_moe_nextn.py, glm4_moe_lite_nextn.py), whose layer is the
one behind the model's last.

A fixture is `golden/`: `ids.json` (`target`, whose checkpoint holds the layer too; `input_ids`; `starts`, at which of them a
proposal begins; `images`, whether these are the target's prompt with images) and `logits.safetensors` (`logits`, f32, one row a proposed token, proposal after proposal). Everything is
computed from the stored weights in float32, eager attention, without a cache: each proposal from the first position on.
"""

import copy
import json
import shutil

import torch
from safetensors.torch import load_file, save_file
from transformers import (
    Glm4MoeForCausalLM,
    Glm4MoeLiteForCausalLM,
    Qwen3_5ForConditionalGeneration,
    Qwen3_5MoeForConditionalGeneration,
)
from transformers.models.glm4_moe.modeling_glm4_moe import Glm4MoeModel, Glm4MoeRMSNorm
from transformers.models.glm4_moe_lite.modeling_glm4_moe_lite import Glm4MoeLiteModel, Glm4MoeLiteRMSNorm
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5RMSNorm, Qwen3_5TextModel
from transformers.models.qwen3_5_moe.modeling_qwen3_5_moe import Qwen3_5MoeTextModel
from transformers.utils import logging

from families.published import experts_of_a_layer_in_two_tensors
from make import ROOT, kinds_of

# And whether the prompt has images.
FIXTURES = [
    ("qwen3-5", Qwen3_5ForConditionalGeneration, Qwen3_5TextModel, False),
    ("qwen3-5-moe", Qwen3_5MoeForConditionalGeneration, Qwen3_5MoeTextModel, False),
    ("qwen3-5-images", Qwen3_5ForConditionalGeneration, Qwen3_5TextModel, True),
    ("glm4-moe", Glm4MoeForCausalLM, Glm4MoeModel, False),
    ("glm4-moe-lite", Glm4MoeLiteForCausalLM, Glm4MoeLiteModel, False),
]
# Of those whose layer is the one behind the model's last.
NORMS = {"glm4-moe": Glm4MoeRMSNorm, "glm4-moe-lite": Glm4MoeLiteRMSNorm}
STARTS = [1, 4, 6, 7, 12, 17]
POSITIONS, CHAIN = 18, 4
# Which token is next must not hang on the last bits: in standard deviations.
MARGIN_MIN = 0.01


class Head:
    """The layer and what is around it."""

    def __init__(self, tensors: dict, config, model, kind=Qwen3_5RMSNorm) -> None:
        own = {name.removeprefix("mtp."): tensor.float() for name, tensor in tensors.items() if name.startswith("mtp.")}
        config = copy.deepcopy(config)
        config.num_hidden_layers, config.layer_types = 1, ["full_attention"]
        config.first_k_dense_replace, config.mlp_layer_types = 0, ["sparse"]
        self.fc = own.pop("fc.weight")
        self.norms = []
        for name in ["pre_fc_norm_embedding", "pre_fc_norm_hidden"]:
            norm = kind(config.hidden_size, eps=config.rms_norm_eps)
            norm.weight.data = own.pop(f"{name}.weight")
            self.norms.append(norm)
        config._attn_implementation = "eager"
        self.layers = model(config).eval()
        missing, unknown = self.layers.load_state_dict(own, strict=False)
        assert missing == ["embed_tokens.weight"] and not unknown, (missing, unknown)

    def __call__(self, embeddings: torch.Tensor, given: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
        """Rows of positions from 0 on, which turn by `turns`."""
        halves = [norm(half) for norm, half in zip(self.norms, [embeddings, given])]
        read = torch.cat(halves, dim=-1) @ self.fc.T
        return self.layers(inputs_embeds=read, position_ids=turns).last_hidden_state


def proposals(target, head: Head, ids: list[int], starts: list[int], inputs: dict) -> torch.Tensor:
    """The logits of every proposal, `(proposals * CHAIN, vocab)`."""
    embed, said = target.get_input_embeddings(), target.get_output_embeddings()
    seen = {}
    hear = lambda module, arguments, named: seen.update(named)
    text = getattr(target.model, "language_model", target.model)
    hook = text.register_forward_pre_hook(hear, with_kwargs=True)
    outputs = target.model(input_ids=torch.tensor([ids]), **inputs, **kinds_of(target, ids)).last_hidden_state
    hook.remove()
    read, turned = seen.get("inputs_embeds"), seen.get("position_ids")
    read = embed(torch.tensor([ids])) if read is None else read
    turned = torch.arange(len(ids))[None] if turned is None else turned
    rows = []
    for start in starts:
        given, embeddings, turns = outputs[:, :start], read[:, 1 : start + 1], turned[..., :start]
        for _ in range(CHAIN):
            made = head(embeddings, given, turns)[:, -1:]
            rows.append(said(made)[0, 0])
            given, turns = torch.cat([given, made], dim=1), torch.cat([turns, turns[..., -1:] + 1], dim=-1)
            embeddings = torch.cat([embeddings, embed(rows[-1].argmax().view(1, 1))], dim=1)
    return torch.stack(rows)


def clear(logits: torch.Tensor) -> bool:
    best = logits.topk(2).values
    return bool(logits.isfinite().all()) and ((best[:, 0] - best[:, 1]) / logits.std()).min() > MARGIN_MIN


def of_text(target, head: Head) -> tuple[list[int], list[int], torch.Tensor]:
    for seed in range(7, 107):
        generator = torch.Generator().manual_seed(seed)
        ids = torch.randint(0, 300, (POSITIONS,), generator=generator).tolist()
        logits = proposals(target, head, ids, STARTS, {})
        if clear(logits):
            return ids, STARTS, logits
    raise ValueError("no prompt after which the next tokens are clear")


def of_images(target, head: Head, golden) -> tuple[list[int], list[int], torch.Tensor]:
    """The target's prompt with images and its answer, in which proposals begin where the next tokens are clear."""
    record = json.loads((golden / "ids.json").read_text())
    prompt, inputs = record["image_input_ids"], load_file(golden / "images.safetensors")
    ids = prompt + record["image_greedy_ids"]
    made = [(start, proposals(target, head, ids, [start], inputs)) for start in range(len(prompt), len(ids) - 1)]
    made = [(start, logits) for start, logits in made if clear(logits)][:3]
    return ids, [start for start, _ in made], torch.cat([logits for _, logits in made])


def behind_the_last(name: str, count: int) -> dict:
    """Writes a checkpoint of the layer behind the `count` of the model `name` alone, its weights those of the last layer in
    another order, and gives it under the names of `mtp.*`."""
    folder, source = ROOT / f"{name}-mtp" / "checkpoint", ROOT / name / "checkpoint"
    tensors, last = load_file(source / "model.safetensors"), f"model.layers.{count - 1}."
    generator = torch.Generator().manual_seed(5)
    another = lambda tensor: tensor.flatten()[torch.randperm(tensor.numel(), generator=generator)].view(tensor.shape)
    own = {name.removeprefix(last): another(tensor) for name, tensor in tensors.items() if name.startswith(last)}
    norm = own["input_layernorm.weight"]
    dim = norm.shape[0]
    around = {part: another(norm) for part in ["enorm", "hnorm", "shared_head.norm"]}
    around["eh_proj"] = (1.2 / (2 * dim) ** 0.5 * torch.randn(dim, 2 * dim, generator=generator)).to(norm.dtype)
    stored = own | {f"{part}.weight": tensor for part, tensor in around.items()}
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    shutil.copy(source / "config.json", folder)
    stored = {f"model.layers.{count}.{part}": tensor for part, tensor in stored.items()}
    save_file(stored, folder / "model.safetensors", metadata={"format": "pt"})
    ours = {"eh_proj": "fc", "enorm": "pre_fc_norm_embedding", "hnorm": "pre_fc_norm_hidden", "shared_head.norm": "norm"}
    named = {f"mtp.{ours[part]}.weight": tensor for part, tensor in around.items()}
    layer = {f"mtp.layers.0.{part}": tensor for part, tensor in own.items()}
    return experts_of_a_layer_in_two_tensors(named | layer)


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for name, whole, layers, sees in FIXTURES:
        checkpoint = ROOT / name / "checkpoint"
        target = whole.from_pretrained(checkpoint, dtype=torch.float32, attn_implementation="eager").eval()
        text = target.config.get_text_config()
        if name in NORMS:
            head = Head(behind_the_last(name, text.num_hidden_layers), text, layers, NORMS[name])
        else:
            head = Head(load_file(checkpoint / "model.safetensors"), text, layers)
        made = of_images(target, head, ROOT / name / "golden") if sees else of_text(target, head)
        ids, starts, logits = made
        golden = ROOT / f"{name}-mtp" / "golden"
        shutil.rmtree(golden, ignore_errors=True)
        golden.mkdir(parents=True)
        save_file({"logits": logits.contiguous()}, golden / "logits.safetensors")
        record = {"target": name, "input_ids": ids, "starts": starts, "images": sees}
        rows = ",\n".join(f' "{key}": {json.dumps(value)}' for key, value in record.items())
        (golden / "ids.json").write_text("{\n" + rows + "\n}\n")
        tokens = logits.argmax(dim=-1).tolist()
        print(f"{name}-mtp: logits std {logits.std():.3f}, {len(set(tokens))} different first choices, from {starts}")


if __name__ == "__main__":
    main()
