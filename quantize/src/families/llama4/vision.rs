//! The tower over images, which looks at square tiles of a picture one by one.
//!
//! Pairs of a head lie side by side in the reference implementation, ours half a head apart. A token of a class stands
//! behind the patches of a tile, and is no vector in the end; the table of positions has an entry for it, the last.

use muse_format::{Activation, Given, Pixels, Resampling, Vision, VisionLayer};

use super::super::config::Config;
use super::super::mla::Part;
use super::super::origin::Named;
use super::super::{Draft, ImageMarkers, Marker, Pairs, Rope, Rows, Transform, image_processor};
use crate::checkpoint::ImportError;

/// Parts of a block by our names and theirs; those whose pairs turn.
const BLOCK_NAMES: [(&str, &str, bool); 8] = [
    ("attn.norm", "input_layernorm", false),
    ("attn.q", "self_attn.q_proj", true),
    ("attn.k", "self_attn.k_proj", true),
    ("attn.v", "self_attn.v_proj", false),
    ("attn.out", "self_attn.o_proj", false),
    ("ffn.norm", "post_attention_layernorm", false),
    ("ffn.up", "mlp.fc1", false),
    ("ffn.down", "mlp.fc2", false),
];

/// Adds the tower to a draft of the text model, where a prompt can hold its token.
pub(super) fn read(config: &Config<'_>, draft: &mut Draft) -> Result<(), ImportError> {
    let image = config.u32("image_token_index")?.unwrap_or(200_092);
    if image >= draft.spec.vocab {
        return Ok(());
    }
    let tower = config.model("vision_config")?;
    tower.only("model_type", &["llama4_vision_model".into()], "only llama4_vision_model is supported")?;
    let vision = vision(&tower, image)?;
    let frequencies = frequencies(&tower, vision.head_dim())?;
    draft.spec.vision = Some(vision);
    // What nothing reads, and what is dropped in training.
    tower.finish(&["norm_eps", "projector_dropout", "vision_feature_layer"])?;
    draft.computed.insert("vision.rope".into(), frequencies);
    name_tensors(draft);
    draft.image_markers = Some(ImageMarkers {
        key: "image_token_index",
        token: Marker::Text("<|patch|>"),
        written: Some(Marker::Text("<|image|>")),
        around: Some(["<|image_start|>", "<|image_end|>"].map(Marker::Text)),
        tiles: Some(["<|tile_x_separator|>", "<|tile_y_separator|>", "<|image|>"].map(Marker::Text)),
        lines: false,
    });
    draft.read_processor = Some(read_processor);
    Ok(())
}

/// What the graph knows of the tower, whose vectors stand in the place of `token`.
fn vision(tower: &Config<'_>, token: u32) -> Result<Vision, ImportError> {
    tower.only("hidden_act", &["gelu".into()], "only gelu is supported")?;
    tower.only("num_channels", &[3.into()], "only red, green and blue are supported")?;
    tower.only("vision_feature_select_strategy", &["default".into()], "only default is supported")?;
    tower.only("multi_modal_projector_bias", &[false.into()], "biases are not supported")?;
    let (dim, heads) =
        (tower.size_or("hidden_size", 1 << 20, 768)?, tower.size_or("num_attention_heads", 4096, 16)?);
    if !dim.is_multiple_of(4 * heads) {
        return Err(tower.refuse("hidden_size", format!("it must be {heads} heads of a multiple of 4")));
    }
    let ratio = tower.f64("pixel_shuffle_ratio")?.unwrap_or(0.5);
    let merge = (1.0 / ratio).round() as u32;
    if !(1..=16).contains(&merge) || f64::from(merge) * ratio != 1.0 {
        return Err(tower.refuse("pixel_shuffle_ratio", "it must be one by a whole number up to 16"));
    }
    let (side, patch) = (tower.size_or("image_size", 1 << 12, 448)?, tower.size_or("patch_size", 256, 14)?);
    if !side.is_multiple_of(patch * merge) {
        return Err(tower.refuse("image_size", format!("it must be a multiple of {}", patch * merge)));
    }
    let positions = side / patch;
    let ffn_dim = tower.size_or("intermediate_size", 1 << 20, 5632)?;
    let squares = u64::from(dim) * u64::from(merge) * u64::from(merge);
    // The reference implementation reads the width of what goes into the adapter from this key.
    if u64::from(ffn_dim) != squares {
        let rule = format!("it must be the width of the patches of a vector, {squares}");
        return Err(tower.refuse("intermediate_size", rule));
    }
    let adapter_dim = tower.size_or("projector_input_dim", 1 << 20, 4096)?;
    for (key, or) in [("projector_output_dim", 4096), ("vision_output_dim", 7680)] {
        if tower.size_or(key, 1 << 20, or)? != adapter_dim {
            return Err(tower.refuse(key, format!("it must be projector_input_dim, {adapter_dim}")));
        }
    }
    let layers = tower.size_or("num_hidden_layers", 1024, 34)?;
    let tokens = positions / merge * (positions / merge);
    Ok(Vision {
        token,
        blank_tokens: Vec::new(),
        pixels: Pixels {
            resampling: Resampling::Bilinear,
            tiles: Some(16),
            given: Given::Planes,
            patch,
            tokens_max: tokens,
            mean: [0.5; 3],
            deviation: [0.5; 3],
            rounded: true,
            ..Pixels::default()
        },
        dim,
        heads,
        ffn_dim,
        activation: Activation::Gelu,
        class: true,
        // The reference implementation reads no key for either.
        outer_norm_eps: 1e-5,
        norm_eps: 1e-5,
        positions,
        frequencies: dim / heads / 4,
        merge,
        adapter_dim,
        adapter_activation: Activation::Gelu,
        vector_norm: false,
        layers: (0..layers).map(|_| VisionLayer { window: None }).collect(),
        ..Vision::default()
    })
}

