//! The layer of a checkpoint that guesses the token after the next, `mtp.*`, as a drafter of the model beside it.
//!
//! transformers leaves it out. That it reads the token's embedding first and then what the last norm gave, both normed, its
//! layer of attention to all, that it rotates by the position of what was given, and that it reads its own norm's output
//! from the second token on, is as vLLM and SGLang have it; see docs/models.md.

use std::collections::HashMap;

use muse_format::{ChainDrafter, Drafter, Layer, Spec};

use super::super::{Config, Draft, Family, Named, Transform};
use super::{FAMILY, MOE, MOE_TEXT, TEXT, read, read_outer};
use crate::checkpoint::ImportError;

/// Most tokens that one layer is asked for: each is proposed where those before it are right.
const CHAIN: u32 = 4;

/// Of a text model alone.
pub(in super::super) const OF_TEXT: Family = Family {
    read: |config| head(config, read(config, "qwen3_5")?),
    prefix: "mtp",
    left_out: THE_MODEL,
    ..TEXT
};

/// Of a text model beside a vision tower.
pub(in super::super) const OF_OUTER: Family = Family {
    read: |config| head(&config.model("text_config")?, read_outer(config, "qwen3_5")?),
    prefix: "mtp",
    left_out: THE_MODEL,
    ..FAMILY
};

/// Of a text model with experts alone.
pub(in super::super) const OF_MOE_TEXT: Family = Family {
    read: |config| head(config, read(config, "qwen3_5_moe")?),
    prefix: "mtp",
    left_out: THE_MODEL,
    ..MOE_TEXT
};

/// Of a text model with experts beside a vision tower.
pub(in super::super) const OF_MOE: Family = Family {
    read: |config| head(&config.model("text_config")?, read_outer(config, "qwen3_5_moe")?),
    prefix: "mtp",
    left_out: THE_MODEL,
    ..MOE
};

/// What has a file of its own.
const THE_MODEL: &[(&str, &[&str])] = &[("the model", &["model.", "lm_head."])];

/// Our name and theirs of what a layer is given.
const GIVEN: [(&str, &str, Transform); 3] = [
    ("drafter.into", "mtp.fc.weight", Transform::AsIs),
    ("drafter.norm", "mtp.pre_fc_norm_hidden.weight", Transform::AddOne),
    ("drafter.embed_norm", "mtp.pre_fc_norm_embedding.weight", Transform::AddOne),
];

/// The drafter of the model of `draft`, `text` its text model's config.
fn head(text: &Config<'_>, draft: Draft) -> Result<Draft, ImportError> {
    text.only("mtp_num_hidden_layers", &[1.into()], "only one layer that guesses is supported")?;
    let dedicated = "only the model's own table and head are supported";
    text.only("mtp_use_dedicated_embeddings", &[false.into()], dedicated)?;
    let attends = |layer: &&Layer| layer.attention().is_some();
    let layer = draft.spec.layers.iter().find(attends);
    let layer =
        layer.ok_or_else(|| text.refuse("layer_types", "a layer that guesses is of full_attention"))?;
    let spec = Spec {
        family: format!("{}_mtp", draft.spec.family),
        dim: draft.spec.dim,
        vocab: draft.spec.vocab,
        context: draft.spec.context,
        norm_eps: draft.spec.norm_eps,
        tied_head: true,
        ropes: draft.spec.ropes,
        drafter: Some(Drafter::Chain(ChainDrafter { chain: CHAIN })),
        layers: vec![layer.clone()],
        ..Spec::default()
    };
    let named = |(ours, theirs, transform): (&str, &str, Transform)| {
        (ours.to_owned(), Named { transform, ..Named::whole(theirs.into()) })
    };
    let named: HashMap<_, _> = GIVEN.into_iter().map(named).collect();
    let Draft { ropes, alternating, aliases, .. } = draft;
    Ok(Draft { alternating, aliases, named, ..Draft::new(spec, ropes) })
}
