"""What a tiny checkpoint is made of."""

from dataclasses import dataclass, field
from typing import Callable


@dataclass
class Fixture:
    name: str
    model: type
    config: type
    # Keys of the config beyond the tokenizer's.
    settings: dict
    # How the weights are stored: float32, float16, bfloat16.
    stored: str
    # "bytes": byte-level BPE, as Llama 3 and Qwen; "images", "sounds": the same with tokens for images, and sounds; "sentencepiece": spaces
    # as U+2581 and byte fallback, as Gemma.
    tokenizer: str = "bytes"
    # None for one file.
    shard_bytes: int | None = None
    # Rewrites config.json into the keys that published checkpoints use.
    published: Callable[[dict], None] = field(default=lambda config: None)
    # Rewrites the tensors into those of published checkpoints.
    published_tensors: Callable[[dict], dict] | None = None
    # Of the logits: more than a ring of the smallest windows holds.
    positions: int = 28
    # Rows and columns of patches, or of tiles, of each image of a second prompt.
    images: list[tuple[int, int]] = field(default_factory=list)
    # Grids of frames, and rows and columns of patches, of each video of a third prompt, in which the second image is too.
    videos: list[tuple[int, int, int]] = field(default_factory=list)
    # Samples of each sound of a fourth prompt.
    sounds: list[int] = field(default_factory=list)
    # preprocessor_config.json and video_preprocessor_config.json, where there are any.
    processor: dict | None = None
    video_processor: dict | None = None
    # False: the chat template goes into tokenizer_config.json, as older checkpoints have it.
    template_file: bool = True


BASE = dict(
    hidden_size=40,  # 32 + 8
    intermediate_size=76,  # 2 * 32 + 12
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=128,
    rms_norm_eps=1e-5,
)
