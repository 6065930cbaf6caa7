//! The drafter of Muse Glimmer: layers of attention to both sides over what layers of the target gave, with weighted query
//! and key norms. It has no table and no head of its own.
//!
//! The reference implementation sees `sliding_window` positions to either side, our window counts the query itself.

use muse_format::{Activation, Attention, BlockDrafter, Drafter, Ffn, Layer, Spec};

use super::{Config, Draft, Family, LAYER, Named, Rope, windows};
use crate::checkpoint::ImportError;

pub(super) const FAMILY: Family = Family {
    model_type: "muse_glimmer_assistant",
    architecture: "MuseGlimmerAssistantModel",
    read,
    harmless: &[
        // There is neither a table nor a head.
        "tie_word_embeddings",
    ],
    prefix: "",
    layer: &LAYER,
    fused: |_| None,
    interleaved: false,
    centred: |_| false,
    left_out: &[],
    spelled: &[],
};

/// Our name and theirs of what makes keys and values of the target's layers.
const ENCODER: [(&str, &str); 2] =
    [("drafter.into", "encoder.fc.weight"), ("drafter.norm", "encoder.output_norm_enc.weight")];

fn read(config: &Config<'_>) -> Result<Draft, ImportError> {
    config.only("hidden_act", &["silu".into()], "only silu is supported")?;
    let number = |key: &str, default: u32| Ok::<_, ImportError>(config.u32(key)?.unwrap_or(default));
    let layers = config.size("num_hidden_layers", 1024)?;
    let window = number("sliding_window", 2048)?.checked_add(1);
    let window = window.ok_or_else(|| config.refuse("sliding_window", "it must be below 2^32 - 1"))?;
    let windows = windows(config, layers, Some(window), |_| true)?;
    let drafter = BlockDrafter {
        reads: config.indices("target_layer_ids")?.unwrap_or_else(|| vec![1, 13, 25, 37, 49]),
        block: number("block_size", 16)?,
        mask: number("mask_token_id", 201_818)?,
    };
    let vocab = drafter.mask.checked_add(1);
    let vocab = vocab.ok_or_else(|| config.refuse("mask_token_id", "it must be a token"))?;
    let attention = Attention {
        rope: Some(0),
        qk_norm: true,
        bidirectional: true,
        ..Attention::new(
            config.size("num_attention_heads", 4096)?,
            config.size("num_key_value_heads", 4096)?,
            config.size("head_dim", 4096)?,
        )
    };
    let ffn =
        Ffn { dim: config.size("intermediate_size", 1 << 20)?, activation: Activation::Silu, bias: false };
    let layer =
        |window| Layer { ffn: Some(ffn.clone()), ..Layer::new(Attention { window, ..attention.clone() }) };
    let norm_eps = config.f64("rms_norm_eps")?;
    let norm_eps = norm_eps.ok_or_else(|| config.refuse("rms_norm_eps", "it must be a number above zero"))?;
    let spec = Spec {
        family: "muse_glimmer_assistant".into(),
        dim: config.size("hidden_size", 1 << 20)?,
        vocab,
        context: config.size("max_position_embeddings", 1 << 27)?,
        norm_eps: norm_eps as f32,
        tied_head: true,
        ropes: 1,
        drafter: Some(Drafter::Block(drafter)),
        layers: windows.into_iter().map(layer).collect(),
        ..Spec::default()
    };
    let mut draft = Draft::new(spec, vec![Rope::from_model(config, 500_000.0)?]);
    draft.named =
        ENCODER.iter().map(|(ours, theirs)| ((*ours).into(), Named::whole((*theirs).into()))).collect();
    Ok(draft)
}
