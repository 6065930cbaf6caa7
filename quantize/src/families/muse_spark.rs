//! Muse Spark: Muse Glimmer, with a norm on what attention reads, gates between each half of a layer and the residual
//! stream, experts that run at a width of their own, and another table of positions in the tower over images.
//!
//! A tower, over images or over sounds, is left out where no prompt can hold its token, and the person is told.
//!
//! A gate keeps `a` of the residual stream and lets in `b` of what a half gives, `a` and `b` vectors that its parameter
//! decides. The last operation of a half is a norm, so `b` is its weight here. Where the reference multiplies by `1 + w`
//! before that norm, so do we. All experts of a layer lie in two tensors. The reference implementation never ties the
//! head to the embedding, whatever its config says.

pub(super) mod audio;

use muse_format::{Activation, Attention, Experts, Ffn, Laid, Layer, Score, Spec};

use super::muse_glimmer::{rotates, vision};
use super::{Common, Config, Draft, Family, Rope, Transform, windows};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "muse_spark",
    architecture: "MuseSparkForConditionalGeneration",
    read,
    // Of towers that are left out.
    harmless: &[
        "audio_config",
        "audio_token_id",
        "image_token_id",
        "out_hidden_size",
        "projector_hidden_act",
        "projector_hidden_size",
        "tie_word_embeddings",
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
        ("attn.post_norm", "post_attention_residual_gate.gate"),
        ("attn.keep", "post_attention_residual_gate.gate"),
        ("ffn.norm", "pre_feedforward_layernorm.weight"),
        ("ffn.gate", "mlp.gate_proj.weight"),
        ("ffn.up", "mlp.up_proj.weight"),
        ("ffn.down", "mlp.down_proj.weight"),
        ("ffn.post_scale", "post_feedforward_layernorm.weight"),
        ("ffn.post_norm", "post_feedforward_residual_gate.gate"),
        ("ffn.keep", "post_feedforward_residual_gate.gate"),
        ("experts.router", "mlp.gate.weight"),
        ("experts.choice_bias", "mlp.gate.e_score_correction_bias"),
        ("experts.in", "mlp.pre_expert_proj.weight"),
        ("experts.in_norm", "mlp.pre_expert_norm.weight"),
        ("experts.*.gate", "mlp.experts.gate_up_proj"),
        ("experts.*.up", "mlp.experts.gate_up_proj"),
        ("experts.*.down", "mlp.experts.down_proj"),
        ("experts.each_scale", "mlp.experts.post_expert_norm.weight"),
        ("experts.out", "mlp.post_expert_proj.weight"),
    ],
    fused: |part| match part.strip_prefix("experts.")?.split_once('.')? {
        (_, "gate") => Some((0, 2)),
        (_, "up") => Some((1, 2)),
        _ => None,
    },
    interleaved: false,
    // The last norm is a plain one.
    centred: |name| name != "norm" && (name.ends_with("norm") || name.ends_with("_scale")),
    left_out: &[
        ("vision", &["model.vision_tower.", "model.vision_adapter.", "model.vision_projection."]),
        ("audio", &["model.audio_tower."]),
    ],
    spelled: &[],
};

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let text = config.model("text_config")?;
    let common = Common::read(&text)?;
    text.only("model_type", &["muse_spark_text".into()], "only muse_spark_text is supported")?;
    text.only("hidden_act", &["silu".into()], "only silu is supported")?;
    let slides = |i: u32| !(common.layers - 1 - i).is_multiple_of(4);
    let windows = windows(&text, common.layers, text.u32("sliding_window")?, slides)?;
    let rope = Rope::from_model(&text, 500_000.0)?;
    let rotates = rotates(&text, common.layers, &rope)?;
    let bias = text.bool("attention_bias", false)?;
    let head_dim = text.size("head_dim", 4096)?;
    let need = |key: &str| {
        text.f64(key)?.ok_or_else(|| text.refuse(key, "it must be a number above zero")).map(|n| n as f32)
    };
    let (post_norm_eps, temperature) = (need("post_norm_eps")?, need("residual_gate_temperature")?);
    let output_multiplier = need("output_multiplier")?;
    let sparse = sparse(&text, common.layers)?;
    let experts = experts(&text, output_multiplier, post_norm_eps)?;
    let attention = Attention {
        qk_norm: true,
        qkv_bias: bias,
        mix_norm: true,
        out_gate: true,
        out_bias: bias,
        ..Attention::new(common.heads, text.size("num_key_value_heads", 4096)?, head_dim)
    };
    let layer = |((window, rotates), sparse): ((Option<u32>, &bool), bool)| Layer {
        ffn: (!sparse).then_some(Ffn { dim: common.ffn_dim, activation: Activation::Silu, bias: false }),
        experts: sparse.then(|| experts.clone()),
        post_norms: true,
        post_norm_eps: Some(post_norm_eps),
        ffn_post_scale: true,
        residual_gates: true,
        ..Layer::new(Attention { window, rope: rotates.then_some(0), ..attention.clone() })
    };
    let layers = windows.into_iter().zip(&rotates).zip(sparse).map(layer).collect();
    let ropes = if rotates.contains(&true) { vec![rope] } else { Vec::new() };
    let spec = Spec {
        family: "muse_spark".into(),
        dim: common.dim,
        vocab: common.vocab,
        context: common.context,
        embed_norm: true,
        norm_eps: common.norm_eps,
        logit_scale: output_multiplier,
        logit_softcap: Some(need("final_logit_softcapping")?),
        ropes: u32::try_from(ropes.len()).expect("one at most"),
        layers,
        ..Spec::default()
    };
    let constants = vec![
        ("embed_norm", 1.0),
        ("attn.q_norm", need("qk_scale_factor")?),
        ("attn.k_norm", 1.0),
        ("attn.mix_norm", 1.0),
        ("experts.each_norm", 1.0),
    ];
    let (lets_in, keeps) = (Transform::GateIn { temperature }, Transform::GateKeeps { temperature });
    let transforms = vec![
        ("attn.post_norm", lets_in),
        ("attn.keep", keeps),
        ("ffn.post_norm", lets_in),
        ("ffn.keep", keeps),
    ];
    // Nothing is tied; the other is of training.
    text.finish(&["output_router_logits", "tie_word_embeddings"])?;
    let mut draft = Draft { constants, transforms, ..Draft::new(spec, ropes) };
    towers(config, &mut draft)?;
    Ok(draft)
}

