//! GLM-4.5: experts chosen by sigmoids with a bias, beside a shared one that every token gets; the first layers are
//! dense, and half of each head is rotated.
//!
//! Several shared experts are one feed-forward of their widths together. Groups of experts, of which a token would
//! choose some first, are refused: published models have one group.
//!
//! The layer behind the last one, which guesses the token after the next, becomes a file of its own and is left out of the
//! model's; the table and the head that it is published with are the model's.

use std::collections::HashMap;

use muse_format::{Activation, Attention, Experts, Ffn, Layer, Score};

use super::head::{THE_MODEL, head};
use super::{Common, Config, Draft, Family, Rope, Transform};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "glm4_moe",
    architecture: "Glm4MoeForCausalLM",
    read,
    // Of training, and of the layer that guesses.
    harmless: &["num_mtp_layers", "num_nextn_predict_layers", "output_router_logits", "router_aux_loss_coef"],
    prefix: "model",
    layer: &[
        ("attn.norm", "input_layernorm.weight"),
        ("attn.q", "self_attn.q_proj.weight"),
        ("attn.k", "self_attn.k_proj.weight"),
        ("attn.v", "self_attn.v_proj.weight"),
        ("attn.q_norm", "self_attn.q_norm.weight"),
        ("attn.k_norm", "self_attn.k_norm.weight"),
        ("attn.out", "self_attn.o_proj.weight"),
        ("ffn.norm", "post_attention_layernorm.weight"),
        ("ffn.gate", "mlp.gate_proj.weight"),
        ("ffn.up", "mlp.up_proj.weight"),
        ("ffn.down", "mlp.down_proj.weight"),
        ("shared.gate", "mlp.shared_experts.gate_proj.weight"),
        ("shared.up", "mlp.shared_experts.up_proj.weight"),
        ("shared.down", "mlp.shared_experts.down_proj.weight"),
        ("experts.router", "mlp.gate.weight"),
        ("experts.choice_bias", "mlp.gate.e_score_correction_bias"),
        ("experts.*.gate", "mlp.experts.*.gate_proj.weight"),
        ("experts.*.up", "mlp.experts.*.up_proj.weight"),
        ("experts.*.down", "mlp.experts.*.down_proj.weight"),
    ],
    fused: |_| None,
    interleaved: false,
    centred: |_| false,
    // A layer behind the last one of each published model, by its number, as the reference implementation ignores it.
    left_out: &[("guesses of the token after the next (--mtp)", &["model.layers.46.", "model.layers.92."])],
    spelled: &[],
};

/// The layer that guesses.
pub(super) const HEAD: Family =
    Family { read: |config| guess(config, read(config)?), left_out: THE_MODEL, ..FAMILY };

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = Common::read(config)?;
    config.only("hidden_act", &["silu".into()], "only silu is supported")?;
    for key in ["n_group", "topk_group"] {
        config.only(key, &[1.into()], "only one group of experts is supported")?;
    }
    let head_dim = common.head_dim(config)?;
    let rope = Rope::from_partial_model(config, 10_000.0, 0.5)?;
    rope.check_pairs(config, head_dim)?;
    let attention = Attention {
        rope: Some(0),
        qk_norm: config.bool("use_qk_norm", false)?,
        qkv_bias: config.bool("attention_bias", false)?,
        ..Attention::new(common.heads, config.size("num_key_value_heads", 4096)?, head_dim)
    };
    let experts = experts(config, 1.0)?;
    let shared = config.size("n_shared_experts", 64)? * experts.dim;
    let dense = config.u32("first_k_dense_replace")?.unwrap_or(1);
    let layer = |i: u32| {
        let dim = if i < dense { common.ffn_dim } else { shared };
        Layer {
            ffn: Some(Ffn { dim, activation: Activation::Silu, bias: false }),
            experts: (i >= dense).then(|| experts.clone()),
            ..Layer::new(attention.clone())
        }
    };
    let layers = (0..common.layers).map(layer).collect();
    let mut draft = common.draft_with(config, "glm4_moe", layers, rope)?;
    // A shared expert is a feed-forward of ours under a name of theirs.
    draft.aliases = shared_experts((dense..common.layers).map(|i| i as usize));
    Ok(draft)
}

/// The layer behind the last one of `draft`, like that but for what it reads.
pub(super) fn guess(config: &Config<'_>, draft: Draft) -> Result<Draft, ImportError> {
    config.only("num_nextn_predict_layers", &[1.into()], "only one layer that guesses is supported")?;
    let behind = draft.spec.layers.len();
    let last = draft.spec.layers.last().expect("`Common::read` asks for layers").clone();
    let theirs = |part: &str| format!("model.layers.{behind}.{part}.weight");
    let given = [
        ("drafter.into", "eh_proj"),
        ("drafter.norm", "hnorm"),
        ("drafter.embed_norm", "enorm"),
        ("norm", "shared_head.norm"),
    ];
    let given = given.map(|(ours, part)| (ours, theirs(part), Transform::AsIs));
    let of_last = draft.aliases.clone();
    let mut draft = head(draft, last, &given);
    // Our only layer is theirs behind the last.
    let names = draft
        .spec
        .tensors()
        .into_iter()
        .filter_map(|tensor| tensor.name.strip_prefix("l0.").map(str::to_owned));
    let aliases = names.map(|part| {
        let last = format!("l{}.", behind - 1);
        let alias = of_last.get(&format!("{last}{part}")).and_then(|alias| alias.strip_prefix(&last));
        (format!("l0.{part}"), format!("l{behind}.{}", alias.unwrap_or(&part)))
    });
    draft.aliases = aliases.collect();
    draft.ignored = ["embed_tokens", "shared_head.head"].map(theirs).to_vec();
    draft.whole = Some(format!("model.layers.{behind}."));
    Ok(draft)
}

/// The feed-forwards of these layers under their names of shared experts.
pub(super) fn shared_experts(layers: impl Iterator<Item = usize>) -> HashMap<String, String> {
    let of_layer =
        |i| ["gate", "up", "down"].map(|of| (format!("l{i}.ffn.{of}"), format!("l{i}.shared.{of}")));
    layers.flat_map(of_layer).collect()
}

pub(super) fn experts(config: &Config<'_>, default_scale: f64) -> Result<Experts, ImportError> {
    let count = config.size("n_routed_experts", 4096)?;
    let used = config.size("num_experts_per_tok", count)?;
    Ok(Experts {
        score: Score::Sigmoid,
        choice_bias: true,
        normalise: config.bool("norm_topk_prob", true)?,
        scale: config.f64("routed_scaling_factor")?.unwrap_or(default_scale) as f32,
        ..Experts::new(count, used, config.size("moe_intermediate_size", 1 << 20)?)
    })
}
