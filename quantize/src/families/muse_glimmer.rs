//! Muse Glimmer: a window on three of four layers and no rotation on the others, query and key norms
//! without weights, a gate on what attention reads, norms around both halves, and a norm on the embedding.
//!
//! The constant that multiplies normalised queries is their norm's weight here. `layer_rope_theta` says whether a
//! layer rotates; the reference implementation has one table for all that do, so a base of their own is refused.
//!
//! The tower over images is left out where no prompt can hold its token, and the person is told.

pub(super) mod vision;

use muse_format::{Activation, Attention, Ffn, Laid, Layer, Spec};

use super::{Common, Config, Draft, Family, Rope, windows};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "muse_glimmer",
    architecture: "MuseGlimmerForConditionalGeneration",
    read,
    // Of the tower over images, where it is left out.
    harmless: &[
        "image_token_id",
        "out_hidden_size",
        "projector_hidden_act",
        "projector_hidden_size",
        "video_token_id",
        "vision_config",
    ],
    prefix: "model.language_model",
    layer: &[
        ("attn.norm", "input_layernorm.weight"),
        ("attn.q", "self_attn.q_proj.weight"),
        ("attn.k", "self_attn.k_proj.weight"),
        ("attn.v", "self_attn.v_proj.weight"),
        ("attn.gate", "self_attn.gate_proj.weight"),
        ("attn.out", "self_attn.o_proj.weight"),
        ("attn.post_norm", "post_attention_layernorm.weight"),
        ("ffn.norm", "pre_feedforward_layernorm.weight"),
        ("ffn.gate", "mlp.gate_proj.weight"),
        ("ffn.up", "mlp.up_proj.weight"),
        ("ffn.down", "mlp.down_proj.weight"),
        ("ffn.post_norm", "post_feedforward_layernorm.weight"),
    ],
    // The last norm is a plain one.
    fused: |_| None,
    interleaved: false,
    centred: |name| name != "norm" && name.ends_with("norm"),
    left_out: &[("vision", &["model.vision_tower.", "model.vision_adapter.", "model.vision_projection."])],
    spelled: &[],
};

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let text = config.model("text_config")?;
    let common = Common::read(&text)?;
    text.only("model_type", &["muse_glimmer_text".into()], "only muse_glimmer_text is supported")?;
    text.only("hidden_activation", &["silu".into()], "only silu is supported")?;
    let slides = |i: u32| !(common.layers - 1 - i).is_multiple_of(4);
    let windows = windows(&text, common.layers, text.u32("sliding_window")?, slides)?;
    let rope = Rope::from_model(&text, 10_000.0)?;
    let rotates = rotates(&text, common.layers, &rope)?;
    let bias = text.bool("attention_bias", false)?;
    let head_dim = text.size("head_dim", 4096)?;
    let attention = Attention {
        qk_norm: true,
        qkv_bias: bias,
        out_gate: true,
        out_bias: bias,
        ..Attention::new(common.heads, text.size("num_key_value_heads", 4096)?, head_dim)
    };
    let need = |key: &str| {
        text.f64(key)?.ok_or_else(|| text.refuse(key, "it must be a number above zero")).map(|n| n as f32)
    };
    let post_norm_eps = need("post_norm_eps")?;
    let layer = |(window, rotates): (Option<u32>, &bool)| Layer {
        ffn: Some(Ffn { dim: common.ffn_dim, activation: Activation::Silu, bias: false }),
        post_norms: true,
        post_norm_eps: Some(post_norm_eps),
        ..Layer::new(Attention { window, rope: rotates.then_some(0), ..attention.clone() })
    };
    let ropes = if rotates.contains(&true) { vec![rope] } else { Vec::new() };
    let spec = Spec {
        family: "muse_glimmer".into(),
        dim: common.dim,
        vocab: common.vocab,
        context: common.context,
        embed_norm: true,
        norm_eps: common.norm_eps,
        logit_scale: need("output_multiplier")?,
        logit_softcap: Some(need("final_logit_softcapping")?),
        // The key that the reference implementation reads is the outer one; the text model has one of its own.
        tied_head: config.bool("tie_word_embeddings", false)?,
        ropes: u32::try_from(ropes.len()).expect("one at most"),
        layers: windows.into_iter().zip(&rotates).map(layer).collect(),
        ..Spec::default()
    };
    let constants =
        vec![("embed_norm", 1.0), ("attn.q_norm", need("qk_scale_factor")?), ("attn.k_norm", 1.0)];
    text.finish(&["tie_word_embeddings"])?;
    let vocab = spec.vocab;
    let mut draft = Draft { constants, ..Draft::new(spec, ropes) };
    if config.u32("image_token_id")?.is_none_or(|id| id < vocab) {
        vision::read(config, &mut draft, "muse_glimmer", Laid::Edges)?;
    }
    Ok(draft)
}

/// Whether each layer rotates queries and keys: where `layer_rope_theta` is not 0, by default on three of four layers
/// counted from the last.
pub(super) fn rotates(text: &Config<'_>, layers: u32, rope: &Rope) -> Result<Vec<bool>, ImportError> {
    let Some(thetas) = text.numbers_from_zero("layer_rope_theta")? else {
        return Ok((0..layers).map(|i| !(layers - 1 - i).is_multiple_of(4)).collect());
    };
    let known = |theta: &f64| *theta == 0.0 || *theta == rope.theta();
    if thetas.len() != layers as usize || !thetas.iter().all(known) {
        let rule =
            format!("it must hold {layers} numbers, each 0 or the rope_theta of all, {}", rope.theta());
        return Err(text.refuse("layer_rope_theta", rule));
    }
    Ok(thetas.iter().map(|theta| *theta != 0.0).collect())
}
