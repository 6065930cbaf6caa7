//! Whether a backend's kernels compute on this machine what the reference computes: a model of a few hundred kilobytes
//! with random weights, in every kind of layout, through both. Kernels that a new chip or driver runs wrongly are off by
//! the size of the logits.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use muse_format::{Activation, Attention, Experts, Ffn, Layer, Layout, Spec, WriteError};
use muse_kernels::{BackendError, Span};
use serde::Serialize;

use crate::{BackendChoice, Engine, LoadError, LoadOptions, Mapped, load_mapped, random};

/// Tokens of a sequence: as many rows as kernels take at once, and fewer than a prompt has whose attention is rounded.
const TOKENS: u32 = 16;
/// Tokens of a step.
const CHUNKS: [u32; 3] = [1, 5, TOKENS];
/// Sequences for each size of step.
const SEQUENCES: u32 = 8;
/// What the closest of the sequences may differ by, in standard deviations of the logits: ten times what the order of
/// f32 sums makes. Two orders may tip an activation to its next 8-bit step, which then is in all that follows; about two
/// of three sequences have none, and what is wrong in a kernel is in all of them.
const CLOSEST_MAX: f64 = 3e-4;
/// What any of them may differ by: one that tipped is off by some hundredths, other numbers by several.
const WORST_MAX: f64 = 1.0;

/// What one layout gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// `q4g32`
    pub layout: String,
    /// Largest difference of logits, in their standard deviation, in the closest sequence of the worst size of step.
    pub closest: f64,
    /// In the worst sequence.
    pub worst: f64,
}

impl Tried {
    /// Whether the kernels of this layout may be used.
    pub fn passed(&self) -> bool {
        self.closest <= CLOSEST_MAX && self.worst <= WORST_MAX
    }
}

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SelftestError {
    #[error("there is no memory for a test model: {0}")]
    Memory(#[from] std::io::Error),
    #[error("the test model cannot be written: {0}")]
    Write(#[from] WriteError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Step(#[from] BackendError),
}

/// Compares `backend` with the reference in every kind of layout.
///
/// # Errors
/// [`SelftestError`] where the backend cannot be used at all, or stops.
pub fn selftest(backend: BackendChoice) -> Result<Vec<Tried>, SelftestError> {
    let layouts = [
        Layout::F32,
        Layout::F16,
        Layout::Bf16,
        Layout::Q8 { group: 64 },
        Layout::Q4 { group: 32 },
        Layout::Q4Asym { group: 64 },
        Layout::Q4Codebook { group: 128 },
    ];
    layouts
        .into_iter()
        .map(|layout| {
            let model = TestModel::new(layout, 1)?;
            compare(layout, &mut *model.engine(BackendChoice::Reference)?, &mut *model.engine(backend)?)
        })
        .collect()
}

/// Runs the same sequences through both, in steps of several sizes.
fn compare(
    layout: Layout,
    reference: &mut dyn Engine,
    tried: &mut dyn Engine,
) -> Result<Tried, SelftestError> {
    let (mut closest, mut worst) = (Vec::new(), Vec::new());
    for chunk in CHUNKS {
        let mut gaps = Vec::new();
        for sequence in 0..SEQUENCES {
            let expected = logits(reference, sequence, TOKENS)?;
            gaps.push(gap(&logits(tried, sequence, chunk)?, &expected));
        }
        closest.push(gaps.iter().copied().fold(f64::INFINITY, f64::min));
        worst.push(largest(gaps));
    }
    Ok(Tried { layout: layout.to_string(), closest: largest(closest), worst: largest(worst) })
}

/// NaN where there is one, or where there are none.
fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().max_by(f64::total_cmp).unwrap_or(f64::NAN) // NaN is above all
}

/// All logits of one of the sequences, `chunk` tokens a step.
fn logits(engine: &mut dyn Engine, sequence: u32, chunk: u32) -> Result<Vec<f32>, BackendError> {
    let vocab = engine.info().vocab;
    let tokens: Vec<u32> = (0..TOKENS).map(|i| (i * i * 7 + i * 31 + sequence * 97) % vocab).collect();
    let mut logits = vec![f32::NAN; tokens.len() * vocab as usize];
    let rows = tokens.chunks(chunk as usize).zip(logits.chunks_mut((chunk * vocab) as usize));
    for (i, (tokens, logits)) in rows.enumerate() {
        let len = tokens.len() as u32;
        let wanted: Vec<u32> = (0..len).collect();
        engine.step(&[Span { slot: 0, start: i as u32 * chunk, len }], tokens, &wanted, logits)?;
    }
    Ok(logits)
}

/// The largest difference, in standard deviations of what is expected; NaN where either has one.
fn gap(actual: &[f32], expected: &[f32]) -> f64 {
    let count = expected.len() as f64;
    let mean = expected.iter().map(|x| f64::from(*x)).sum::<f64>() / count;
    let variance = expected.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / count;
    let differences = actual.iter().zip(expected).map(|(a, e)| (f64::from(*a) - f64::from(*e)).abs());
    largest(differences) / variance.sqrt()
}

/// A model in memory that is a file all the same.
struct TestModel {
    layout: Layout,
    file: File,
}

impl TestModel {
    fn new(layout: Layout, seed: u64) -> Result<Self, SelftestError> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file =
            File::from(rustix::fs::memfd_create("muse-selftest", flags).map_err(std::io::Error::from)?);
        random::write(file.try_clone()?, &spec(), layout, "selftest", seed)?;
        Ok(Self { layout, file })
    }

    fn engine(&self, backend: BackendChoice) -> Result<Box<dyn Engine>, LoadError> {
        let mapped = Mapped::open(&PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd())))?;
        let options = LoadOptions {
            batch_tokens: TOKENS,
            logit_rows: Some(TOKENS),
            // Halves tip too, and float weights make nothing else that does.
            cache: (!self.layout.is_quantized()).then_some(crate::CacheDtype::F32),
            backend,
            ..LoadOptions::default()
        };
        load_mapped(&mapped, &options, random::no_text())
    }
}

