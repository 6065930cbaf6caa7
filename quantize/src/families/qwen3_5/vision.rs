//! The tower over images, and how its vectors turn in the text model.
//!
//! Queries, keys and values of a block are one tensor. The reference implementation turns the first pairs of a head by the
//! row and the next by the column, ours the other way round: heads of queries and keys have their outputs in that order,
//! and are turned from 1 on in place of 0, by which no product of the two differs. Its patches hold all frames of a
//! channel, ours all channels of a frame: the columns of the first matrix are in that order.

use muse_format::{
    Activation, Fit, Given, Laid, Pixels, Resampling, Spec, Taken, Video, Vision, VisionLayer,
};

use super::super::config::Config;
use super::super::origin::Named;
use super::super::{
    Draft, ImageMarkers, Marker, Rope, Rows, Transform, VideoMarkers, image_processor, video_processor,
};
use crate::checkpoint::ImportError;

/// Parts of a block by our names and theirs; of queries, keys and values, which are one tensor, which is which.
const BLOCK_NAMES: [(&str, &str, Option<usize>); 8] = [
    ("attn.norm", "norm1", None),
    ("attn.q", "attn.qkv", Some(0)),
    ("attn.k", "attn.qkv", Some(1)),
    ("attn.v", "attn.qkv", Some(2)),
    ("attn.out", "attn.proj", None),
    ("ffn.norm", "norm2", None),
    ("ffn.up", "mlp.linear_fc1", None),
    ("ffn.down", "mlp.linear_fc2", None),
];

/// Adds the tower to a draft of the text model of `family`.
pub(super) fn read(config: &Config<'_>, draft: &mut Draft, family: &str) -> Result<(), ImportError> {
    let tower = config.model("vision_config")?;
    // Early checkpoints have the model's own.
    let kinds = [format!("{family}_vision"), family.to_owned()];
    let rule = format!("only {} is supported", kinds[0]);
    tower.only("model_type", &kinds.map(Into::into), &rule)?;
    let vision = vision(config, &tower, &draft.spec)?;
    let frequencies = frequencies(&tower, vision.head_dim())?;
    draft.spec.vision = Some(vision);
    tower.finish(&[])?;
    draft.computed.insert("vision.rope".into(), frequencies);
    name_tensors(draft);
    draft.image_markers = Some(ImageMarkers::new("image_token_id", Marker::Text("<|image_pad|>"), None));
    // The template writes the first and the last of these around a video as well, which the reference keeps.
    draft.video_markers = Some(VideoMarkers {
        token: "<|video_pad|>",
        begin: None,
        time: ["<", " seconds>"],
        middle: true,
        before: Some("<|vision_start|>"),
        after: Some("<|vision_end|>"),
        between: None,
        end: None,
    });
    draft.read_processor = Some(read_processor);
    draft.read_video_processor = Some(read_video_processor);
    Ok(())
}

