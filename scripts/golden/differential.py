"""Compares muse-quantize with transformers on random small models, through the command line.

    cargo build --release -p muse-quantize
    golden/bin/python scripts/golden/differential.py --bin target/release/muse-quantize --seeds 0..9
    golden/bin/python scripts/golden/differential.py --family llama --family glm4 --seeds 7..7

A family and a seed make a config, weights, a way to store them and a prompt. At 32 bits every asked logit must be within
1e-3 of its row's standard deviation and the greedy ids equal as far as the reference's choice is clear; at 16 bits logits
the same where that is how the weights are stored; at 8 bits what comes out must be still the model's, at 4 finite.
Images, videos and sounds are shown in prompts of their own, and of a drafter the answer with it is compared, and how many of
its tokens are proposed and accepted.
Prints a row a case, keeps the checkpoint of one that misses, and ends with an error if any does.
"""

import argparse
import copy
import json
import shutil
import subprocess
import sys
import tempfile
import traceback
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
from safetensors.torch import load_file, save_file
from transformers.utils import logging

import draws
import drafters
import embeddings
import tokenizer as tokenizers_made_here
from make import kinds_of, randomize, rewrite, tied
from shown import Shown, pictures, tokens_of_media, values_of_images, values_of_sounds, values_of_videos

COUNT = 12
TOLERANCE = 1e-3
# Below it another implementation may choose the second best.
MARGIN = 0.01
# Most tokens of a proposal that are verified.
PROPOSED_MAX = 12
# Mean error of the middle one of some rows, in its standard deviations, of which an answer of another model would be 1.1
# away: rounding costs much in models as small as these, and an expert that is chosen otherwise costs most of a row. What 4
# bits cost is shown and not judged, as it can be as much as that; golden.rs bounds it for the committed models.
COARSE = {16: 0.1, 8: 0.9}
FINITE = sys.float_info.max
# Where f32's rounding is seen at 32 bits, that of f16 may cost as much more as its steps are larger.
STEPS = 2**13


class Miss(Exception):
    pass


@dataclass
class Asked:
    """A prompt, what else the model is shown, and what the reference makes of it."""

    ids: list[int]
    # What the command line is told beside them.
    options: list
    # `(len(ids), vocab)`
    logits: torch.Tensor
    greedy: list[int]
    # How clearly each of those was the best.
    margins: list[float]
    # Of a model, the logits again.
    again: Callable[[torch.nn.Module], torch.Tensor]


def save(d: draws.Draw, family: str, folder: Path, seed: int):
    """Writes a checkpoint, as one of those who publish them would; the model as it is read back, and what was drawn."""
    seen = draws.FAMILIES[family]
    has_tokenizer = d.flag(0.4)
    text = dict(vocab_size=d.randint(40, 400)) | d.maybe("tie_word_embeddings", d.flag())
    state = d.getstate()
    drawn = seen(d, dict(text))
    if has_tokenizer:
        # Which one depends on what was drawn: the same again with its ids.
        tokenizer = tokenizers_made_here.MAKERS[drawn.tokenizer]()
        ids = dict(eos_token_id=tokenizer.eos_token_id, bos_token_id=tokenizer.bos_token_id)
        d.setstate(state)
        drawn = seen(d, text | ids | dict(vocab_size=len(tokenizer)))
    model = drawn.model(drawn.config)
    if d.flag(0.85):
        randomize(model, torch.Generator().manual_seed(seed))
    if tied(drawn.config):
        model.tie_weights()
    stored = d.choice(["float32", "float16", "bfloat16"])
    model.to(getattr(torch, stored))
    model.save_pretrained(folder, max_shard_size=d.choice(["1GB", "20KB"]))
    if drawn.tensors:
        for path in folder.glob("*.safetensors"):
            save_file(drawn.tensors(load_file(path)), path, metadata={"format": "pt"})
        for path in folder.glob("*.safetensors.index.json"):
            rewrite(path, lambda index: index.update(weight_map=drawn.tensors(index["weight_map"])))
    if has_tokenizer:
        tokenizer.save_pretrained(folder)
    if drawn.published:
        rewrite(folder / "config.json", drawn.published)
    elif d.flag(0.3):
        # Every key, with what it is where nobody says anything.
        (folder / "config.json").write_text(model.config.to_json_string(use_diff=False))
    plain = dict(attn_implementation="eager", experts_implementation="eager")
    return drawn.model.from_pretrained(folder, dtype=torch.float32, **plain).eval(), drawn, stored


