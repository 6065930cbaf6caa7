"""Makes the fixtures of embedding models: tiny random checkpoints and what sentence-transformers computes with them.

    golden/bin/python scripts/golden/embeddings.py            # all, or the names given

A fixture is `checkpoint/`, as a publisher would upload it, and `golden/`: `texts.json` (texts, the name of a prompt or
null, token ids of each) and `embeddings.safetensors` (`embeddings`, f32, one row a text). The weights are stored as the
fixture says and the embeddings computed from the stored weights in float32, eager attention.
"""

import json
import shutil
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    BertTokenizerFast,
    Gemma3TextConfig,
    Gemma3TextModel,
    Qwen3Config,
    Qwen3Model,
)
from transformers.utils import logging

import tokenizer as tokenizers_made_here
from make import randomize, rewrite

ROOT = tokenizers_made_here.PAGE.parent


@dataclass
class Fixture:
    name: str
    model: type
    config: type
    settings: dict
    stored: str
    tokenizer: Callable
    pooling: str
    # Of each dense layer after pooling: outputs, bias, activation.
    dense: list[tuple[int, bool, torch.nn.Module]]
    normalize: bool
    prompts: dict[str, str]
    # Positions that the publisher allows; None leaves it to the config.
    limit: int | None = None
    # Whether the files of the modules are written as before sentence-transformers 5.
    legacy: bool = False
    # What config.json names as architecture, where that is not the class of the model.
    architecture: str | None = None


def word_pieces(_: Path):
    """As BERT: lower case, words split at blanks and punctuation, `##` within a word, [CLS] and [SEP] around it."""
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    normalizer = normalizers.BertNormalizer(lowercase=True)
    words = [normalizer.normalize_str(line) for line in tokenizers_made_here.lines()]
    words = sorted({w for line in words for w, _ in pre_tokenizers.BertPreTokenizer().pre_tokenize_str(line)})
    letters = sorted({c for w in words for c in w if c.isascii()})
    # Every third word is a piece of its own, and so are the ends of the words after those.
    pieces = [*letters, *("##" + c for c in letters if c.isalnum()), *words[::3], *("##" + w[-3:] for w in words[1::3])]
    vocab = {piece: i for i, piece in enumerate(dict.fromkeys([*specials, *pieces]))}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    tokenizer.add_special_tokens(specials)
    ids = {token: tokenizer.token_to_id(token) for token in specials}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    # As published: a reader who obeys both reads the first words alone and [PAD] after them.
    tokenizer.enable_truncation(12)
    tokenizer.enable_padding(length=12)
    return BertTokenizerFast(tokenizer_object=tokenizer)


def framed_pieces(_: Path):
    """The sentence pieces of the other fixtures with <bos> and <eos> around a text."""
    made = tokenizers_made_here.sentencepiece()
    made.chat_template = None
    ids = {token: made.convert_tokens_to_ids(token) for token in ["<bos>", "<eos>"]}
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> $B <eos>", special_tokens=list(ids.items())
    )
    return made


def ended_bytes(_: Path):
    """The bytes of the other fixtures with <|im_end|> behind a text, whose vector speaks for it."""
    made = tokenizers_made_here.MAKERS["bytes"]()
    made.chat_template = None
    end = made.eos_token
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {end}", pair=f"$A {end} $B {end}", special_tokens=[(end, made.eos_token_id)]
    )
    return made


BERT = dict(
    hidden_size=36,  # 32 + 4
    num_attention_heads=3,
    intermediate_size=70,
    num_hidden_layers=2,
    max_position_embeddings=64,
    layer_norm_eps=0.02,
)

FIXTURES = [
    Fixture("bert", BertModel, BertConfig, BERT, "float32", word_pieces, "mean", [], True, {}, limit=48, legacy=True),
    # What others of the family have: the first token's vector, a projection with tanh, GELU by tanh, one head's width
    # that no tile divides, and no unit length at the end.
    Fixture(
        "bert-cls",
        BertModel,
        BertConfig,
        BERT | dict(hidden_size=28, num_attention_heads=2, hidden_act="gelu_new", type_vocab_size=1),
        "float16",
        word_pieces,
        "cls",
        [(20, True, torch.nn.Tanh())],
        False,
        {},
    ),
    # As EmbeddingGemma: a window to both sides on two layers of three, two dense layers, prompts by name.
    Fixture(
        "gemma3-embedding",
        Gemma3TextModel,
        Gemma3TextConfig,
        dict(
            hidden_size=40,
            intermediate_size=76,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=1,
            head_dim=20,
            max_position_embeddings=128,
            rms_norm_eps=1e-2,
            sliding_window=8,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            query_pre_attn_scalar=24,
            use_bidirectional_attention=True,
        ),
        "bfloat16",
        framed_pieces,
        "mean",
        [(72, False, torch.nn.Identity()), (40, False, torch.nn.Identity())],
        True,
        {"query": "find: ", "document": "text: "},
    ),
    # As Qwen3-Embedding: layers alone under the name of the model that writes, the last token's vector, every token
    # seeing those before it.
    Fixture(
        "qwen3-embedding",
        Qwen3Model,
        Qwen3Config,
        dict(
            hidden_size=40,
            intermediate_size=76,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=24,
            max_position_embeddings=256,
            rms_norm_eps=1e-5,
            tie_word_embeddings=True,
        ),
        "bfloat16",
        ended_bytes,
        "lasttoken",
        [],
        True,
        {"query": "find: ", "document": ""},
        limit=200,
        legacy=True,
        architecture="Qwen3ForCausalLM",
    ),
]


