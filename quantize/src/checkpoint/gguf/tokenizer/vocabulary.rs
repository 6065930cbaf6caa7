//! Tokens, their kinds and their ids.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use crate::checkpoint::ImportError;
use crate::checkpoint::gguf::metadata::Metadata;

/// What a token is, `tokenizer.ggml.token_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Type {
    Normal,
    Unknown,
    /// Never in a text; `<|im_end|>`.
    Control,
    /// In a text as it stands, before any merge.
    UserDefined,
    /// A row that pads the matrix.
    Unused,
    /// A single byte, `<0x0A>`.
    Byte,
}

/// One entry of the vocabulary.
#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) kind: Type,
}

/// The tokens of a file by id, and the ids by text.
pub(super) struct Vocabulary {
    pub(super) tokens: Vec<Token>,
    /// Of every token that is not [`Type::Unused`].
    pub(super) ids: HashMap<String, u32>,
}

const TOKENS: &str = "tokenizer.ggml.tokens";
const TYPES: &str = "tokenizer.ggml.token_type";

fn config_error(key: &str, value: impl ToString, rule: impl Into<String>) -> ImportError {
    ImportError::Config { key: key.into(), value: value.to_string(), rule: rule.into() }
}

impl Vocabulary {
    /// Reads the vocabulary of a model whose embedding has `rows` rows; each text goes through `spell`.
    pub(super) fn read(
        metadata: &Metadata,
        rows: u64,
        spell: impl Fn(String) -> String,
    ) -> Result<Self, ImportError> {
        let texts = metadata.required(TOKENS, metadata.texts(TOKENS)?)?;
        if texts.len() as u64 > rows {
            let rule = format!("the embedding has only {rows} rows");
            return Err(config_error(TOKENS, format!("{} tokens", texts.len()), rule));
        }
        let types = metadata.integers(TYPES)?.unwrap_or_else(|| vec![1; texts.len()]);
        if types.len() != texts.len() {
            let rule = format!("there are {} tokens", texts.len());
            return Err(config_error(TYPES, format!("{} types", types.len()), rule));
        }
        let mut tokens = Vec::with_capacity(texts.len());
        let mut ids = HashMap::with_capacity(texts.len());
        for ((id, text), kind) in (0u32..).zip(texts.into_iter().map(spell)).zip(types) {
            let kind = match kind {
                1 => Type::Normal,
                2 => Type::Unknown,
                3 => Type::Control,
                4 => Type::UserDefined,
                5 => Type::Unused,
                6 => Type::Byte,
                other => return Err(config_error(TYPES, other, format!("the type of token {id} is 1 to 6"))),
            };
            if kind != Type::Unused
                && let Some(first) = ids.insert(text.clone(), id)
            {
                let rule = format!("tokens {first} and {id} are the same text");
                return Err(config_error(TOKENS, format!("{text:?}"), rule));
            }
            tokens.push(Token { text, kind });
        }
        Ok(Self { tokens, ids })
    }

    /// The token id at `key`, which must be one of this vocabulary.
    pub(super) fn id(&self, metadata: &Metadata, key: &str) -> Result<Option<u32>, ImportError> {
        match metadata.integer(key)? {
            Some(id) if id as usize >= self.tokens.len() => {
                Err(config_error(key, id, format!("there are {} tokens", self.tokens.len())))
            }
            id => Ok(id),
        }
    }

    /// The text of `id`.
    pub(super) fn text(&self, id: u32) -> &str {
        self.tokens.get(id as usize).map_or("", |token| &token.text)
    }

    /// The id of `text` where it is no ordinary token. Some files call the end of a turn user-defined.
    pub(super) fn special(&self, text: &str) -> Option<u32> {
        let id = *self.ids.get(text)?;
        let token = self.tokens.get(id as usize)?;
        matches!(token.kind, Type::Control | Type::UserDefined).then_some(id)
    }

    /// Each token in use with its id.
    pub(super) fn used(&self) -> impl Iterator<Item = (u32, &Token)> {
        (0u32..).zip(&self.tokens).filter(|(_, token)| token.kind != Type::Unused)
    }

    /// `model.vocab` of `tokenizer.json`. Added tokens are in it too: the library numbers those that are not.
    pub(super) fn map(&self) -> Map<String, Value> {
        self.used().map(|(id, token)| (token.text.clone(), id.into())).collect()
    }

    /// `added_tokens` of `tokenizer.json`: what is found in a text before anything else.
    pub(super) fn added(&self) -> Vec<Value> {
        let added = |kind| matches!(kind, Type::Unknown | Type::Control | Type::UserDefined);
        let entry = |(id, token): (u32, &Token)| {
            json!({
                "id": id,
                "content": token.text,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": token.kind != Type::UserDefined,
            })
        };
        // The library takes no empty token.
        self.used().filter(|(_, token)| added(token.kind) && !token.text.is_empty()).map(entry).collect()
    }
}
