"""Makes quantize/tests/fixtures/gguf: one random tensor of every storage type in a GGUF, and its values.

    python -m venv gguf && gguf/bin/pip install gguf==0.19.0
    gguf/bin/python scripts/golden/gguf_blocks.py

The file is written, and the values computed, by the `gguf` package of llama.cpp's authors. `blocks.gguf` is a Llama of
one layer a type, whose `ffn_up` (2 x 256) has that type; layer 0 also has an `attn_q` (2 heads x 8, 32) in the row
order of llama.cpp's converter. `blocks.f32` holds the values in f32: every `ffn_up` in layer order, then `attn_q` in
Hugging Face's row order.
"""

from pathlib import Path

import numpy as np
from gguf import GGUFWriter, GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

FOLDER = Path(__file__).resolve().parents[2] / "quantize" / "tests" / "fixtures" / "gguf"
TYPES = [
    *(Type.F32, Type.F16, Type.BF16, Type.Q4_0, Type.Q4_1, Type.Q5_0, Type.Q5_1, Type.Q8_0, Type.Q4_K, Type.Q5_K),
    *(Type.Q6_K, Type.IQ4_NL, Type.IQ4_XS),
]
# Byte offsets of the f16 fields in a block, and the block's length; everything else may be any byte.
HALVES = {
    Type.Q4_0: ([0], 18),
    Type.Q4_1: ([0, 2], 20),
    Type.Q5_0: ([0], 22),
    Type.Q5_1: ([0, 2], 24),
    Type.Q8_0: ([0], 34),
    Type.Q4_K: ([0, 2], 144),
    Type.Q5_K: ([0, 2], 176),
    Type.Q6_K: ([208], 210),
    Type.IQ4_NL: ([0], 18),
    Type.IQ4_XS: ([0], 136),
}
ROWS, COLS, HEADS, HEAD_DIM = 2, 256, 2, 8


def random_rows(kind: Type, random: np.random.Generator) -> np.ndarray:
    """Bytes of ROWS rows: every bit of the integers random, the f16 fields within +-2."""
    if kind in (Type.F32, Type.F16, Type.BF16):
        return quantize(random.standard_normal((ROWS, COLS), dtype=np.float32), kind)
    fields, length = HALVES[kind]
    weights = 256 if kind in (Type.Q4_K, Type.Q5_K, Type.Q6_K, Type.IQ4_XS) else 32
    blocks = random.integers(0, 256, (ROWS * COLS // weights, length), dtype=np.uint8)
    for at in fields:
        halves = random.uniform(-2, 2, len(blocks)).astype(np.float16)
        blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(ROWS, -1)


def interleave(matrix: np.ndarray) -> np.ndarray:
    """Rows of a head from (half, pair) to (pair, half): what llama.cpp's converter does to q and k of a Llama."""
    return matrix.reshape(HEADS, 2, HEAD_DIM // 2, -1).swapaxes(1, 2).reshape(matrix.shape)


def main() -> None:
    random = np.random.default_rng(20261123)
    FOLDER.mkdir(parents=True, exist_ok=True)
    writer = GGUFWriter(FOLDER / "blocks.gguf", "llama")
    writer.add_license("apache-2.0")
    writer.add_context_length(64)
    writer.add_embedding_length(HEADS * HEAD_DIM)
    writer.add_block_count(len(TYPES))
    writer.add_feed_forward_length(ROWS)
    writer.add_head_count(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(["a", "b", "ab", "<|im_end|>"])
    writer.add_token_types([1, 1, 1, 3])
    writer.add_token_merges(["a b"])
    values = []
    writer.add_tensor("token_embd.weight", np.zeros((4, HEADS * HEAD_DIM), np.float32))
    for layer, kind in enumerate(TYPES):
        rows = random_rows(kind, random)
        writer.add_tensor(f"blk.{layer}.ffn_up.weight", rows, raw_dtype=kind)
        values.append(dequantize(rows, kind))
    query = random.standard_normal((HEADS * HEAD_DIM, 32), dtype=np.float32)
    stored = quantize(interleave(query), Type.Q4_0)
    writer.add_tensor("blk.0.attn_q.weight", stored, raw_dtype=Type.Q4_0)
    # Rounding works on rows, so the rounded matrix in Hugging Face's order is that of its rows.
    values.append(dequantize(quantize(query, Type.Q4_0), Type.Q4_0))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    np.concatenate([v.astype(np.float32).ravel() for v in values]).tofile(FOLDER / "blocks.f32")


main()
