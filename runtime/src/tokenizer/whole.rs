//! Text to ids for models that embed: the whole text in the frame that the tokenizer's own post-processor puts around it,
//! and no way back.

use tokenizers::{PostProcessor, TruncationDirection};

use super::coder::Coder;
use super::{check_len, guarded};
use crate::{ChatOptions, Message, Text, TextDecoder, TextError};

/// The text side of a model that embeds.
pub struct WholeText {
    pub(super) coder: Coder,
}

impl WholeText {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] where the JSON is too large, is not a tokenizer, or has a step whose work has no bound.
    pub fn new(tokenizer_json: &[u8]) -> Result<Self, TextError> {
        Ok(Self { coder: Coder::new(tokenizer_json)? })
    }

    /// Ids that the frame adds.
    fn frame(&self) -> usize {
        self.coder.tokenizer.get_post_processor().map_or(0, |frame| frame.added_tokens(false))
    }
}

impl Text for WholeText {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        check_len(text.len(), self.coder.text_max)?;
        self.encode_at_most(text, usize::MAX)
    }

    fn encode_at_most(&self, text: &str, limit: usize) -> Result<Vec<u32>, TextError> {
        let text_max = self.coder.text_max;
        let end = (0..=text_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
        let begin = &text[..end.unwrap_or(0)];
        let kept = limit.saturating_sub(self.frame());
        let mut encoding = self.coder.encoding(begin, |_| Ok(()))?;
        // The words next to the cut may be read otherwise than in the whole text.
        if begin.len() < text.len() && encoding.len() / 2 <= kept {
            return Err(TextError::TooLong { bytes: text.len(), limit: text_max });
        }
        let framed = guarded(|| {
            encoding.truncate(kept, 0, TruncationDirection::Right);
            let _ = encoding.take_overflowing();
            Ok(self.coder.tokenizer.post_process(encoding, None, true)?.get_ids().to_vec())
        });
        framed.map_err(TextError::Encode)
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