def texts() -> list[tuple[str, str | None]]:
    """A word, lines of the page, characters that no piece has, and nothing at all."""
    lines = [line for line in tokenizers_made_here.lines() if line.strip()]
    return [(text, None) for text in ["a", *lines[:3], "Ünïcode 漢字 🙂 text", ""]]


def write_modules(fixture: Fixture, folder: Path, seed: int) -> SentenceTransformer:
    shutil.rmtree(folder, ignore_errors=True)
    tokenizer = fixture.tokenizer(folder)
    config = fixture.config(vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id, **fixture.settings)
    model = fixture.model(config, **(dict(add_pooling_layer=True) if fixture.model is BertModel else {}))
    generator = torch.Generator().manual_seed(seed)
    randomize(model, generator)
    for name, parameter in model.named_parameters():
        if "LayerNorm.weight" in name:
            parameter.data = 1.0 + 0.25 * torch.randn(parameter.shape, generator=generator)
        elif name.startswith("embeddings.") and "LayerNorm" not in name:
            parameter.data = 0.7 * torch.randn(parameter.shape, generator=generator)
        elif "value.weight" in name:
            # What a text's other tokens say weighs as much as the first token itself.
            parameter.data *= 3.0
    model.to(getattr(torch, fixture.stored))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    transformer = Transformer(str(folder), max_seq_length=fixture.limit)
    modules = [transformer, Pooling(config.hidden_size, fixture.pooling)]
    width = config.hidden_size
    for out, bias, activation in fixture.dense:
        dense = Dense(width, out, bias=bias, activation_function=activation)
        for parameter in dense.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) / width**0.5
        modules.append(dense.to(getattr(torch, fixture.stored)))
        width = out
    if fixture.normalize:
        modules.append(Normalize())
    shutil.rmtree(folder)
    made = SentenceTransformer(modules=modules, prompts=fixture.prompts, device="cpu")
    made.save(str(folder), create_model_card=False)
    if fixture.legacy:
        before_version_5(folder, fixture)
    if fixture.architecture:
        rewrite(folder / "config.json", lambda config: config.update(architectures=[fixture.architecture]))
    return made


def before_version_5(folder: Path, fixture: Fixture) -> None:
    """The keys and the names of classes that most published checkpoints have."""

    def modules(entries):
        for entry in entries:
            entry["type"] = "sentence_transformers.models." + entry["type"].rsplit(".", 1)[-1]

    def pooling(config):
        mode = config.pop("pooling_mode")
        config.pop("include_prompt")
        config["word_embedding_dimension"] = config.pop("embedding_dimension")
        for key, name in [("cls_token", "cls"), ("mean_tokens", "mean"), ("max_tokens", "max"), ("lasttoken", "lasttoken")]:
            config[f"pooling_mode_{key}"] = mode == name
        config["pooling_mode_mean_sqrt_len_tokens"] = False

    def limit(config):
        config.clear()
        config.update(max_seq_length=fixture.limit, do_lower_case=False)

    rewrite(folder / "modules.json", modules)
    rewrite(folder / "1_Pooling" / "config.json", pooling)
    rewrite(folder / "sentence_bert_config.json", limit)


@torch.no_grad()
def write_golden(fixture: Fixture, folder: Path) -> None:
    model = SentenceTransformer(
        str(folder / "checkpoint"),
        device="cpu",
        model_kwargs=dict(dtype=torch.float32, attn_implementation="eager"),
    ).float()
    asked = texts() + [("Is it there?", name) for name in fixture.prompts]
    golden = folder / "golden"
    shutil.rmtree(golden, ignore_errors=True)
    golden.mkdir()
    record, rows = [], []
    for text, prompt in asked:
        rows.append(model.encode([text], prompt_name=prompt, convert_to_tensor=True)[0].float())
        ids = model.tokenize([fixture.prompts.get(prompt, "") + text])["input_ids"][0].tolist()
        record.append({"text": text, "prompt": prompt, "ids": ids})
    embeddings = torch.stack(rows)
    assert embeddings.isfinite().all() and (embeddings.norm(dim=1) > 0).all()
    save_file({"embeddings": embeddings.contiguous()}, golden / "embeddings.safetensors")
    lines = ",\n".join(" " + json.dumps(entry, ensure_ascii=False) for entry in record)
    (golden / "texts.json").write_text("[\n" + lines + "\n]\n", encoding="utf-8")
    unit = torch.nn.functional.normalize(embeddings, dim=1)
    closest = (unit @ unit.T - 2 * torch.eye(len(rows))).max()
    longest = max(len(entry["ids"]) for entry in record)
    print(f"{fixture.name:16} {embeddings.shape[1]} wide, up to {longest} tokens, closest pair {closest:.3f}")


def main() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    for fixture in FIXTURES:
        if sys.argv[1:] and fixture.name not in sys.argv[1:]:
            continue
        folder = ROOT / fixture.name
        write_modules(fixture, folder / "checkpoint", zlib.crc32(fixture.name.encode()))
        write_golden(fixture, folder)


if __name__ == "__main__":
    main()
