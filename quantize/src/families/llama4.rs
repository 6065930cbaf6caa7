//! Llama 4: attention by chunks on the layers that rotate, queries that grow with their positions on those that do not, and
//! on some or all layers one expert for each token, which reads as much of it as its score says, beside a shared one.
//!
//! Queries and keys are normed after rotation, without weights; rotation does not change what the norm divides by, so it is
//! done before. The tower over images is left out where no prompt can hold its token, which the person is told.

pub(super) mod vision;

use muse_format::{Activation, Attention, Experts, Ffn, Layer, Score, Temperature};

use super::{Common, Config, Draft, Family, Named, Rope, Transform};
use crate::checkpoint::ImportError;

/// The text model alone.
pub(super) const TEXT: Family = Family {
    model_type: "llama4_text",
    architecture: "Llama4ForCausalLM",
    read,
    harmless: HARMLESS,
    prefix: "model",
    layer: &[
        ("attn.norm", "input_layernorm.weight"),
        ("attn.q", "self_attn.q_proj.weight"),
        ("attn.k", "self_attn.k_proj.weight"),
        ("attn.v", "self_attn.v_proj.weight"),
        ("attn.out", "self_attn.o_proj.weight"),
        ("ffn.norm", "post_attention_layernorm.weight"),
        ("ffn.gate", "feed_forward.gate_proj.weight"),
        ("ffn.up", "feed_forward.up_proj.weight"),
        ("ffn.down", "feed_forward.down_proj.weight"),
        ("shared.gate", "feed_forward.shared_expert.gate_proj.weight"),
        ("shared.up", "feed_forward.shared_expert.up_proj.weight"),
        ("shared.down", "feed_forward.shared_expert.down_proj.weight"),
        ("experts.router", "feed_forward.router.weight"),
        ("experts.*.gate", "feed_forward.experts.gate_up_proj"),
        ("experts.*.up", "feed_forward.experts.gate_up_proj"),
        ("experts.*.down", "feed_forward.experts.down_proj"),
    ],
    fused: |part| match part.strip_prefix("experts.")?.split_once('.')? {
        (_, "gate") => Some((0, 2)),
        (_, "up") => Some((1, 2)),
        _ => None,
    },
    interleaved: true,
    centred: |_| false,
    left_out: &[],
    spelled: &[],
};

/// The text model beside a tower.
pub(super) const FAMILY: Family = Family {
    model_type: "llama4",
    architecture: "Llama4ForConditionalGeneration",
    read: |config| {
        let text = config.model("text_config")?;
        text.only("model_type", &["llama4_text".into()], "only llama4_text is supported")?;
        let mut draft = read(&text)?;
        text.finish(HARMLESS)?;
        vision::read(config, &mut draft)?;
        let tied = draft.spec.tied_head;
        let head = "language_model.lm_head.weight";
        draft.named.insert("head".into(), Named::whole(head.into()));
        if tied {
            draft.ignored.push(head.into());
        }
        Ok(draft)
    },
    // Of the other modality; the reference implementation ties what the text model's own key says.
    harmless: &[
        "boi_token_index",
        "eoi_token_index",
        "image_token_index",
        "tie_word_embeddings",
        "vision_config",
    ],
    prefix: "language_model.model",
    left_out: &[("vision", &["vision_model.", "multi_modal_projector."])],
    ..TEXT
};

