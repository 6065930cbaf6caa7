//! Tiny random models in temporary files, and what tests do with them.
#![allow(dead_code, unused_imports)] // every test file uses a part

mod file;
mod models;
pub mod naive;
mod naive_delta_net;
mod naive_latent;
pub mod perceived;
#[path = "../../../kernels/tests/sweep/mod.rs"]
pub mod sweep;
mod text;
mod towers;

pub use file::*;
pub use models::*;
use muse_kernels::Span;
use muse_runtime::Engine;
pub use text::*;
pub use towers::*;

/// Deterministic, so that a failure names its case and nothing else is needed to replay it.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// Uniform in `-1..1`.
    pub fn signed(&mut self) -> f32 {
        self.next() as f32 / (1_u32 << 30) as f32 - 1.0
    }

    pub fn signed_numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.signed()).collect()
    }

    pub fn tokens(&mut self, count: usize, vocab: u32) -> Vec<u32> {
        (0..count).map(|_| self.next() % vocab).collect()
    }
}

/// The logits of every row of one span, `(tokens, vocab)`.
pub fn step(engine: &mut dyn Engine, slot: u32, start: u32, tokens: &[u32]) -> Vec<f32> {
    let len = tokens.len() as u32;
    let mut logits = vec![f32::NAN; tokens.len() * engine.info().vocab as usize];
    let wanted: Vec<u32> = (0..len).collect();
    engine.step(&[Span { slot, start, len }], tokens, &wanted, &mut logits).unwrap();
    logits
}

/// [`step`] of all of `tokens` from position 0, `chunk` at a time.
pub fn steps(engine: &mut dyn Engine, slot: u32, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let chunks = tokens.chunks(chunk).enumerate();
    chunks.flat_map(|(i, chunk_of)| step(engine, slot, (i * chunk) as u32, chunk_of)).collect()
}

/// Largest difference, and the standard deviation of `expected`. NaN anywhere gives NaN.
pub fn difference(actual: &[f32], expected: &[f32]) -> (f64, f64) {
    assert_eq!(actual.len(), expected.len());
    let n = expected.len() as f64;
    let mean = expected.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
    let variance = expected.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    let gaps = actual.iter().zip(expected).map(|(a, e)| f64::from(a - e).abs());
    (gaps.fold(0.0, |max, gap| if gap > max || gap.is_nan() { gap } else { max }), variance.sqrt())
}
