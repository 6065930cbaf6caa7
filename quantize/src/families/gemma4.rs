//! Gemma 4, the text model, with its tower in a file of its own: wider heads on full layers, which rotate a part of them,
//! norms on queries, keys and values, a factor after each layer; in the small models a vector of each token for each layer,
//! and keys and values that later layers take over from earlier ones; in one, experts beside the feed-forward of every layer.
//!
//! Where a config says that values are keys before their norm (`attention_k_eq_v`), the projection is stored twice. A
//! checkpoint of several modalities has its text model imported and its tower over images, where a prompt can hold an image's
//! token; the rest is left out, which the person is told.

pub(super) mod vision;

use std::collections::HashMap;

use muse_format::{Activation, Attention, Experts, Ffn, Layer, PerLayer, Spec};

use super::{Common, Config, Draft, Family, Rope, Transform, windows};
use crate::checkpoint::ImportError;

/// The text model alone.
pub(super) const TEXT: Family = Family {
    model_type: "gemma4_text",
    architecture: "Gemma4ForCausalLM",
    read,
    harmless: HARMLESS,
    prefix: "model",
    layer: LAYER,
    fused: |part| match part.strip_prefix("experts.")?.split_once('.')? {
        (_, "gate") => Some((0, 2)),
        (_, "up") => Some((1, 2)),
        _ => None,
    },
    interleaved: false,
    centred: |_| false,
    left_out: &[],
    spelled: &[],
};

/// The text model among others.
pub(super) const FAMILY: Family = Family {
    model_type: "gemma4",
    architecture: "Gemma4ForConditionalGeneration",
    read: |config| {
        let text = config.model("text_config")?;
        text.only("model_type", &["gemma4_text".into()], "only gemma4_text is supported")?;
        let mut draft = read(&text)?;
        vision::read(config, &text, &mut draft)?;
        text.finish(HARMLESS)?;
        // The reference implementation reads the outer key; the text model has one of its own.
        draft.spec.tied_head = config.bool("tie_word_embeddings", true)?;
        Ok(draft)
    },
    // Of the other modalities.
    harmless: &[
        "audio_config",
        "audio_token_id",
        "boa_token_id",
        "boi_token_id",
        "eoa_token_id",
        "eoa_token_index",
        "eoi_token_id",
        "image_token_id",
        "video_token_id",
        "vision_config",
        "vision_soft_tokens_per_image",
    ],
    prefix: "model.language_model",
    left_out: &[
        ("vision", &["model.vision_tower.", "model.embed_vision."]),
        ("audio", &["model.audio_tower.", "model.embed_audio."]),
    ],
    ..TEXT
};

/// Sizes of experts where there are none, and of the vocabulary where there are no vectors of layers.
const HARMLESS: &[&str] =
    &["moe_intermediate_size", "num_experts", "top_k_experts", "vocab_size_per_layer_input"];

