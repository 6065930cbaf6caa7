//! Whether a backend's kernels compute on this machine what the reference computes: models of a few hundred kilobytes
//! with random weights, in every kind of layout and of cache, with recurrent states, with latents, and the attention of
//! prompts, through both. Kernels that a new chip or driver runs wrongly are off by the size of the logits. Towers over
//! images and sounds are not among them, nor positions that are chosen: a choice that tips says nothing of the kernels.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;

use muse_format::{
    Activation, Attention, DeltaNet, Experts, Ffn, LatentAttention, Layer, Layout, Mixer, Spec, WriteError,
};
use muse_kernels::{BackendError, Span};
use serde::Serialize;

use crate::{BackendChoice, CacheDtype, Engine, LoadError, LoadOptions, Mapped, load_mapped, random};

/// Tokens of a sequence: as many rows as kernels take at once, and fewer than a prompt has whose attention is rounded.
const TOKENS: u32 = 16;
/// Tokens of a step.
const CHUNKS: [u32; 3] = [1, 5, TOKENS];
/// Tokens of a prompt, all in one step: enough for its attention to be rounded, and no whole number of what kernels take.
const PROMPT_TOKENS: u32 = 43;
/// Sequences for each size of step.
const SEQUENCES: u32 = 8;
/// What the closest of the sequences may differ by, in standard deviations of the logits: ten times what the order of
/// f32 sums makes. Two orders may tip an activation to its next 8-bit step, which then is in all that follows; about two
/// of three sequences have none, and what is wrong in a kernel is in all of them.
const CLOSEST_MAX: f64 = 3e-4;
/// The same of prompts, whose attention some CPUs round to 8 bits: 2^-6 of its result in the mean of squares, in one layer, so
/// that nothing is stored of what was rounded, and 4 times that in one of thousands of logits.
const PROMPT_MAX: f64 = 4.0 / 64.0;
/// The same of prompts by packed weights: what rounding tips is then off by some hundredths in every sequence, and an NPU
/// rounds rows of activations to 8 bits. Other numbers differ by several.
const PACKED_PROMPT_MAX: f64 = 0.25;
/// What any of them may differ by: one that tipped is off by some hundredths, other numbers by several.
const WORST_MAX: f64 = 1.0;

/// What one model gave.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// `q4g32, int8 cache`
    pub what: String,
    /// Largest difference of logits, in their standard deviation, in the closest sequence of the worst size of step.
    pub closest: f64,
    /// In the worst sequence.
    pub worst: f64,
    /// What `closest` may be.
    pub closest_max: f64,
}

impl Tried {
    /// Whether the kernels of this model may be used.
    pub fn passed(&self) -> bool {
        self.closest <= self.closest_max && self.worst <= WORST_MAX
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

/// What a model is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Attention and experts.
    Mixed,
    DeltaNet,
    Latent,
    /// Attention, of many rows at once.
    Prompt,
}

#[derive(Debug, Clone, Copy)]
struct Case {
    kind: Kind,
    layout: Layout,
    cache: Option<CacheDtype>,
}

impl Case {
    fn all() -> Vec<Self> {
        let mixed = |layout| Self { kind: Kind::Mixed, layout, cache: None };
        let (q8, q4) = (Layout::Q8 { group: 64 }, Layout::Q4 { group: 32 });
        let (asymmetric, codebook) = (Layout::Q4Asym { group: 64 }, Layout::Q4Codebook { group: 128 });
        let layouts = [Layout::F32, Layout::F16, Layout::Bf16, q8, q4, asymmetric, codebook];
        let packed = [CacheDtype::Int8, CacheDtype::Int8Int4, CacheDtype::Int4];
        let caches = packed.map(|cache| Self { cache: Some(cache), ..mixed(q4) });
        let kinds = [
            Self { kind: Kind::DeltaNet, ..mixed(Layout::F32) },
            Self { kind: Kind::DeltaNet, ..mixed(q4) },
            Self { kind: Kind::Latent, ..mixed(Layout::F32) },
            Self { kind: Kind::Latent, ..mixed(q8) },
        ];
        let prompt = |cache| Self { kind: Kind::Prompt, layout: Layout::F16, cache: Some(cache) };
        let prompts = [CacheDtype::F16].into_iter().chain(packed).map(prompt);
        let packed = [q8, q4, asymmetric, codebook].map(|layout| Self { layout, ..prompt(CacheDtype::F16) });
        layouts.map(mixed).into_iter().chain(caches).chain(kinds).chain(prompts).chain(packed).collect()
    }

