//! Tokens a second of one engine.

use std::sync::Arc;
use std::time::Instant;

use muse_format::Spec;
use muse_kernels::{BackendError, CacheDtype, Span};
use muse_runtime::{ChatOptions, Engine, Mapped, Message, Plan, Text, TextDecoder, TextError};
use serde::Serialize;

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub threads: usize,
    /// Prompt tokens a second; none where no prompt was asked for.
    pub prefill_tok_per_s: Option<f64>,
    /// Generated tokens a second; none where none were asked for.
    pub decode_tok_per_s: Option<f64>,
    /// Bytes that must be read for a token: every weight but an embedding that is only looked up, and the cache up to
    /// the middle of the answer.
    pub bytes_per_token: u64,
    /// `bytes_per_token` times `decode_tok_per_s`, in 1e9 bytes.
    pub decode_gb_per_s: Option<f64>,
    /// What as many threads read from memory at best, beside this row.
    pub probe_gb_per_s: f64,
}

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    pub prompt: u32,
    pub answer: u32,
    pub rounds: u32,
}

/// Bytes that must be read to decode one token, on average over an answer of `answer` tokens.
pub fn bytes_per_token(mapped: &Mapped, plan: &Plan, answer: u32) -> u64 {
    let spec: &Spec = &mapped.spec;
    let looked_up = if spec.tied_head { 0 } else { mapped.stored("embed").map_or(0, |(_, bytes)| bytes) };
    let layer = |(layer, shape): (&muse_format::Layer, &muse_kernels::CacheShape)| {
        let seen = (answer / 2).min(layer.attention.window.unwrap_or(u32::MAX));
        let element = if shape.dtype == CacheDtype::F16 { 2 } else { 4 };
        2 * element * u64::from(seen) * u64::from(shape.kv_heads) * u64::from(shape.head_dim)
    };
    let cache: u64 = spec.layers.iter().zip(&plan.caches).map(layer).sum();
    mapped.weight_bytes() - looked_up + cache
}

/// Medians over the rounds, each of a prompt read from nothing, then an answer from nothing.
///
/// # Errors
/// What the engine's steps give.
pub fn tokens_per_second(
    engine: &mut dyn Engine,
    lengths: Lengths,
) -> Result<(Option<f64>, Option<f64>), BackendError> {
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    // The round before the first brings pages and clocks up and is not counted.
    for round in 0..=lengths.rounds {
        let prompt = (lengths.prompt > 0).then(|| read_prompt(engine, lengths.prompt)).transpose()?;
        let answer = (lengths.answer > 0).then(|| write_answer(engine, lengths.answer)).transpose()?;
        if round > 0 {
            prefill.extend(prompt);
            decode.extend(answer);
        }
    }
    Ok((median(prefill), median(decode)))
}

/// Ids that look up other rows of the embedding each time.
fn token(i: u32, vocab: u32) -> u32 {
    i.wrapping_mul(2_654_435_761) % vocab
}

fn read_prompt(engine: &mut dyn Engine, len: u32) -> Result<f64, BackendError> {
    let (batch, vocab) = (engine.info().batch_tokens, engine.info().vocab);
    let tokens: Vec<u32> = (0..len).map(|i| token(i, vocab)).collect();
    let mut logits = vec![0.0; vocab as usize];
    let began = Instant::now();
    let mut start = 0;
    for chunk in tokens.chunks(batch as usize) {
        let span = Span { slot: 0, start, len: chunk.len() as u32 };
        start += span.len;
        let wanted: &[u32] = if start == len { &[span.len - 1] } else { &[] };
        let logits = if start == len { logits.as_mut_slice() } else { &mut [] };
        engine.step(&[span], chunk, wanted, logits)?;
    }
    Ok(f64::from(len) / began.elapsed().as_secs_f64())
}

fn write_answer(engine: &mut dyn Engine, len: u32) -> Result<f64, BackendError> {
    let vocab = engine.info().vocab;
    let mut logits = vec![0.0; vocab as usize];
    let began = Instant::now();
    for start in 0..len {
        engine.step(&[Span { slot: 0, start, len: 1 }], &[token(start, vocab)], &[0], &mut logits)?;
    }
    Ok(f64::from(len) / began.elapsed().as_secs_f64())
}

fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

/// Stands where a model's tokenizer would: a measurement reads and writes no text.
struct NoText;

/// A [`Text`] that refuses everything.
pub fn no_text() -> Arc<dyn Text> {
    Arc::new(NoText)
}

impl Text for NoText {
    fn encode(&self, _: &str) -> Result<Vec<u32>, TextError> {
        Err(TextError::Encode("muse-bench reads no text".into()))
    }

    fn encode_chat(&self, _: &[Message], _: &ChatOptions) -> Result<Vec<u32>, TextError> {
        Err(TextError::NoTemplate)
    }

    fn decoder(&self, _: bool) -> Box<dyn TextDecoder> {
        Box::new(NoText)
    }
}

impl TextDecoder for NoText {
    fn push(&mut self, _: u32) -> String {
        String::new()
    }

    fn finish(&mut self) -> String {
        String::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_an_even_count_is_between() {
        assert_eq!(median(vec![]), None);
        assert_eq!(median(vec![3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![4.0, 1.0, 3.0, 2.0]), Some(2.5));
    }
}
