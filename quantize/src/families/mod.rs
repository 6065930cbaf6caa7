//! One file per model family: `config.json` -> [`Spec`], and which tensor becomes which.
//!
//! To add a family, write its file, with a [`Family`] in it, and name it in [`FAMILIES`]. A config key that changes the
//! answer is implemented or refused; a tensor is used, known to be harmless, or refused.

mod bert;
mod common;
mod config;
mod draft;
mod embedding;
mod gemma3;
mod gemma4;
mod glm4;
mod glm4_moe;
mod glm4_moe_lite;
mod glm_moe_dsa;
mod head;
mod identity;
mod image_processor;
mod llama;
mod llama4;
mod markers;
mod mla;
mod muse_glimmer;
mod muse_glimmer_assistant;
mod muse_spark;
mod origin;
mod place;
mod qwen2;
mod qwen3;
mod qwen3_5;
mod qwen3_moe;
mod rope;
mod tensors;
#[cfg(test)]
mod tests;
mod video_processor;

use muse_format::{Role, Spec};
use serde::Serialize;
use serde_json::Value;

use self::common::{Common, LAYER, windows};
use self::config::Config;
use self::draft::{Draft, Embeds};
pub use self::identity::identity;
pub use self::markers::{ImageMarkers, Marker, VideoMarkers};
use self::origin::Named;
pub use self::origin::{Blocks, Origin, Pairs, Rows, Transform};
use self::rope::Rope;
use self::tensors::{layer_of, part_of};
use crate::checkpoint::{Checkpoint, ImportError};

const FAMILIES: [&Family; 24] = [
    &bert::FAMILY,
    &muse_glimmer::FAMILY,
    &muse_glimmer_assistant::FAMILY,
    &muse_spark::FAMILY,
    &llama::FAMILY,
    &llama4::FAMILY,
    &llama4::TEXT,
    &qwen2::FAMILY,
    &qwen3::FAMILY,
    &qwen3::EMBEDDING,
    &qwen3_moe::FAMILY,
    &qwen3_5::FAMILY,
    &qwen3_5::TEXT,
    &qwen3_5::MOE,
    &qwen3_5::MOE_TEXT,
    &gemma3::FAMILY,
    &gemma3::TEXT,
    &gemma3::EMBEDDING,
    &gemma4::FAMILY,
    &gemma4::TEXT,
    &glm4::FAMILY,
    &glm4_moe::FAMILY,
    &glm4_moe_lite::FAMILY,
    &glm_moe_dsa::FAMILY,
];

/// What drafts for a model whose checkpoint holds it: layers that guess tokens after the next.
const HEADS: [&Family; 6] = [
    &glm4_moe::HEAD,
    &glm4_moe_lite::HEAD,
    &qwen3_5::head::OF_OUTER,
    &qwen3_5::head::OF_TEXT,
    &qwen3_5::head::OF_MOE,
    &qwen3_5::head::OF_MOE_TEXT,
];

/// How a family is written down by Hugging Face.
struct Family {
    /// `model_type`.
    model_type: &'static str,
    /// `architectures[0]`.
    architecture: &'static str,
    read: fn(&Config<'_>) -> Result<Draft, ImportError>,
    /// Keys of this family that change nothing.
    harmless: &'static [&'static str],
    /// What the decoder's names begin with: `model`.
    prefix: &'static str,
    /// Our name and theirs of a layer's weights, with `*` for an expert's number, which theirs lacks where the experts
    /// of a layer lie one below the other in one tensor; biases aside: those are our name + `_bias` and `.bias` for
    /// `.weight`.
    layer: &'static [(&'static str, &'static str)],
    /// Where a layer's weight of ours is one of several that a tensor of theirs holds one below the other: which, and of
    /// how many of equal size. Matrices only.
    fused: fn(&str) -> Option<(usize, usize)>,
    /// True where rotated pairs of a head lie side by side, ours `n/2` apart.
    interleaved: bool,
    /// Whether a tensor of ours multiplies by `1 + weight`.
    centred: fn(&str) -> bool,
    /// Parts of the model that are not imported: what people call one, and what its tensors' names begin with.
    left_out: &'static [(&'static str, &'static [&'static str])],
    /// What names of tensors begin with, and what they begin with in checkpoints that were written by another version.
    spelled: &'static [(&'static str, &'static str)],
}

