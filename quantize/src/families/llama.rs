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
};

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = Common::read(config)?;
    config.only("hidden_act", &["silu".into()], "only silu is supported")?;
    let head_dim = common.head_dim(config)?;
    let kv_heads = config.u32("num_key_value_heads")?.unwrap_or(common.heads);
    let bias = config.bool("attention_bias", false)?;
    let layer = Layer {
        attention: Attention {
            heads: common.heads,
            kv_heads,
            head_dim,
            scale: (f64::from(head_dim)).powf(-0.5) as f32,
            window: None,
            rope: Some(0),
            qk_norm: false,
            v_norm: false,
            kv_from: None,
            qkv_bias: bias,
            out_gate: false,
            out_bias: bias,
            softcap: None,
        },
        ffn: Some(Ffn {
            dim: common.ffn_dim,
            activation: Activation::Silu,
            bias: config.bool("mlp_bias", false)?,
        }),
        experts: None,
        post_norms: false,
        post_norm_eps: None,
        scaled: false,
    };
    common.draft(config, "llama", vec![layer; common.layers as usize])
}
