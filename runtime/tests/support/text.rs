//! Texts of models without words.

use std::sync::Arc;

use muse_runtime::{ChatOptions, Message, Text, TextDecoder, TextError};

/// Bytes as ids, modulo the vocabulary: these models have no words.
pub struct ByteText {
    pub vocab: u32,
    pub bos: Option<u32>,
}

pub fn byte_text(vocab: u32) -> Arc<dyn Text> {
    Arc::new(ByteText { vocab, bos: None })
}

impl Text for ByteText {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        Ok(self.bos.into_iter().chain(text.bytes().map(|b| u32::from(b) % self.vocab)).collect())
    }

    fn encode_chat(&self, _: &[Message], _: &ChatOptions) -> Result<Vec<u32>, TextError> {
        Err(TextError::NoTemplate)
    }

    fn decoder(&self, _: bool) -> Box<dyn TextDecoder> {
        Box::new(IdsAsChars)
    }
}

/// Each id as a character of its own.
struct IdsAsChars;

impl TextDecoder for IdsAsChars {
    fn push(&mut self, id: u32) -> String {
        char::from_u32(0x4e00 + id).expect("small vocabularies").into()
    }

    fn finish(&mut self) -> String {
        String::new()
    }
}
