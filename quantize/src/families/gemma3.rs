//! Gemma 3, the text model (`gemma3_text`): norms around both halves, query and key norms, and local layers that
//! have a window and a rotation table of their own.
//!
//! The embedding's factor `sqrt(hidden_size)` is the f32 one. transformers rounds it to the type that it computes in;
//! our runtime computes in f32, whatever type the weights are stored in.
//!
//! With `use_bidirectional_attention` it embeds texts, see `embedding.rs`.
//!
//! The multimodal `gemma3` is not imported: dropping its vision half silently would be a different model.

use muse_format::{Activation, Attention, Ffn, Layer, Spec};

use super::{Common, Config, Draft, Family, Rope, windows};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    read,
    // The pattern behind layer_types, kept by transformers for its own use; and a key left over from Gemma 2, which
    // the reference implementation carries and does not apply.
    harmless: &["_sliding_window_pattern", "attn_logit_softcapping"],
    prefix: "model",
    layer: &[
        ("attn.norm", "input_layernorm.weight"),
        ("attn.q", "self_attn.q_proj.weight"),
        ("attn.k", "self_attn.k_proj.weight"),
        ("attn.v", "self_attn.v_proj.weight"),
        ("attn.q_norm", "self_attn.q_norm.weight"),
        ("attn.k_norm", "self_attn.k_norm.weight"),
        ("attn.out", "self_attn.o_proj.weight"),
        ("attn.post_norm", "post_attention_layernorm.weight"),
        ("ffn.norm", "pre_feedforward_layernorm.weight"),
        ("ffn.gate", "mlp.gate_proj.weight"),
        ("ffn.up", "mlp.up_proj.weight"),
        ("ffn.down", "mlp.down_proj.weight"),
        ("ffn.post_norm", "post_feedforward_layernorm.weight"),
    ],
    fused: |_| None,
    interleaved: false,
    centred: |name| name.ends_with("norm"),
    left_out: &[],
};

/// EmbeddingGemma: the layers alone, and every token sees both sides.
pub(super) const EMBEDDING: Family =
    Family { architecture: "Gemma3TextModel", prefix: "", read: read_embedding, ..FAMILY };

fn read_embedding(config: &Config<'_>) -> Result<Draft, ImportError> {
    if !config.bool("use_bidirectional_attention", false)? {
        return Err(config
            .refuse("use_bidirectional_attention", "of layers without a head only an embedding is made"));
    }
    read(config)
}

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = Common::read(config)?;
    for key in ["hidden_activation", "hidden_act"] {
        config.only(key, &["gelu_pytorch_tanh".into()], "only gelu_pytorch_tanh is supported")?;
    }
    // Where both sides are seen, the config says how far from end to end.
    let bidirectional = config.bool("use_bidirectional_attention", false)?;
    let window =
        config.u32("sliding_window")?.map(|window| if bidirectional { window / 2 + 1 } else { window });
    let pattern = config.u32("sliding_window_pattern")?.unwrap_or(6);
    if pattern == 0 {
        return Err(config.refuse("sliding_window_pattern", "it must be at least 1"));
    }
    let windows = windows(config, common.layers, window, |i| (i + 1) % pattern != 0)?;
    let (local, full) = ropes(config)?;
    // Only tables that a layer uses, the local one first.
    let any_local = windows.iter().any(Option::is_some);
    let any_full = windows.iter().any(Option::is_none);
    let ropes: Vec<_> =
        [any_local.then_some(local), any_full.then_some(full)].into_iter().flatten().collect();
    let bias = config.bool("attention_bias", false)?;
    let head_dim = if config.has("head_dim") { config.size("head_dim", 4096)? } else { 256 };
    let attention = Attention {
        scale: config.f64("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5) as f32,
        qk_norm: true,
        qkv_bias: bias,
        out_bias: bias,
        ..Attention::new(common.heads, config.size("num_key_value_heads", 4096)?, head_dim)
    };
    let layer = |window: Option<u32>| Layer {
        ffn: Some(Ffn { dim: common.ffn_dim, activation: Activation::GeluTanh, bias: false }),
        post_norms: true,
        ..Layer::new(Attention {
            window,
            bidirectional,
            rope: Some(u32::from(window.is_none() && any_local)),
            ..attention.clone()
        })
    };
    let spec = Spec {
        family: "gemma3".into(),
        dim: common.dim,
        vocab: common.vocab,
        context: common.context,
        embed_scale: f64::from(common.dim).sqrt() as f32,
        norm_eps: common.norm_eps,
        logit_softcap: config.f64("final_logit_softcapping")?.map(|cap| cap as f32),
        tied_head: config.bool("tie_word_embeddings", true)?,
        ropes: u32::try_from(ropes.len()).expect("two at most"),
        layers: windows.into_iter().map(layer).collect(),
        ..Spec::default()
    };
    Ok(Draft::new(spec, ropes))
}

/// The tables of local and of full layers. transformers 4 writes `rope_theta` and `rope_scaling` for full layers and
/// `rope_local_base_freq` for local ones, transformers 5 `rope_parameters` with an object for each kind.
fn ropes(config: &Config<'_>) -> Result<(Rope, Rope), ImportError> {
    let theta = config.f64("rope_theta")?.unwrap_or(1_000_000.0);
    let local_theta = config.f64("rope_local_base_freq")?.unwrap_or(10_000.0);
    config.only("partial_rotary_factor", &[1.into()], "only a whole head can be rotated")?;
    let (mut local, mut full) = (Rope::plain(local_theta), Rope::plain(theta));
    if let Some(scaling) = config.object("rope_scaling")? {
        full = Rope::from_object(&scaling, theta, config)?;
    }
    if let Some(parameters) = config.object("rope_parameters")? {
        if config.has("rope_scaling") {
            return Err(
                config.refuse("rope_scaling", "it stands beside rope_parameters; remove one of the two")
            );
        }
        if let Some(object) = parameters.object("full_attention")? {
            full = Rope::from_object(&object, theta, config)?;
        }
        if let Some(object) = parameters.object("sliding_attention")? {
            local = Rope::from_object(&object, local_theta, config)?;
        }
        parameters.finish(&[])?;
    }
    Ok((local, full))
}