/// What the graph knows of the tower of a model of `text`.
fn vision(config: &Config<'_>, tower: &Config<'_>, text: &Spec) -> Result<Vision, ImportError> {
    tower.only("hidden_act", &["gelu_pytorch_tanh".into()], "only gelu_pytorch_tanh is supported")?;
    tower.only("in_channels", &[3.into()], "only red, green and blue are supported")?;
    let none = serde_json::json!([]);
    tower.only("deepstack_visual_indexes", &[none], "vectors of earlier layers are not supported")?;
    let text_dim = text.dim;
    let rule = format!("it must be the hidden_size of the text model, {text_dim}");
    tower.only("out_hidden_size", &[text_dim.into()], &rule)?;
    let (dim, heads) = (tower.size("hidden_size", 1 << 20)?, tower.size("num_heads", 4096)?);
    if !dim.is_multiple_of(4 * heads) {
        return Err(tower.refuse("hidden_size", format!("it must be {heads} heads of a multiple of 4")));
    }
    let entries = tower.size("num_position_embeddings", 1 << 24)?;
    let positions = entries.isqrt();
    if positions * positions != entries {
        return Err(tower.refuse("num_position_embeddings", "only a square table of positions is supported"));
    }
    let merge = tower.size("spatial_merge_size", 16)?;
    let adapter_dim = u64::from(dim) * u64::from(merge) * u64::from(merge);
    let adapter_dim = u32::try_from(adapter_dim)
        .map_err(|_| tower.refuse("hidden_size", "squares of so wide patches are too wide"))?;
    let layers = tower.size("depth", 1024)?;
    let of_videos = config.u32("video_token_id")?.filter(|id| *id < text.vocab);
    Ok(Vision {
        token: config.size("image_token_id", text.vocab)?,
        blank_tokens: Vec::new(),
        pixels: Pixels {
            resampling: Resampling::Bicubic,
            // As published.
            fit: Fit::Area { pixels_min: 1 << 16, pixels_max: 1 << 24 },
            given: Given::Squares,
            patch: tower.size("patch_size", 256)?,
            frames: tower.size("temporal_patch_size", 16)?,
            tokens_max: 1,
            mean: [0.5; 3],
            deviation: [0.5; 3],
            ..Pixels::default()
        },
        patch_bias: true,
        dim,
        heads,
        ffn_dim: tower.size("intermediate_size", 1 << 20)?,
        activation: Activation::GeluTanh,
        pre_norm: false,
        outer_norm_eps: 1e-6,
        norm_eps: 1e-6,
        positions,
        laid: Laid::Corners,
        frequencies: dim / heads / 4,
        merge,
        adapter_dim,
        adapter_activation: Activation::Gelu,
        adapter_down: false,
        adapter_bias: true,
        vector_norm: false,
        // As published.
        video: of_videos.map(|token| Video {
            token,
            rate: 2.0,
            frames_min: 4,
            frames_max: 768,
            taken: Taken::Nearest,
            fit: Fit::Area { pixels_min: 1 << 12, pixels_max: 3 << 23 },
            tokens_max: 1,
        }),
        axes: Some(axes(&config.model("text_config")?)?),
        layers: (0..layers).map(|_| VisionLayer { window: None }).collect(),
        ..Vision::default()
    })
}

/// How many frequencies of the text model turn by an image's rows, and by its columns.
fn axes(text: &Config<'_>) -> Result<[u32; 2], ImportError> {
    const DEFAULT: [u32; 2] = [11, 10];
    let new = text.object("rope_parameters")?;
    let Some(rope) = text.object("rope_scaling")?.or(new) else { return Ok(DEFAULT) };
    rope.only("mrope_interleaved", &[true.into()], "the reference implementation always has them in turns")?;
    match rope.indices("mrope_section")?.as_deref() {
        None => Ok(DEFAULT),
        Some([_, rows, cols]) if *rows > 0 && *cols > 0 => Ok([*rows, *cols]),
        Some(_) => Err(rope.refuse("mrope_section", "it must hold three numbers, those of an image above 0")),
    }
}

/// Inverse frequencies of each coordinate, which turns half of a head.
fn frequencies(tower: &Config<'_>, head_dim: u32) -> Result<Vec<f32>, ImportError> {
    let mut theta = 10_000.0;
    if let Some(rope) = tower.object("rope_parameters")? {
        rope.only("rope_type", &["axial".into(), "default".into()], "only axial is supported")?;
        theta = rope.f64("rope_theta")?.unwrap_or(theta);
        rope.finish(&[])?;
    }
    Ok(Rope::plain(theta).frequencies(head_dim / 2).expect("a plain table has any width"))
}

fn name_tensors(draft: &mut Draft) {
    let vision = draft.spec.vision.as_ref().expect("it was just read");
    let (dim, quarter) = (vision.dim as usize, vision.frequencies as usize);
    let frames = Transform::ColumnsGathered {
        outer: vision.pixels.frames as usize,
        width: (vision.pixels.patch * vision.pixels.patch) as usize,
    };
    let mut name = |ours: &str, theirs: &str, named: Named| {
        let theirs = |kind: &str| format!("model.visual.{theirs}.{kind}");
        let bias = Named { theirs: theirs("bias"), transform: Transform::AsIs, ..named.clone() };
        draft.named.insert(format!("vision.{ours}_bias"), bias);
        draft.named.insert(format!("vision.{ours}"), Named { theirs: theirs("weight"), ..named });
    };
    let whole = || Named::whole(String::new());
    name("patch", "patch_embed.proj", Named { transform: frames, ..whole() });
    name("post_norm", "merger.norm", whole());
    name("adapter.up", "merger.linear_fc1", whole());
    name("projection", "merger.linear_fc2", whole());
    for block in 0..vision.layers.len() {
        for (ours, theirs, part) in BLOCK_NAMES {
            let swapped = part.filter(|part| *part < 2).map(|_| quarter);
            let rows = Rows { first: part.unwrap_or(0) * dim, swapped, ..Rows::default() };
            let of = if part.is_some() { 3 } else { 1 };
            name(
                &format!("l{block}.{ours}"),
                &format!("blocks.{block}.{theirs}"),
                Named { of, rows, ..whole() },
            );
        }
    }
    draft.named.insert("vision.positions".into(), Named::whole("model.visual.pos_embed.weight".into()));
}