/// Grouped queries, a window, norms and experts; widths that are no multiples of tiles and groups.
fn spec() -> Spec {
    let attention = Attention { rope: Some(0), ..Attention::new(4, 2, 18) };
    let dense = Layer {
        ffn: Some(Ffn { dim: 100, activation: Activation::Silu, bias: false }),
        ..Layer::new(attention.clone())
    };
    // All are used: where a choice tips, nothing is said of the kernels.
    let experts = Experts { activation: Activation::GeluTanh, ..Experts::new(4, 4, 40) };
    let sparse = Layer {
        experts: Some(experts),
        post_norms: true,
        ..Layer::new(Attention { window: Some(7), qk_norm: true, out_gate: true, ..attention })
    };
    Spec {
        family: "selftest".into(),
        dim: 72,
        vocab: 150,
        context: 64,
        norm_eps: 1e-5,
        ropes: 1,
        layers: vec![dense, sparse],
        ..Spec::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machines_kernels_pass() {
        let tried = selftest(BackendChoice::Cpu).unwrap();
        assert_eq!(tried.len(), 7);
        assert!(tried.iter().all(Tried::passed), "{tried:?}");
    }

    #[test]
    fn other_numbers_do_not_pass() {
        for layout in [Layout::F32, Layout::Q4 { group: 32 }] {
            let engine =
                |seed| TestModel::new(layout, seed).unwrap().engine(BackendChoice::Reference).unwrap();
            let tried = compare(layout, &mut *engine(1), &mut *engine(2)).unwrap();
            assert!(!tried.passed() && tried.closest > 1.0, "{tried:?}");
        }
        let tried = |closest, worst| Tried { layout: String::new(), closest, worst };
        assert!(tried(1e-4, 0.1).passed());
        assert!(!tried(1e-3, 0.1).passed() && !tried(1e-4, 1.5).passed());
        assert!(!tried(1e-4, f64::NAN).passed() && !tried(f64::NAN, f64::NAN).passed());
        assert!(gap(&[1.0, f32::NAN], &[1.0, 2.0]).is_nan());
        assert!(gap(&[f32::NAN, 1.0], &[1.0, 2.0]).is_nan());
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_backend_that_is_not_there_is_an_error() {
        let error = selftest(BackendChoice::Cuda).unwrap_err().to_string();
        assert!(error.contains("this build has no CUDA"), "{error}");
    }
}
