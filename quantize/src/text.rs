//! What a runtime needs of the tokenizer and generation settings beyond tokenizer.json and the template.

use std::collections::BTreeMap;

use muse_format::{Generation, Text};
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::checkpoint::{Checkpoint, ImportError};

/// Reads both from a checkpoint; `vocab` bounds the ids.
///
/// # Errors
/// [`ImportError`] for a tokenizer.json that the `tokenizers` library refuses, or an id beyond the vocabulary.
pub fn import(checkpoint: &Checkpoint, vocab: u32) -> Result<(Text, Generation), ImportError> {
    let tokenizer = Tokenizer::from_bytes(&checkpoint.tokenizer)
        .map_err(|e| ImportError::Malformed { file: "tokenizer.json".into(), problem: e.to_string() })?;
    let template_tokens = special_tokens(&checkpoint.tokenizer_config);
    let id_of = |token: &str| template_tokens.get(token).and_then(|t| tokenizer.token_to_id(t));
    let bos_id = id_of("bos_token").or(u32_at(&checkpoint.config, "bos_token_id"));
    let add_bos = bos_id.is_some() && adds_bos(&checkpoint.tokenizer_config, &tokenizer, bos_id);
    let generation = generation(checkpoint, id_of("eos_token"))?;
    let ids = generation
        .stop_ids
        .iter()
        .map(|id| ("eos_token_id", *id))
        .chain(bos_id.map(|id| ("bos_token_id", id)));
    for (key, id) in ids {
        if id >= vocab {
            let rule = format!("ids are below vocab_size {vocab}");
            return Err(ImportError::Config { key: key.into(), value: id.to_string(), rule });
        }
    }
    Ok((Text { bos_id, add_bos, template_tokens }, generation))
}

/// Whether raw text gets BOS: as tokenizer_config.json says; else as tokenizer.json does it.
fn adds_bos(config: &Map<String, Value>, tokenizer: &Tokenizer, bos_id: Option<u32>) -> bool {
    if let Some(says) = config.get("add_bos_token").and_then(Value::as_bool) {
        return says;
    }
    tokenizer.encode_fast("a", true).is_ok_and(|e| e.get_ids().first().copied() == bos_id)
}

/// Texts of `bos_token`, `eos_token`, ...: a text, or an object with `content`.
fn special_tokens(config: &Map<String, Value>) -> BTreeMap<String, String> {
    const NAMES: [&str; 6] = ["bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token"];
    let text = |name: &str| {
        let value = config.get(name)?;
        value.as_str().or(value.get("content").and_then(Value::as_str))
    };
    NAMES.iter().filter_map(|name| Some(((*name).into(), text(name)?.into()))).collect()
}

fn u32_at(map: &Map<String, Value>, key: &str) -> Option<u32> {
    map.get(key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok())
}

/// Stop ids: `eos_token_id` of generation_config.json, else of config.json, and the tokenizer's own `eos_token`, which
/// ends a chat turn where the two differ. Sampling settings count only with `do_sample`, as in transformers: without it
/// an answer is greedy.
fn generation(checkpoint: &Checkpoint, eos: Option<u32>) -> Result<Generation, ImportError> {
    let config = &checkpoint.generation_config;
    let source =
        [config, &checkpoint.config].into_iter().find_map(|c| c.get("eos_token_id").filter(|v| !v.is_null()));
    let mut stop_ids = Vec::new();
    if let Some(value) = source {
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for id in list {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            stop_ids.push(id.ok_or_else(|| ImportError::Config {
                key: "eos_token_id".into(),
                value: value.to_string(),
                rule: "it must be an id or a list of ids".into(),
            })?);
        }
    }
    stop_ids.extend(eos.filter(|id| !stop_ids.contains(id)));
    let samples = config.get("do_sample").and_then(Value::as_bool).unwrap_or(false);
    let number = |key: &str| config.get(key).and_then(Value::as_f64).map(|n| n as f32);
    let sampling = |key: &str| number(key).filter(|_| samples);
    Ok(Generation {
        stop_ids,
        temperature: sampling("temperature"),
        top_k: u32_at(config, "top_k").filter(|_| samples),
        top_p: sampling("top_p"),
        min_p: sampling("min_p"),
        repetition_penalty: number("repetition_penalty"),
    })
}