const LAYER: &[(&str, &str)] = &[
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
    ("experts.router_norm", "router.scale"),
    ("experts.router", "router.proj.weight"),
    ("experts.expert_scale", "router.per_expert_scale"),
    ("experts.norm", "pre_feedforward_layernorm_2.weight"),
    ("experts.*.gate", "experts.gate_up_proj"),
    ("experts.*.up", "experts.gate_up_proj"),
    ("experts.*.down", "experts.down_proj"),
    ("experts.post_norm", "post_feedforward_layernorm_2.weight"),
    ("experts.beside_norm", "post_feedforward_layernorm_1.weight"),
    ("ffn.post_norm", "post_feedforward_layernorm.weight"),
    ("per_layer.gate", "per_layer_input_gate.weight"),
    ("per_layer.out", "per_layer_projection.weight"),
    ("per_layer.norm", "post_per_layer_input_norm.weight"),
    ("scale", "layer_scalar"),
];

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = Common::read(config)?;
    config.only("hidden_activation", &["gelu_pytorch_tanh".into()], "only gelu_pytorch_tanh is supported")?;
    let causal = "only causal attention is supported, of images aside";
    config.only("use_bidirectional_attention", &["vision".into()], causal)?;
    let slides = |i: u32| !(i + 1).is_multiple_of(6) && i + 1 != common.layers;
    let windows = windows(config, common.layers, config.u32("sliding_window")?, slides)?;
    if windows.last().is_none_or(Option::is_some) {
        return Err(config.refuse("layer_types", "the last layer must be full_attention"));
    }
    let shared = shared(config, &windows)?;
    let heads = heads(config, &windows)?;
    let ropes = ropes(config)?;
    let bias = config.bool("attention_bias", false)?;
    let wide = config.bool("use_double_wide_mlp", false)?;
    let k_is_v = config.bool("attention_k_eq_v", false)?;
    let experts = experts(config)?;
    let layer = |(i, window): (usize, &Option<u32>)| Layer {
        ffn: Some(Ffn {
            dim: if wide && shared[i].is_some() { 2 * common.ffn_dim } else { common.ffn_dim },
            activation: Activation::GeluTanh,
            bias: false,
        }),
        experts: experts.clone(),
        post_norms: true,
        scaled: true,
        ..Layer::new(Attention {
            scale: 1.0,
            window: *window,
            rope: Some(u32::from(window.is_none())),
            qk_norm: true,
            v_norm: true,
            kv_from: shared[i],
            qkv_bias: bias,
            out_bias: bias,
            ..Attention::new(common.heads, heads[i].kv_heads, heads[i].head_dim)
        })
    };
    let mut layers: Vec<Layer> = windows.iter().enumerate().map(layer).collect();
    // Only tables that a layer uses.
    let ropes = if windows.iter().any(Option::is_some) {
        ropes.into()
    } else {
        layers.iter_mut().filter_map(Layer::attention_mut).for_each(|a| a.rope = Some(0));
        vec![ropes[1].clone()]
    };
    let spec = Spec {
        family: "gemma4".into(),
        dim: common.dim,
        vocab: common.vocab,
        context: common.context,
        embed_scale: f64::from(common.dim).sqrt() as f32,
        norm_eps: common.norm_eps,
        logit_softcap: config.f64("final_logit_softcapping")?.map(|cap| cap as f32),
        tied_head: config.bool("tie_word_embeddings", true)?,
        per_layer: per_layer(config, &common)?,
        ropes: u32::try_from(ropes.len()).expect("two at most"),
        layers,
        ..Spec::default()
    };
    let full = |i: &usize| k_is_v && windows[*i].is_none() && shared[*i].is_none();
    let name = |i: usize, part: &str| format!("l{i}.attn.{part}");
    let aliases: HashMap<_, _> = (0..windows.len())
        .filter(full)
        .flat_map(|i| [(name(i, "v"), name(i, "k")), (name(i, "v_bias"), name(i, "k_bias"))])
        .collect();
    let taken_over = (0..windows.len()).filter(|i| shared[*i].is_some());
    // Published checkpoints hold them all the same, and the reference implementation drops them.
    let unused = taken_over.flat_map(|i| ["k", "v", "k_norm"].map(|part| name(i, part))).collect();
    let constants = vec![("attn.v_norm", 1.0)];
    // What the router reads is normed without weights, scaled by a vector and by the root of the width.
    let factor = f64::from(common.dim).powf(-0.5) as f32;
    let transforms = vec![("experts.router_norm", Transform::Times { factor })];
    let longer = rows_of_table(config, &common)?;
    Ok(Draft { constants, aliases, unused, transforms, longer, ..Draft::new(spec, ropes) })
}

/// Of every layer, where there are any.
fn experts(config: &Config<'_>) -> Result<Option<Experts>, ImportError> {
    if !config.bool("enable_moe_block", false)? {
        return Ok(None);
    }
    let count = config.size("num_experts", 4096)?;
    let used = config.size("top_k_experts", count)?;
    Ok(Some(Experts {
        activation: Activation::GeluTanh,
        normalise: true,
        expert_scale: true,
        own_norms: true,
        ..Experts::new(count, used, config.size("moe_intermediate_size", 1 << 20)?)
    }))
}

/// From which layer each takes its keys and values: the last of its kind before the last `num_kv_shared_layers`.
fn shared(config: &Config<'_>, windows: &[Option<u32>]) -> Result<Vec<Option<u32>>, ImportError> {
    let count = config.u32("num_kv_shared_layers")?.unwrap_or(0) as usize;
    let own = windows.len().checked_sub(count);
    let source = |i: usize, own: usize| {
        (0..own).rev().find(|j| windows[*j].is_some() == windows[i].is_some()).map(|j| j as u32)
    };
    let all = own.and_then(|own| {
        (0..windows.len()).map(|i| if i < own { Some(None) } else { source(i, own).map(Some) }).collect()
    });
    all.ok_or_else(|| {
        config.refuse("num_kv_shared_layers", "each kind of layer must have one to take them from")
    })
}