    fn name(self) -> String {
        let kind = match self.kind {
            Kind::Mixed => "",
            Kind::DeltaNet => ", recurrent",
            Kind::Latent => ", latents",
            Kind::Prompt => ", a prompt",
        };
        let cache = self.cache.map_or(String::new(), |cache| format!(", {cache} cache"));
        format!("{}{kind}{cache}", self.layout)
    }

    /// Tokens of a sequence, and of its steps.
    fn tokens(self) -> (u32, &'static [u32]) {
        match self.kind {
            Kind::Prompt => (PROMPT_TOKENS, &[PROMPT_TOKENS]),
            Kind::Mixed | Kind::DeltaNet | Kind::Latent => (TOKENS, &CHUNKS),
        }
    }

    fn closest_max(self) -> f64 {
        match self.kind {
            Kind::Prompt if self.layout.is_quantized() => PACKED_PROMPT_MAX,
            Kind::Prompt => PROMPT_MAX,
            Kind::Mixed | Kind::DeltaNet | Kind::Latent => CLOSEST_MAX,
        }
    }
}

/// Compares `backend` with the reference in every kind of layout and of cache.
///
/// # Errors
/// [`SelftestError`] where the backend cannot be used at all, or stops.
pub fn selftest(backend: BackendChoice) -> Result<Vec<Tried>, SelftestError> {
    Case::all()
        .into_iter()
        .map(|case| {
            let model = TestModel::new(case, 1)?;
            compare(case, &mut *model.engine(BackendChoice::Reference)?, &mut *model.engine(backend)?)
        })
        .collect()
}

/// Runs the same sequences through both, in steps of several sizes.
fn compare(case: Case, reference: &mut dyn Engine, tried: &mut dyn Engine) -> Result<Tried, SelftestError> {
    let (tokens, chunks) = case.tokens();
    let expected: Vec<Vec<f32>> = (0..SEQUENCES)
        .map(|sequence| logits(reference, sequence, tokens, tokens))
        .collect::<Result<_, _>>()?;
    let (mut closest, mut worst) = (Vec::new(), Vec::new());
    for chunk in chunks {
        let mut gaps = Vec::new();
        for (sequence, expected) in (0..).zip(&expected) {
            gaps.push(gap(&logits(tried, sequence, tokens, *chunk)?, expected));
        }
        closest.push(gaps.iter().copied().fold(f64::INFINITY, f64::min));
        worst.push(largest(gaps));
    }
    let (closest, worst) = (largest(closest), largest(worst));
    Ok(Tried { what: case.name(), closest, worst, closest_max: case.closest_max() })
}

/// NaN where there is one, or where there are none.
fn largest(values: impl IntoIterator<Item = f64>) -> f64 {
    values.into_iter().max_by(f64::total_cmp).unwrap_or(f64::NAN) // NaN is above all
}

/// All logits of one of the sequences, `chunk` of its `tokens` a step.
fn logits(engine: &mut dyn Engine, sequence: u32, tokens: u32, chunk: u32) -> Result<Vec<f32>, BackendError> {
    let vocab = engine.info().vocab;
    let tokens: Vec<u32> = (0..tokens).map(|i| (i * i * 7 + i * 31 + sequence * 97) % vocab).collect();
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
    case: Case,
    file: File,
}

impl TestModel {
    fn new(case: Case, seed: u64) -> Result<Self, SelftestError> {
        let flags = rustix::fs::MemfdFlags::CLOEXEC;
        let file =
            File::from(rustix::fs::memfd_create("muse-selftest", flags).map_err(std::io::Error::from)?);
        random::write(file.try_clone()?, &spec(case.kind), case.layout, "selftest", seed)?;
        Ok(Self { case, file })
    }

