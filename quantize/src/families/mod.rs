//! One file per model family: `config.json` -> [`Spec`], and which tensor becomes which.
//!
//! To add a family, write its file, with a [`Family`] in it, and name it in [`FAMILIES`]. A config key that changes the
//! answer is implemented or refused; a tensor is used, known to be harmless, or refused.

mod bert;
mod common;
mod config;
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
#[cfg(test)]
mod tests;
mod video_processor;

use std::collections::{HashMap, HashSet};
use std::iter;

use muse_format::{Audio, Expected, Layer, Role, Spec, Vision};
use serde::Serialize;
use serde_json::Value;

use self::common::{Common, LAYER, windows};
use self::config::Config;
pub use self::identity::identity;
use self::origin::Named;
pub use self::origin::{Blocks, Origin, Pairs, Rows, Transform};
use self::place::{Place, of_any_expert};
use self::rope::Rope;
use crate::checkpoint::{Checkpoint, ImportError, TensorSource};

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

/// Changes what a tower says of pixels.
type ReadProcessor = fn(&Config<'_>, &mut Vision) -> Result<(), ImportError>;

/// Changes what a tower says of samples.
type ReadExtractor = fn(&Config<'_>, &mut Audio) -> Result<(), ImportError>;

/// What a family makes of a config.
struct Draft {
    spec: Spec,
    ropes: Vec<Rope>,
    /// Vectors that no checkpoint holds: our name, a layer's number aside, and what each element is.
    constants: Vec<(&'static str, f32)>,
    /// Tensors of ours that are made of what another is made of, and which.
    aliases: HashMap<String, String>,
    /// What becomes of the values of a layer's tensors where it is not what [`Family::centred`] says: our name, a layer's
    /// number aside, and what.
    transforms: Vec<(&'static str, Transform)>,
    /// Matrices of a layer that theirs hold in turns, each in blocks of equal size: our name, which of how many, and the
    /// outputs of a block.
    alternating: Vec<(&'static str, [usize; 2], usize)>,
    /// Matrices that are the first rows of a longer one of theirs: our name, and how many rows theirs has.
    longer: Vec<(&'static str, usize)>,
    /// Tensors of theirs that the reference implementation does not use, by the names that ours would have.
    unused: Vec<String>,
    /// Tensors that the family's rules for a decoder do not name, by our names.
    named: HashMap<String, Named>,
    /// Tensors that are some rows of one of theirs, by our names.
    parts: HashMap<String, mla::Part>,
    /// Tensors outside the decoder that no checkpoint holds.
    computed: HashMap<String, Vec<f32>>,
    image_markers: Option<ImageMarkers>,
    video_markers: Option<VideoMarkers>,
    /// Takes from `preprocessor_config.json` how an image becomes patches.
    read_processor: Option<ReadProcessor>,
    /// Takes from `video_preprocessor_config.json` which frames become patches, and of what size.
    read_video_processor: Option<ReadProcessor>,
    audio_markers: Option<ImageMarkers>,
    /// Takes from the settings of a feature extractor how a sound becomes samples.
    read_extractor: Option<ReadExtractor>,
    /// Tensors of theirs that an answer does not depend on, by their own names.
    ignored: Vec<String>,
    /// What the names of tensors begin with of which every one is used, or ignored.
    whole: Option<String>,
    /// Whether the model makes vectors of texts.
    embeds: Embeds,
}

/// Whether a model makes vectors of texts, and writes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Embeds {
    /// Where its tokens see both sides, but for a drafter.
    Bidirectional,
    /// Where sentence-transformers' files are beside it.
    WithModules,
    /// It has layers alone.
    Always,
}

impl Draft {
    fn new(spec: Spec, ropes: Vec<Rope>) -> Self {
        Self {
            spec,
            ropes,
            constants: Vec::new(),
            aliases: HashMap::new(),
            transforms: Vec::new(),
            alternating: Vec::new(),
            longer: Vec::new(),
            unused: Vec::new(),
            named: HashMap::new(),
            parts: HashMap::new(),
            computed: HashMap::new(),
            image_markers: None,
            video_markers: None,
            read_processor: None,
            read_video_processor: None,
            audio_markers: None,
            read_extractor: None,
            ignored: Vec::new(),
            whole: None,
            embeds: Embeds::Bidirectional,
        }
    }
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

/// The tokens that a prompt has for an image or a sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageMarkers {
    /// The config's key that says `token`.
    pub key: &'static str,
    /// For each of its vectors.
    pub token: Marker,
    /// What a template writes for all of it, where that is another.
    pub written: Option<Marker>,
    /// In front of them and behind them, where the template does not write those.
    pub around: Option<[Marker; 2]>,
    /// Behind a tile beside another, behind a row of them, and in front of all of it in one.
    pub tiles: Option<[Marker; 3]>,
    /// Whether an empty line stands in front of it and behind it.
    pub lines: bool,
}

impl ImageMarkers {
    /// Those of what a template writes as one of its vectors' tokens, and which is whole.
    fn new(key: &'static str, token: Marker, around: Option<[Marker; 2]>) -> Self {
        Self { key, token, written: None, around, tiles: None, lines: false }
    }
}

/// A token, as a family knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    Text(&'static str),
    /// As the config says.
    Id(u32),
}

/// The tokens that a prompt has for a video, by text; see [`muse_format::VideoText`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoMarkers {
    pub token: &'static str,
    pub begin: Option<&'static str>,
    pub time: [&'static str; 2],
    pub middle: bool,
    pub before: Option<&'static str>,
    pub after: Option<&'static str>,
    pub between: Option<&'static str>,
    pub end: Option<&'static str>,
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

impl Family {
    fn origin(
        &self,
        expected: Expected,
        draft: &Draft,
        checkpoint: &Checkpoint,
    ) -> Result<Imported, ImportError> {
        let Expected { name, rows, cols, role } = expected;
        let rows = usize::try_from(rows).expect("bounded by Spec::validate");
        let cols = usize::try_from(cols).expect("bounded by Spec::validate");
        if let Some(index) = name.strip_prefix("rope.") {
            let index: u32 = index.parse().expect("Spec::tensors numbers its tables");
            let mut rotations = draft.spec.layers.iter().filter_map(Layer::rotation);
            let (_, width) = rotations.find(|(table, _)| *table == index).expect("a table has a user");
            let values = draft.ropes[index as usize].frequencies(width);
            let values = values.ok_or_else(|| ImportError::Config {
                key: "rope_scaling.factors".into(),
                value: "a shorter list".into(),
                rule: format!("a head of {width} needs {} factors", width / 2),
            })?;
            return Ok(Imported { name, role, rows, cols: values.len(), origin: Origin::Computed(values) });
        }
        if let Some(values) = draft.computed.get(&name) {
            return Ok(Imported { name, role, rows, cols, origin: Origin::Computed(values.clone()) });
        }
        if let Some(Named { theirs, of, rows: from, transform }) = draft.named.get(&name) {
            let (theirs, source) = self.find(checkpoint, theirs)?;
            let expected = match transform {
                Transform::Transpose { .. } => (cols, rows),
                _ if rows == 1 => (rows, of * cols),
                _ => (of * rows, cols),
            };
            if source.shape() != expected {
                return Err(ImportError::Shape { name: theirs.clone(), actual: source.shape(), expected });
            }
            let origin = Origin::Tensor { name: theirs.clone(), rows: *from, transform: *transform };
            return Ok(Imported { name, role, rows, cols, origin });
        }
        if let Some(part) = draft.parts.get(&name) {
            let (theirs, source) = self.find(checkpoint, &part.theirs)?;
            if source.shape() != part.shape {
                let (name, actual, expected) = (theirs.clone(), source.shape(), part.shape);
                return Err(ImportError::Shape { name, actual, expected });
            }
            let origin = Origin::Tensor { name: theirs.clone(), rows: part.rows, transform: part.transform };
            return Ok(Imported { name, role, rows, cols, origin });
        }
        if let Some((_, value)) = draft.constants.iter().find(|(part, _)| *part == part_of(&name)) {
            return Ok(Imported { name, role, rows, cols, origin: Origin::Computed(vec![*value; cols]) });
        }
        let mut theirs = self.their_name(draft.aliases.get(&name).unwrap_or(&name));
        let mut place = self.place(&name, draft);
        // Whoever trained a model further may have saved its experts one by one; a GGUF's are read that way.
        let apart = self.expert_apart(&name).filter(|apart| checkpoint.tensors.contains_key(apart));
        let is_apart = apart.is_some();
        if let Some(apart) = apart {
            (theirs, place) = (apart, Place::ALONE);
        }
        let (theirs, source) = self.find(checkpoint, &theirs)?;
        let first = (place.expert * place.of + place.index) * rows;
        let mut from = Rows { first, pairs: self.pairs(&name, draft), ..Rows::default() };
        if let Some((_, [index, of], len)) = draft.alternating.iter().find(|(p, ..)| *p == part_of(&name)) {
            place.of = *of;
            from = Rows {
                first: index * len,
                blocks: Some(Blocks { len: *len, every: of * len }),
                ..Rows::default()
            };
        }
        let part = of_any_expert(part_of(&name));
        let own = draft.transforms.iter().find(|(own, _)| *own == part).map(|(_, own)| *own);
        let own = own.filter(|own| !(is_apart && matches!(own, Transform::Transpose { .. })));
        let add_one = (self.centred)(&name) && !checkpoint.norms_hold_one;
        let mut transform = own.unwrap_or(if add_one { Transform::AddOne } else { Transform::AsIs });
        let longer = draft.longer.iter().find(|(ours, _)| *ours == name).map(|(_, rows)| *rows);
        let mut expected = (longer.unwrap_or(place.experts * place.of * rows), cols);
        if let Transform::Transpose { first } = &mut transform {
            // Experts lie one below the other, what is fused side by side.
            expected = (place.experts * cols, place.of * rows);
            (*first, from.first) = (place.expert * cols, place.index * rows);
        }
        if source.shape() != expected {
            return Err(ImportError::Shape { name: theirs.clone(), actual: source.shape(), expected });
        }
        let origin = Origin::Tensor { name: theirs.clone(), rows: from, transform };
        Ok(Imported { name, role, rows, cols, origin })
    }

    /// The tensor of the name `theirs`, and how this checkpoint spells it.
    fn find<'a>(
        &self,
        checkpoint: &'a Checkpoint,
        theirs: &str,
    ) -> Result<(&'a String, &'a dyn TensorSource), ImportError> {
        let spelled = self.spelled.iter();
        let others = spelled.filter_map(|(from, to)| Some(format!("{to}{}", theirs.strip_prefix(from)?)));
        let mut names = iter::once(theirs.to_owned()).chain(others);
        names
            .find_map(|name| checkpoint.tensors.get_key_value(&name))
            .map(|(name, source)| (name, source.as_ref()))
            .ok_or_else(|| ImportError::MissingTensor(theirs.to_owned()))
    }

    /// How the pairs of our tensor `name` lie in the source, where they are to be moved.
    fn pairs(&self, name: &str, draft: &Draft) -> Option<Pairs> {
        let part = part_of(name).trim_end_matches("_bias");
        if !self.interleaved || !matches!(part, "attn.q" | "attn.k" | "attn.q_norm" | "attn.k_norm") {
            return None;
        }
        let attention = draft.spec.layers[layer_of(name)?].attention()?;
        let rope = &draft.ropes[attention.rope? as usize];
        let (head_dim, rotated) = (attention.head_dim as usize, rope.rotated(attention.head_dim) as usize);
        Some(Pairs { head_dim, rotated })
    }

    fn their_name(&self, ours: &str) -> String {
        let prefix = if self.prefix.is_empty() { String::new() } else { format!("{}.", self.prefix) };
        match ours {
            "embed" => return format!("{prefix}embed_tokens.weight"),
            "norm" => return format!("{prefix}norm.weight"),
            "per_layer.table" => return format!("{prefix}embed_tokens_per_layer.weight"),
            "per_layer.projection" => return format!("{prefix}per_layer_model_projection.weight"),
            "per_layer.norm" => return format!("{prefix}per_layer_projection_norm.weight"),
            "head" => return "lm_head.weight".into(),
            _ => {}
        }
        let (layer, part) = ours.strip_prefix('l').and_then(|o| o.split_once('.')).expect("l<i>.<part>");
        let (part, expert) = match part.split('.').collect::<Vec<_>>()[..] {
            ["experts", expert, of] => (format!("experts.*.{of}"), expert),
            _ => (part.to_owned(), ""),
        };
        let find = |part: &str| self.layer.iter().find(|(ours, _)| *ours == part).map(|(_, theirs)| *theirs);
        let named = find(&part).map(|theirs| (theirs, false));
        let weight = part.strip_suffix("_bias").and_then(find).map(|theirs| (theirs, true));
        let (theirs, bias) = named.or(weight).expect("a family names every part it asks for");
        let theirs = theirs.replace('*', expert);
        let theirs = if bias { theirs.replace(".weight", ".bias") } else { theirs };
        format!("{prefix}layers.{layer}.{theirs}")
    }

    /// What of the checkpoint is not used, all of which must be known.
    fn left_out(
        &self,
        checkpoint: &Checkpoint,
        tensors: &[Imported],
        draft: &Draft,
    ) -> Result<Vec<LeftOut>, ImportError> {
        let origin_name = |t: &'_ Imported| match &t.origin {
            Origin::Tensor { name, .. } => Some(name.clone()),
            Origin::Computed(_) => None,
        };
        let used: HashSet<String> = tensors.iter().filter_map(origin_name).collect();
        // A buffer that old versions saved and that is computed again; and the head of a tied model, which is the table.
        let unused: HashSet<String> = draft.unused.iter().map(|ours| self.their_name(ours)).collect();
        let tied = draft.spec.tied_head;
        let harmless = |name: &str| {
            name.ends_with("rotary_emb.inv_freq")
                || (tied && name == "lm_head.weight")
                || unused.contains(name)
                || draft.ignored.iter().any(|ignored| ignored == name)
        };
        let mut parts: Vec<LeftOut> = Vec::new();
        for (name, source) in &checkpoint.tensors {
            if used.contains(name) || harmless(name) {
                continue;
            }
            let holds = |prefixes: &[&str]| prefixes.iter().any(|prefix| name.starts_with(prefix));
            // Of a tower that is imported every tensor is.
            let imported = |part: &str| match part {
                "vision" => draft.spec.vision.is_some(),
                "audio" => draft.spec.audio.is_some(),
                _ => false,
            };
            let whole = draft.whole.as_ref().is_some_and(|whole| name.starts_with(whole));
            let mut left_out = self.left_out.iter().filter(|(part, _)| !imported(part) && !whole);
            let Some((part, _)) = left_out.find(|(_, prefixes)| holds(prefixes)) else {
                return Err(ImportError::UnknownTensor(name.clone()));
            };
            let (rows, cols) = source.shape();
            let weights = rows as u64 * cols as u64;
            match parts.iter_mut().find(|left| left.part == *part) {
                Some(left) => (left.tensors, left.weights) = (left.tensors + 1, left.weights + weights),
                None => parts.push(LeftOut { part, tensors: 1, weights }),
            }
        }
        Ok(parts)
    }
}

/// `l12.attn.q` -> 12.
fn layer_of(name: &str) -> Option<usize> {
    name.strip_prefix('l')?.split('.').next()?.parse().ok()
}

/// `l12.attn.q` -> `attn.q`; others as they are.
fn part_of(name: &str) -> &str {
    match name.strip_prefix('l').and_then(|rest| rest.split_once('.')) {
        Some((layer, part)) if layer.bytes().all(|b| b.is_ascii_digit()) => part,
        _ => name,
    }
}
