//! GGUF, versions 2 and 3: one file, translated to Hugging Face's terms.
//!
//! `parse.rs` reads the container, `types.rs` decodes its storage types, `config.rs` and `names.rs` translate keys and
//! names, `tensor.rs` hands out rows, `tokenizer/` rebuilds `tokenizer.json` from the vocabulary. To read one more
//! architecture, name it in `config.rs`; one more storage type, in `types.rs`.
//!
//! It refuses what it cannot carry over exactly: an architecture, tensor, storage type or pre-tokenizer that it does
//! not know, by name.

#![deny(clippy::cast_possible_truncation, clippy::indexing_slicing, clippy::unwrap_used)]

mod config;
mod metadata;
mod names;
mod parse;
mod reader;
mod tensor;
mod tokenizer;
mod types;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;

use serde_json::{Value, json};

use self::config::{Architecture, Config};
use self::parse::Gguf;
use self::reader::Source;
use self::tensor::{GgufTensor, RowOrder};
use super::{Checkpoint, ImportError, TensorSource};

/// Tensors that a file may hold, each expert's for itself.
const SPLIT_MAX: usize = 1 << 20;

/// Frequencies of a rotation that a file corrects (Llama 3); no `head_dim` is larger.
const ROPE_FACTORS_MAX: usize = 4096;

/// Opens a GGUF. Reads its head alone; tensors are read from the file as they are asked for.
///
/// # Errors
/// [`ImportError`] naming the key, tensor or length that is damaged or not supported.
pub fn open(path: &Path) -> Result<Checkpoint, ImportError> {
    let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
    let io = |source| ImportError::Io { path: path.display().to_string(), source };
    let file = File::open(path).map_err(io)?;
    // A directory opens but cannot be read, and a pipe has no length.
    if !file.metadata().map_err(io)?.is_file() {
        return Err(io(std::io::Error::other("not a regular file")));
    }
    checkpoint(Source::file(name, file)?)
}

/// [`open`] for bytes in memory, for tests and fuzzing.
///
/// # Errors
/// As [`open`].
pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Checkpoint, ImportError> {
    checkpoint(Source::memory(name.into(), bytes))
}

fn checkpoint(source: Source) -> Result<Checkpoint, ImportError> {
    let gguf = parse::parse(source)?;
    let mut config = config::config(&gguf.metadata, &gguf.tensors)?;
    if let Some(factors) = rope_factors(&gguf, config.architecture)? {
        config.json.insert("rope_scaling".into(), json!({"rope_type": "factors", "factors": factors}));
    }
    let text = tokenizer::text(&gguf.metadata, &config)?;
    let license = gguf.metadata.text("general.license")?.map(str::to_owned);
    let source = gguf.source.name.clone();
    let norms_hold_one = config.architecture == Architecture::Gemma3;
    let tensors = tensors(gguf, &config)?;
    Ok(Checkpoint {
        config: config.json,
        generation_config: text.generation_config,
        image_processor: serde_json::Map::new(),
        video_processor: serde_json::Map::new(),
        feature_extractor: serde_json::Map::new(),
        tokenizer: text.tokenizer,
        tokenizer_config: text.tokenizer_config,
        chat_template: text.chat_template,
        tensors,
        modules: None,
        norms_hold_one,
        source,
        source_format: "gguf",
        license,
    })
}

const ROPE_FACTORS: &str = "rope_freqs.weight";

/// What each inverse frequency is divided by: how a Llama 3 in GGUF carries its scaling rule.
fn rope_factors(gguf: &Gguf, architecture: Architecture) -> Result<Option<Vec<Value>>, ImportError> {
    let Some(tensor) = gguf.tensors.iter().find(|tensor| tensor.name == ROPE_FACTORS) else {
        return Ok(None);
    };
    if architecture != Architecture::Llama {
        return Err(ImportError::UnknownTensor(ROPE_FACTORS.into()));
    }
    let (rows, cols) = tensor.shape;
    if rows != 1 || cols > ROPE_FACTORS_MAX {
        let (name, expected) = (ROPE_FACTORS.into(), (1, ROPE_FACTORS_MAX));
        return Err(ImportError::Shape { name, actual: tensor.shape, expected });
    }
    let mut factors = vec![0.0; cols];
    let (source, tensor) = (gguf.source.clone(), tensor.clone());
    GgufTensor { source, tensor, order: RowOrder::Same }.read(0..1, &mut factors)?;
    Ok(Some(factors.into_iter().map(Value::from).collect()))
}

fn tensors(gguf: Gguf, config: &Config) -> Result<BTreeMap<String, Box<dyn TensorSource>>, ImportError> {
    let mut all: BTreeMap<String, Box<dyn TensorSource>> = BTreeMap::new();
    for tensor in gguf.tensors {
        if tensor.name == ROPE_FACTORS {
            continue;
        }
        let name = names::hugging_face(config.architecture, &tensor.name)
            .ok_or_else(|| ImportError::UnknownTensor(tensor.name.clone()))?;
        let matrices = tensor.matrices;
        if matrices != 1 && !name.contains('*') {
            let problem = format!("{} holds {matrices} matrices; of this name it is one", tensor.name);
            return Err(gguf.source.malformed(problem));
        }
        let rotated = ["q_proj.weight", "q_proj.bias", "k_proj.weight", "k_proj.bias"];
        let order = match config.architecture {
            Architecture::Llama if rotated.iter().any(|end| name.ends_with(end)) => {
                RowOrder::Interleaved { head_dim: config.head_dim as usize }
            }
            _ => RowOrder::Same,
        };
        let outputs = if name.ends_with("bias") { tensor.shape.1 } else { tensor.shape.0 };
        if let RowOrder::Interleaved { head_dim } = order
            && outputs % head_dim != 0
        {
            let problem =
                format!("{} has {outputs} outputs, which heads of {head_dim} do not divide", tensor.name);
            return Err(gguf.source.malformed(problem));
        }
        if !name.contains('*') {
            all.insert(name, Box::new(GgufTensor { source: gguf.source.clone(), tensor, order }));
            continue;
        }
        if all.len() + matrices > SPLIT_MAX {
            let problem = format!("{} is an expert too many: {SPLIT_MAX} tensors are allowed", tensor.name);
            return Err(gguf.source.malformed(problem));
        }
        for index in 0..matrices {
            let (name, tensor) = (name.replace('*', &index.to_string()), tensor.matrix(index));
            all.insert(name, Box::new(GgufTensor { source: gguf.source.clone(), tensor, order }));
        }
    }
    Ok(all)
}
