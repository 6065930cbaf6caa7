"""Makes the fixtures of drafters that transformers knows: tiny random checkpoints beside a target's, and what transformers' generator of candidates
computes with both.

    golden/bin/python scripts/golden/drafters.py

A fixture is `checkpoint/`, as a publisher would upload it, and `golden/`: `ids.json` (`input_ids`; `starts`, at which of
them a block begins) and `logits.safetensors` (`logits`, f32, one row for each mask of a block, block after block), of the
target in the folder that `TARGET` names. The first block follows a prompt; before each later one the tokens between were
accepted. Weights are stored as bfloat16 and everything computed from the stored ones in float32, eager attention.
"""

import json
import shutil
import zlib
from types import SimpleNamespace

import torch
from safetensors.torch import save_file
from transformers import (
    GenerationConfig,
    MuseGlimmerAssistantConfig,
    MuseGlimmerAssistantModel,
    MuseGlimmerForConditionalGeneration,
)
from transformers.generation.candidate_generator import DFlashTokenCandidateGenerator
from transformers.utils import logging

from make import ROOT, rewrite

NAME, TARGET = "muse-glimmer-assistant", "muse-glimmer"
# Within the first window, at the end of it, and where it has moved on by one position and by several.
STARTS = [4, 6, 7, 12, 13, 17]
POSITIONS = 18


def write_checkpoint(folder, text) -> None:
    config = MuseGlimmerAssistantConfig(
        hidden_size=text.hidden_size,
        intermediate_size=28,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        rms_norm_eps=0.01,
        rope_parameters=dict(rope_type="default", rope_theta=500.0),
        max_position_embeddings=64,
        sliding_window=5,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        block_size=7,
        mask_token_id=300,
        # Not in order: neither is what the weights read.
        target_layer_ids=[2, 0, 3],
        bos_token_id=text.bos_token_id,
        eos_token_id=text.eos_token_id,
        pad_token_id=text.pad_token_id,
    )
    model = MuseGlimmerAssistantModel(config)
    randomize(model, torch.Generator().manual_seed(zlib.crc32(NAME.encode())))
    model.to(torch.bfloat16)
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    rewrite(folder / "config.json", lambda config: None)


def randomize(model: torch.nn.Module, generator: torch.Generator) -> None:
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        gain = 2.0 if "q_proj" in name or "k_proj" in name else 1.2
        parameter.data = 1.0 + 0.25 * noise if "norm" in name else gain / noise.shape[-1] ** 0.5 * noise


def blocks(target, drafter, ids: list[int], starts: list[int]) -> torch.Tensor:
    """The logits of the blocks at `starts`, `(blocks * masks, vocab)`. What the target makes of a token does not depend on those behind
    it, so that one pass gives the outputs of all steps."""
    outputs = target(torch.tensor([ids]), output_hidden_states=True)
    generator = DFlashTokenCandidateGenerator(
        assistant_model=drafter,
        main_model_input_embeddings=target.get_input_embeddings(),
        main_model_output_embeddings=target.get_output_embeddings(),
        generation_config=GenerationConfig(max_length=1000, do_sample=False),
    )
    rows, done = [], 0
    for start in starts:
        hidden = [states[:, done:start] for states in outputs.hidden_states]
        _, logits = generator.get_candidates(
            torch.tensor([ids[: start + 1]]),
            model_kwargs=dict(
                position_ids=torch.arange(start + 1)[None],
                attention_mask=torch.ones(1, start + 1, dtype=torch.long),
            ),
            model_outputs=SimpleNamespace(hidden_states=hidden),
            is_first_iteration=False,
            n_last_matches=start - done - 1,
        )
        rows.append(logits[0])
        done = start
    return torch.cat(rows).contiguous()


@torch.no_grad()
def main() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    load = dict(dtype=torch.float32, attn_implementation="eager")
    target = MuseGlimmerForConditionalGeneration.from_pretrained(ROOT / TARGET / "checkpoint", **load).eval()
    folder = ROOT / NAME
    write_checkpoint(folder / "checkpoint", target.config.text_config)
    drafter = MuseGlimmerAssistantModel.from_pretrained(folder / "checkpoint", **load).eval()
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, 300, (POSITIONS,), generator=generator).tolist()
    logits = blocks(target, drafter, ids, STARTS)
    assert logits.isfinite().all() and logits.shape[0] == len(STARTS) * (drafter.config.block_size - 1)
    golden = folder / "golden"
    shutil.rmtree(golden, ignore_errors=True)
    golden.mkdir()
    save_file({"logits": logits}, golden / "logits.safetensors")
    record = {"target": TARGET, "input_ids": ids, "starts": STARTS}
    rows = ",\n".join(f' "{key}": {json.dumps(value)}' for key, value in record.items())
    (golden / "ids.json").write_text("{\n" + rows + "\n}\n")
    print(f"{NAME}: logits std {logits.std():.3f}, {len(set(logits.argmax(dim=-1).tolist()))} different first choices")


if __name__ == "__main__":
    main()
