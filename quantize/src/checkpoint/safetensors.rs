//! A Hugging Face folder: `model.safetensors`, or shards named by `model.safetensors.index.json`, and the JSON beside
//! them. Tensors are read by rows with `pread`, so that memory holds the rows at hand and never a whole file.
//!
//! Format: <https://huggingface.co/docs/safetensors>. The header is parsed and its extents validated by the
//! `safetensors` crate; this module bounds its length and checks it against the file's.

mod folder;
mod modules;
mod shard;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::{Checkpoint, ImportError, TensorSource};

const INDEX: &str = "model.safetensors.index.json";
const SINGLE: &str = "model.safetensors";
/// Shards of one checkpoint; the largest published ones have a few hundred.
const SHARDS_MAX: usize = 4096;

/// Opens the checkpoint in `dir`; reads headers and JSON, no tensor data.
///
/// # Errors
/// [`ImportError`] for a missing or damaged file, naming it.
pub fn open(dir: &Path) -> Result<Checkpoint, ImportError> {
    let config = folder::json(dir, "config.json")?
        .ok_or_else(|| folder::malformed("config.json", "is missing: a Hugging Face folder has one"))?;
    let tokenizer = folder::tokenizer(dir)?;
    let tokenizer_config = folder::json(dir, "tokenizer_config.json")?.unwrap_or_default();
    let chat_template = folder::chat_template(dir, &tokenizer_config)?;
    let mut tensors = tensors(dir)?;
    let modules = modules::read(dir, &mut tensors)?;
    Ok(Checkpoint {
        config,
        generation_config: folder::json(dir, "generation_config.json")?.unwrap_or_default(),
        video_processor: folder::video_processor(dir)?,
        image_processor: folder::image_processor(dir)?,
        feature_extractor: folder::feature_extractor(dir)?,
        tokenizer,
        tokenizer_config,
        chat_template,
        modules,
        tensors,
        norms_hold_one: false,
        source: folder::name(dir),
        source_format: "safetensors",
        license: folder::license(dir)?,
    })
}

fn tensors(dir: &Path) -> Result<BTreeMap<String, Box<dyn TensorSource>>, ImportError> {
    let mut all: BTreeMap<String, Box<dyn TensorSource>> = BTreeMap::new();
    let Some(index) = folder::json(dir, INDEX)? else {
        if !dir.join(SINGLE).exists() {
            let problem = format!("is missing, and so is {INDEX}: this folder holds no safetensors weights");
            return Err(folder::malformed(SINGLE, &problem));
        }
        all.extend(shard::open(dir, SINGLE)?);
        return Ok(all);
    };
    for (file, names) in shards(&index)? {
        let mut held = shard::open(dir, &file)?;
        for name in names {
            let tensor = held.remove(&name).ok_or_else(|| {
                folder::malformed(&file, &format!("lacks tensor {name}, which {INDEX} puts there"))
            })?;
            all.insert(name, tensor);
        }
        if let Some(name) = held.into_keys().next() {
            return Err(folder::malformed(
                &file,
                &format!("holds tensor {name}, which {INDEX} does not name"),
            ));
        }
    }
    Ok(all)
}

/// The tensor names of each shard, from the index's `weight_map`.
fn shards(index: &Map<String, Value>) -> Result<BTreeMap<String, Vec<String>>, ImportError> {
    let map = index
        .get("weight_map")
        .and_then(Value::as_object)
        .ok_or_else(|| folder::malformed(INDEX, "has no weight_map object"))?;
    let mut shards: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, file) in map {
        let file = file.as_str().filter(|f| folder::is_plain_name(f)).ok_or_else(|| {
            folder::malformed(INDEX, &format!("puts tensor {name} in {file}, not a file name"))
        })?;
        shards.entry(file.into()).or_default().push(name.clone());
    }
    if shards.len() > SHARDS_MAX {
        let problem = format!("names {} shards; at most {SHARDS_MAX} are allowed", shards.len());
        return Err(folder::malformed(INDEX, &problem));
    }
    Ok(shards)
}