/// Sizes that differ between layers.
#[derive(Clone, Copy)]
struct Heads {
    kv_heads: u32,
    head_dim: u32,
}

/// `per_layer_config` says what differs, by the layer's index; before it there was, `global_head_dim` and
/// `num_global_key_value_heads` did of full layers.
fn heads(config: &Config<'_>, windows: &[Option<u32>]) -> Result<Vec<Heads>, ImportError> {
    let base = Heads {
        kv_heads: config.size("num_key_value_heads", 4096)?,
        head_dim: config.size_or("head_dim", 4096, 256)?,
    };
    let read =
        |object: &Config<'_>, kv_heads: &str, head_dim: &str, or: Heads| -> Result<Heads, ImportError> {
            let own = |key: &str, or| object.size_or(key, 4096, or);
            Ok(Heads { kv_heads: own(kv_heads, or.kv_heads)?, head_dim: own(head_dim, or.head_dim)? })
        };
    let wide = Heads { head_dim: 512, ..base };
    let full = read(config, "num_global_key_value_heads", "global_head_dim", wide)?;
    // Fewer heads of keys go with values that are keys.
    let k_is_v = config.bool("attention_k_eq_v", false)?;
    let full = if k_is_v { full } else { Heads { kv_heads: base.kv_heads, ..full } };
    let Some(layers) = config.object("per_layer_config")? else {
        return Ok(windows.iter().map(|window| if window.is_some() { base } else { full }).collect());
    };
    let each = (0..windows.len()).map(|i| {
        // Where there are more than ten layers their numbers have zeros in front, so that they sort.
        let Some(key) = layers.keys().find(|key| key.parse() == Ok(i)) else { return Ok(base) };
        let Some(own) = layers.object(key)? else { return Ok(base) };
        let heads = read(&own, "num_key_value_heads", "head_dim", base)?;
        own.finish(&[])?;
        Ok(heads)
    });
    let heads = each.collect::<Result<_, ImportError>>()?;
    layers.finish(&[])?;
    Ok(heads)
}

/// The tables of local and of full layers.
fn ropes(config: &Config<'_>) -> Result<[Rope; 2], ImportError> {
    let (local, full) = (Rope::plain(10_000.0), Rope::proportional(1_000_000.0, 0.25, 1.0));
    let Some(parameters) = config.object("rope_parameters")? else { return Ok([local, full]) };
    let read = |key: &str| -> Result<Rope, ImportError> {
        let object = parameters.object(key)?;
        let object = object.ok_or_else(|| parameters.refuse(key, "it must be an object"))?;
        if object.str("rope_type")? != Some("proportional") {
            return Rope::from_object(&object, 10_000.0, config);
        }
        let number = |key: &str, or: f64| Ok::<_, ImportError>(object.f64(key)?.unwrap_or(or));
        let (theta, part) = (number("rope_theta", 10_000.0)?, number("partial_rotary_factor", 1.0)?);
        if part > 1.0 {
            return Err(object.refuse("partial_rotary_factor", "it must be at most 1"));
        }
        let rope = Rope::proportional(theta, part, number("factor", 1.0)?);
        object.finish(&[])?;
        Ok(rope)
    };
    let both = [read("sliding_attention")?, read("full_attention")?];
    parameters.finish(&[])?;
    Ok(both)
}

/// Rows of the table of layers' vectors, where there is one; no token has those beyond the vocabulary.
fn rows_of_table(config: &Config<'_>, common: &Common) -> Result<Vec<(&'static str, usize)>, ImportError> {
    let key = "vocab_size_per_layer_input";
    if config.u32("hidden_size_per_layer_input")?.unwrap_or(0) == 0 {
        return Ok(Vec::new());
    }
    let rows = config.size_or(key, 1 << 24, 262_144)?;
    if rows < common.vocab {
        return Err(config.refuse(key, format!("every token needs a row, {} in all", common.vocab)));
    }
    Ok(vec![("per_layer.table", rows as usize)])
}

fn per_layer(config: &Config<'_>, common: &Common) -> Result<Option<PerLayer>, ImportError> {
    let Some(dim) = config.u32("hidden_size_per_layer_input")?.filter(|dim| *dim > 0) else {
        return Ok(None);
    };
    Ok(Some(PerLayer {
        dim,
        table_scale: f64::from(dim).sqrt() as f32,
        projection_scale: f64::from(common.dim).powf(-0.5) as f32,
        scale: 0.5_f64.sqrt() as f32,
        activation: Activation::GeluTanh,
    }))
}