/// Adds those towers whose tokens a prompt can hold.
fn towers(config: &Config<'_>, draft: &mut Draft) -> Result<(), ImportError> {
    let vocab = draft.spec.vocab;
    let token = |key: &str| Ok::<_, ImportError>(config.u32(key)?.filter(|id| *id < vocab));
    let [image, video, sound] =
        [token("image_token_id")?, token("video_token_id")?, token("audio_token_id")?];
    if image.is_some() {
        vision::read(config, draft, "muse_spark", Laid::EdgesAcross)?;
    }
    if let Some(token) = sound {
        let blank = [image, video, sound].into_iter().flatten().collect();
        audio::read(config, draft, token, blank)?;
        draft.read_extractor = Some(audio::read_extractor);
    }
    Ok(())
}

fn experts(text: &Config<'_>, logit_scale: f32, norm_eps: f32) -> Result<Experts, ImportError> {
    let count = text.size("num_local_experts", 4096)?;
    let used = text.size("num_experts_per_tok", count)?;
    Ok(Experts {
        latent: Some(text.size("moe_hidden_size", 1 << 20)?),
        logit_scale,
        score: Score::Sigmoid,
        choice_bias: true,
        normalise: true,
        scale: text.f64("routed_scaling_factor")?.unwrap_or(1.0) as f32,
        each_norm_eps: Some(norm_eps),
        ..Experts::new(count, used, text.size("moe_intermediate_size", 1 << 20)?)
    })
}

/// Whether each layer has experts: all, where `mlp_layer_types` does not say.
fn sparse(text: &Config<'_>, layers: u32) -> Result<Vec<bool>, ImportError> {
    let Some(types) = text.strings("mlp_layer_types")? else { return Ok(vec![true; layers as usize]) };
    let known = types.iter().map(|kind| match *kind {
        "sparse" => Some(true),
        "dense" => Some(false),
        _ => None,
    });
    let known: Option<Vec<bool>> = known.collect();
    known
        .filter(|known| known.len() == layers as usize)
        .ok_or_else(|| text.refuse("mlp_layer_types", format!("it must hold {layers} times dense or sparse")))
}
