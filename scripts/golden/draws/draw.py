"""What is drawn for every family."""

import random
from dataclasses import dataclass, field

import transformers as t


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


def grids(d: Draw, merge: int) -> list[tuple[int, int]]:
    return [(merge * d.randint(1, 4), merge * d.randint(1, 4)) for _ in range(d.randint(1, 3))]


def videos(d: Draw, merge: int) -> list[tuple[int, int, int]]:
    return [(d.randint(1, 3), merge * d.randint(1, 2), merge * d.randint(1, 2)) for _ in range(d.randint(1, 2))]


def image_tokens(vocab: int, names: list[str]) -> dict:
    """The last ids, where the tokenizers made here have them."""
    return {f"{name}_token_id": vocab - len(names) + i for i, name in enumerate(names)}
