//! Tokens a second of one engine.

use std::path::Path;
use std::time::Instant;

use muse_format::{Layer, Spec};
use muse_kernels::{BackendError, CacheShape, Span};
use muse_runtime::{Engine, Mapped, Plan};

use crate::disk;
use crate::probe::Probe;
use crate::report::BenchError;

/// How much is measured.
#[derive(Debug, Clone, Copy)]
pub struct Lengths {
    /// Tokens of every session that are in the cache before prompt and answer begin.
    pub depth: u32,
    pub prompt: u32,
    pub answer: u32,
    pub rounds: u32,
}

/// Medians over the rounds.
#[derive(Debug, Clone, Copy)]
pub struct Rates {
    /// Prompt tokens a second of one session.
    pub prefill: Option<f64>,
    /// Generated tokens a second of all sessions together.
    pub decode: Option<f64>,
    /// Bytes a second that as many threads read from memory in the same seconds.
    pub probe: f64,
    /// Generated tokens for each byte that the ceiling gives in the same second: by rounds, as a ceiling that changes
    /// between them says nothing of another's answer.
    pub decode_of_probe: Option<f64>,
    /// What decoding read from the disk, where experts stay there.
    pub flash: Option<FlashRates>,
}

/// Reading of experts that stay on flash, while decoding: medians over the rounds.
#[derive(Debug, Clone, Copy)]
pub struct FlashRates {
    /// Bytes read from the disk for each token.
    pub bytes_per_token: f64,
    /// Bytes a second read from the disk.
    pub read: f64,
    /// Bytes a second that direct reads of the same file gave in between, at best.
    pub probe: f64,
}

