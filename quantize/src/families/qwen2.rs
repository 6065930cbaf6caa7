//! Qwen2 and Qwen2.5: Llama with biases on q, k and v, and an optional window on the upper layers.

use muse_format::{Activation, Attention, Ffn, Layer};

use super::{Common, Config, Draft, Family, LAYER, windows};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    read,
    harmless: &[],
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
    let attention = Attention {
        rope: Some(0),
        qkv_bias: true,
        ..Attention::new(common.heads, config.size("num_key_value_heads", 4096)?, common.head_dim(config)?)
    };
    draft(config, &common, attention, "qwen2")
}

/// What Qwen2 and Qwen3 share: everything around the attention's own flags.
pub(super) fn draft(
    config: &Config<'_>,
    common: &Common,
    attention: Attention,
    family: &str,
) -> Result<Draft, ImportError> {
    config.only("hidden_act", &["silu".into()], "only silu is supported")?;
    // Without use_sliding_window the number in sliding_window means nothing, and layer_types are all full.
    let window = config.u32("sliding_window")?;
    let slides = config.bool("use_sliding_window", false)?;
    let window = window.filter(|_| slides);
    let first = config.u32("max_window_layers")?.unwrap_or(28);
    let windows = windows(config, common.layers, window, |i| window.is_some() && i >= first)?;
    let ffn = Ffn { dim: common.ffn_dim, activation: Activation::Silu, bias: false };
    let layer =
        |window| Layer { ffn: Some(ffn.clone()), ..Layer::new(Attention { window, ..attention.clone() }) };
    common.draft(config, family, windows.into_iter().map(layer).collect())
}
