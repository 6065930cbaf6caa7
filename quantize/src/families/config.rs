//! `config.json`, read so that no key is overlooked: a key is either asked for, or listed as harmless, or refused.

use std::cell::RefCell;
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::checkpoint::ImportError;

/// Keys that say nothing about what a decoder computes at inference; common to every family.
const HARMLESS: &[&str] = &[
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "architectures",
    "attention_dropout",
    "attn_implementation",
    "bos_token_id",
    "cache_implementation",
    // How many rows are computed at once.
    "chunk_size_feed_forward",
    "dtype",
    "eos_token_id",
    "id2label",
    "initializer_range",
    "label2id",
    "model_type",
    "output_attentions",
    "output_hidden_states",
    "pad_token_id",
    // Slices a product for training in parallel; the sum is the same.
    "pretraining_tp",
    "problem_type",
    "return_dict",
    "torch_dtype",
    "transformers.js_config",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
];

/// Settings of generation and of training that configs of transformers 4 hold where they were written whole.
const HARMLESS_OF_4: &[&str] = &[
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "finetuning_task",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "prefix",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "sep_token_id",
    "suppress_tokens",
    "task_specific_params",
    "temperature",
    "tf_legacy_loss",
    "tokenizer_class",
    "top_k",
    "top_p",
    "torchscript",
    "typical_p",
    "use_bfloat16",
];

/// Keys of every config that make another model where they are true.
const FALSE: &[&str] = &["add_cross_attention", "is_decoder", "is_encoder_decoder", "tie_encoder_decoder"];

/// A JSON object being read.
pub(super) struct Config<'a> {
    map: &'a Map<String, Value>,
    /// `rope_parameters.` for an object inside the file; for messages.
    path: String,
    /// True for an object that describes a whole model, `text_config`.
    model: bool,
    asked: RefCell<BTreeSet<String>>,
}

/// A number above zero that f32 can hold.
fn above_zero(value: &Value) -> Option<f64> {
    value.as_f64().filter(|n| *n as f32 > 0.0 && (*n as f32).is_finite())
}

impl<'a> Config<'a> {
    pub fn new(map: &'a Map<String, Value>) -> Self {
        Self { map, path: String::new(), model: true, asked: RefCell::default() }
    }

    /// An object of another file, `path` in front of its keys in messages.
    pub fn part(map: &'a Map<String, Value>, path: &str) -> Self {
        Self { map, path: path.into(), model: false, asked: RefCell::default() }
    }