/// The ceilings that belong to the seconds of a measurement.
pub enum Ceiling<'a> {
    /// Memory, which is read in between.
    Memory(&'a Probe),
    /// That of a GPU.
    #[cfg(feature = "cuda")]
    Device(&'a crate::device::DeviceProbe),
    /// The disk that the file at this path is on, read in between, beside a rate of memory that was measured before: the
    /// probe's buffer would take the place of experts.
    Disk { path: &'a Path, memory: f64 },
}

impl Ceiling<'_> {
    /// Bytes a second of memory, the better of two readings.
    fn read(&self, threads: usize) -> Result<f64, BenchError> {
        match self {
            Self::Memory(probe) => Ok(probe.read(threads).max(probe.read(threads))),
            #[cfg(feature = "cuda")]
            Self::Device(probe) => Ok(probe.read()?.max(probe.read()?)),
            Self::Disk { memory, .. } => Ok(*memory),
        }
    }
}

/// Bytes that must be moved to decode one token, on average over an answer of `answer` tokens after `depth` others,
/// where `sessions` share a step: their part of every weight but an embedding that is only looked up, the cache and recurrent states. Of
/// experts, those that as many tokens choose on average where each chooses any alike.
pub fn bytes_per_token(mapped: &Mapped, plan: &Plan, lengths: Lengths, sessions: u32) -> u64 {
    let spec: &Spec = &mapped.spec;
    let bytes = |table: &str| mapped.stored(table).map_or(0, |(_, bytes)| bytes);
    let looked_up = bytes("per_layer.table") + if spec.tied_head { 0 } else { bytes("embed") };
    let layer = |(layer, shape): (&Layer, &CacheShape)| {
        let window = layer.attention().and_then(|a| a.reach()).unwrap_or(u32::MAX);
        let seen = (lengths.depth + lengths.answer / 2).min(window);
        u64::from(seen) * shape.position_bytes()
    };
    let cache: u64 = spec.layers.iter().zip(&plan.caches).map(layer).sum();
    // A recurrent state is read and written.
    let states: u64 = plan.delta_states.iter().flatten().map(|state| 2 * state.slot_bytes()).sum();
    let unused: f64 =
        spec.layers.iter().enumerate().map(|(i, layer)| unused_bytes(mapped, i, layer, sessions)).sum();
    (mapped.weight_bytes() - looked_up - unused as u64) / u64::from(sessions) + cache + states
}

/// Bytes of layer `i`'s experts that a step of `sessions` tokens leaves alone, on average.
fn unused_bytes(mapped: &Mapped, i: usize, layer: &Layer, sessions: u32) -> f64 {
    let Some(experts) = &layer.experts else { return 0.0 };
    let bytes = |part: &str| mapped.stored(&format!("l{i}.experts.{part}")).map_or(0, |(_, bytes)| bytes);
    // All experts are of one shape and layout.
    let all = u64::from(experts.count) * (bytes("0.gate") + bytes("0.up") + bytes("0.down"));
    let left_alone = 1.0 - f64::from(experts.used) / f64::from(experts.count);
    all as f64 * left_alone.powi(sessions as i32)
}

/// Fills the first `depth` positions of `sessions` slots.
///
/// # Errors
/// What the engine's steps give.
pub fn fill(engine: &mut dyn Engine, sessions: u32, depth: u32) -> Result<(), BackendError> {
    (0..sessions).try_for_each(|slot| read(engine, slot, 0, depth, &mut []))
}

/// Fills what a slot that has gone on behind its first `depth` positions does not keep of them: recurrent states all, others
/// nothing or the last.
///
/// # Errors
/// What the engine's steps give.
pub fn go_back(engine: &mut dyn Engine, slot: u32, depth: u32) -> Result<(), BackendError> {
    let kept = engine.keep(slot, depth, depth);
    if kept == depth { Ok(()) } else { read(engine, slot, kept, depth - kept, &mut []) }
}

/// Measures prompt and answer, both at `lengths.depth`. Every round starts there again: what it writes to the cache,
/// the next replaces. Prompts are read one at a time, so only one session measures them. `ceiling` is read by `threads`
/// before and after every answer, whose ceiling is the higher of the two. Answers are of other tokens each round: those of
/// the round before would find their experts in memory.
///
/// # Errors
/// What the engine's steps give; [`BenchError::Read`] where the disk cannot be read directly.
pub fn rates(
    engine: &mut dyn Engine,
    ceiling: &Ceiling<'_>,
    threads: usize,
    lengths: Lengths,
    sessions: u32,
) -> Result<Rates, BenchError> {
    let (mut prefill, mut decode) = (Vec::new(), Vec::new());
    let (mut memory, mut shares, mut disk, mut flash) = (Vec::new(), Vec::new(), 0.0_f64, Vec::new());
    let prompt = if sessions == 1 { lengths.prompt } else { 0 };
    // The round before the first brings pages and clocks up and is not counted.
    for round in 0..=lengths.rounds {
        if let Ceiling::Disk { path, .. } = ceiling {
            disk = disk.max(disk::probe(path, round.into()).map_err(BenchError::Read)?);
        }
        go_back(engine, 0, lengths.depth)?;
        let prompt = (prompt > 0).then(|| read_prompt(engine, lengths.depth, prompt)).transpose()?;
        (0..sessions).try_for_each(|slot| go_back(engine, slot, lengths.depth))?;
        let ceiling_before = ceiling.read(threads)?;
        let before = disk::read_bytes();
        let answer =
            (lengths.answer > 0).then(|| write_answers(engine, lengths, sessions, round)).transpose()?;
        let most = ceiling_before.max(ceiling.read(threads)?);
        let share = answer.map(|rate| rate / most);
        let read = before.zip(disk::read_bytes()).map(|(before, after)| (after - before) as f64);
        if round > 0 {
            prefill.extend(prompt);
            decode.extend(answer);
            shares.extend(share);
            memory.push(most);
            flash.extend(
                answer.zip(read).map(|(rate, read)| (rate, read / f64::from(sessions * lengths.answer))),
            );
        }
    }
    let of_disk = |value: fn(&(f64, f64)) -> f64| median(flash.iter().map(value).collect());
    let rates = of_disk(|(_, bytes)| *bytes).zip(of_disk(|(rate, bytes)| rate * bytes));
    let flash = rates.filter(|_| matches!(ceiling, Ceiling::Disk { .. }));
    let flash = flash.map(|(bytes_per_token, read)| FlashRates { bytes_per_token, read, probe: disk });
    let probe = median(memory).expect("a round is counted");
    Ok(Rates {
        prefill: median(prefill),
        decode: median(decode),
        probe,
        decode_of_probe: median(shares),
        flash,
    })
}

/// Ids that look up other rows of the embedding each time.
pub fn token(i: u32, vocab: u32) -> u32 {
    i.wrapping_mul(2_654_435_761) % vocab
}

/// Reads `len` tokens from `start` on, in steps of the engine's batch, and the last token's logits where `logits` has
/// room for them.
fn read(
    engine: &mut dyn Engine,
    slot: u32,
    start: u32,
    len: u32,
    logits: &mut [f32],
) -> Result<(), BackendError> {
    let (batch, vocab) = (engine.info().batch_tokens, engine.info().vocab);
    let tokens: Vec<u32> = (start..start + len).map(|i| token(i, vocab)).collect();
    let mut at = start;
    for chunk in tokens.chunks(batch as usize) {
        let span = Span { slot, start: at, len: chunk.len() as u32 };
        at += span.len;
        if at == start + len && !logits.is_empty() {
            engine.step(&[span], chunk, &[span.len - 1], logits)?;
        } else {
            engine.step(&[span], chunk, &[], &mut [])?;
        }
    }
    Ok(())
}

fn read_prompt(engine: &mut dyn Engine, depth: u32, len: u32) -> Result<f64, BackendError> {
    let mut logits = vec![0.0; engine.info().vocab as usize];
    let began = Instant::now();
    read(engine, 0, depth, len, &mut logits)?;
    Ok(f64::from(len) / began.elapsed().as_secs_f64())
}

fn write_answers(
    engine: &mut dyn Engine,
    lengths: Lengths,
    sessions: u32,
    round: u32,
) -> Result<f64, BackendError> {
    let Lengths { depth, answer: len, .. } = lengths;
    let vocab = engine.info().vocab;
    let mut logits = vec![0.0; sessions as usize * vocab as usize];
    let rows: Vec<u32> = (0..sessions).collect();
    let began = Instant::now();
    for start in depth..depth + len {
        let spans: Vec<_> = rows.iter().map(|slot| Span { slot: *slot, start, len: 1 }).collect();
        let tokens: Vec<_> = rows.iter().map(|slot| token(round * len + start + slot, vocab)).collect();
        engine.step(&spans, &tokens, &rows, &mut logits)?;
    }
    Ok(f64::from(sessions * len) / began.elapsed().as_secs_f64())
}

/// The middle of `values`; none where there are none.
pub fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
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