/// Of training, and of compressing a checkpoint.
const HARMLESS: &[&str] =
    &["for_llm_compressor", "output_router_logits", "router_aux_loss_coef", "router_jitter_noise"];

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = Common::with_ffn(config, "intermediate_size_mlp")?;
    config.only("hidden_act", &["silu".into()], "only silu is supported")?;
    let rotates = rotates(config, common.layers)?;
    let chunks = chunks(config, &rotates)?;
    let temperature = temperature(config)?;
    let experts = experts(config)?;
    let sparse = sparse(config, common.layers)?;
    let norm = config.bool("use_qk_norm", true)?;
    let bias = config.bool("attention_bias", false)?;
    let kv_heads = config.u32("num_key_value_heads")?.unwrap_or(common.heads);
    let attention = Attention {
        qkv_bias: bias,
        out_bias: bias,
        ..Attention::new(common.heads, kv_heads, common.head_dim(config)?)
    };
    let layer = |i: usize| {
        let dim = if sparse[i] { experts.dim } else { common.ffn_dim };
        Layer {
            ffn: Some(Ffn { dim, activation: Activation::Silu, bias: false }),
            experts: sparse[i].then(|| experts.clone()),
            ..Layer::new(Attention {
                rope: rotates[i].then_some(0),
                qk_norm: norm && rotates[i],
                chunk: chunks[i],
                temperature: temperature.filter(|_| !rotates[i]),
                ..attention.clone()
            })
        }
    };
    let layers = (0..rotates.len()).map(layer).collect();
    let rope = Rope::from_model(config, 500_000.0)?;
    let mut draft = common.draft_with(config, "llama4", layers, rope)?;
    if !rotates.contains(&true) {
        draft.spec.ropes = 0;
    }
    draft.constants = vec![("attn.q_norm", 1.0), ("attn.k_norm", 1.0)];
    let transposed = Transform::Transpose { first: 0 };
    draft.transforms =
        ["experts.*.gate", "experts.*.up", "experts.*.down"].map(|part| (part, transposed)).to_vec();
    // A shared expert is a feed-forward of ours under a name of theirs.
    draft.aliases = (0..sparse.len())
        .filter(|i| sparse[*i])
        .flat_map(|i| {
            ["gate", "up", "down"].map(|of| (format!("l{i}.ffn.{of}"), format!("l{i}.shared.{of}")))
        })
        .collect();
    Ok(draft)
}

/// Whether each layer rotates: all but every so many, where no list says so.
fn rotates(config: &Config<'_>, layers: u32) -> Result<Vec<bool>, ImportError> {
    let interval = config.size_or("no_rope_layer_interval", 1 << 20, 4)?;
    match config.indices("no_rope_layers")?.filter(|list| !list.is_empty()) {
        None => Ok((0..layers).map(|i| !(i + 1).is_multiple_of(interval)).collect()),
        Some(list) if list.len() == layers as usize => Ok(list.iter().map(|rotates| *rotates != 0).collect()),
        Some(_) => Err(config.refuse("no_rope_layers", format!("it must hold {layers} numbers"))),
    }
}

/// The chunk of each layer: of those that rotate, where `layer_types` does not say.
fn chunks(config: &Config<'_>, rotates: &[bool]) -> Result<Vec<Option<u32>>, ImportError> {
    let chunked = match config.strings("layer_types")? {
        None => rotates.to_vec(),
        Some(types) => {
            let known = types.iter().map(|kind| match *kind {
                "chunked_attention" => Some(true),
                "full_attention" => Some(false),
                _ => None,
            });
            let known: Option<Vec<bool>> = known.collect();
            known.filter(|known| known.len() == rotates.len()).ok_or_else(|| {
                let rule =
                    format!("it must hold {} times chunked_attention or full_attention", rotates.len());
                config.refuse("layer_types", rule)
            })?
        }
    };
    let chunk = match chunked.contains(&true) {
        true => Some(config.size("attention_chunk_size", 1 << 27)?),
        false => config.u32("attention_chunk_size")?,
    };
    Ok(chunked.iter().map(|chunked| chunk.filter(|_| *chunked)).collect())
}

fn temperature(config: &Config<'_>) -> Result<Option<Temperature>, ImportError> {
    let wanted = config.bool("attn_temperature_tuning", true)?;
    let every = config.size_or("floor_scale", 1 << 27, 8192)?;
    let strength = config.f64("attn_scale")?.unwrap_or(0.1) as f32;
    Ok(wanted.then_some(Temperature { every, strength }))
}

fn experts(config: &Config<'_>) -> Result<Experts, ImportError> {
    let count = config.size("num_local_experts", 4096)?;
    let used = config.size("num_experts_per_tok", count)?;
    Ok(Experts {
        score: Score::Sigmoid,
        weigh_input: true,
        ..Experts::new(count, used, config.size("intermediate_size", 1 << 20)?)
    })
}

/// Whether each layer has experts: those that `moe_layers` lists, else every so many.
fn sparse(config: &Config<'_>, layers: u32) -> Result<Vec<bool>, ImportError> {
    let step = config.size_or("interleave_moe_layer_step", 1 << 20, 1)?;
    let Some(list) = config.indices("moe_layers")? else {
        return Ok((0..layers).map(|i| (i + 1).is_multiple_of(step)).collect());
    };
    if list.iter().any(|i| *i >= layers) {
        return Err(config.refuse("moe_layers", format!("there are {layers} layers, counted from 0")));
    }
    Ok((0..layers).map(|i| list.contains(&i)).collect())
}
