//! The tower over images, its adapter and its projection, of Muse Glimmer and Muse Spark.
//!
//! The patches of a square lie with the channel outermost in the reference implementation's input of the adapter, one
//! behind the other in ours: the adapter's first matrix has its columns in that order. The projected vectors are
//! normalised without weights, which are ones here.

use muse_format::{Activation, Fit, Laid, Pixels, Taken, Video, Vision, VisionLayer};

use super::super::config::Config;
use super::super::origin::Named;
use super::super::{
    Draft, ImageMarkers, Marker, Rope, Transform, VideoMarkers, image_processor, video_processor,
};
use crate::checkpoint::ImportError;

/// How a frame's time is written, as in the reference implementation.
const TIME: &str = "Time: {timestamp:.1f}s";

/// The names of its parts in a checkpoint.
const NAMES: [(&str, &str); 8] = [
    ("patch", "vision_tower.patch_embedder.patch_embedding.weight"),
    ("positions", "vision_tower.patch_embedder.position_embedding_table.weight"),
    ("pre_norm", "vision_tower.ln_pre.weight"),
    ("post_norm", "vision_tower.ln_post.weight"),
    ("adapter.up", "vision_adapter.fc1.weight"),
    ("adapter.down", "vision_adapter.fc2.weight"),
    ("projection", "vision_projection.weight"),
    ("norm", ""),
];
const BLOCK_NAMES: [(&str, &str); 8] = [
    ("attn.norm", "norm1"),
    ("attn.q", "attn.q_proj"),
    ("attn.k", "attn.k_proj"),
    ("attn.v", "attn.v_proj"),
    ("attn.out", "attn.proj"),
    ("ffn.norm", "norm2"),
    ("ffn.up", "mlp.fc1"),
    ("ffn.down", "mlp.fc2"),
];

/// Adds the tower to a draft of the text model of `family`.
pub(in super::super) fn read(
    config: &Config<'_>,
    draft: &mut Draft,
    family: &str,
    laid: Laid,
) -> Result<(), ImportError> {
    let tower = config.model("vision_config")?;
    let kind = format!("{family}_vision");
    tower.only("model_type", &[kind.as_str().into()], &format!("only {kind} is supported"))?;
    let vision = vision(config, &tower, draft.spec.vocab, laid)?;
    let frequencies = frequencies(&tower, vision.head_dim())?;
    draft.spec.vision = Some(vision);
    // The product of the sides of the table, which nothing reads.
    tower.finish(&["max_position_embeddings"])?;
    draft.computed.insert("vision.rope".into(), frequencies);
    draft.computed.insert("vision.norm".into(), vec![1.0; draft.spec.dim as usize]);
    name_tensors(draft);
    let around = Some(["<|image_start|>", "<|image_end|>"].map(Marker::Text));
    draft.image_markers = Some(ImageMarkers::new("image_token_id", Marker::Text("<|patch|>"), around));
    draft.video_markers = Some(VideoMarkers {
        token: "<|video|>",
        begin: Some("<|vid_start|>"),
        time: ["Time: ", "s"],
        middle: false,
        before: None,
        after: None,
        between: Some("<|vid_frame_separator|>"),
        end: Some("<|vid_end|>"),
    });
    draft.read_processor = Some(read_processor);
    draft.read_video_processor = Some(read_video_processor);
    Ok(())
}

/// What the graph knows of the tower of a model of `vocab` tokens.
fn vision(config: &Config<'_>, tower: &Config<'_>, vocab: u32, laid: Laid) -> Result<Vision, ImportError> {
    let gelu = |config: &Config<'_>, key: &str| config.only(key, &["gelu".into()], "only gelu is supported");
    gelu(tower, "hidden_act")?;
    gelu(config, "projector_hidden_act")?;
    let (dim, heads) = (tower.size("hidden_size", 1 << 20)?, tower.size("num_attention_heads", 4096)?);
    let (merge, positions) = (tower.size("merge_size", 16)?, tower.size("pos_emb_height", 1 << 12)?);
    tower.only("pos_emb_width", &[positions.into()], "only a square table of positions is supported")?;
    if !dim.is_multiple_of(4 * heads) {
        return Err(tower.refuse("hidden_size", format!("it must be {heads} heads of a multiple of 4")));
    }
    let wide = u64::from(dim) * u64::from(merge) * u64::from(merge);
    let rule = format!("it must be hidden_size times merge_size squared, {wide}");
    config.only("out_hidden_size", &[wide.into()], &rule)?;
    let token = |key: &str| -> Result<Option<u32>, ImportError> {
        let id = config.u32(key)?.ok_or_else(|| config.refuse(key, "it must be the id of a token"))?;
        Ok((id < vocab).then_some(id))
    };
    let image = token("image_token_id")?;
    let rule = format!("it must be below vocab_size {vocab}");
    let image = image.ok_or_else(|| config.refuse("image_token_id", rule))?;
    let of_videos = token("video_token_id")?;
    let others = [of_videos, config.u32("audio_token_id")?];
    let others = others.into_iter().flatten().filter(|id| *id < vocab);
    let norm_eps = tower.f64("layer_norm_eps")?;
    let norm_eps =
        norm_eps.ok_or_else(|| tower.refuse("layer_norm_eps", "it must be a number above zero"))?;
    let frames = tower.size("patch_temporal", 16)?;
    Ok(Vision {
        token: image,
        blank_tokens: [image].into_iter().chain(others).collect(),
        pixels: Pixels {
            patch: tower.size("patch_size", 256)?,
            frames,
            tokens_max: 4096,
            mean: [0.5; 3],
            deviation: [0.5; 3],
            ..Pixels::default()
        },
        dim,
        heads,
        ffn_dim: tower.size("intermediate_size", 1 << 20)?,
        activation: Activation::Gelu,
        outer_norm_eps: norm_eps as f32,
        // The reference implementation reads no key for it.
        norm_eps: 1e-5,
        positions,
        laid,
        frequencies: dim / heads / 4,
        merge,
        adapter_dim: config.size("projector_hidden_size", 1 << 20)?,
        adapter_activation: Activation::Gelu,
        video: of_videos.map(|token| Video {
            token,
            rate: 2.0,
            frames_min: frames,
            frames_max: 96,
            taken: Taken::Before,
            fit: Fit::Shape,
            tokens_max: 144,
        }),
        layers: layers(tower, positions)?,
        ..Vision::default()
    })
}

