//! The vocabulary and the texts around it as `tokenizer.json`, `tokenizer_config.json` and `generation_config.json`.

mod bpe;
mod spm;
mod vocabulary;

use serde_json::{Map, Value, json};

use self::vocabulary::Vocabulary;
use super::config::Config;
use super::metadata::Metadata;
use crate::checkpoint::ImportError;

/// The text side of a checkpoint.
pub(super) struct Text {
    pub(super) tokenizer: Vec<u8>,
    pub(super) tokenizer_config: Map<String, Value>,
    pub(super) generation_config: Map<String, Value>,
    pub(super) chat_template: Option<String>,
}

/// What a kind of tokenizer makes of a vocabulary: the parts of `tokenizer.json` and the flag of the source.
struct Kind {
    normalizer: Value,
    pre_tokenizer: Value,
    decoder: Value,
    model: Value,
    /// Whether raw text starts with the bos token where the file does not say.
    add_bos: bool,
}

/// Texts of tokens that end an answer. A Hugging Face folder lists the ids in `generation_config.json`; GGUF has a key
/// for one or two of them, so the rest are known by their texts. `</s>` is not among them: where it ends an answer the
/// key says so, and in Gemma it is markup.
const ENDS: [&str; 7] = [
    "<|im_end|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|end_of_text|>",
];

/// Sampling defaults and their names at Hugging Face.
const SAMPLING: [(&str, &str); 5] = [
    ("general.sampling.temp", "temperature"),
    ("general.sampling.top_k", "top_k"),
    ("general.sampling.top_p", "top_p"),
    ("general.sampling.min_p", "min_p"),
    ("general.sampling.penalty_repeat", "repetition_penalty"),
];

pub(super) fn text(metadata: &Metadata, config: &Config) -> Result<Text, ImportError> {
    let rows = config.json.get("vocab_size").and_then(Value::as_u64).unwrap_or(0);
    let key = "tokenizer.ggml.model";
    let (vocabulary, kind) = match metadata.required(key, metadata.text(key)?)? {
        "gpt2" => {
            let vocabulary = Vocabulary::read(metadata, rows, |text| text)?;
            let kind = bpe::kind(metadata, &vocabulary)?;
            (vocabulary, kind)
        }
        "llama" => {
            // User-defined pieces are written with plain spaces, all others with SentencePiece's.
            let vocabulary = Vocabulary::read(metadata, rows, |text| text.replace(' ', spm::SPACE))?;
            let kind = spm::kind(metadata, &vocabulary)?;
            (vocabulary, kind)
        }
        other => {
            let rule = "gpt2 (byte-level BPE) and llama (SentencePiece) vocabularies are supported".into();
            return Err(ImportError::Config { key: key.into(), value: other.into(), rule });
        }
    };
    let add_bos = metadata.bool("tokenizer.ggml.add_bos_token")?.unwrap_or(kind.add_bos);
    let tokenizer = json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": vocabulary.added(),
        "normalizer": kind.normalizer,
        "pre_tokenizer": kind.pre_tokenizer,
        // The bos token is put in front by who encodes, if `add_bos_token` says so.
        "post_processor": null,
        "decoder": kind.decoder,
        "model": kind.model,
    });
    let tokenizer = serde_json::to_vec(&tokenizer).expect("maps with text keys always serialise");
    Ok(Text {
        tokenizer,
        tokenizer_config: tokenizer_config(metadata, &vocabulary, add_bos)?,
        generation_config: generation_config(metadata, &vocabulary)?,
        chat_template: metadata.text("tokenizer.chat_template")?.map(str::to_owned),
    })
}

fn tokenizer_config(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
    add_bos: bool,
) -> Result<Map<String, Value>, ImportError> {
    let mut config = Map::new();
    config.insert("add_bos_token".into(), add_bos.into());
    let add_eos = metadata.bool("tokenizer.ggml.add_eos_token")?.unwrap_or(false);
    config.insert("add_eos_token".into(), add_eos.into());
    for (key, name) in [("bos", "bos"), ("eos", "eos"), ("unknown", "unk"), ("padding", "pad")] {
        if let Some(id) = vocabulary.id(metadata, &format!("tokenizer.ggml.{key}_token_id"))? {
            config.insert(format!("{name}_token"), vocabulary.text(id).into());
        }
    }
    Ok(config)
}

fn generation_config(
    metadata: &Metadata,
    vocabulary: &Vocabulary,
) -> Result<Map<String, Value>, ImportError> {
    let mut config = Map::new();
    let mut ends = Vec::new();
    // A message to oneself is not the last one: with such a template the end of a message does not end the answer.
    let template = metadata.text("tokenizer.chat_template")?.unwrap_or_default();
    let keys: &[&str] = if template.contains("to=self") { &["eos", "eot"] } else { &["eos", "eot", "eom"] };
    for key in keys {
        ends.extend(vocabulary.id(metadata, &format!("tokenizer.ggml.{key}_token_id"))?);
    }
    ends.extend(ENDS.iter().filter_map(|text| vocabulary.special(text)));
    let mut seen = std::collections::HashSet::new();
    ends.retain(|id| seen.insert(*id));
    if !ends.is_empty() {
        config.insert("eos_token_id".into(), ends.into());
    }
    for (key, name) in [("bos", "bos_token_id"), ("padding", "pad_token_id")] {
        if let Some(id) = vocabulary.id(metadata, &format!("tokenizer.ggml.{key}_token_id"))? {
            config.insert(name.into(), id.into());
        }
    }
    for (key, name) in SAMPLING {
        let value = match metadata.integer(key) {
            Ok(value) => value.map(Value::from),
            Err(_) => metadata.float(key)?.map(Value::from),
        };
        let Some(value) = value else { continue };
        config.insert(name.into(), value);
        // Hugging Face's settings count only where sampling is asked for.
        config.insert("do_sample".into(), true.into());
    }
    Ok(config)
}
