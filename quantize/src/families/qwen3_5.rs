//! Qwen3.5, dense and with experts: gated DeltaNet on three of four layers, and on the others attention
//! whose output is gated, with a quarter of each head rotated; every norm but the one inside DeltaNet stored as its
//! distance from 1.
//!
//! A checkpoint has a layer that guesses the token after the next. It becomes a file of its own (`head.rs`) and is left out
//! of the model's, and the person is told. So is the tower over images where no prompt can hold its token. Positions along the axes of an image are one and the same for
//! text.
//!
//! Queries and their gates alternate by the head in one matrix. `A_log` and `dt_bias` become what the delta rule asks
//! for: the rate `exp(A_log)` and the bias of the product that decays come from.

pub(super) mod head;
pub(super) mod vision;

use std::collections::HashMap;

use muse_format::{Activation, Attention, DeltaNet, Experts, Ffn, Layer, Mixer};

use super::{Common, Config, Draft, Family, Rope, Transform};
use crate::checkpoint::ImportError;

/// The text model alone.
pub(super) const TEXT: Family = Family {
    model_type: "qwen3_5_text",
    architecture: "Qwen3_5ForCausalLM",
    read: |config| read(config, "qwen3_5"),
    harmless: HARMLESS,
    prefix: "model",
    layer: LAYER,
    fused: |part| match part.strip_prefix("experts.")?.split_once('.')? {
        (_, "gate") => Some((0, 2)),
        (_, "up") => Some((1, 2)),
        _ => None,
    },
    interleaved: false,
    centred: |name| name.ends_with("norm") && !name.ends_with("delta.norm"),
    left_out: LEFT_OUT,
    spelled: &[],
};

/// The text model beside a vision tower.
pub(super) const FAMILY: Family = Family {
    model_type: "qwen3_5",
    architecture: "Qwen3_5ForConditionalGeneration",
    read: |config| read_outer(config, "qwen3_5"),
    harmless: OUTER,
    prefix: "model.language_model",
    ..TEXT
};

/// The text model with experts alone.
pub(super) const MOE_TEXT: Family = Family {
    model_type: "qwen3_5_moe_text",
    architecture: "Qwen3_5MoeForCausalLM",
    read: |config| read(config, "qwen3_5_moe"),
    ..TEXT
};

/// The text model with experts beside a vision tower.
pub(super) const MOE: Family = Family {
    model_type: "qwen3_5_moe",
    architecture: "Qwen3_5MoeForConditionalGeneration",
    read: |config| read_outer(config, "qwen3_5_moe"),
    ..FAMILY
};

/// Of the layer that guesses, and of training.
const HARMLESS: &[&str] = &[
    "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
    "output_router_logits",
    "router_aux_loss_coef",
];

/// Of the vision tower, where it is left out; a template writes the tokens around an image.
const OUTER: &[&str] =
    &["image_token_id", "video_token_id", "vision_config", "vision_end_token_id", "vision_start_token_id"];

const LEFT_OUT: &[(&str, &[&str])] =
    &[("vision", &["model.visual."]), ("guesses of the token after the next (--mtp)", &["mtp."])];

const LAYER: &[(&str, &str)] = &[
    ("attn.norm", "input_layernorm.weight"),
    ("attn.q", "self_attn.q_proj.weight"),
    ("attn.gate", "self_attn.q_proj.weight"),
    ("attn.k", "self_attn.k_proj.weight"),
    ("attn.v", "self_attn.v_proj.weight"),
    ("attn.q_norm", "self_attn.q_norm.weight"),
    ("attn.k_norm", "self_attn.k_norm.weight"),
    ("attn.out", "self_attn.o_proj.weight"),
    ("delta.qkv", "linear_attn.in_proj_qkv.weight"),
    ("delta.gate", "linear_attn.in_proj_z.weight"),
    ("delta.decay", "linear_attn.in_proj_a.weight"),
    ("delta.decay_bias", "linear_attn.dt_bias"),
    ("delta.beta", "linear_attn.in_proj_b.weight"),
    ("delta.taps", "linear_attn.conv1d.weight"),
    ("delta.rate", "linear_attn.A_log"),
    ("delta.norm", "linear_attn.norm.weight"),
    ("delta.out", "linear_attn.out_proj.weight"),
    ("ffn.norm", "post_attention_layernorm.weight"),
    ("ffn.gate", "mlp.gate_proj.weight"),
    ("ffn.up", "mlp.up_proj.weight"),
    ("ffn.down", "mlp.down_proj.weight"),
    ("shared.gate", "mlp.shared_expert.gate_proj.weight"),
    ("shared.up", "mlp.shared_expert.up_proj.weight"),
    ("shared.down", "mlp.shared_expert.down_proj.weight"),
    ("ffn.token_gate", "mlp.shared_expert_gate.weight"),
    ("experts.router", "mlp.gate.weight"),
    ("experts.*.gate", "mlp.experts.gate_up_proj"),
    ("experts.*.up", "mlp.experts.gate_up_proj"),
    ("experts.*.down", "mlp.experts.down_proj"),
];

fn read_outer(config: &Config<'_>, family: &str) -> Result<Draft, ImportError> {
    let text = config.model("text_config")?;
    let model_type = format!("{family}_text");
    text.only("model_type", &[model_type.clone().into()], &format!("only {model_type} is supported"))?;
    let mut draft = read(&text, family)?;
    text.finish(HARMLESS)?;
    // The reference implementation reads the outer key; the text model has one of its own.
    draft.spec.tied_head = config.bool("tie_word_embeddings", false)?;
    let vocab = draft.spec.vocab;
    if config.u32("image_token_id")?.is_some_and(|id| id < vocab) {
        vision::read(config, &mut draft, family)?;
    }
    Ok(draft)
}