/// Windows are as wide as the table of positions; every fourth layer and the last have none where nothing is said.
fn layers(tower: &Config<'_>, window: u32) -> Result<Vec<VisionLayer>, ImportError> {
    let count = tower.size("num_hidden_layers", 1024)?;
    let rule = format!("it must hold {count} times full_attention or window_attention");
    let full: Vec<bool> = match tower.strings("layer_types")? {
        None => (0..count).map(|i| (i + 1).is_multiple_of(4) || i + 1 == count).collect(),
        Some(types) if types.len() == count as usize => {
            let known = types.iter().map(|kind| match *kind {
                "full_attention" => Some(true),
                "window_attention" => Some(false),
                _ => None,
            });
            known.collect::<Option<_>>().ok_or_else(|| tower.refuse("layer_types", rule))?
        }
        Some(_) => return Err(tower.refuse("layer_types", rule)),
    };
    Ok(full.into_iter().map(|full| VisionLayer { window: (!full).then_some(window) }).collect())
}

/// Inverse frequencies of each coordinate, which turns half of a head.
fn frequencies(tower: &Config<'_>, head_dim: u32) -> Result<Vec<f32>, ImportError> {
    let rope = tower.object("rope_parameters")?;
    let theta = match &rope {
        None => None,
        Some(rope) => {
            rope.only("rope_type", &["axial".into(), "default".into()], "only axial is supported")?;
            let theta = rope.f64("rope_theta")?;
            rope.finish(&[])?;
            theta
        }
    };
    let rule = "it must have a rope_theta above zero";
    let theta = theta.ok_or_else(|| tower.refuse("rope_parameters", rule))?;
    Ok(Rope::plain(theta).frequencies(head_dim / 2).expect("a plain table has any width"))
}

fn name_tensors(draft: &mut Draft) {
    let vision = draft.spec.vision.as_ref().expect("it was just read");
    let (merged, blocks) = (vision.merged() as usize, vision.layers.len());
    let mut name = |ours: String, theirs: String, transform: Transform| {
        draft.named.insert(ours, Named { transform, ..Named::whole(theirs) });
    };
    for (ours, theirs) in NAMES.into_iter().filter(|(_, theirs)| !theirs.is_empty()) {
        let transform = match ours {
            "adapter.up" => Transform::ColumnsGathered { outer: merged, width: 1 },
            _ => Transform::AsIs,
        };
        name(format!("vision.{ours}"), format!("model.{theirs}"), transform);
        if let Some(bias) = theirs.strip_suffix("weight").filter(|_| ours.ends_with("norm")) {
            name(format!("vision.{ours}_bias"), format!("model.{bias}bias"), Transform::AsIs);
        }
    }
    for block in 0..blocks {
        for (ours, theirs) in BLOCK_NAMES {
            let (ours, theirs) =
                (format!("vision.l{block}.{ours}"), format!("model.vision_tower.layers.{block}.{theirs}"));
            name(ours.clone(), format!("{theirs}.weight"), Transform::AsIs);
            name(format!("{ours}_bias"), format!("{theirs}.bias"), Transform::AsIs);
        }
    }
}

/// Takes from `preprocessor_config.json` what the model's config does not say; what is absent is as in the reference
/// implementation.
///
/// # Errors
/// [`ImportError::Config`] for a step that is left out, of another kind, or of another size than the tower's.
pub(in super::super) fn read_processor(config: &Config<'_>, vision: &mut Vision) -> Result<(), ImportError> {
    if config.has("max_image_tokens") {
        vision.pixels.tokens_max = config.size("max_image_tokens", 1 << 20)?;
    }
    image_processor::read(config, vision, (1, "Lanczos"))
}

/// Takes from `video_preprocessor_config.json` how many frames are taken, and how large.
///
/// # Errors
/// As [`read_processor`].
pub(in super::super) fn read_video_processor(
    config: &Config<'_>,
    vision: &mut Vision,
) -> Result<(), ImportError> {
    let Some(mut video) = vision.video.take() else { return Ok(()) };
    if config.has("max_video_frame_tokens") {
        video.tokens_max = config.size("max_video_frame_tokens", 1 << 20)?;
    }
    if config.has("num_frames") {
        video.frames_max = config.size("num_frames", 1 << 16)?.max(video.frames_min);
    }
    // Sizes that this family does not read.
    config.only("size", &[], "frames fit by their tokens")?;
    let format = config.str("frame_timestamp_format")?;
    if format.is_some_and(|format| format != TIME) {
        return Err(config.refuse("frame_timestamp_format", format!("only {TIME:?} is supported")));
    }
    if config.keys().next().is_some() {
        video_processor::read(config, vision, &mut video, (1, "Lanczos"))?;
    }
    vision.video = Some(video);
    Ok(())
}
