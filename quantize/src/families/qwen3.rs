//! Qwen3 (dense): norms on query and key heads; biases on all four projections or none.

use muse_format::Attention;

use super::{Common, Config, Draft, Family, LAYER, qwen2};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    read,
    harmless: &[],
    prefix: "model",
    layer: &LAYER,
    fused: |_| None,
    interleaved: false,
    centred: |_| false,
    left_out: &[],
};

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = Common::read(config)?;
    // Not derived from the width where absent, unlike the other families.
    let head_dim = if config.has("head_dim") { config.size("head_dim", 4096)? } else { 128 };
    let attention = attention(config, &common, head_dim)?;
    qwen2::draft(config, &common, attention, "qwen3")
}

/// What Qwen3 has with and without experts; the window is the caller's.
pub(super) fn attention(
    config: &Config<'_>,
    common: &Common,
    head_dim: u32,
) -> Result<Attention, ImportError> {
    let bias = config.bool("attention_bias", false)?;
    Ok(Attention {
        rope: Some(0),
        qk_norm: true,
        qkv_bias: bias,
        out_bias: bias,
        ..Attention::new(common.heads, config.size("num_key_value_heads", 4096)?, head_dim)
    })
}
