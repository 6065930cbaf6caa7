//! What is on the device, and the launches that several operations share.

use std::sync::Arc;

use muse_format::{Activation, Layout};
use zerocopy::IntoBytes;

use super::driver::{Bounce, Context, Memory};
use super::experts::Table;
use super::launch::{self as kernels, Kernels, THREADS, launch};
use super::scratch::Scratch;
use crate::cache::rows;
use crate::reference::GROUP;
use crate::{Backend, BackendError, CacheShape, Span};

/// The first GPU of this machine.
#[derive(Debug)]
pub struct CudaBackend {
    pub(super) kernels: Kernels,
    pub(super) scratch: Scratch,
    /// What `scratch.batch` holds.
    pub(super) spans: Vec<Span>,
    pub(super) bounce: Bounce,
    /// One of each mixture of experts.
    pub(super) tables: Vec<Table>,
    pub(super) context: Arc<Context>,
}

/// A tensor on the device, in the bytes of its layout.
#[derive(Debug)]
pub struct CudaWeight {
    pub(super) layout: Layout,
    pub(super) rows: u32,
    pub(super) cols: u32,
    pub(super) memory: Memory,
}

/// f32 activations on the device.
#[derive(Debug)]
pub struct CudaBuffer {
    pub(super) memory: Memory,
    pub(super) len: usize,
}

impl CudaBuffer {
    /// The address of its first number, where it holds `len`.
    pub(super) fn at(&self, len: usize) -> u64 {
        assert!(len <= self.len, "{len} numbers of a buffer of {}", self.len);
        self.memory.at()
    }
}

/// Keys and values of one layer on the device, in the order of [`crate::HostCache`].
#[derive(Debug)]
pub struct CudaCache {
    /// With the capacity rounded up to whole tiles.
    pub(super) shape: CacheShape,
    pub(super) keys: Memory,
    pub(super) values: Memory,
    /// Of keys and of values, where they are 8 bits.
    pub(super) scales: Option<[Memory; 2]>,
}

impl CudaCache {
    pub(super) fn argument(&self) -> kernels::Cache {
        let CacheShape { capacity, kv_heads, head_dim, .. } = self.shape;
        let [key_scales, value_scales] =
            self.scales.as_ref().map_or([0, 0], |[keys, values]| [keys.at(), values.at()]);
        let (keys, values) = (self.keys.at(), self.values.at());
        kernels::Cache { keys, values, key_scales, value_scales, capacity, kv_heads, head_dim }
    }
}

/// Blocks of [`THREADS`] for `count` threads.
pub(super) fn blocks(count: usize) -> Result<u32, BackendError> {
    let blocks = count.div_ceil(THREADS as usize);
    u32::try_from(blocks).map_err(|_| BackendError::Unsupported(format!("{count} numbers at once")))
}

pub(super) fn small(number: usize) -> u32 {
    u32::try_from(number).expect("shapes are checked at load")
}

impl CudaBackend {
    /// Opens the first GPU and loads the kernels for it.
    ///
    /// # Errors
    /// [`CudaError`] says what is missing: the driver, a newer one, a GPU, or kernels for it.
    pub fn new() -> Result<Self, BackendError> {
        let context = Context::open()?;
        let kernels = kernels::load(&context)?;
        let (scratch, bounce) = (Scratch::new(&context)?, Bounce::new(&context)?);
        Ok(Self { kernels, scratch, spans: Vec::new(), bounce, tables: Vec::new(), context })
    }

    /// The GPU's name and what its kernels are compiled for.
    pub fn describe(&self) -> String {
        format!("cuda, {}, sm_{}", self.context.name, self.context.sm)
    }

    /// Puts the slot and position of each row of `spans` on the device; the layers of a step share them.
    pub(super) fn batch(&mut self, spans: &[Span]) -> Result<u64, BackendError> {
        if self.spans != spans {
            let pairs: Vec<[u32; 2]> = rows(spans).map(|(slot, position)| [slot, position]).collect();
            self.scratch.reserve(pairs.len(), 0)?;
            self.spans.clear();
            self.scratch.batch.write(pairs.as_bytes())?;
            self.spans.extend_from_slice(spans);
        }
        Ok(self.scratch.batch.at())
    }

    pub(super) fn indices(&mut self, indices: &[u32]) -> Result<u64, BackendError> {
        if self.scratch.indices.bytes() < 4 * indices.len() {
            self.reserve(indices.len(), 0)?;
        }
        self.scratch.indices.write(indices.as_bytes())?;
        Ok(self.scratch.indices.at())
    }

    /// Quantizes `rows` rows of `cols` numbers at `x`.
    pub(super) fn quantize(&self, to: [u64; 2], x: u64, rows: usize, cols: u32) -> Result<(), BackendError> {
        self.quantize_weighted(to, x, 0, rows, cols, 1)
    }

    /// Quantizes `rows` rows, of which `share` each are one row at `x` times their numbers at `weight`, where that is not 0.
    pub(super) fn quantize_weighted(
        &self,
        [quants, scales]: [u64; 2],
        x: u64,
        weight: u64,
        rows: usize,
        cols: u32,
        share: u32,
    ) -> Result<(), BackendError> {
        let groups = rows * (cols as usize).div_ceil(GROUP);
        let (grid, rows) = ((blocks(32 * groups)?, 1), small(rows));
        // SAFETY: the caller reserved `rows` rows of quants and scales, and `x` holds `rows / share * cols` numbers.
        Ok(unsafe {
            launch!(self.kernels, "quantize", grid, THREADS, [quants, scales, x, weight, rows, cols, share])
        }?)
    }

    pub(super) fn norm(
        &self,
        out: u64,
        x: u64,
        weight: &CudaWeight,
        rows: usize,
        eps: f32,
    ) -> Result<(), BackendError> {
        assert_eq!(weight.layout, Layout::F32);
        let threads = weight.cols.next_multiple_of(32).min(256);
        let weight_at = weight.memory.at();
        // SAFETY: `out` and `x` hold `rows * cols` (the callers' `at`), the weight `cols` numbers.
        Ok(unsafe {
            launch!(
                self.kernels,
                "rms_norm",
                (small(rows), 1),
                threads,
                [out, x, weight_at, weight.cols, eps]
            )
        }?)
    }

    /// `gate = activation(gate) * up` for `len` numbers at each.
    pub(super) fn gate(
        &self,
        gate: u64,
        up: u64,
        len: usize,
        activation: Activation,
    ) -> Result<(), BackendError> {
        let activation: u32 = match activation {
            Activation::Silu => 0,
            Activation::Sigmoid => 1,
            Activation::GeluTanh => 2,
            Activation::Gelu => return Err(BackendError::Unsupported("GELU by erf".into())),
        };
        // SAFETY: both hold `len` numbers, by the callers' `at` or `reserve`.
        Ok(unsafe {
            launch!(self.kernels, "glu", (blocks(len)?, 1), THREADS, [gate, up, len as u64, activation])
        }?)
    }
}
