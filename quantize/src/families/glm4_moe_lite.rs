//! GLM-4.7-Flash: GLM-4.5's experts behind multi-head latent attention.

use muse_format::{Activation, Ffn, Layer, Mixer};

use super::head::THE_MODEL;
use super::{Common, Config, Draft, Family, Rope, glm4_moe, mla};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "glm4_moe_lite",
    architecture: "Glm4MoeLiteForCausalLM",
    read,
    harmless: glm4_moe::FAMILY.harmless,
    prefix: "model",
    layer: glm4_moe::FAMILY.layer,
    fused: |_| None,
    // Parts say it of their rows.
    interleaved: false,
    centred: |_| false,
    left_out: &[("guesses of the token after the next (--mtp)", &["model.layers.47."])],
    spelled: &[],
};

/// The layer that guesses.
pub(super) const HEAD: Family = Family { read: read_head, left_out: THE_MODEL, ..FAMILY };

fn read_head(config: &Config<'_>) -> Result<Draft, ImportError> {
    let whole = read(config)?;
    let behind = whole.spec.layers.len();
    let mut draft = glm4_moe::guess(config, whole)?;
    mla::name_parts(&mut draft, behind, config.bool("rope_interleave", true)?);
    Ok(draft)
}

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = Common::read(config)?;
    let latent = mla::read(config, &common)?;
    let interleaved = config.bool("rope_interleave", true)?;
    // The reference implementation goes by its default, whatever this key says.
    let dense = config.u32("first_k_dense_replace")?.unwrap_or(1);
    if dense != 1 && !config.has("mlp_layer_types") {
        let rule = "one layer is dense where mlp_layer_types says nothing";
        return Err(config.refuse("first_k_dense_replace", rule));
    }
    let mut draft = draft(config, &common, Mixer::Latent(latent), 1, 1.8)?;
    mla::name_parts(&mut draft, 0, interleaved);
    Ok(draft)
}

/// A model of layers that mix by `mixer`, the first `dense` of them without experts where no list says which.
pub(super) fn draft(
    config: &Config<'_>,
    common: &Common,
    mixer: Mixer,
    dense: u32,
    default_scale: f64,
) -> Result<Draft, ImportError> {
    config.only("hidden_act", &["silu".into()], "only silu is supported")?;
    mla::only_sigmoids_choose(config)?;
    for key in ["n_group", "topk_group"] {
        config.only(key, &[1.into()], "only one group of experts is supported")?;
    }
    let rope = Rope::from_model(config, 10_000.0)?;
    let experts = glm4_moe::experts(config, default_scale)?;
    let shared = config.size("n_shared_experts", 64)? * experts.dim;
    let sparse = sparse_layers(config, common.layers, dense)?;
    let layer = |sparse: &bool| Layer {
        ffn: Some(Ffn {
            dim: if *sparse { shared } else { common.ffn_dim },
            activation: Activation::Silu,
            bias: false,
        }),
        experts: sparse.then(|| experts.clone()),
        ..Layer::of(mixer.clone())
    };
    let layers = sparse.iter().map(layer).collect();
    let mut draft = common.draft_with(config, config.str("model_type")?.unwrap_or_default(), layers, rope)?;
    draft.aliases = glm4_moe::shared_experts(sparse.iter().enumerate().filter(|(_, s)| **s).map(|(i, _)| i));
    Ok(draft)
}

/// Whether each layer has experts.
fn sparse_layers(config: &Config<'_>, layers: u32, dense: u32) -> Result<Vec<bool>, ImportError> {
    let Some(types) = config.strings("mlp_layer_types")? else {
        return Ok((0..layers).map(|i| i >= dense).collect());
    };
    let known = types.iter().map(|kind| match *kind {
        "sparse" => Some(true),
        "dense" => Some(false),
        _ => None,
    });
    let rule = format!("it must hold {layers} times dense or sparse");
    let sparse: Option<Vec<bool>> = known.collect();
    sparse
        .filter(|sparse| sparse.len() == layers as usize)
        .ok_or_else(|| config.refuse("mlp_layer_types", rule))
}
