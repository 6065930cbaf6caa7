"""Two small tokenizers, trained here on the page of mixed text that the tests encode."""

import json
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

PAGE = Path(__file__).resolve().parents[2] / "quantize" / "tests" / "fixtures" / "page.txt"

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Content is a text, or a list of images and texts.
CHATML_WITH_IMAGES = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] | trim }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|patch|>{% else %}{{ part['text'] | trim }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# Also videos.
CHATML_WITH_VIDEOS = CHATML_WITH_IMAGES.replace(
    "{% else %}{{ part", "{% elif part['type'] == 'video' %}<|video|>{% else %}{{ part"
)
# Also of sounds.
CHATML_WITH_SOUNDS = CHATML_WITH_IMAGES.replace("{% else %}{{ part", "{% elif part['type'] == 'audio' %}<|audio|>{% else %}{{ part")
# As Qwen's: the tokens around an image or a video are the template's to write.
CHATML_AROUND_IMAGES = CHATML_WITH_VIDEOS.replace(
    "<|patch|>", "<|vision_start|><|image_pad|><|vision_end|>"
).replace("<|video|>", "<|vision_start|><|video_pad|><|vision_end|>")
# In front of an image, for its vectors, and behind it; the last stands for frames of a video.
QWEN_IMAGE_TOKENS = ["<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|video_pad|>"]
# As those.
IMAGE_TOKENS = ["<|image_start|>", "<|patch|>", "<|image_end|>", "<|video|>"]
# Those, and what is around the frames of a video.
VIDEO_TOKENS = IMAGE_TOKENS + ["<|vid_frame_separator|>", "<|vid_start|>", "<|vid_end|>"]
# As those, of Llama; what a template writes for an image, which stands in front of all of it, and what is between tiles.
LLAMA_IMAGE_TOKENS = ["<|image_start|>", "<|patch|>", "<|image_end|>"]
LLAMA_IMAGE_TOKENS += ["<|image|>", "<|tile_x_separator|>", "<|tile_y_separator|>"]
CHATML_WITH_TILES = CHATML_WITH_IMAGES.replace("<|patch|>", "<|image|>")
# As those, of Gemma.
GEMMA_IMAGE_TOKENS = ["<|image>", "<|image|>", "<image|>", "<|video|>"]
# As those, of Gemma 3, whose template writes the first for all of an image.
GEMMA3_IMAGE_TOKENS = ["<start_of_image>", "<image_soft_token>", "<end_of_image>"]
# Runs of line ends are tokens of Gemma: the empty lines around an image and a template's own are one.
LINES = ["\n\n", "\n\n\n"]
# In front of a sound, for its vectors, and behind it.
AUDIO_TOKENS = ["<|soft_audio_start|>", "<|audio|>", "<|soft_audio_end|>"]
# Gemma's turns: the assistant is called model, and a system message goes in front of the first user message.
TURNS = (
    "{{ bos_token }}{%- if messages[0]['role'] == 'system' -%}{%- set first = messages[0]['content'] + '\n\n' -%}"
    "{%- set rest = messages[1:] -%}{%- else -%}{%- set first = '' -%}{%- set rest = messages -%}{%- endif -%}"
    "{%- for message in rest -%}{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}"
    "{{ raise_exception('roles must alternate user and assistant') }}{%- endif -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<turn>' + role + '\n' + (first if loop.first else '') + message['content'] | trim + '</turn>\n' }}"
    "{%- endfor -%}{%- if add_generation_prompt -%}{{ '<turn>model\n' }}{%- endif -%}"
)

# Content is a text, or a list of images and texts.
TURNS_WITH_IMAGES = (
    "{{ bos_token }}{%- for message in messages -%}{{ '<turn>' + message['role'] + '\n' }}"
    "{%- if message['content'] is string -%}{{ message['content'] | trim }}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'image' -%}{{ '<|image|>' }}{%- else -%}{{ part['text'] | trim }}{%- endif -%}{%- endfor -%}"
    "{%- endif -%}{{ '</turn>\n' }}{%- endfor -%}{%- if add_generation_prompt -%}{{ '<turn>model\n' }}{%- endif -%}"
)
TURNS_WITH_WHOLE_IMAGES = TURNS_WITH_IMAGES.replace("<|image|>", "<start_of_image>")


def lines() -> list[str]:
    return PAGE.read_text(encoding="utf-8").splitlines()


def byte_level(images: list[str] = [], template: str = CHATML) -> PreTrainedTokenizerFast:
    """307 ids, a prime: 256 bytes, merges, and specials at the end; behind them those of `images`."""
    tokenizer = Tokenizer(models.BPE())
    digits_and_words = Regex(r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(digits_and_words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=303, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(lines(), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in ["<s>", "<|im_start|>", "<|im_end|>", "<pad>"]]
    )
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in images])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|im_end|>",
        pad_token="<pad>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


def sentencepiece(
    images: list[str] = [], template: str = TURNS, runs: list[str] = []
) -> PreTrainedTokenizerFast:
    """Specials, then 256 byte tokens, then pieces: characters that are not among them fall back to bytes; behind them
    `runs`, and the specials of `images`."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<turn>", "</turn>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    counts = Counter("".join(lines()).replace(" ", "▁"))
    # The trainer breaks ties between rare characters at random: choose them here.
    alphabet = sorted(counts, key=lambda c: (-counts[c], c))[:60]
    trainer = trainers.BpeTrainer(
        vocab_size=110,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        special_tokens=specials,
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines(), trainer)
    # The trainer knows no byte tokens: put them between the specials and the pieces.
    state = json.loads(tokenizer.to_str())
    pieces = sorted(state["model"]["vocab"].items(), key=lambda item: item[1])
    names = [piece for piece, _ in pieces]
    names[len(specials) : len(specials)] = [f"<0x{byte:02X}>" for byte in range(256)]
    state["model"]["vocab"] = {piece: i for i, piece in enumerate(names)}
    tokenizer = Tokenizer.from_str(json.dumps(state))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in runs])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in images])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=template,
        clean_up_tokenization_spaces=False,
    )


MAKERS = {
    "bytes": byte_level,
    "images": lambda: byte_level(IMAGE_TOKENS, CHATML_WITH_IMAGES),
    "videos": lambda: byte_level(VIDEO_TOKENS, CHATML_WITH_VIDEOS),
    "sounds": lambda: byte_level(IMAGE_TOKENS + AUDIO_TOKENS, CHATML_WITH_SOUNDS),
    "qwen-images": lambda: byte_level(QWEN_IMAGE_TOKENS, CHATML_AROUND_IMAGES),
    "sentencepiece": sentencepiece,
    "llama-images": lambda: byte_level(LLAMA_IMAGE_TOKENS, CHATML_WITH_TILES),
    "gemma-images": lambda: sentencepiece(GEMMA_IMAGE_TOKENS, TURNS_WITH_IMAGES),
    "gemma3-images": lambda: sentencepiece(GEMMA3_IMAGE_TOKENS, TURNS_WITH_WHOLE_IMAGES, LINES),
}

# The specials of an image, by tokenizer.
IMAGE_TOKENS_OF = {
    "images": IMAGE_TOKENS,
    "videos": VIDEO_TOKENS,
    "sounds": IMAGE_TOKENS,
    "qwen-images": QWEN_IMAGE_TOKENS,
    "llama-images": LLAMA_IMAGE_TOKENS,
    "gemma-images": GEMMA_IMAGE_TOKENS,
    "gemma3-images": GEMMA3_IMAGE_TOKENS,
}