/// Inverse frequencies of each coordinate, which turns half of a head.
fn frequencies(tower: &Config<'_>, head_dim: u32) -> Result<Vec<f32>, ImportError> {
    let mut theta = tower.f64("rope_theta")?.unwrap_or(10_000.0);
    if let Some(rope) = tower.object("rope_parameters")? {
        rope.only("rope_type", &["default".into(), "axial".into()], "only axial is supported")?;
        theta = rope.f64("rope_theta")?.unwrap_or(theta);
        rope.finish(&[])?;
    }
    Ok(Rope::plain(theta).frequencies(head_dim / 2).expect("a plain table has any width"))
}

fn name_tensors(draft: &mut Draft) {
    let vision = draft.spec.vision.as_ref().expect("it was just read");
    let (dim, head_dim) = (vision.dim as usize, vision.head_dim() as usize);
    let entries = vision.position_entries() as usize;
    let mut named = Vec::new();
    for (ours, theirs) in [
        ("patch", "vision_model.patch_embedding.linear.weight"),
        ("class", "vision_model.class_embedding"),
        ("pre_norm", "vision_model.layernorm_pre.weight"),
        ("pre_norm_bias", "vision_model.layernorm_pre.bias"),
        ("post_norm", "vision_model.layernorm_post.weight"),
        ("post_norm_bias", "vision_model.layernorm_post.bias"),
        ("adapter.up", "vision_model.vision_adapter.mlp.fc1.weight"),
        ("adapter.down", "vision_model.vision_adapter.mlp.fc2.weight"),
        ("projection", "multi_modal_projector.linear_1.weight"),
    ] {
        named.push((format!("vision.{ours}"), Named::whole(theirs.into())));
    }
    let pairs = Some(Pairs { head_dim, rotated: head_dim });
    for block in 0..vision.layers.len() {
        for (ours, theirs, turned) in BLOCK_NAMES {
            let rows = Rows { pairs: pairs.filter(|_| turned), ..Rows::default() };
            let (ours, theirs) =
                (format!("vision.l{block}.{ours}"), format!("vision_model.model.layers.{block}.{theirs}"));
            named.push((ours.clone(), Named { rows, ..Named::whole(format!("{theirs}.weight")) }));
            named.push((format!("{ours}_bias"), Named { rows, ..Named::whole(format!("{theirs}.bias")) }));
        }
    }
    draft.named.extend(named);
    for (ours, first) in [("positions", 0), ("class_position", entries)] {
        let part = Part {
            theirs: "vision_model.positional_embedding_vlm".into(),
            shape: (entries + 1, dim),
            rows: Rows { first, ..Rows::default() },
            transform: Transform::AsIs,
        };
        draft.parts.insert(format!("vision.{ours}"), part);
    }
}

/// Takes from `preprocessor_config.json` the most tiles of a picture, means and deviations.
///
/// # Errors
/// [`ImportError::Config`] for tiles of another size than the tower's, pictures that are made as large as their canvas, and
/// what no processor here does.
pub(in super::super) fn read_processor(config: &Config<'_>, vision: &mut Vision) -> Result<(), ImportError> {
    if config.has("max_patches") {
        vision.pixels.tiles = Some(config.size("max_patches", 256)?);
    }
    let rule = "pictures are made as large as their canvas only where they are smaller than a tile";
    config.only("resize_to_max_canvas", &[false.into()], rule)?;
    image_processor::only_size(config, vision.tile())?;
    image_processor::read(config, vision, (2, "bilinear"))
}
