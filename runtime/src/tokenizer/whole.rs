//! Text to ids for models that embed: the whole text in the frame that the tokenizer's own post-processor puts around it,
//! and no way back.

use std::time::Instant;

use serde_json::Value;
use tokenizers::{PostProcessor, PostProcessorWrapper, TruncationDirection};

use super::coder::Coder;
use super::{check_len, guarded};
use crate::{ChatOptions, Message, Text, TextDecoder, TextError};

/// Bytes of a frame's JSON; those in use have a few thousand.
const FRAME_MAX: usize = 16 << 10;
/// Steps of a frame, each of which copies the text's ids; those in use have two.
const STEPS_MAX: usize = 8;
/// Ids that a frame puts to a text; those in use put two.
const IDS_MAX: usize = 64;

/// The text side of a model that embeds.
pub struct WholeText {
    pub(super) coder: Coder,
}

impl WholeText {
    /// Reads `tokenizer.json`.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] where the JSON is too large, is not a tokenizer, or has a step or a frame whose work has no bound.
    pub fn new(tokenizer_json: &[u8]) -> Result<Self, TextError> {
        let coder = Coder::new(tokenizer_json)?;
        if let Some(frame) = coder.tokenizer.get_post_processor() {
            check_frame(frame).map_err(TextError::Tokenizer)?;
        }
        Ok(Self { coder })
    }

    /// Ids that the frame adds.
    fn frame(&self) -> usize {
        self.coder.tokenizer.get_post_processor().map_or(0, |frame| frame.added_tokens(false))
    }
}

/// That a frame has the text once, and little else. The library does not look when it reads one.
fn check_frame(frame: &PostProcessorWrapper) -> Result<(), String> {
    let json = serde_json::to_string(frame).map_err(|error| error.to_string())?;
    if json.len() > FRAME_MAX {
        return Err(format!("its post_processor is {} bytes; at most {FRAME_MAX} are taken", json.len()));
    }
    let ids = frame.added_tokens(false);
    if ids > IDS_MAX {
        return Err(format!("its post_processor puts {ids} ids to a text; at most {IDS_MAX} are taken"));
    }
    let steps = check_steps(frame)?;
    if steps > STEPS_MAX {
        return Err(format!("its post_processor has {steps} steps; at most {STEPS_MAX} are taken"));
    }
    Ok(())
}

/// The steps of a frame, each with the text once.
fn check_steps(frame: &PostProcessorWrapper) -> Result<usize, String> {
    match frame {
        PostProcessorWrapper::Sequence(steps) => steps.as_ref().iter().map(check_steps).sum(),
        PostProcessorWrapper::Template(template) => {
            // Its pieces are told in no other way.
            let json = serde_json::to_value(template).map_err(|error| error.to_string())?;
            let pieces = json["single"].as_array().into_iter().flatten();
            let texts: Vec<&Value> = pieces.filter_map(|piece| piece.get("Sequence")).collect();
            if texts.iter().any(|text| text["id"] != "A") {
                return Err("its post_processor has a second text in `single`".into());
            }
            if texts.len() != 1 {
                return Err(format!(
                    "its post_processor has the text {} times in `single`; it is taken once",
                    texts.len()
                ));
            }
            Ok(1)
        }
        _ => Ok(1),
    }
}

impl Text for WholeText {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        let (ids, _) = self.encode_at_most(text, usize::MAX, self.coder.end())?;
        Ok(ids)
    }

    fn encode_at_most(&self, text: &str, limit: usize, end: Instant) -> Result<(Vec<u32>, usize), TextError> {
        let text_max = self.coder.text_max;
        if limit == usize::MAX {
            check_len(text.len(), text_max)?;
        }
        let cut = (0..=text_max.min(text.len())).rev().find(|cut| text.is_char_boundary(*cut));
        let begin = &text[..cut.unwrap_or(0)];
        let kept = limit.saturating_sub(self.frame());
        let mut encoding = self.coder.encoding(begin, end, |_| Ok(()))?;
        let whole = encoding.len() + self.frame();
        // The words next to the cut may be read otherwise than in the whole text.
        if begin.len() < text.len() && encoding.len() / 2 <= kept {
            return Err(TextError::TooLong { bytes: text.len(), limit: text_max });
        }
        let framed = guarded(|| {
            encoding.truncate(kept, 0, TruncationDirection::Right);
            let _ = encoding.take_overflowing();
            Ok(self.coder.tokenizer.post_process(encoding, None, true)?.get_ids().to_vec())
        });
        framed.map(|ids| (ids, whole)).map_err(TextError::Encode)
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
