//! The tower over images: SigLIP's (Zhai et al. 2023, <https://arxiv.org/abs/2303.15343>), which does not turn, and behind it
//! means of squares of patches, normed and brought to the width of the text model.
//!
//! Every image is made as large as the table of positions. Its tokens see each other in every layer, those before a layer's
//! window aside.

use muse_format::{Activation, Fit, Given, Join, Pixels, Resampling, Vision, VisionLayer};

use super::super::config::Config;
use super::super::origin::Named;
use super::super::{Draft, ImageMarkers, Marker, Transform, image_processor};
use crate::checkpoint::ImportError;

/// Parts of a block by our names and theirs.
const BLOCK_NAMES: [(&str, &str); 8] = [
    ("attn.norm", "layer_norm1"),
    ("attn.q", "self_attn.q_proj"),
    ("attn.k", "self_attn.k_proj"),
    ("attn.v", "self_attn.v_proj"),
    ("attn.out", "self_attn.out_proj"),
    ("ffn.norm", "layer_norm2"),
    ("ffn.up", "mlp.fc1"),
    ("ffn.down", "mlp.fc2"),
];

/// Adds the tower to a draft of the text model, where a prompt can hold its token.
pub(super) fn read(config: &Config<'_>, draft: &mut Draft) -> Result<(), ImportError> {
    let token = config.u32("image_token_index")?.or(config.u32("image_token_id")?).unwrap_or(262_144);
    let other = |key: &str, or: u32| Ok::<_, ImportError>(config.u32(key)?.unwrap_or(or));
    let around = [other("boi_token_index", 255_999)?, other("eoi_token_index", 256_000)?];
    if token >= draft.spec.vocab {
        return Ok(());
    }
    let tower = config.model("vision_config")?;
    tower.only("model_type", &["siglip_vision_model".into()], "only siglip_vision_model is supported")?;
    tower.only("hidden_act", &["gelu_pytorch_tanh".into()], "only gelu_pytorch_tanh is supported")?;
    tower.only("num_channels", &[3.into()], "only red, green and blue are supported")?;
    tower.only("vision_use_head", &[false.into()], "a head over all patches is not read")?;
    let (dim, heads) =
        (tower.size_or("hidden_size", 1 << 20, 768)?, tower.size_or("num_attention_heads", 4096, 12)?);
    if !dim.is_multiple_of(2 * heads) {
        return Err(tower.refuse("hidden_size", format!("it must be {heads} heads of an even width")));
    }
    let (side, patch) = (tower.size_or("image_size", 1 << 12, 224)?, tower.size_or("patch_size", 256, 16)?);
    if !side.is_multiple_of(patch) {
        return Err(tower.refuse("image_size", format!("it must be a multiple of {patch}")));
    }
    let positions = side / patch;
    let merge = merge(config, positions)?;
    let norm_eps = tower.f64("layer_norm_eps")?.unwrap_or(1e-6) as f32;
    let layers = tower.size_or("num_hidden_layers", 1024, 12)?;
    draft.spec.vision = Some(Vision {
        token,
        blank_tokens: Vec::new(),
        joint: true,
        joint_everywhere: true,
        pixels: Pixels {
            resampling: Resampling::Bilinear,
            fit: Fit::Table,
            given: Given::Planes,
            patch,
            tokens_max: (positions / merge).pow(2),
            mean: [0.5; 3],
            deviation: [0.5; 3],
            ..Pixels::default()
        },
        patch_bias: true,
        dim,
        heads,
        ffn_dim: tower.size_or("intermediate_size", 1 << 20, 3072)?,
        activation: Activation::GeluTanh,
        pre_norm: false,
        outer_norm_eps: norm_eps,
        norm_eps,
        positions,
        merge,
        join: Join::Mean { standardized: false, rooted: false },
        adapter_dim: dim,
        adapter_down: false,
        vector_norm: false,
        layers: (0..layers).map(|_| VisionLayer { window: None }).collect(),
        ..Vision::default()
    });
    tower.finish(&[])?;
    name_tensors(draft);
    draft.image_markers = Some(ImageMarkers {
        key: "image_token_index",
        token: Marker::Id(token),
        written: Some(Marker::Id(around[0])),
        around: Some(around.map(Marker::Id)),
        tiles: None,
        lines: true,
    });
    draft.read_processor = Some(read_processor);
    Ok(())
}

/// Patches on a side of what becomes one vector.
fn merge(config: &Config<'_>, positions: u32) -> Result<u32, ImportError> {
    let key = "mm_tokens_per_image";
    let tokens = config.size_or(key, 1 << 20, 256)?;
    let side = tokens.isqrt();
    let merge = positions / side;
    if side * side != tokens || merge * side != positions || merge > 16 {
        let rule = format!(
            "it must be the square of what divides {positions}, the patches of a side, by 16 at most"
        );
        return Err(config.refuse(key, rule));
    }
    Ok(merge)
}

fn name_tensors(draft: &mut Draft) {
    let layers = draft.spec.vision.as_ref().expect("it was just read").layers.len();
    let tower = |part: &str| format!("vision_tower.vision_model.{part}");
    let mut whole = |ours: String, theirs: String, transform: Transform| {
        draft.named.insert(ours, Named { transform, ..Named::whole(theirs) });
    };
    for (ours, theirs) in [
        ("patch", "embeddings.patch_embedding.weight"),
        ("patch_bias", "embeddings.patch_embedding.bias"),
        ("positions", "embeddings.position_embedding.weight"),
        ("post_norm", "post_layernorm.weight"),
        ("post_norm_bias", "post_layernorm.bias"),
    ] {
        whole(format!("vision.{ours}"), tower(theirs), Transform::AsIs);
    }
    let projector = |part: &str| format!("multi_modal_projector.{part}");
    whole("vision.mean_norm".into(), projector("mm_soft_emb_norm.weight"), Transform::AddOne);
    let transposed = Transform::Transpose { first: 0 };
    whole("vision.projection".into(), projector("mm_input_projection_weight"), transposed);
    for block in 0..layers {
        for (ours, theirs) in BLOCK_NAMES {
            let (ours, theirs) =
                (format!("vision.l{block}.{ours}"), tower(&format!("encoder.layers.{block}.{theirs}")));
            whole(ours.clone(), format!("{theirs}.weight"), Transform::AsIs);
            whole(format!("{ours}_bias"), format!("{theirs}.bias"), Transform::AsIs);
        }
    }
}

/// Takes means and deviations from `preprocessor_config.json`.
///
/// # Errors
/// [`ImportError::Config`] for images of another size than the tower's, or cut into parts, and what no processor here does.
pub(in super::super) fn read_processor(config: &Config<'_>, vision: &mut Vision) -> Result<(), ImportError> {
    config.only("do_pan_and_scan", &[false.into()], "only whole pictures are looked at")?;
    let tokens = vision.pixels.tokens_max;
    config.only("image_seq_length", &[tokens.into()], "it must be mm_tokens_per_image")?;
    image_processor::only_size(config, vision.tile())?;
    let of_pan_and_scan =
        ["pan_and_scan_max_num_crops", "pan_and_scan_min_crop_size", "pan_and_scan_min_ratio_to_activate"];
    image_processor::read_with(config, vision, (2, "bilinear"), &of_pan_and_scan)
}
