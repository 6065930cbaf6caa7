//! Llama 1 to 3 and what shares their shape (SmolLM2, TinyLlama, ...).

use muse_format::{Activation, Attention, Ffn, Layer, Spec};

use super::{Common, Config, Draft, Family, LAYER, Rope};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    read,
    harmless: &["is_llama_config"],
    layer: &LAYER,
    centred_norms: false,
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
            qkv_bias: bias,
            out_bias: bias,
            softcap: None,
        },
        ffn: Ffn { dim: common.ffn_dim, activation: Activation::Silu, bias: config.bool("mlp_bias", false)? },
        post_norms: false,
    };
    let spec = Spec {
        family: "llama".into(),
        dim: common.dim,
        vocab: common.vocab,
        context: common.context,
        embed_scale: 1.0,
        norm_eps: common.norm_eps,
        logit_scale: 1.0,
        logit_softcap: None,
        tied_head: config.bool("tie_word_embeddings", false)?,
        ropes: 1,
        layers: vec![layer; common.layers as usize],
    };
    Ok(Draft { spec, ropes: vec![Rope::from_model(config, 10_000.0)?] })
}
