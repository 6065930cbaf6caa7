"""What a random prompt has beside words: images, videos and sounds as tensors, and images as files."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers as t
from safetensors.torch import save_file

import draws
from make import side, sizes, values_of


@dataclass
class Shown:
    """What a prompt has beside words."""

    inputs: dict[str, torch.Tensor] = field(default_factory=dict)
    # What the command line is told of them.
    options: list = field(default_factory=list)
    # The tokens in whose places they are, medium by medium.
    runs: list[list[int]] = field(default_factory=list)


def written(inputs: dict[str, torch.Tensor], runs: list[list[int]], file: Path) -> Shown:
    save_file(inputs, file)
    return Shown(inputs, ["--inputs", file], runs)


def runs_of_images(model, inputs: dict[str, torch.Tensor]) -> list[list[int]]:
    _, merged = sizes(model)
    if "image_grid_thw" in inputs:
        patches = [rows * cols for _, rows, cols in inputs["image_grid_thw"].tolist()]
    elif "image_position_ids" in inputs:
        patches = (inputs["image_position_ids"][..., 0] >= 0).sum(-1).tolist()
    else:
        patches = [side(model) ** 2] * len(inputs["pixel_values"])
    return [[model.config.image_token_id] * (count // merged) for count in patches]


def values_of_images(d: draws.Draw, model, drawn, folder: Path) -> Shown:
    """Images as tensors."""
    inputs = values_of(drawn, model, torch.Generator().manual_seed(d.randint(0, 1 << 30)))
    return written(inputs, runs_of_images(model, inputs), folder / "images.safetensors")


def values_of_videos(d: draws.Draw, model, drawn, folder: Path) -> Shown:
    """Videos as tensors, with images among them or without."""
    generator = torch.Generator().manual_seed(d.randint(0, 1 << 30))
    width, merged = sizes(model)
    patches = [[rows * cols] * grids for grids, rows, cols in drawn.videos]
    values = [2 * torch.rand(sum(grids), width, generator=generator) - 1 for grids in patches]
    inputs = dict(pixel_values_videos=torch.cat(values), video_grid_thw=torch.tensor(drawn.videos))
    runs = [[model.config.video_token_id] * (count // merged) for grids in patches for count in grids]
    if d.flag():
        images = values_of(drawn, model, generator)
        inputs |= images
        # Anywhere among the grids, in an order of their own.
        others = runs_of_images(model, images)
        places = sorted(d.randint(0, len(runs)) for _ in others)
        for place, run in reversed(list(zip(places, others))):
            runs.insert(place, run)
    return written(inputs, runs, folder / "videos.safetensors")


def values_of_sounds(d: draws.Draw, model, drawn, folder: Path) -> Shown:
    """Sounds as tensors."""
    samples_per_token = model.config.audio_config.samples_per_token
    extractor = t.MuseSparkFeatureExtractor(samples_per_token=samples_per_token)
    generator = torch.Generator().manual_seed(d.randint(0, 1 << 30))
    samples = [(2 * torch.rand(count, generator=generator) - 1).numpy() for count in drawn.sounds]
    inputs = dict(extractor(samples, sampling_rate=24000, return_tensors="pt"))
    runs = [[model.config.audio_token_id] * -(-count // samples_per_token) for count in drawn.sounds]
    return written(inputs, runs, folder / "sounds.safetensors")


def processor_of(d: draws.Draw, model):
    """The family's own, of few tokens."""
    vision, name = model.config.vision_config, type(model).__name__
    if name.startswith("Llama4"):
        size = dict(height=vision.image_size, width=vision.image_size)
        half = [dict(image_mean=[0.481, 0.458, 0.408], image_std=[0.269, 0.261, 0.276]), {}]
        return t.Llama4ImageProcessor(size=size, max_patches=d.randint(1, 6), **d.choice(half))
    if name.startswith("Gemma3"):
        size = dict(height=vision.image_size, width=vision.image_size)
        return t.Gemma3ImageProcessor(size=size, **d.choice([dict(image_mean=[0.481, 0.458, 0.408]), {}]))
    if name.startswith("Gemma4"):
        of_gemma = dict(patch_size=vision.patch_size, pooling_kernel_size=vision.pooling_kernel_size)
        return t.Gemma4ImageProcessor(**of_gemma, max_soft_tokens=70)
    merge = getattr(vision, "merge_size", None) or vision.spatial_merge_size
    frames = getattr(vision, "patch_temporal", None) or vision.temporal_patch_size
    patches = dict(patch_size=vision.patch_size, merge_size=merge, temporal_patch_size=frames)
    if "Qwen" in name:
        square = (vision.patch_size * merge) ** 2
        size = dict(shortest_edge=square * d.randint(1, 4), longest_edge=square * d.randint(16, 30))
        return t.Qwen2VLImageProcessor(**patches, size=size)
    return t.MuseGlimmerImageProcessor(**patches, max_image_tokens=d.randint(16, 30))


def pictures(d: draws.Draw, model, folder: Path) -> Shown | None:
    """Images as files, through the family's image processor, which the checkpoint then has a config of."""
    from PIL import Image

    gemma = type(model).__name__.startswith("Gemma4")
    if gemma and model.config.vision_config.position_embedding_size < 70 * 3:
        return None
    processor = processor_of(d, model)
    processor.save_pretrained(folder / "checkpoint")
    loaded, options = [], []
    for number in range(1 if gemma else d.randint(1, 2)):
        file = folder / f"{number}.png"
        small = Image.frombytes("RGB", (4, 4), d.randbytes(48))
        small.resize((d.randint(7, 90), d.randint(7, 90)), Image.BILINEAR).save(file)
        loaded.append(Image.open(file).convert("RGB"))
        options += ["--image", file]
    inputs = dict(processor(loaded, return_tensors="pt"))
    for of_the_prompt in ["aspect_ratios", "num_crops", "num_soft_tokens_per_image"]:
        inputs.pop(of_the_prompt, None)
    inputs["pixel_values"] = inputs["pixel_values"].float()
    return Shown(inputs, options, runs_of_images(model, inputs))


def tokens_of_media(model) -> list[int]:
    """Those that cannot be answered."""
    keys = ["image_token_id", "video_token_id", "audio_token_id"]
    return [getattr(model.config, key) for key in keys if getattr(model.config, key, None) is not None]
