//! GLM-4 of 2025 (GLM-4-0414): half of each head is rotated, in pairs that lie side by side, norms stand around both
//! halves, and gate and up are one tensor. The pairs are brought half a rotation apart while importing, queries and keys
//! alike, which changes no product of the two.

use muse_format::{Activation, Attention, Ffn, Layer};

use super::{Common, Config, Draft, Family, Rope};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "glm4",
    architecture: "Glm4ForCausalLM",
    read,
    harmless: &[],
    prefix: "model",
    layer: &[
        ("attn.norm", "input_layernorm.weight"),
        ("attn.q", "self_attn.q_proj.weight"),
        ("attn.k", "self_attn.k_proj.weight"),
        ("attn.v", "self_attn.v_proj.weight"),
        ("attn.out", "self_attn.o_proj.weight"),
        ("attn.post_norm", "post_self_attn_layernorm.weight"),
        ("ffn.norm", "post_attention_layernorm.weight"),
        ("ffn.gate", "mlp.gate_up_proj.weight"),
        ("ffn.up", "mlp.gate_up_proj.weight"),
        ("ffn.down", "mlp.down_proj.weight"),
        ("ffn.post_norm", "post_mlp_layernorm.weight"),
    ],
    fused: |part| match part {
        "ffn.gate" => Some((0, 2)),
        "ffn.up" => Some((1, 2)),
        _ => None,
    },
    interleaved: true,
    centred: |_| false,
    left_out: &[],
    spelled: &[],
};

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = Common::read(config)?;
    config.only("hidden_act", &["silu".into()], "only silu is supported")?;
    let head_dim = config.size_or("head_dim", 4096, 128)?;
    let rope = Rope::from_partial_model(config, 10_000.0, 0.5)?;
    rope.check_pairs(config, head_dim)?;
    let layer = Layer {
        ffn: Some(Ffn { dim: common.ffn_dim, activation: Activation::Silu, bias: false }),
        post_norms: true,
        ..Layer::new(Attention {
            rope: Some(0),
            qkv_bias: config.bool("attention_bias", true)?,
            ..Attention::new(common.heads, config.size("num_key_value_heads", 4096)?, head_dim)
        })
    };
    common.draft_with(config, "glm4", vec![layer; common.layers as usize], rope)
}