    fn engine(&self, backend: BackendChoice) -> Result<Box<dyn Engine>, LoadError> {
        let mapped = Mapped::open(&PathBuf::from(format!("/proc/self/fd/{}", self.file.as_raw_fd())))?;
        let (tokens, _) = self.case.tokens();
        // Halves tip too, and float weights make nothing else that does.
        let exact = (!self.case.layout.is_quantized()).then_some(CacheDtype::F32);
        let options = LoadOptions {
            batch_tokens: tokens,
            logit_rows: Some(tokens),
            cache: self.case.cache.or(exact),
            backend,
            ..LoadOptions::default()
        };
        load_mapped(&mapped, &options, random::no_text())
    }
}

/// Grouped queries, a window, norms and experts; widths that are no multiples of tiles and groups, but those of heads whose
/// prompts are rounded, in one layer. Where `kind` says so, the first layer has another mixer.
fn spec(kind: Kind) -> Spec {
    let head_dim = if kind == Kind::Prompt { 32 } else { 18 };
    let attention = Attention { rope: Some(0), ..Attention::new(4, 2, head_dim) };
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
    let mixer = match kind {
        Kind::Mixed | Kind::Prompt => dense.mixer.clone(),
        Kind::DeltaNet => {
            let (key_heads, value_heads, key_dim, value_dim) = (2, 4, 18, 33);
            Mixer::DeltaNet(DeltaNet { key_heads, value_heads, key_dim, value_dim, taps: 4 })
        }
        Kind::Latent => Mixer::Latent(LatentAttention {
            heads: 3,
            query_rank: Some(40),
            rank: 37,
            key_dim: 18,
            rope_dim: 18,
            value_dim: 13,
            scale: 0.2,
            rope: 0,
            norm_eps: 1e-5,
            bias: false,
            sparse: None,
        }),
    };
    let dense = Layer { mixer, ..dense };
    Spec {
        family: "selftest".into(),
        dim: 72,
        vocab: 150,
        context: 64,
        norm_eps: 1e-5,
        ropes: 1,
        layers: if kind == Kind::Prompt { vec![dense] } else { vec![dense, sparse] },
        ..Spec::default()
    }
}

#[cfg(test)]
#[path = "../../kernels/tests/sweep/mod.rs"]
mod sweep;

#[cfg(test)]
mod tests {
    use super::sweep::sweep;
    use super::*;

    #[test]
    fn this_machines_kernels_pass() {
        let tried = selftest(BackendChoice::Cpu).unwrap();
        assert_eq!(tried.len(), 22);
        assert!(tried.iter().all(Tried::passed), "{tried:?}");
    }

    /// On a device, or the emulated one of `scripts/cuda.sh`.
    #[cfg(feature = "cuda")]
    #[test]
    #[ignore = "takes a GPU"]
    fn the_cuda_kernels_pass() {
        let tried = selftest(BackendChoice::Cuda).unwrap();
        assert!(tried.iter().all(Tried::passed), "{tried:?}");
    }

    #[test]
    fn other_numbers_do_not_pass() {
        // They are judged by the same plain code, whatever computed them.
        for &case in sweep(&Case::all()) {
            let engine = |backend, seed| TestModel::new(case, seed).unwrap().engine(backend).unwrap();
            let reference = &mut *engine(BackendChoice::Reference, 1);
            let tried = compare(case, reference, &mut *engine(BackendChoice::Cpu, 2)).unwrap();
            assert!(!tried.passed() && tried.closest > 1.0, "{tried:?}");
        }
        let tried = |closest, worst| Tried { what: String::new(), closest, worst, closest_max: CLOSEST_MAX };
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
