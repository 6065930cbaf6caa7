//! What others wrote, seen one way: a [`Checkpoint`] has Hugging Face names and keys whatever its file format.
//!
//! `safetensors.rs` reads a Hugging Face folder, `gguf/` reads a GGUF and translates its names and metadata. Both
//! read hostile input: every length is checked before it is used, and memory is bounded by what the file holds.

pub mod gguf;
pub mod safetensors;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use serde_json::{Map, Value};

/// How a source stores a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Native {
    F32,
    F16,
    Bf16,
    /// Groups of 32 along the columns whose integers [`TensorSource::groups`] gives exactly, with their f16 scales.
    Groups(GroupKind),
    /// Anything else, readable as f32 only; the name is for messages (`Q6_K`).
    Other(&'static str),
}

/// Group-of-32 formats that a `.muse` layout can hold bit for bit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupKind {
    /// `w = q * scale`, `q` in `-128..=127` (GGUF Q8_0, Q5_0).
    Q8,
    /// `w = q * scale`, `q` in `-8..=7` (GGUF Q4_0).
    Q4,
    /// `w = q * scale + offset`, `q` in `0..=15` (GGUF Q4_1; Q4_K with its scales rounded to f16).
    Q4Asym,
    /// `w = q * scale`, `q` of [`muse_format::CODEBOOK`] (GGUF IQ4_NL; IQ4_XS with its scales rounded to f16).
    Q4Codebook,
}

/// 32 weights of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// f16 bits.
    pub scale: u16,
    /// f16 bits; 0 but for [`GroupKind::Q4Asym`].
    pub offset: u16,
    pub quants: [i8; 32],
}

/// One tensor of a checkpoint, read by rows so that no tensor has to fit in memory twice.
pub trait TensorSource: Send + Sync {
    /// A matrix is `(out_features, in_features)`; a vector is `(1, n)`.
    fn shape(&self) -> (usize, usize);

    fn native(&self) -> Native;

    /// The f32 values of `rows`, row-major, into `out` of `rows.len() * cols`.
    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ImportError>;

    /// The f32 values of `cols` of `rows`, row-major, into `out` of `rows.len() * cols.len()`.
    fn read_columns(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ImportError> {
        let mut whole = vec![0.0; self.shape().1];
        for (row, out) in rows.zip(out.chunks_exact_mut(cols.len())) {
            self.read(row..row + 1, &mut whole)?;
            out.copy_from_slice(&whole[cols.clone()]);
        }
        Ok(())
    }

    /// The groups of `row`, `cols / 32` of them; [`Native::Groups`] only.
    fn groups(&self, row: usize) -> Result<Vec<Group>, ImportError>;
}

/// A model as somebody published it, in Hugging Face's terms.
pub struct Checkpoint {
    /// `config.json`.
    pub config: Map<String, Value>,
    /// `generation_config.json`; empty where there is none.
    pub generation_config: Map<String, Value>,
    /// `preprocessor_config.json`, or what `processor_config.json` says of images; empty where there is none.
    pub image_processor: Map<String, Value>,
    /// `video_preprocessor_config.json`, or what `processor_config.json` says of videos, or else what is said of images.
    pub video_processor: Map<String, Value>,
    /// What `preprocessor_config.json` or `processor_config.json` say of sounds; empty where they say nothing.
    pub feature_extractor: Map<String, Value>,
    /// `tokenizer.json` of the `tokenizers` library; empty where there is none.
    pub tokenizer: Vec<u8>,
    /// `tokenizer_config.json`; empty where there is none.
    pub tokenizer_config: Map<String, Value>,
    pub chat_template: Option<String>,
    /// What sentence-transformers puts after the model.
    pub modules: Option<Modules>,
    /// By Hugging Face's tensor name, `model.layers.0.self_attn.q_proj.weight`, RoPE in half-split order.
    pub tensors: BTreeMap<String, Box<dyn TensorSource>>,
    /// True where a family's centred norms (`1 + w`) are stored with the 1 added, as GGUF does.
    pub norms_hold_one: bool,
    /// File or folder name, without its path.
    pub source: String,
    /// `safetensors` or `gguf`.
    pub source_format: &'static str,
    pub license: Option<String>,
}

/// The files of sentence-transformers beside a checkpoint: the model is the first of its modules.
#[derive(Debug, Default)]
pub struct Modules {
    /// In order, as `modules.json` lists them.
    pub list: Vec<Module>,
    /// `sentence_bert_config.json`; empty where there is none.
    pub transformer: Map<String, Value>,
    /// `config_sentence_transformers.json`; empty where there is none.
    pub settings: Map<String, Value>,
}

/// One step of what becomes of a text.
#[derive(Debug)]
pub struct Module {
    /// The last part of its class's name: `Pooling`.
    pub kind: String,
    /// Its folder, and what the names of its tensors begin with: `2_Dense`.
    pub path: String,
    /// `config.json` in that folder; empty where there is none, and for the checkpoint's own folder.
    pub config: Map<String, Value>,
}

/// Opens a checkpoint of either kind: a Hugging Face folder or a GGUF file.
///
/// # Errors
/// See [`safetensors::open`] and [`gguf::open`].
pub fn open(path: &Path) -> Result<Checkpoint, ImportError> {
    let io = |source| ImportError::Io { path: path.display().to_string(), source };
    if std::fs::metadata(path).map_err(io)?.is_dir() {
        return safetensors::open(path);
    }
    gguf::open(path)
}

/// Why a checkpoint cannot be imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{file}: {problem}")]
    Malformed { file: String, problem: String },
    #[error("{file}: {what} is {len} bytes; at most {limit} are allowed")]
    TooLarge { file: String, what: String, len: u64, limit: u64 },
    #[error("architecture {0} is not supported; supported are {1}")]
    Architecture(String, String),
    #[error("config {key} is {value}: {rule}")]
    Config { key: String, value: String, rule: String },
    #[error("tensor {0} is missing from the checkpoint")]
    MissingTensor(String),
    #[error("tensor {0} is not one that this architecture has; refusing to drop it silently")]
    UnknownTensor(String),
    #[error("tensor {name} is {actual:?}; the config asks for {expected:?}")]
    Shape { name: String, actual: (usize, usize), expected: (usize, usize) },
    #[error("tensor {name} has type {kind}, which is not supported")]
    TensorType { name: String, kind: String },
    #[error("tensor {name} holds {value} at row {row}: the checkpoint is damaged")]
    NotFinite { name: String, row: usize, value: f32 },
    #[error(transparent)]
    Spec(#[from] muse_format::FormatError),
}