/// Takes from `preprocessor_config.json` how large an image is made. Where there is none, it is as published; where one
/// does not say, it is as the reference implementation has it.
pub(in super::super) fn read_processor(config: &Config<'_>, vision: &mut Vision) -> Result<(), ImportError> {
    if config.keys().next().is_some() {
        let (mut pixels_min, mut pixels_max) = (56 * 56, 28 * 28 * 1280);
        if let Some(size) = config.object("size")? {
            (pixels_min, pixels_max) =
                (size.size("shortest_edge", 1 << 30)?, size.size("longest_edge", 1 << 30)?);
            size.finish(&[])?;
        }
        for (key, pixels) in [("min_pixels", &mut pixels_min), ("max_pixels", &mut pixels_max)] {
            if config.has(key) {
                *pixels = config.size(key, 1 << 30)?;
            }
        }
        vision.pixels.fit = Fit::Area { pixels_min, pixels_max };
        vision.pixels.mean = [0.481_454_66, 0.457_827_5, 0.408_210_73];
        vision.pixels.deviation = [0.268_629_54, 0.261_302_6, 0.275_777_1];
    }
    let side = vision.pixels.patch * vision.merge;
    if let Fit::Area { pixels_min, pixels_max } = vision.pixels.fit {
        if pixels_min > pixels_max || side * side > pixels_max {
            let rule =
                format!("at most {pixels_max} pixels must be {pixels_min} at least, and {}", side * side);
            return Err(config.refuse("size", rule));
        }
        vision.pixels.tokens_max = (pixels_max / (side * side)).min(1 << 20);
    }
    image_processor::read(config, vision, (3, "bicubic"))
}

/// Takes from `video_preprocessor_config.json` how many frames are taken, and how large all of them are made. Where there
/// is none, it is as published; where one does not say, it is as the reference implementation has it.
pub(in super::super) fn read_video_processor(
    config: &Config<'_>,
    vision: &mut Vision,
) -> Result<(), ImportError> {
    let Some(mut video) = vision.video.take() else { return Ok(()) };
    if config.keys().next().is_some() {
        let (mut pixels_min, mut pixels_max) = (128 * 32 * 32, 768 * 32 * 32);
        if let Some(size) = config.object("size")? {
            (pixels_min, pixels_max) =
                (size.size("shortest_edge", 1 << 30)?, size.size("longest_edge", 1 << 30)?);
            size.finish(&[])?;
        }
        video.fit = Fit::Area { pixels_min, pixels_max };
        for (key, frames) in [("min_frames", &mut video.frames_min), ("max_frames", &mut video.frames_max)] {
            if config.has(key) {
                *frames = config.size(key, 1 << 16)?;
            }
        }
        video.frames_min = video.frames_min.min(video.frames_max);
        config.only("num_frames", &[], "frames are taken by fps")?;
        video_processor::read(config, vision, &mut video, (3, "bicubic"))?;
    }
    let grid = vision.pixels.frames * (vision.pixels.patch * vision.merge).pow(2);
    if let Fit::Area { pixels_min, pixels_max } = video.fit {
        if pixels_min > pixels_max || grid > pixels_max {
            let rule = format!("at most {pixels_max} pixels must be {pixels_min} at least, and {grid}");
            return Err(config.refuse("size", rule));
        }
        video.tokens_max = (pixels_max / grid).min(1 << 20);
    }
    vision.video = Some(video);
    Ok(())
}
