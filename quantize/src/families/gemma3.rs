//! Gemma 3, the text model, with its tower over images in a file of its own: norms around both halves, query and key norms,
//! and local layers that have a window and a rotation table of their own.
//!
//! The embedding's factor `sqrt(hidden_size)` is the f32 one. transformers rounds it to the type that it computes in;
//! our runtime computes in f32, whatever type the weights are stored in.
//!
//! With `use_bidirectional_attention` it embeds texts, see `embedding.rs`.
//!
//! The first published configs leave out what the reference implementation fills in; so does [`common`].

pub(super) mod vision;

use muse_format::{Activation, Attention, Ffn, Layer, Spec};

use super::{Common, Config, Draft, Family, Named, Rope, windows};
use crate::checkpoint::ImportError;

/// The text model alone.
pub(super) const TEXT: Family = Family {
    model_type: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    read,
    harmless: HARMLESS,
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
    spelled: &[],
};

/// The text model beside a tower.
pub(super) const FAMILY: Family = Family {
    model_type: "gemma3",
    architecture: "Gemma3ForConditionalGeneration",
    read: |config| {
        let text = config.model("text_config")?;
        text.only("model_type", &["gemma3_text".into()], "only gemma3_text is supported")?;
        text.only("use_bidirectional_attention", &[false.into()], "only images are seen from both sides")?;
        let mut draft = read(&text)?;
        text.finish(HARMLESS)?;
        vision::read(config, &mut draft)?;
        // The reference implementation reads the outer key; the text model has one of its own.
        draft.spec.tied_head = config.bool("tie_word_embeddings", true)?;
        // It caps the logits of the text model alone.
        draft.spec.logit_softcap = None;
        let head = "language_model.lm_head.weight";
        draft.named.insert("head".into(), Named::whole(head.into()));
        if draft.spec.tied_head {
            draft.ignored.push(head.into());
        }
        Ok(draft)
    },
    // Of the other modality.
    harmless: &[
        "boi_token_index",
        "eoi_token_index",
        "image_token_id",
        "image_token_index",
        "mm_tokens_per_image",
        "vision_config",
    ],
    prefix: "language_model.model",
    left_out: &[(
        "vision",
        &["vision_tower.", "multi_modal_projector.", "model.vision_tower.", "model.multi_modal_projector."],
    )],
    // As published, as transformers 4 holds them in memory, and as transformers 5 holds a tower.
    spelled: &[
        ("language_model.model.", "model.language_model."),
        ("language_model.lm_head.", "lm_head."),
        ("vision_tower.vision_model.", "vision_tower."),
        ("vision_tower.vision_model.", "model.vision_tower.vision_model."),
        ("vision_tower.vision_model.", "model.vision_tower."),
        ("multi_modal_projector.", "model.multi_modal_projector."),
    ],
    ..TEXT
};

/// EmbeddingGemma: the layers alone, and every token sees both sides.
pub(super) const EMBEDDING: Family =
    Family { architecture: "Gemma3TextModel", prefix: "", read: read_embedding, ..TEXT };

/// The pattern behind layer_types, kept by transformers for its own use; and a key left over from Gemma 2, which the
/// reference implementation carries and does not apply.
const HARMLESS: &[&str] = &["_sliding_window_pattern", "attn_logit_softcapping"];

fn read_embedding(config: &Config<'_>) -> Result<Draft, ImportError> {
    if !config.bool("use_bidirectional_attention", false)? {
        return Err(config
            .refuse("use_bidirectional_attention", "of layers without a head only an embedding is made"));
    }
    read(config)
}

/// Sizes, and what they are where a config does not say.
fn common(config: &Config<'_>) -> Result<Common, ImportError> {
    Ok(Common {
        dim: config.size_or("hidden_size", 1 << 20, 2304)?,
        vocab: config.size_or("vocab_size", 1 << 24, 262_208)?,
        context: config.size_or("max_position_embeddings", 1 << 27, 131_072)?,
        layers: config.size_or("num_hidden_layers", 1024, 26)?,
        heads: config.size_or("num_attention_heads", 4096, 8)?,
        ffn_dim: config.size_or("intermediate_size", 1 << 20, 9216)?,
        norm_eps: config.f64("rms_norm_eps")?.unwrap_or(1e-6) as f32,
    })
}

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    let common = common(config)?;
    for key in ["hidden_activation", "hidden_act"] {
        config.only(key, &["gelu_pytorch_tanh".into()], "only gelu_pytorch_tanh is supported")?;
    }
    // Where both sides are seen, the config says how far from end to end.
    let bidirectional = config.bool("use_bidirectional_attention", false)?;
    let window = if config.is_null("sliding_window") { None } else { Some(4096) };
    let window = config.u32("sliding_window")?.or(window);
    let window = window.map(|window| if bidirectional { window / 2 + 1 } else { window });
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
    let kv_heads = config.size_or("num_key_value_heads", 4096, 4)?;
    let head_dim = config.size_or("head_dim", 4096, 256)?;
    let attention = Attention {
        scale: config.f64("query_pre_attn_scalar")?.unwrap_or(256.0).powf(-0.5) as f32,
        qk_norm: true,
        qkv_bias: bias,
        out_bias: bias,
        ..Attention::new(common.heads, kv_heads, head_dim)
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
