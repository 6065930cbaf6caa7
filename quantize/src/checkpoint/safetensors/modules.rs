//! The files that sentence-transformers puts beside a model: which steps follow its last layer, and their weights.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use serde_json::Value;

use super::{folder, shard};
use crate::checkpoint::{ImportError, Module, Modules, TensorSource};

const LIST: &str = "modules.json";
/// Steps of one model; published ones have up to five.
const MODULES_MAX: usize = 32;

/// The modules of the checkpoint in `dir`, or `None` where it has none. Weights of a module in folder `2_Dense` join
/// `tensors` as `2_Dense/linear.weight`.
///
/// # Errors
/// [`ImportError`] for a list that is none, or leads out of the folder.
pub(super) fn read(
    dir: &Path,
    tensors: &mut BTreeMap<String, Box<dyn TensorSource>>,
) -> Result<Option<Modules>, ImportError> {
    let Some(bytes) = folder::bytes(dir, LIST)? else { return Ok(None) };
    let bad = |problem: &str| folder::malformed(LIST, problem);
    let entries: Vec<Value> = serde_json::from_slice(&bytes).map_err(|e| bad(&e.to_string()))?;
    if entries.len() > MODULES_MAX {
        return Err(bad(&format!("names {} modules; at most {MODULES_MAX} are allowed", entries.len())));
    }
    let mut list = Vec::new();
    for entry in entries {
        let text = |key: &str| entry.get(key).and_then(Value::as_str);
        let class = text("type").ok_or_else(|| bad("has a module without a type"))?;
        let path = text("path").unwrap_or_default().trim_matches('/');
        // `0_Transformer`, or `` for the checkpoint's own folder; never `../x`.
        if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
            return Err(bad(&format!("puts a module in {path:?}, not a folder of this one")));
        }
        let kind = class.rsplit('.').next().unwrap_or(class).to_owned();
        let config = match path {
            "" => None,
            path => folder::json(&dir.join(path), "config.json")?,
        };
        if !path.is_empty() && dir.join(path).join(super::SINGLE).exists() {
            let held = shard::open(&dir.join(path), super::SINGLE)?;
            tensors.extend(held.into_iter().map(|(name, tensor)| (format!("{path}/{name}"), tensor)));
        }
        list.push(Module { kind, path: path.to_owned(), config: config.unwrap_or_default() });
    }
    Ok(Some(Modules {
        list,
        transformer: folder::json(dir, "sentence_bert_config.json")?.unwrap_or_default(),
        settings: folder::json(dir, "config_sentence_transformers.json")?.unwrap_or_default(),
    }))
}