/// A model in our terms.
#[derive(Debug)]
pub struct Import {
    pub spec: Spec,
    /// `LlamaForCausalLM`.
    pub architecture: &'static str,
    /// In file order.
    pub tensors: Vec<Imported>,
    /// What the checkpoint holds and this import does not keep, for the person to know.
    pub left_out: Vec<LeftOut>,
    pub image_markers: Option<ImageMarkers>,
    pub video_markers: Option<VideoMarkers>,
    pub audio_markers: Option<ImageMarkers>,
}

/// A part of a checkpoint that is not imported.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// `vision`.
    pub part: &'static str,
    pub tensors: usize,
    pub weights: u64,
}

/// A tensor that the [`Spec`] asks for, and where it comes from.
#[derive(Debug)]
pub struct Imported {
    pub name: String,
    pub role: Role,
    pub rows: usize,
    pub cols: usize,
    pub origin: Origin,
}

/// Finds the family of a checkpoint and imports it by its rules; reads no tensor data.
///
/// # Errors
/// [`ImportError`] naming the architecture, key or tensor that is not understood.
pub fn import(checkpoint: &Checkpoint) -> Result<Import, ImportError> {
    import_as(find(checkpoint, &FAMILIES)?, checkpoint)
}

/// Imports the layers of a checkpoint that guess the tokens after the next, as a drafter of its model.
///
/// # Errors
/// As [`import`]; an architecture whose layers are not known is one that is not understood.
pub fn import_head(checkpoint: &Checkpoint) -> Result<Import, ImportError> {
    let import = import_as(find(checkpoint, &HEADS)?, checkpoint)?;
    // The model is in a file of its own, where the person is told of what it lacks.
    Ok(Import { left_out: Vec::new(), ..import })
}

fn import_as(family: &Family, checkpoint: &Checkpoint) -> Result<Import, ImportError> {
    let config = Config::new(&checkpoint.config);
    config.only(
        "quantization_config",
        &[],
        "start from the checkpoint that is not quantized yet, or a GGUF",
    )?;
    config.only("auto_map", &[], "the model runs code of its own, which this tool cannot know")?;
    let mut draft = (family.read)(&config)?;
    config.finish(family.harmless)?;
    if let Some((vision, read)) = draft.spec.vision.as_mut().zip(draft.read_processor) {
        read(&Config::part(&checkpoint.image_processor, "preprocessor_config.json: "), vision)?;
    }
    if let Some((vision, read)) = draft.spec.vision.as_mut().zip(draft.read_video_processor) {
        read(&Config::part(&checkpoint.video_processor, "video_preprocessor_config.json: "), vision)?;
    }
    if let Some((audio, read)) = draft.spec.audio.as_mut().zip(draft.read_extractor) {
        read(&Config::part(&checkpoint.feature_extractor, "feature_extractor: "), audio)?;
    }
    embedding::complete(&mut draft, checkpoint)?;
    draft.spec.validate()?;
    let tensors: Result<_, _> =
        draft.spec.tensors().into_iter().map(|e| family.origin(e, &draft, checkpoint)).collect();
    let tensors: Vec<Imported> = tensors?;
    let left_out = family.left_out(checkpoint, &tensors, &draft)?;
    let Draft { spec, image_markers, video_markers, audio_markers, .. } = draft;
    let architecture = family.architecture;
    Ok(Import { spec, architecture, tensors, left_out, image_markers, video_markers, audio_markers })
}

fn find(checkpoint: &Checkpoint, families: &[&'static Family]) -> Result<&'static Family, ImportError> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let model_type = checkpoint.config.get("model_type").and_then(text).unwrap_or_default();
    let list = checkpoint.config.get("architectures").and_then(Value::as_array);
    let architecture = list.and_then(|l| l.first()).and_then(text);
    let known = || families.iter().copied();
    let family = known()
        .find(|f| f.model_type == model_type && architecture.as_ref().is_none_or(|a| a == f.architecture));
    // A model that embeds may be saved as layers alone under the name of the one that it was made of.
    let bare = checkpoint.modules.is_some() && checkpoint.tensors.contains_key("embed_tokens.weight");
    let layers_alone = |f: &&Family| f.model_type == model_type && f.prefix.is_empty();
    let family = family.map(|f| if bare { known().find(layers_alone).unwrap_or(f) } else { f });
    family.ok_or_else(|| {
        let names: Vec<_> = known().map(|f| format!("{} ({})", f.architecture, f.model_type)).collect();
        let actual = format!("{} (model_type {model_type:?})", architecture.as_deref().unwrap_or("unnamed"));
        ImportError::Architecture(actual, names.join(", "))
    })
}
