//! Qwen3 with experts in place of the feed-forward on some or all layers, weighted by the softmax of a router.

use muse_format::{Activation, Attention, Experts, Ffn, Layer};

use super::{Common, Config, Draft, Family, LAYER, qwen3};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_moe",
    architecture: "Qwen3MoeForCausalLM",
    read,
    // Of training; and the layers from which Qwen3's windows begin, which the reference implementation does not read
    // for this family: a window is on all layers.
    harmless: &["max_window_layers", "output_router_logits", "router_aux_loss_coef"],
    prefix: "model",
    layer: &LAYER,
    fused: |_| None,
    interleaved: false,
    centred: |_| false,
    left_out: &[],
    spelled: &[],
};

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = Common::read(config)?;
    config.only("hidden_act", &["silu".into()], "only silu is supported")?;
    // Without use_sliding_window the number in sliding_window means nothing.
    let (window, slides) = (config.u32("sliding_window")?, config.bool("use_sliding_window", false)?);
    let head_dim = common.head_dim(config)?;
    let attention =
        Attention { window: window.filter(|_| slides), ..qwen3::attention(config, &common, head_dim)? };
    let experts = experts(config)?;
    let step = config.size("decoder_sparse_step", 1 << 20)?;
    let dense = config.indices("mlp_only_layers")?.unwrap_or_default();
    let layer = |i: u32| {
        let sparse = !dense.contains(&i) && (i + 1).is_multiple_of(step);
        let ffn = Ffn { dim: common.ffn_dim, activation: Activation::Silu, bias: false };
        Layer {
            ffn: (!sparse).then_some(ffn),
            experts: sparse.then(|| experts.clone()),
            ..Layer::new(attention.clone())
        }
    };
    common.draft(config, "qwen3_moe", (0..common.layers).map(layer).collect())
}

fn experts(config: &Config<'_>) -> Result<Experts, ImportError> {
    // transformers 5 writes num_local_experts.
    let key = if config.has("num_experts") { "num_experts" } else { "num_local_experts" };
    let count = config.size(key, 4096)?;
    config.only("num_local_experts", &[count.into()], "it must be num_experts where both are there")?;
    let used = config.size("num_experts_per_tok", count)?;
    Ok(Experts {
        normalise: config.bool("norm_topk_prob", false)?,
        ..Experts::new(count, used, config.size("moe_intermediate_size", 1 << 20)?)
    })
}
