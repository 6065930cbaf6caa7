//! Single operations on a GPU, as shares of what the same device reads and multiplies at most in the same run.
//!
//! Before anything is timed, one small case of each kind is compared with [`ReferenceBackend`](muse_kernels::ReferenceBackend).
//! Outputs hold NaN before they are timed, and must hold none afterwards. Times are the device's own, medians over rounds;
//! operations of a few rows run as a graph, as an answer's do.

mod attention;
mod check;
mod matrices;
mod report;
mod timing;

use muse_format::{Layout, Spec};
use muse_kernels::{Backend, CacheDtype, CudaBackend, CudaBuffer, CudaPeak};

pub use report::{Products, Row};

use crate::device::DeviceProbe;
use crate::report::BenchError;
use crate::shapes;

/// A model's sizes.
#[derive(Debug, Clone)]
pub struct Dims {
    pub name: String,
    pub dim: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub ffn: u32,
    pub vocab: u32,
}

impl Dims {
    /// Those of a spec whose first layer has attention and a feed-forward.
    fn of(spec: &Spec) -> Option<Self> {
        let layer = spec.layers.first()?;
        let (attention, ffn) = (layer.attention()?, layer.ffn.as_ref()?);
        let (heads, kv_heads, head_dim) = (attention.heads, attention.kv_heads, attention.head_dim);
        let (name, dim, vocab) = (spec.family.clone(), spec.dim, spec.vocab);
        Some(Self { name, dim, heads, kv_heads, head_dim, ffn: ffn.dim, vocab })
    }
}

/// What is measured, and how much of it.
#[derive(Debug, Clone)]
pub struct Extent {
    pub shapes: Vec<Dims>,
    pub layouts: Vec<Layout>,
    pub caches: Vec<CacheDtype>,
    /// Rows of the products that an answer's steps make.
    pub few: Vec<usize>,
    /// Rows of a prompt's.
    pub prompt: usize,
    /// Positions of attention.
    pub context: u32,
    /// Bytes of weights or of a cache that operations take turns with, so that no cache of the device holds what they read.
    pub turn_bytes: u64,
    /// Operations of a graph, where its bytes are no more than 8 turns.
    pub operations: usize,
    /// Numbers that the probe reads.
    pub probe_len: usize,
    /// Rounds of a peak.
    pub peak_rounds: u32,
    pub rounds: u32,
}

impl Extent {
    /// The shapes of a 4B-class model and of Muse Glimmer, every packed layout; with `quick` the symmetric one alone.
    pub fn full(quick: bool) -> Self {
        let group = 32;
        let all = [
            Layout::Q4 { group },
            Layout::Q8 { group },
            Layout::Q4Asym { group },
            Layout::Q4Codebook { group },
        ];
        let caches = [CacheDtype::F16, CacheDtype::Int8, CacheDtype::Int4];
        let shape =
            |name| shapes::find(name).and_then(|shape| Dims::of(&shape.spec())).expect("it is listed");
        Self {
            shapes: ["qwen3-4b", "muse-glimmer-30b"].map(shape).to_vec(),
            layouts: all[..if quick { 1 } else { all.len() }].to_vec(),
            caches: caches[..if quick { 1 } else { caches.len() }].to_vec(),
            few: if quick { vec![1, 8] } else { vec![1, 2, 4, 8] },
            prompt: 2048,
            context: 8192,
            turn_bytes: 512 << 20,
            operations: 256,
            probe_len: DeviceProbe::LEN,
            peak_rounds: 1 << 16,
            rounds: if quick { 3 } else { 7 },
        }
    }

    /// Too little to measure anything, for a driver that is emulated.
    pub fn tiny() -> Self {
        let dims =
            Dims { name: "tiny".into(), dim: 64, heads: 4, kv_heads: 2, head_dim: 32, ffn: 96, vocab: 80 };
        Self {
            shapes: vec![dims],
            few: vec![1, 8],
            prompt: 70,
            context: 128,
            turn_bytes: 4096,
            operations: 4,
            probe_len: 1 << 12,
            peak_rounds: 2,
            rounds: 1,
            ..Self::full(false)
        }
    }
}

/// Numbers about 1 in size, different in every place.
pub(crate) fn noise(len: usize) -> Vec<f32> {
    let number = |i: usize| (i as u32).wrapping_mul(2_654_435_761) as f32 / (1_u64 << 31) as f32 - 1.0;
    (0..len).map(number).collect()
}

/// A buffer of `values`.
fn put(cuda: &mut CudaBackend, values: &[f32]) -> Result<CudaBuffer, BenchError> {
    let mut buffer = cuda.buffer(values.len())?;
    cuda.write(&mut buffer, values)?;
    Ok(buffer)
}

/// Measures all of `extent` on the first GPU.
///
/// # Errors
/// [`BenchError::Step`] where there is none that can be used or memory ends, [`BenchError::Wrong`] where it computes something
/// else than it should.
pub fn measure(extent: &Extent) -> Result<Products, BenchError> {
    let mut cuda = CudaBackend::new()?;
    check::all(&mut cuda, extent)?;
    let probe = DeviceProbe::new(extent.probe_len)?;
    let mut report = Products {
        device: cuda.report()?,
        rounds: extent.rounds,
        read_gb_per_s: probe.read()? / 1e9,
        half_tera_per_s: timing::peak(&mut cuda, CudaPeak::Half, extent)? / 1e12,
        bytes_tera_per_s: timing::peak(&mut cuda, CudaPeak::Bytes, extent)? / 1e12,
        launch_us: timing::launch(&mut cuda, extent)? * 1e6,
        rows: Vec::new(),
    };
    for dims in &extent.shapes {
        for layout in &extent.layouts {
            report.rows.extend(matrices::measure(&mut cuda, dims, *layout, extent)?);
        }
        for dtype in &extent.caches {
            report.rows.extend(attention::measure(&mut cuda, dims, *dtype, extent)?);
        }
    }
    // A ceiling is a best, of before and after.
    report.read_gb_per_s = report.read_gb_per_s.max(probe.read()? / 1e9);
    Ok(report)
}
