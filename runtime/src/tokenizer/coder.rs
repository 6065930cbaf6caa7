//! A `tokenizer.json` on the way from text to ids: the library's steps, but for those whose time a pattern decides.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{
    AddedToken, Encoding, Model, NormalizedString, Normalizer, NormalizerWrapper, OffsetType,
    PreTokenizedString, PreTokenizer, PreTokenizerWrapper, SplitDelimiterBehavior, Tokenizer,
};

use super::added::check_added;
use super::cut::{Cut, Watched};
use super::growth::{growth_of, piece_max, text_max};
use super::watch::Watch;
use super::{check_len, guarded};
use crate::TextError;

/// Bytes of a `tokenizer.json`; the largest in use are about 35 MiB.
const JSON_MAX: usize = 256 << 20;
/// Bytes of a prompt: four bytes a token fill a context of two million.
const TEXT_MAX: usize = 8 << 20;
/// Time for a text, or all texts of a call. A MiB takes a second, and on a small board a few.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(15);
/// Patterns of a tokenizer; those in use have four at most.
const PATTERNS_MAX: usize = 16;

/// GPT-2's pattern, which a step of the library has built in.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

pub(super) struct Coder {
    pub(super) tokenizer: Tokenizer,
    /// Bytes of a text.
    pub(super) text_max: usize,
    /// Bytes of a piece of it that the model takes.
    piece_max: usize,
    pub(super) time_max: Duration,
    normal: Vec<Normal>,
    pieces: Vec<Pieces>,
}

/// A step that changes a text.
enum Normal {
    Replace { cut: Arc<Cut>, content: String },
    Library(NormalizerWrapper),
}

/// A step that cuts a text in pieces.
enum Pieces {
    /// With a space in front where `space` is set.
    Cut {
        cut: Arc<Cut>,
        space: bool,
        behavior: SplitDelimiterBehavior,
        invert: bool,
    },
    Library(PreTokenizerWrapper),
}

/// Patterns by their text.
type Cuts = BTreeMap<String, Arc<Cut>>;

impl Coder {
    /// # Errors
    /// [`TextError::Tokenizer`] where the JSON is too large, is not a tokenizer, or has a step whose work or memory has no bound.
    pub(super) fn new(json: &[u8]) -> Result<Self, TextError> {
        if json.len() > JSON_MAX {
            let problem = format!("it is {} bytes; at most {JSON_MAX} are taken", json.len());
            return Err(TextError::Tokenizer(problem));
        }
        let read = || {
            // Before the library compiles any.
            let mut cuts = cuts(json)?;
            let (mut normal, mut pieces) = (Vec::new(), Vec::new());
            check_first(json, &mut cuts, &mut normal)?;
            let mut tokenizer = Tokenizer::from_bytes(json)?;
            // Publishers leave in it how they last called it.
            tokenizer.with_padding(None).with_truncation(None)?;
            let (text_max, piece_max) = (text_max(&tokenizer, TEXT_MAX)?, piece_max(&tokenizer));
            if let Some(step) = tokenizer.get_pre_tokenizer() {
                add_pieces(step, &mut cuts, &mut pieces)?;
            }
            Ok(Self { tokenizer, text_max, piece_max, time_max: TIME_MAX, normal, pieces })
        };
        guarded(read).map_err(TextError::Tokenizer)
    }

    /// When a text that is begun now is given up.
    pub(super) fn end(&self) -> Instant {
        Instant::now() + self.time_max
    }

    /// What `text` becomes until `end`, without the frame around it. `edit` changes the pieces once added tokens are cut out.
    ///
    /// # Errors
    /// [`TextError::TooLong`], [`TextError::TooSlow`], and [`TextError::Encode`] where the library fails.
    pub(super) fn encoding(
        &self,
        text: &str,
        end: Instant,
        edit: impl FnOnce(&mut PreTokenizedString) -> tokenizers::Result<()>,
    ) -> Result<Encoding, TextError> {
        check_len(text.len(), self.text_max)?;
        let watch = Watch::new(end);
        let encoded = guarded(|| {
            let vocabulary = self.tokenizer.get_added_vocabulary();
            let normalizer = Normalizing { steps: &self.normal, watch: &watch };
            let normalizer = Some(&normalizer).filter(|normalizer| !normalizer.steps.is_empty());
            let mut pieces = vocabulary.extract_and_normalize(normalizer, text);
            // The library does not tell.
            watch.look()?;
            edit(&mut pieces)?;
            for step in &self.pieces {
                watch.look()?;
                step.cut(&mut pieces, &watch)?;
            }
            let model = self.tokenizer.get_model();
            pieces.tokenize(|piece| {
                let piece = piece.get();
                if piece.len() > self.piece_max {
                    let (bytes, most) = (piece.len(), self.piece_max);
                    return Err(format!("a piece of {bytes} bytes; at most {most} are taken").into());
                }
                watch.steps(piece.len())?;
                model.tokenize(piece)
            })?;
            pieces.into_encoding(None, 0, OffsetType::None)
        });
        let too_slow = TextError::TooSlow { bytes: text.len(), seconds: self.time_max.as_secs() };
        encoded.map_err(|problem| if watch.is_over() { too_slow } else { TextError::Encode(problem) })
    }
}

