//! Qwen3 (dense): norms on query and key heads; biases on all four projections or none. With sentence-transformers' files
//! beside it, it embeds texts, each token seeing those before it; see `embedding.rs`.

use muse_format::Attention;

use super::{Common, Config, Draft, Embeds, Family, LAYER, qwen2};
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
    spelled: &[],
};

/// The layers alone, as a model that embeds is saved.
pub(super) const EMBEDDING: Family = Family {
    architecture: "Qwen3Model",
    prefix: "",
    read: |config| Ok(Draft { embeds: Embeds::Always, ..read(config)? }),
    ..FAMILY
};

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = Common::read(config)?;
    // Not derived from the width where absent, unlike the other families.
    let head_dim = config.size_or("head_dim", 4096, 128)?;
    let attention = attention(config, &common, head_dim)?;
    let draft = qwen2::draft(config, &common, attention, "qwen3")?;
    Ok(Draft { embeds: Embeds::WithModules, ..draft })
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
