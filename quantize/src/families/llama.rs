//! Llama 1 to 3 and what shares their shape (SmolLM2, TinyLlama, ...).

use muse_format::{Activation, Attention, Ffn, Layer};

use super::{Common, Config, Draft, Family, LAYER};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    read,
    harmless: &["is_llama_config"],
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
    let head_dim = common.head_dim(config)?;
    let kv_heads = config.u32("num_key_value_heads")?.unwrap_or(common.heads);
    let bias = config.bool("attention_bias", false)?;
    let layer = Layer {
        ffn: Some(Ffn {
            dim: common.ffn_dim,
            activation: Activation::Silu,
            bias: config.bool("mlp_bias", false)?,
        }),
        ..Layer::new(Attention {
            rope: Some(0),
            qkv_bias: bias,
            out_bias: bias,
            ..Attention::new(common.heads, kv_heads, head_dim)
        })
    };
    common.draft(config, "llama", vec![layer; common.layers as usize])
}