def asked(d: draws.Draw, model, shown: Shown) -> Asked:
    """A prompt of words, with places for what is shown, and the reference's answer."""
    text = model.config.get_text_config()
    generator = torch.Generator().manual_seed(d.randint(0, 1 << 30))
    # The last ids may stand for media.
    others = 7 if any(id < text.vocab_size for id in tokens_of_media(model)) else 0
    most = min(text.vocab_size - others, 256)
    words = lambda count: torch.randint(0, most, (count,), generator=generator).tolist()
    inputs, runs = shown.inputs, shown.runs
    ids = words(3) if runs else words(min(d.choice([1, 5, 30, 70, 300]), text.max_position_embeddings - COUNT))
    for run in runs:
        ids += run + words(d.randint(1, 3))
    if len(ids) + COUNT > text.max_position_embeddings:
        raise Miss(f"the case asks for {len(ids) + COUNT} positions")
    kinds = lambda ids: kinds_of(model, ids) if runs else {}
    answer_of = lambda model, ids: model(torch.tensor([ids]), use_cache=False, **inputs, **kinds(ids)).logits[0]
    answer = lambda ids: answer_of(model, ids)
    logits, greedy, margins = answer(ids), [], []
    if not logits.isfinite().all():
        raise Miss("the reference gives numbers that are not finite")
    row = logits[-1]
    for _ in range(COUNT):
        best, second = row.topk(2).values.tolist()
        margins.append((best - second) / row.std().item())
        greedy.append(int(row.argmax()))
        # A token that stands for a medium cannot be answered.
        if runs and greedy[-1] in tokens_of_media(model):
            margins[-1] = 0.0
            break
        row = answer(ids + greedy)[-1]
    return Asked(ids, shown.options, logits, greedy, margins, lambda model: answer_of(model, ids))


def first_of_equals(values: torch.Tensor, k: int, dim: int = -1) -> torch.return_types.topk:
    """`topk` that takes the first of equal values, where torch leaves it to a partial sort. Scores of positions are often
    0 where few heads give them."""
    sorted_values, indices = torch.sort(values, dim=dim, descending=True, stable=True)
    return torch.return_types.topk((sorted_values.narrow(dim, 0, k), indices.narrow(dim, 0, k)))


