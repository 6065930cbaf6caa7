"""Makes runtime/tests/pictures: small pictures of every kind that is decoded, and `NAME.rgb`, the pixels that the image
processor of Muse Glimmer makes of each, at 4 pixels a patch, squares of 2 patches and at most 30 tokens; of some also
`NAME.area.rgb`, those that Qwen's makes of them, of 640 to 1920 pixels. Of two of them in turns, the frames of a video,
`video.rgb` and `video.area.rgb`: grids, rows and columns, then the pixels of each frame of each grid. Of that video in a
conversation with two of the models that make.py makes also their `golden/video_chat.json`, the ids that a processor makes. `NAME.fill.rgb`
are the pixels that Gemma 4's makes of some, of at most 30 tokens too. `NAME.tiles.bf16` are the values that Llama 4's makes
of some, behind rows and columns of tiles, and `NAME.table.rgb` the pixels that Gemma 3's makes, 6 patches a side; and
`golden/image_chats.json` of the models that make.py makes for these two the ids of a conversation about each.

    golden/bin/pip install pillow torchvision && golden/bin/python scripts/golden/pictures.py

Lanczos with 8 bits a channel depends on the CPU: run it on x86-64 with AVX2.
"""

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import (
    Gemma3ImageProcessor,
    Gemma3Processor,
    Llama4ImageProcessor,
    Llama4Processor,
    MuseGlimmerImageProcessor,
    MuseGlimmerProcessor,
    MuseGlimmerVideoProcessor,
    PreTrainedTokenizerFast,
    Qwen2VLImageProcessor,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.gemma4 import image_processing_gemma4 as gemma4

ROOT = Path(__file__).resolve().parents[2] / "runtime" / "tests" / "pictures"
FIXTURES = ROOT.parents[2] / "quantize" / "tests" / "fixtures"
PATCH = 4


def scene(height: int, width: int) -> Image.Image:
    """Bows of color with edges in them."""
    y, x = np.mgrid[0:height, 0:width].astype(float)
    red = 127 + 120 * np.sin(x / 9 + y / 23)
    green = 255 * ((x // 11 + y // 7) % 2)
    blue = 255 * y / height
    return Image.fromarray(np.stack([red, green, blue], -1).astype(np.uint8))


def fading(picture: Image.Image) -> Image.Image:
    ramp = np.linspace(0, 255, picture.width).astype(np.uint8)
    picture.putalpha(Image.fromarray(np.tile(ramp, (picture.height, 1))))
    return picture


def turned() -> dict:
    """Metadata that says: on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return {"exif": exif}


PICTURES = {
    "wide.png": (scene(61, 97), {}),
    "square.png": (scene(60, 60), {}),
    "tiny.png": (scene(3, 5), {}),
    "alpha.png": (fading(scene(40, 50)), {}),
    "gray.png": (scene(50, 33).convert("L"), {}),
    "palette.png": (scene(44, 44).quantize(24), {"transparency": 3}),
    "lossless.webp": (scene(35, 80), {"lossless": True}),
    "lossy.webp": (scene(48, 64), {"quality": 90}),
    "first.png": (scene(22, 26), {}),
    "second.png": (ImageOps.mirror(scene(22, 26)), {}),
    "plain.jpg": (scene(48, 64), {"quality": 92}),
    "turned.jpg": (scene(30, 70), {"quality": 92} | turned()),
}


# Larger, smaller, long, transparent, gray and turned.
BY_AREA = ["wide.png", "tiny.png", "lossless.webp", "alpha.png", "gray.png", "first.png"]
# Smaller and larger ones, transparent and gray.
FILLED = ["wide.png", "tiny.png", "gray.png"]
# Of as many tiles as there may be, of one and of one that is made larger, long, transparent and gray, of a column.
TILED = ["wide.png", "square.png", "tiny.png", "lossless.webp", "alpha.png", "gray.png"]


def main() -> None:
    ROOT.mkdir(exist_ok=True)
    processor = MuseGlimmerImageProcessor(patch_size=PATCH, max_image_tokens=30)
    for name, (picture, options) in PICTURES.items():
        picture.save(ROOT / name, **options)
        # As transformers loads pictures.
        loaded = ImageOps.exif_transpose(Image.open(ROOT / name))
        made = processor(loaded, return_tensors="np")
        _, rows, cols = made["image_grid_thw"][0].tolist()
        values = made["pixel_values"].reshape(rows, cols, 2, 3, PATCH, PATCH)
        assert (values[:, :, 0] == values[:, :, 1]).all()
        pixels = np.rint(values[:, :, 0] * 127.5 + 127.5).astype(np.uint8)
        # Rows of pixels: (rows, y, cols, x, channel).
        pixels = pixels.transpose(0, 3, 1, 4, 2)
        (ROOT / f"{name}.rgb").write_bytes(bytes([rows, cols]) + pixels.tobytes())
        print(name, picture.size, rows, cols)
    half = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    size = dict(shortest_edge=640, longest_edge=1920)
    processor = Qwen2VLImageProcessor(patch_size=PATCH, size=size, **half)
    for name in BY_AREA:
        made = processor(ImageOps.exif_transpose(Image.open(ROOT / name)), return_tensors="np")
        _, rows, cols = made["image_grid_thw"][0].tolist()
        # Squares of 2 x 2 patches, each red, green and blue of 2 frames.
        values = made["pixel_values"].reshape(rows // 2, cols // 2, 2, 2, 3, 2, PATCH, PATCH)
        assert (values[:, :, :, :, :, 0] == values[:, :, :, :, :, 1]).all()
        pixels = np.rint(values[:, :, :, :, :, 0] * 127.5 + 127.5).astype(np.uint8)
        # Rows of pixels: (square, patch, y; square, patch, x; channel).
        pixels = pixels.transpose(0, 2, 5, 1, 3, 6, 4)
        (ROOT / f"{name}.area.rgb").write_bytes(bytes([rows, cols]) + pixels.tobytes())
        print(name, "by area", rows, cols)
    # Few tokens make small files.
    gemma4._SUPPORTED_SOFT_TOKENS = (30,)
    processor = gemma4.Gemma4ImageProcessor(patch_size=PATCH, max_soft_tokens=30, pooling_kernel_size=2)
    for name in FILLED:
        made = processor(ImageOps.exif_transpose(Image.open(ROOT / name)), return_tensors="np")
        places = made["image_position_ids"][0]
        cols, rows = (places.max(0) + 1).tolist()
        values = made["pixel_values"][0][: rows * cols].reshape(rows, cols, PATCH, PATCH, 3)
        pixels = np.rint(values * 255).astype(np.uint8).transpose(0, 2, 1, 3, 4)
        (ROOT / f"{name}.fill.rgb").write_bytes(bytes([rows, cols]) + pixels.tobytes())
        print(name, "filled", rows, cols)
    tiles()
    of_one_size()
    videos()


def tiles() -> None:
    # Means and deviations that bf16 does not hold.
    moved = dict(image_mean=[0.481, 0.458, 0.408], image_std=[0.269, 0.261, 0.276])
    size = dict(height=4 * PATCH, width=4 * PATCH)
    processor = Llama4ImageProcessor(size=size, max_patches=6, **moved)
    folder = FIXTURES / "llama4" / "checkpoint"
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    asked = Llama4Processor(
        image_processor=Llama4ImageProcessor.from_pretrained(folder),
        tokenizer=tokenizer,
        patch_size=2,
        chat_template=tokenizer.chat_template,
    )
    for name in TILED:
        loaded = ImageOps.exif_transpose(Image.open(ROOT / name))
        made = processor(loaded, return_tensors="pt")
        rows, cols = made["aspect_ratios"][0].tolist()
        values = made["pixel_values"].view(torch.int16).numpy().astype("<i2")
        (ROOT / f"{name}.tiles.bf16").write_bytes(bytes([rows, cols]) + values.tobytes())
        print(name, "in tiles", rows, cols, tuple(made["pixel_values"].shape))
    image_chats("llama4", asked)


def of_one_size() -> None:
    processor = Gemma3ImageProcessor(size=dict(height=6 * PATCH, width=6 * PATCH))
    for name in TILED:
        made = processor(ImageOps.exif_transpose(Image.open(ROOT / name)), return_tensors="np")
        pixels = np.rint(made["pixel_values"][0] * 127.5 + 127.5).astype(np.uint8).transpose(1, 2, 0)
        (ROOT / f"{name}.table.rgb").write_bytes(bytes([6, 6]) + pixels.tobytes())
        print(name, "of one size", pixels.shape)
    folder = FIXTURES / "gemma3-images" / "checkpoint"
    names = dict(boi_token="<start_of_image>", image_token="<image_soft_token>", eoi_token="<end_of_image>")
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, extra_special_tokens=names)
    image_chats(
        "gemma3-images",
        Gemma3Processor(
            image_processor=Gemma3ImageProcessor.from_pretrained(folder), tokenizer=tokenizer, image_seq_length=9
        ),
    )


def image_chats(fixture: str, processor) -> None:
    """The ids of a conversation about each."""
    chats, tokenizer = {}, processor.tokenizer
    for name in TILED:
        loaded = ImageOps.exif_transpose(Image.open(ROOT / name))
        content = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
        chat = [{"role": "user", "content": content}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        chats[name] = processor(text=text, images=[loaded])["input_ids"][0]
        print(name, fixture, len(chats[name]))
    lines = ",\n".join(f' "{name}": {json.dumps(ids)}' for name, ids in chats.items())
    (FIXTURES / fixture / "golden" / "image_chats.json").write_text("{\n" + lines + "\n}\n")


def videos() -> None:
    first, second = (np.asarray(Image.open(ROOT / name)) for name in ["first.png", "second.png"])
    frames = np.stack([first, second, second, first, second])
    video_chats(frames)
    given = dict(video_metadata=[dict(total_num_frames=5, fps=1.0)], fps=3, return_tensors="np")
    processor = MuseGlimmerVideoProcessor(patch_size=PATCH, max_video_frame_tokens=6, temporal_patch_size=2)
    made = processor([frames], **given)
    grids, rows, cols = made["video_grid_thw"][0].tolist()
    values = made["pixel_values_videos"].reshape(grids, rows, cols, 2, 3, PATCH, PATCH)
    write_video("video.rgb", values.transpose(0, 3, 1, 5, 2, 6, 4))
    processor = Qwen3VLVideoProcessor(patch_size=PATCH, size=dict(shortest_edge=640, longest_edge=1920))
    made = processor([frames], **given)
    grids, rows, cols = made["video_grid_thw"][0].tolist()
    values = made["pixel_values_videos"].reshape(grids, rows // 2, cols // 2, 2, 2, 3, 2, PATCH, PATCH)
    values = values.transpose(0, 6, 1, 3, 7, 2, 4, 8, 5)
    write_video("video.area.rgb", values.reshape(grids, 2, rows, PATCH, cols, PATCH, 3))


def video_chats(frames: np.ndarray) -> None:
    for name, of_images, of_videos, processor in [
        ("muse-glimmer", MuseGlimmerImageProcessor, MuseGlimmerVideoProcessor, MuseGlimmerProcessor),
        ("qwen3-5-images", Qwen2VLImageProcessor, Qwen3VLVideoProcessor, Qwen3VLProcessor),
    ]:
        folder = FIXTURES / name / "checkpoint"
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
        processor = processor(
            image_processor=of_images(patch_size=2),
            video_processor=of_videos.from_pretrained(folder),
            tokenizer=tokenizer,
        )
        content = [{"type": "video"}, {"type": "text", "text": "What happens?"}]
        chat = [{"role": "user", "content": content}]
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
        # Where it lies between two digits, a time is not what is nearest.
        metadata = [dict(total_num_frames=len(frames), fps=1.6)]
        made = processor(text=text, videos=[frames], video_metadata=metadata, return_metadata=True)
        ids = made["input_ids"][0]
        (FIXTURES / name / "golden" / "video_chat.json").write_text(json.dumps(ids) + "\n")
        print(name, len(ids), made["video_grid_thw"], tokenizer.decode(ids))


def write_video(name: str, values: np.ndarray) -> None:
    """Values of grid, frame, row and pixel's row, column and pixel's column, channel."""
    grids, _, rows, _, cols, _, _ = values.shape
    pixels = np.rint(values * 127.5 + 127.5).astype(np.uint8)
    (ROOT / name).write_bytes(bytes([grids, rows, cols]) + pixels.tobytes())
    print(name, values.shape)


if __name__ == "__main__":
    main()
