//! The layer of a checkpoint that guesses the token after the next, `mtp.*`.

use muse_format::Layer;

use super::super::head::{THE_MODEL, head as drafter};
use super::super::{Config, Draft, Family, Transform};
use super::{FAMILY, MOE, MOE_TEXT, TEXT, read, read_outer};
use crate::checkpoint::ImportError;

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
    let layer = layer.clone();
    let given = GIVEN.map(|(ours, theirs, transform)| (ours, theirs.to_owned(), transform));
    Ok(drafter(draft, layer, &given))
}