def run(binary: str, *arguments) -> str:
    done = subprocess.run([binary, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    if done.returncode:
        raise Miss(f"{' '.join(map(str, arguments[:2]))}: {done.stderr.strip()[-300:]}")
    return done.stdout


def sure(model, what: Asked, positions: list[int]) -> list[int]:
    """Those whose logits the reference itself knows well within the tolerance: in doubles they are the same. A norm of what
    is nearly nothing makes much of any rounding."""
    doubles = what.again(copy.deepcopy(model).double())
    errors = ((doubles - what.logits).abs() / what.logits.std(dim=-1, keepdim=True)).max(dim=-1).values
    return [position for position in positions if errors[position] <= TOLERANCE / 4]


def compare(binary: str, file: Path, what: Asked, options: list, positions: list[int]) -> tuple[float, float]:
    """The worst error of the logits at `positions`, and the mean one at the middle of them, in standard deviations of their
    rows."""
    worst, means = 0.0, [0.0] if not positions else []
    tokens = ["--tokens", " ".join(map(str, what.ids)), "--threads", "1", "--json", *options]
    for position in positions:
        out = json.loads(run(binary, "eval", "logits", file, *tokens, "--position", position))
        row, ours = what.logits[position], torch.tensor(out["logits"])
        if out["position"] != position or ours.shape != row.shape or not ours.isfinite().all():
            raise Miss(f"position {position} has {tuple(ours.shape)} logits, or some that are not finite")
        error = (ours - row).abs() / row.std()
        worst = max(worst, error.max().item())
        means.append(error.mean().item())
    return worst, sorted(means)[len(means) // 2]


def same_choices(binary: str, file: Path, what: Asked, options: list) -> bool:
    tokens = ["--tokens", " ".join(map(str, what.ids)), "--threads", "1", "--json", *options]
    ours = json.loads(run(binary, "eval", "generate", file, *tokens, "--count", len(what.greedy)))["tokens"]
    for mine, theirs, margin in zip(ours, what.greedy, what.margins, strict=True):
        if margin < MARGIN:
            return True
        if mine != theirs:
            return False
    return True


def case(binary: str, family: str, seed: int, folder: Path, see: bool) -> str:
    """A line about one model; raises where it is not what the reference says."""
    d = draws.Draw(zlib.crc32(f"{family} {seed}".encode()))
    model, drawn, stored = save(d, family, folder / "checkpoint", seed)
    shown = [Shown()]
    shown += [values_of_images(d, model, drawn, folder)] if drawn.images else []
    shown += [values_of_videos(d, model, drawn, folder)] if drawn.videos else []
    shown += [values_of_sounds(d, model, drawn, folder)] if drawn.sounds else []
    shown += [pictures(d, model, folder)] if see and drawn.images else []
    prompts = [asked(d, model, each) for each in shown if each]
    line, of_floats = f"{stored:9}", []
    for bits in [32, 16, 8, 4]:
        file = folder / f"{bits}.muse"
        run(binary, "convert", folder / "checkpoint", "-o", file, "--bits", bits)
        for index, what in enumerate(prompts):
            last = len(what.ids) - 1
            exact = bits == 32 or (bits == 16 and stored != "float32")
            options = what.options + (["--cache", "f32"] if exact else [])
            options += ["--backend", "reference"] if d.flag(0.2) else []
            positions = sorted({last * i // 4 for i in range(5)})
            worst, middle = compare(binary, file, what, options, positions)
            if exact and worst > TOLERANCE:
                known = sure(model, what, positions)
                if 2 * len(known) < len(positions):
                    raise Miss(f"{line}: the reference knows {len(known)} of {len(positions)} positions, {what.options}")
                worst, middle = compare(binary, file, what, options, known)
            line += f" {worst:8.1e}" if exact else f" {middle:8.3f}"
            of_floats += [worst] if bits == 32 else []
            most = COARSE.get(bits, FINITE)
            if bits == 16:
                most = min(COARSE[8], max(most, STEPS * of_floats[index]))
            if not (worst <= TOLERANCE if exact else middle <= most):
                raise Miss(f"{line} at {bits} bits, {what.options}")
            if bits == 32 and not same_choices(binary, file, what, options):
                raise Miss(f"{line}: other greedy ids, {what.options}")
    return line


def embedding_case(binary: str, family: str, seed: int, folder: Path) -> str:
    """As `case`, of a model that makes vectors of texts."""
    d = draws.Draw(zlib.crc32(f"{family} {seed}".encode()))
    fixture = draws.embedding(d, family)
    embeddings.write_modules(fixture, folder / "checkpoint", seed)
    plain = dict(dtype=torch.float32, attn_implementation="eager")
    model = embeddings.SentenceTransformer(str(folder / "checkpoint"), device="cpu", model_kwargs=plain).float()
    name = d.choice([None, *fixture.prompts])
    texts = ["a", "Is it there?", *d.sample([line for line in tokenizers_made_here.lines() if line.strip()], 3)]
    theirs = model.encode(texts, prompt_name=name, convert_to_tensor=True).float()
    line = f"{fixture.stored:9}"
    for bits in [32, 16, 8, 4]:
        file = folder / f"{bits}.muse"
        run(binary, "convert", folder / "checkpoint", "-o", file, "--bits", bits)
        asked = [part for text in texts for part in ["--text", text]] + (["--prompt", name] if name else [])
        exact = bits == 32 or (bits == 16 and fixture.stored != "float32")
        asked += ["--cache", "f32"] if exact else []
        asked += ["--backend", "reference"] if d.flag(0.2) else []
        out = json.loads(run(binary, "eval", "embed", file, *asked, "--threads", "1", "--truncate", "--json"))
        ours = torch.tensor(out["embeddings"])
        error = (ours - theirs).abs() / theirs.std(dim=1, keepdim=True)
        line += f" {error.max().item():8.1e}" if exact else f" {error.mean().item():8.3f}"
        if not (error.max() <= TOLERANCE if exact else error.mean() <= COARSE.get(bits, FINITE)):
            raise Miss(f"{line} at {bits} bits")
    return line


def drafter_case(binary: str, seed: int, folder: Path) -> str:
    """As `case`, of a drafter beside its target: the answer is the target's, and as many of its tokens were proposed, and as
    many of those accepted, as where the reference's drafter proposes them."""
    d = draws.Draw(zlib.crc32(f"{DRAFTER} {seed}".encode()))
    drawn = draws.drafted(d)
    generator = torch.Generator().manual_seed(seed)
    target, drafter = drawn.target(drawn.target_config), drawn.model(drawn.config)
    randomize(target, generator)
    drafters.randomize(drafter, generator)
    stored = d.choice(["float32", "float16", "bfloat16"])
    for model, name in [(target, "target"), (drafter, "drafter")]:
        model.to(getattr(torch, stored)).save_pretrained(folder / "checkpoint" / name)
    load = dict(dtype=torch.float32, attn_implementation="eager")
    target = drawn.target.from_pretrained(folder / "checkpoint" / "target", **load).eval()
    drafter = drawn.model.from_pretrained(folder / "checkpoint" / "drafter", **load).eval()
    what = asked(d, target, Shown())
    expected, clear = drafted(target, drafter, what)
    line = f"{stored:9} {expected}"
    for bits in [32, 16, 8, 4]:
        files = {}
        for name in ["target", "drafter"]:
            files[name] = folder / f"{name}-{bits}.muse"
            run(binary, "convert", folder / "checkpoint" / name, "-o", files[name], "--bits", bits)
        tokens = ["--tokens", " ".join(map(str, what.ids)), "--threads", "1", "--count", COUNT, "--json"]
        exact = bits == 32 or (bits == 16 and stored != "float32")
        tokens += ["--cache", "f32"] if exact else []
        tokens += ["--backend", "reference"] if d.flag(0.2) else []
        alone = json.loads(run(binary, "eval", "generate", files["target"], *tokens))
        both = json.loads(run(binary, "eval", "generate", files["target"], "--drafter", files["drafter"], *tokens))
        if exact and clear and (both != expected | dict(tokens=what.greedy) or alone["tokens"] != what.greedy):
            raise Miss(f"{line} at {bits} bits: {alone} alone, {both} together")
        if len(both["tokens"]) != COUNT:
            raise Miss(f"{line} at {bits} bits: {both}")
    return line + ("" if clear else ", not clear")


def drafted(target, drafter, what: Asked) -> tuple[dict, bool]:
    """What becomes of the tokens that the reference's drafter proposes, and whether all choices are clear."""
    ids, at = what.ids + what.greedy, len(what.ids)
    clear = min(what.margins) >= MARGIN
    counts = dict(proposed_tokens=0, accepted_tokens=0, steps=1)
    block, context = drafter.config.block_size, target.config.get_text_config().max_position_embeddings
    # The first step answers the prompt.
    at += 1
    while at < len(ids):
        # A whole block has positions, or there is none.
        count = min(block - 1, PROPOSED_MAX, len(ids) - at - 1) if at - 1 + block <= context else 0
        accepted = 0
        if count:
            rows = drafters.blocks(target, drafter, ids, [at - 1])[:count]
            best = rows.topk(2).values
            clear &= bool(((best[:, 0] - best[:, 1]) / rows.std(dim=-1) >= MARGIN).all())
            proposed = rows.argmax(-1).tolist()
            accepted = next((i for i, id in enumerate(proposed) if id != ids[at + i]), count)
        counts["proposed_tokens"] += count
        counts["accepted_tokens"] += accepted
        counts["steps"] += 1
        at += accepted + 1
    return counts, clear


DRAFTER = "muse_glimmer_assistant"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bin", default="target/release/muse-quantize")
    parser.add_argument("--family", action="append", choices=[*draws.FAMILIES, *draws.EMBEDDINGS, DRAFTER])
    parser.add_argument("--seeds", default="0..4", help="first..last")
    parser.add_argument("--pictures", action="store_true", help="show PNG files too; needs pillow and torchvision")
    parser.add_argument("--keep", type=Path, help="a folder for the checkpoints of misses")
    args = parser.parse_args()
    first, last = map(int, args.seeds.split(".."))
    torch.Tensor.topk = first_of_equals
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    misses = 0
    for family in args.family or [*draws.FAMILIES, *draws.EMBEDDINGS, DRAFTER]:
        for seed in range(first, last + 1):
            with tempfile.TemporaryDirectory() as scratch:
                folder = Path(scratch)
                try:
                    if family in draws.EMBEDDINGS:
                        line = embedding_case(args.bin, family, seed, folder)
                    elif family == DRAFTER:
                        line = drafter_case(args.bin, seed, folder)
                    else:
                        line = case(args.bin, family, seed, folder, args.pictures)
                except Exception as problem:
                    misses += 1
                    known = isinstance(problem, Miss)
                    line = f"MISS {problem if known else traceback.format_exc()}"
                    if args.keep:
                        shutil.copytree(folder, args.keep / f"{family}-{seed}", dirs_exist_ok=True)
                print(f"{family:14} {seed:3} {line}", flush=True)
    sys.exit(f"{misses} misses" if misses else 0)


if __name__ == "__main__":
    main()