/// Takes the steps of a normalizer and looks at what the library puts through it as it reads a tokenizer.
fn check_first(json: &[u8], cuts: &mut Cuts, normal: &mut Vec<Normal>) -> tokenizers::Result<()> {
    #[derive(Deserialize)]
    struct First {
        normalizer: Option<NormalizerWrapper>,
        #[serde(default)]
        added_tokens: Vec<AddedToken>,
    }
    let First { normalizer, added_tokens } = serde_json::from_slice(json)?;
    if let Some(step) = &normalizer {
        add_normal(step, cuts, normal)?;
    }
    let normalizing = Normalizing { steps: normal, watch: &Watch::new(Instant::now() + TIME_MAX) };
    check_added(&added_tokens, growth_of(normalizer.as_ref())?, |text| normalizing.normalize(text))
}

/// The patterns of all steps.
fn cuts(json: &[u8]) -> Result<Cuts, String> {
    #[derive(Deserialize)]
    struct Steps {
        #[serde(default)]
        normalizer: Value,
        #[serde(default)]
        pre_tokenizer: Value,
        #[serde(default)]
        decoder: Value,
    }
    let steps: Steps = serde_json::from_slice(json).map_err(|error| error.to_string())?;
    let mut cuts = Cuts::new();
    let mut left = vec![&steps.normalizer, &steps.pre_tokenizer, &steps.decoder];
    while let Some(value) = left.pop() {
        match value {
            Value::Array(items) => left.extend(items),
            Value::Object(fields) => {
                if let Some(pattern) = fields.get("Regex").and_then(Value::as_str) {
                    cut(pattern, &mut cuts)?;
                }
                left.extend(fields.values());
            }
            _ => {}
        }
    }
    Ok(cuts)
}

fn cut(pattern: &str, cuts: &mut Cuts) -> Result<Arc<Cut>, String> {
    if let Some(cut) = cuts.get(pattern) {
        return Ok(Arc::clone(cut));
    }
    if cuts.len() == PATTERNS_MAX {
        return Err(format!("it has more than {PATTERNS_MAX} patterns, the most that are taken"));
    }
    let cut = Arc::new(Cut::new(pattern)?);
    cuts.insert(pattern.to_owned(), Arc::clone(&cut));
    Ok(cut)
}

fn add_normal(step: &NormalizerWrapper, cuts: &mut Cuts, out: &mut Vec<Normal>) -> tokenizers::Result<()> {
    match step {
        NormalizerWrapper::Sequence(steps) => {
            return steps.as_ref().iter().try_for_each(|step| add_normal(step, cuts, out));
        }
        NormalizerWrapper::Replace(replace) => {
            // Its pattern is told in no other way.
            let json = serde_json::to_value(replace)?;
            match json["pattern"]["Regex"].as_str() {
                Some(pattern) => {
                    let content = replace.content.clone();
                    out.push(Normal::Replace { cut: cut(pattern, cuts)?, content });
                }
                None => out.push(Normal::Library(step.clone())),
            }
        }
        _ => out.push(Normal::Library(step.clone())),
    }
    Ok(())
}

fn add_pieces(step: &PreTokenizerWrapper, cuts: &mut Cuts, out: &mut Vec<Pieces>) -> tokenizers::Result<()> {
    match step {
        PreTokenizerWrapper::Sequence(steps) => {
            return steps.as_ref().iter().try_for_each(|step| add_pieces(step, cuts, out));
        }
        PreTokenizerWrapper::Split(Split {
            pattern: SplitPattern::Regex(pattern), behavior, invert, ..
        }) => {
            out.push(Pieces::Cut {
                cut: cut(pattern, cuts)?,
                space: false,
                behavior: *behavior,
                invert: *invert,
            });
        }
        PreTokenizerWrapper::ByteLevel(bytes) if bytes.use_regex => {
            let (space, behavior) = (bytes.add_prefix_space, SplitDelimiterBehavior::Isolated);
            out.push(Pieces::Cut { cut: cut(GPT2, cuts)?, space, behavior, invert: false });
            let letters = ByteLevel::new(false, bytes.trim_offsets, false);
            out.push(Pieces::Library(PreTokenizerWrapper::ByteLevel(letters)));
        }
        _ => out.push(Pieces::Library(step.clone())),
    }
    Ok(())
}

impl Pieces {
    fn cut(&self, pieces: &mut PreTokenizedString, watch: &Watch) -> tokenizers::Result<()> {
        match self {
            Self::Cut { cut, space, behavior, invert } => pieces.split(|_, mut piece| {
                if *space && !piece.get().starts_with(' ') {
                    piece.prepend(" ");
                }
                piece.split(Watched { cut, invert: *invert, watch }, *behavior)
            }),
            Self::Library(step) => step.pre_tokenize(pieces),
        }
    }
}

struct Normalizing<'a> {
    steps: &'a [Normal],
    watch: &'a Watch,
}

impl Normalizer for Normalizing<'_> {
    fn normalize(&self, text: &mut NormalizedString) -> tokenizers::Result<()> {
        for step in self.steps {
            self.watch.look()?;
            match step {
                Normal::Replace { cut, content } => {
                    text.replace(Watched { cut, invert: false, watch: self.watch }, content)?;
                }
                Normal::Library(step) => step.normalize(text)?,
            }
        }
        Ok(())
    }
}
