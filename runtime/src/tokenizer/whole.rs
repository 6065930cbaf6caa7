//! Text to ids for models that embed: the whole text in the frame that the tokenizer's own post-processor puts around it,
//! and no way back.

use tokenizers::{PostProcessor, Tokenizer, TruncationDirection};

use super::growth::text_max;
use super::{JSON_MAX, TEXT_MAX, check_len, guarded};
use crate::{ChatOptions, Message, Text, TextDecoder, TextError};

/// The text side of a model that embeds.
pub struct WholeText {
    tokenizer: Tokenizer,
    /// Bytes of a text.
    pub(super) text_max: usize,
}

impl WholeText {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] where the JSON is too large, is not a tokenizer, or has a model whose work for a word has no
    /// bound.
    pub fn new(tokenizer_json: &[u8]) -> Result<Self, TextError> {
        if tokenizer_json.len() > JSON_MAX {
            let problem = format!("it is {} bytes; at most {JSON_MAX} are taken", tokenizer_json.len());
            return Err(TextError::Tokenizer(problem));
        }
        let read = || {
            let mut tokenizer = Tokenizer::from_bytes(tokenizer_json)?;
            // Publishers leave in it how they last called it.
            tokenizer.with_padding(None).with_truncation(None)?;
            Ok(tokenizer)
        };
        let tokenizer = guarded(read).map_err(TextError::Tokenizer)?;
        let text_max = text_max(&tokenizer, TEXT_MAX).map_err(TextError::Tokenizer)?;
        Ok(Self { tokenizer, text_max })
    }

    /// Ids that the frame adds.
    fn frame(&self) -> usize {
        self.tokenizer.get_post_processor().map_or(0, |frame| frame.added_tokens(false))
    }
}

impl Text for WholeText {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        check_len(text.len(), self.text_max)?;
        self.encode_at_most(text, usize::MAX)
    }

    fn encode_at_most(&self, text: &str, limit: usize) -> Result<Vec<u32>, TextError> {
        let end = (0..=self.text_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        let begin = &text[..end.unwrap_or(0)];
        let kept = limit.saturating_sub(self.frame());
        let encoded = guarded(|| {
            let mut encoding = self.tokenizer.encode_fast(begin, false)?;
            // The words next to the cut may be read otherwise than in the whole text.
            if begin.len() < text.len() && encoding.len() / 2 <= kept {
                return Ok(None);
            }
            encoding.truncate(kept, 0, TruncationDirection::Right);
            let _ = encoding.take_overflowing();
            Ok(Some(self.tokenizer.post_process(encoding, None, true)?.get_ids().to_vec()))
        });
        let too_long = TextError::TooLong { bytes: text.len(), limit: self.text_max };
        encoded.map_err(TextError::Encode)?.ok_or(too_long)
    }

    fn encode_chat(&self, _: &[Message], _: &ChatOptions) -> Result<Vec<u32>, TextError> {
        Err(TextError::NoTemplate)
    }

    fn decoder(&self, _: bool) -> Box<dyn TextDecoder> {
        Box::new(Silent)
    }
}

/// A model that embeds writes nothing.
struct Silent;

impl TextDecoder for Silent {
    fn push(&mut self, _: u32) -> String {
        String::new()
    }

    fn finish(&mut self) -> String {
        String::new()
    }
}
