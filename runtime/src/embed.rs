//! From texts to vectors, for callers of models that embed: what is asked is checked and encoded before it is queued.

use std::time::Instant;

use muse_kernels::BackendError;

use crate::tokenizer::TIME_MAX;
use crate::{Engine, ModelInfo, Priority, Refusal, Text, TextError};

/// How texts are to be embedded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EmbedOptions {
    /// The name of a text that the model knows and that goes in front of each; its default where absent.
    pub prompt: Option<String>,
    /// Cuts what is too long, where it would be refused. A text that the tokenizer does not take whole is still refused
    /// where the begin that it takes is not clearly longer than what is kept.
    pub truncate: bool,
    pub priority: Priority,
}

/// The vectors of texts, in their order.
#[derive(Debug, Clone, PartialEq)]
pub struct Embedded {
    pub vectors: Vec<Vec<f32>>,
    /// Tokens of all texts together, those that the tokenizer puts around each included.
    pub tokens: u64,
    /// Texts that were cut.
    pub truncated: u32,
}

/// Texts as ids, each of at least one and of no more than the model reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EncodedTexts {
    pub texts: Vec<Vec<u32>>,
    /// Those of them that were cut.
    pub truncated: u32,
}

impl EncodedTexts {
    pub fn tokens(&self) -> u64 {
        self.texts.iter().map(|text| text.len() as u64).sum()
    }
}

/// Encodes `texts` for a model.
///
/// # Errors
/// [`Refusal::WritesText`] of a model without vectors, [`Refusal::UnknownPrompt`], [`Refusal::TextTooLong`] with the
/// text's place and its length, [`Refusal::NoTexts`], [`Refusal::EmptyText`], and what the tokenizer refuses.
pub fn encode_texts(
    info: &ModelInfo,
    coder: &dyn Text,
    texts: &[String],
    options: &EmbedOptions,
) -> Result<EncodedTexts, Refusal> {
    let embedding = info.embedding.as_ref().ok_or(Refusal::WritesText)?;
    if texts.is_empty() {
        return Err(Refusal::NoTexts);
    }
    let prompt = match options.prompt.as_ref().or(embedding.default_prompt.as_ref()) {
        None => "",
        Some(name) => embedding.prompts.get(name).ok_or_else(|| Refusal::UnknownPrompt {
            name: name.chars().take(60).collect(),
            known: embedding.prompts.keys().cloned().collect::<Vec<_>>().join(", "),
        })?,
    };
    let limit = info.context as usize;
    let kept = if options.truncate { limit } else { usize::MAX };
    let end = Instant::now() + TIME_MAX;
    let mut encoded = EncodedTexts { texts: Vec::with_capacity(texts.len()), truncated: 0 };
    for (index, text) in texts.iter().enumerate() {
        let made = coder.encode_at_most(&format!("{prompt}{text}"), kept, end);
        let (ids, whole) = made.map_err(|error| match error {
            // The time is for all of them.
            TextError::TooSlow { seconds, .. } => {
                let bytes = texts[..=index].iter().map(String::len).sum();
                TextError::TooSlow { bytes, seconds }
            }
            error => error,
        })?;
        if ids.len() > limit {
            return Err(Refusal::TextTooLong { index, tokens: ids.len(), limit: info.context });
        }
        encoded.truncated += u32::from(whole > limit);
        if ids.is_empty() {
            return Err(Refusal::EmptyText { index });
        }
        if let Some(id) = ids.iter().find(|&&id| id >= info.vocab) {
            let problem = format!("the tokenizer gives id {id}; the model has {}", info.vocab);
            return Err(TextError::Encode(problem).into());
        }
        encoded.texts.push(ids);
    }
    Ok(encoded)
}

/// What one [`Engine::embed`] still takes.
pub(crate) struct Room {
    texts: usize,
    tokens: usize,
    is_empty: bool,
}

impl Room {
    pub(crate) fn new(info: &ModelInfo) -> Self {
        Self { texts: info.slots as usize, tokens: info.batch_tokens as usize, is_empty: true }
    }