fn read(config: &Config<'_>, family: &str) -> Result<Draft, ImportError> {
    let experts = if family == "qwen3_5_moe" { Some(experts(config)?) } else { None };
    let ffn_key = if experts.is_some() { "shared_expert_intermediate_size" } else { "intermediate_size" };
    let common = Common::with_ffn(config, ffn_key)?;
    if experts.is_some() {
        // Some configs have a width of feed-forwards that the reference implementation does not have.
        config.u32("intermediate_size")?;
    }
    config.only("hidden_act", &["silu".into()], "only silu is supported")?;
    config.only("output_gate_type", &["swish".into(), "silu".into()], "only silu is supported")?;
    config.only("attn_output_gate", &[true.into()], "the reference implementation always has the gate")?;
    config.only("attention_bias", &[false.into()], "biases of gated attention are not supported")?;
    config.only("mlp_only_layers", &[serde_json::json!([])], "the reference implementation has none")?;
    config.only("mamba_ssm_dtype", &["float32".into()], "recurrent states are kept in f32")?;
    let head_dim = config.size_or("head_dim", 4096, 256)?;
    let rope = Rope::from_model_with_axes(config, 10_000.0, 0.25)?;
    rope.check_pairs(config, head_dim)?;
    let attention = Attention {
        rope: Some(0),
        qk_norm: true,
        out_gate: true,
        ..Attention::new(common.heads, config.size("num_key_value_heads", 4096)?, head_dim)
    };
    let delta_net = delta_net(config)?;
    let recurrent = recurrent(config, common.layers)?;
    let layer = |recurrent: &bool| {
        let mixer = match recurrent {
            true => Mixer::DeltaNet(delta_net.clone()),
            false => Mixer::Attention(attention.clone()),
        };
        Layer {
            ffn: Some(Ffn { dim: common.ffn_dim, activation: Activation::Silu, bias: false }),
            token_gate: experts.is_some(),
            experts: experts.clone(),
            ..Layer::of(mixer)
        }
    };
    let layers: Vec<Layer> = recurrent.iter().map(layer).collect();
    let mut draft = common.draft_with(config, family, layers, rope)?;
    if !recurrent.contains(&false) {
        (draft.spec.ropes, draft.ropes) = (0, Vec::new());
    }
    draft.alternating = vec![("attn.q", [0, 2], head_dim as usize), ("attn.gate", [1, 2], head_dim as usize)];
    draft.transforms =
        vec![("delta.taps", Transform::Transpose { first: 0 }), ("delta.rate", Transform::Exp)];
    if experts.is_some() {
        draft.aliases = shared(common.layers);
    }
    Ok(draft)
}

/// A shared expert is a feed-forward of ours under a name of theirs.
fn shared(layers: u32) -> HashMap<String, String> {
    let of =
        |i: u32| ["gate", "up", "down"].map(|of| (format!("l{i}.ffn.{of}"), format!("l{i}.shared.{of}")));
    (0..layers).flat_map(of).collect()
}

/// Which layers are recurrent: what `layer_types` says, by default all but each `full_attention_interval`th.
fn recurrent(config: &Config<'_>, layers: u32) -> Result<Vec<bool>, ImportError> {
    let interval = config.size_or("full_attention_interval", 1 << 20, 4)?;
    let rule = format!("it must hold {layers} times linear_attention or full_attention");
    let known = |name: &str| match name {
        "linear_attention" => Some(true),
        "full_attention" => Some(false),
        _ => None,
    };
    match config.strings("layer_types")? {
        None => Ok((0..layers).map(|i| !(i + 1).is_multiple_of(interval)).collect()),
        Some(types) => {
            let types: Option<Vec<bool>> = types.into_iter().map(known).collect();
            types
                .filter(|types| types.len() == layers as usize)
                .ok_or_else(|| config.refuse("layer_types", rule))
        }
    }
}

fn delta_net(config: &Config<'_>) -> Result<DeltaNet, ImportError> {
    let delta_net = DeltaNet {
        key_heads: config.size_or("linear_num_key_heads", 4096, 16)?,
        value_heads: config.size_or("linear_num_value_heads", 4096, 32)?,
        key_dim: config.size_or("linear_key_head_dim", muse_format::DELTA_KEY_DIM_MAX, 128)?,
        value_dim: config.size_or("linear_value_head_dim", 4096, 128)?,
        taps: config.size_or("linear_conv_kernel_dim", 16, 4)?,
    };
    if !delta_net.value_heads.is_multiple_of(delta_net.key_heads) {
        let rule = format!("it must be a multiple of linear_num_key_heads, {}", delta_net.key_heads);
        return Err(config.refuse("linear_num_value_heads", rule));
    }
    Ok(delta_net)
}

fn experts(config: &Config<'_>) -> Result<Experts, ImportError> {
    let count = config.size("num_experts", 4096)?;
    let used = config.size("num_experts_per_tok", count)?;
    config.only("norm_topk_prob", &[true.into()], "the reference implementation always normalises")?;
    let dim = config.size("moe_intermediate_size", 1 << 20)?;
    Ok(Experts { normalise: true, ..Experts::new(count, used, dim) })
}