    /// Its keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &'a String> {
        self.map.keys()
    }

    /// The value of `key`; a null is as good as an absent key.
    fn value(&self, key: &str) -> Option<&'a Value> {
        self.asked.borrow_mut().insert(key.into());
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// An error about `key` and the value it has.
    pub fn refuse(&self, key: &str, rule: impl Into<String>) -> ImportError {
        let value = self.map.get(key).map_or_else(|| "absent".into(), Value::to_string);
        ImportError::Config { key: format!("{}{key}", self.path), value, rule: rule.into() }
    }

    fn typed<T>(
        &self,
        key: &str,
        rule: &str,
        convert: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ImportError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        convert(value).map(Some).ok_or_else(|| self.refuse(key, rule))
    }

    pub fn u32(&self, key: &str) -> Result<Option<u32>, ImportError> {
        let convert = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        self.typed(key, "it must be a whole number below 2^32", convert)
    }

    /// A size: present, at least 1, at most `max`.
    pub fn size(&self, key: &str, max: u32) -> Result<u32, ImportError> {
        let value = self.u32(key)?.filter(|n| (1..=max).contains(n));
        value.ok_or_else(|| self.refuse(key, format!("it must be a whole number from 1 to {max}")))
    }

    /// [`size`](Self::size), `or` where nothing is said.
    pub fn size_or(&self, key: &str, max: u32, or: u32) -> Result<u32, ImportError> {
        if self.has(key) { self.size(key, max) } else { Ok(or) }
    }

    pub fn f64(&self, key: &str) -> Result<Option<f64>, ImportError> {
        self.typed(key, "it must be a number above zero", above_zero)
    }

    pub fn numbers(&self, key: &str) -> Result<Option<Vec<f64>>, ImportError> {
        let rule = "it must be a list of numbers above zero";
        self.typed(key, rule, |v| v.as_array()?.iter().map(above_zero).collect())
    }

    pub fn indices(&self, key: &str) -> Result<Option<Vec<u32>>, ImportError> {
        let index = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let rule = "it must be a list of whole numbers below 2^32";
        self.typed(key, rule, |v| v.as_array()?.iter().map(index).collect())
    }

    /// Numbers of which some may be 0.
    pub fn numbers_from_zero(&self, key: &str) -> Result<Option<Vec<f64>>, ImportError> {
        let rule = "it must be a list of numbers, none below zero";
        let number = |v: &Value| above_zero(v).or(v.as_f64().filter(|n| *n == 0.0));
        self.typed(key, rule, |v| v.as_array()?.iter().map(number).collect())
    }

    pub fn bool(&self, key: &str, default: bool) -> Result<bool, ImportError> {
        Ok(self.typed(key, "it must be true or false", Value::as_bool)?.unwrap_or(default))
    }

    pub fn str(&self, key: &str) -> Result<Option<&'a str>, ImportError> {
        self.typed(key, "it must be a text", Value::as_str)
    }

    pub fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>, ImportError> {
        self.typed(key, "it must be a list of texts", |v| v.as_array()?.iter().map(Value::as_str).collect())
    }

    /// The object at `key`, to be read and finished on its own.
    pub fn object(&self, key: &str) -> Result<Option<Config<'a>>, ImportError> {
        let map = self.typed(key, "it must be an object", Value::as_object)?;
        let path = format!("{}{key}.", self.path);
        Ok(map.map(|map| Config { map, path, model: false, asked: RefCell::default() }))
    }

    /// [`object`](Self::object), which must be there and describes a whole model.
    pub fn model(&self, key: &str) -> Result<Config<'a>, ImportError> {
        let object = self.object(key)?.ok_or_else(|| self.refuse(key, "it must be an object"))?;
        Ok(Config { model: true, ..object })
    }

    /// True where the key is there and not null.
    pub fn has(&self, key: &str) -> bool {
        self.map.get(key).is_some_and(|v| !v.is_null())
    }

    /// True where the key is there and null, of a config in which that is not what its absence means.
    pub fn is_null(&self, key: &str) -> bool {
        self.asked.borrow_mut().insert(key.into());
        self.map.get(key).is_some_and(Value::is_null)
    }

    /// Accepts `key` only where it is absent, null or one of `allowed`.
    pub fn only(&self, key: &str, allowed: &[Value], rule: &str) -> Result<(), ImportError> {
        let fits = self.value(key).is_none_or(|v| {
            allowed.iter().any(|a| a == v || a.as_f64().is_some_and(|a| v.as_f64() == Some(a)))
        });
        if fits { Ok(()) } else { Err(self.refuse(key, rule)) }
    }

    /// Refuses every key that nobody asked for and that is not harmless.
    pub fn finish(&self, harmless: &[&str]) -> Result<(), ImportError> {
        if self.model {
            for key in FALSE {
                self.only(key, &[false.into()], "only a model of one stack is supported")?;
            }
            self.only("pruned_heads", &[Value::Object(Map::new())], "only whole layers are supported")?;
        }
        let asked = self.asked.borrow();
        let common: &[&[&str]] = if self.model { &[HARMLESS, HARMLESS_OF_4, harmless] } else { &[harmless] };
        let unknown = self.map.iter().find(|(key, value)| {
            let known = asked.contains(*key) || common.iter().any(|keys| keys.contains(&key.as_str()));
            !known && !value.is_null()
        });
        unknown.map_or(Ok(()), |(key, _)| {
            Err(self.refuse(
                key,
                "this tool does not know the key, and it may change the answers; if it does not, pass --ignore-config with its name",
            ))
        })
    }
}