    /// How many of `texts`, from the first on, find room, which they have then. The first of all does.
    pub(crate) fn take(&mut self, texts: &[Vec<u32>]) -> usize {
        let fits = |text: &&Vec<u32>| {
            let fits = self.is_empty || (self.texts > 0 && self.tokens >= text.len());
            if fits {
                (self.texts, self.is_empty) = (self.texts.saturating_sub(1), false);
                self.tokens = self.tokens.saturating_sub(text.len());
            }
            fits
        };
        texts.iter().take_while(fits).count()
    }
}

/// The vectors of `texts`, `(texts.len(), width)`, which had [`Room`].
pub(crate) fn vectors(engine: &mut dyn Engine, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, BackendError> {
    let width = engine.info().embedding.as_ref().map_or(0, |embedding| embedding.width as usize);
    let mut out = vec![0.0; texts.len() * width];
    engine.embed(texts, &mut out)?;
    Ok(out.chunks_exact(width.max(1)).map(<[f32]>::to_vec).collect())
}

/// The vectors of any number of texts, on an engine of one's own.
///
/// # Errors
/// What the backend cannot do.
pub fn embed_texts(engine: &mut dyn Engine, encoded: &EncodedTexts) -> Result<Embedded, BackendError> {
    let mut made = Vec::with_capacity(encoded.texts.len());
    while made.len() < encoded.texts.len() {
        let left = &encoded.texts[made.len()..];
        let now = Room::new(engine.info()).take(left);
        let now: Vec<&[u32]> = left[..now].iter().map(Vec::as_slice).collect();
        made.extend(vectors(engine, &now)?);
    }
    Ok(Embedded { vectors: made, tokens: encoded.tokens(), truncated: encoded.truncated })
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use crate::sim::{SimEngine, SimOptions};
    use crate::{ChatOptions, Message, TextDecoder};

    use super::*;

    /// An id for each letter, and the time over at a `z`.
    #[derive(Default)]
    struct Letters {
        /// How many ids were asked for, until when.
        asked: Mutex<Vec<(usize, Instant)>>,
    }

    impl Text for Letters {
        fn encode(&self, _: &str) -> Result<Vec<u32>, TextError> {
            unreachable!("a text is read once")
        }

        fn encode_at_most(
            &self,
            text: &str,
            limit: usize,
            end: Instant,
        ) -> Result<(Vec<u32>, usize), TextError> {
            self.asked.lock().unwrap().push((limit, end));
            if text.contains('z') {
                return Err(TextError::TooSlow { bytes: text.len(), seconds: 15 });
            }
            Ok((text.bytes().take(limit).map(u32::from).collect(), text.len()))
        }

        fn encode_chat(&self, _: &[Message], _: &ChatOptions) -> Result<Vec<u32>, TextError> {
            Err(TextError::NoTemplate)
        }

        fn decoder(&self, _: bool) -> Box<dyn TextDecoder> {
            unreachable!("nothing is decoded")
        }
    }

    #[test]
    fn texts_of_a_call_have_one_time_and_are_read_once() {
        let engine = SimEngine::new(SimOptions { embeds: true, context: 4, ..SimOptions::default() });
        for (truncate, texts, expected) in [
            (true, vec!["abcd", "abcde", "a"], Ok((9, 1))),
            (false, vec!["abcd", "a"], Ok((5, 0))),
            (false, vec!["a", "abcde"], Err(Refusal::TextTooLong { index: 1, tokens: 5, limit: 4 })),
            (true, vec!["abc", "dez", "f"], Err(TextError::TooSlow { bytes: 6, seconds: 15 }.into())),
        ] {
            let (letters, began) = (Letters::default(), Instant::now());
            let texts: Vec<String> = texts.into_iter().map(str::to_owned).collect();
            let options = EmbedOptions { truncate, ..EmbedOptions::default() };
            let encoded = encode_texts(engine.info(), &letters, &texts, &options);
            let encoded = encoded.map(|encoded| (encoded.tokens(), encoded.truncated));
            assert_eq!(encoded, expected, "{texts:?}");
            let asked = letters.asked.into_inner().unwrap();
            let read = if expected.is_ok() { texts.len() } else { 2 };
            assert_eq!(asked.len(), read, "{texts:?}");
            let limit = if truncate { 4 } else { usize::MAX };
            assert!(asked.iter().all(|one| *one == (limit, asked[0].1)), "{texts:?} {asked:?}");
            assert!(asked[0].1 >= began + TIME_MAX, "{texts:?}");
        }
    }
}
