//! Launches of what works on rows and on numbers by themselves.

use muse_format::{Activation, Layout};

use super::backend::{CudaBackend, CudaBuffer, CudaWeight, blocks, small};
use super::launch::{THREADS, launch};
use super::products::bias_at;
use crate::{BackendError, Span};

/// Threads for a row that a block goes along.
fn along(cols: u32) -> u32 {
    cols.next_multiple_of(32).min(256)
}

/// As the kernels count them.
pub(super) fn activation_index(activation: Activation) -> u32 {
    match activation {
        Activation::Silu => 0,
        Activation::Sigmoid => 1,
        Activation::GeluTanh => 2,
        Activation::Gelu => 3,
    }
}

impl CudaBackend {
    /// RMS norm of `rows` rows at `x`.
    pub(super) fn norm(
        &self,
        out: u64,
        x: u64,
        weight: &CudaWeight,
        rows: usize,
        eps: f32,
    ) -> Result<(), BackendError> {
        assert_eq!(weight.layout, Layout::F32);
        let (weight_at, cols) = (weight.memory.at(), weight.cols);
        let grid = (small(rows), 1);
        // SAFETY: `out` and `x` hold `rows * cols` (the callers' `at`), the weight `cols` numbers.
        Ok(unsafe { launch!(self.kernels, "rms_norm", grid, along(cols), [out, x, weight_at, cols, eps]) }?)
    }

    /// See [`crate::Backend::layer_norm_in_place`].
    pub(super) fn layer_norm(
        &self,
        x: &CudaBuffer,
        weight: &CudaWeight,
        bias: &CudaWeight,
        rows: usize,
        eps: f32,
    ) -> Result<(), BackendError> {
        assert_eq!(weight.layout, Layout::F32);
        let cols = weight.cols;
        let (x, weight, bias) = (x.at(rows * cols as usize), weight.memory.at(), bias_at(Some(bias), cols));
        let grid = (small(rows), 1);
        // SAFETY: `x` holds `rows * cols` (`at`), the vectors `cols` numbers (`bias_at`).
        Ok(unsafe { launch!(self.kernels, "layer_norm", grid, along(cols), [x, weight, bias, cols, eps]) }?)
    }

    /// `gate = activation(gate) * up` for `len` numbers at each.
    pub(super) fn gate(
        &self,
        gate: u64,
        up: u64,
        len: usize,
        activation: Activation,
    ) -> Result<(), BackendError> {
        let (activation, grid) = (activation_index(activation), (blocks(len)?, 1));
        // SAFETY: both hold `len` numbers, by the callers' `at` or `reserve`.
        Ok(unsafe { launch!(self.kernels, "glu", grid, THREADS, [gate, up, len as u64, activation]) }?)
    }

    /// `x = activation(x)` for `len` numbers.
    pub(super) fn activated(
        &self,
        x: &CudaBuffer,
        len: usize,
        activation: Activation,
    ) -> Result<(), BackendError> {
        let (x, activation, grid) = (x.at(len), activation_index(activation), (blocks(len)?, 1));
        // SAFETY: `x` holds `len` numbers (`at`).
        Ok(unsafe { launch!(self.kernels, "activate", grid, THREADS, [x, len as u64, activation]) }?)
    }

    /// Multiplies `rows` rows by a vector.
    pub(super) fn multiplied(
        &self,
        x: &CudaBuffer,
        weight: &CudaWeight,
        rows: usize,
    ) -> Result<(), BackendError> {
        assert_eq!(weight.layout, Layout::F32);
        let len = rows * weight.cols as usize;
        let (x, weight_at, cols, grid) = (x.at(len), weight.memory.at(), weight.cols, (blocks(len)?, 1));
        // SAFETY: `x` holds `len` (`at`), the weight `cols`.
        Ok(unsafe {
            launch!(self.kernels, "multiply_rows", grid, THREADS, [x, weight_at, len as u64, cols])
        }?)
    }

    /// See [`crate::Backend::gate_rows`].
    pub(super) fn gated_rows(
        &self,
        x: &CudaBuffer,
        gate: &CudaBuffer,
        rows: usize,
        width: usize,
    ) -> Result<(), BackendError> {
        let len = rows * width;
        let (x, gate, width, grid) = (x.at(len), gate.at(rows), small(width), (blocks(len)?, 1));
        // SAFETY: `x` holds `len` and `gate` a number of each row (`at`).
        Ok(unsafe { launch!(self.kernels, "gate_rows", grid, THREADS, [x, gate, len as u64, width]) }?)
    }

    /// See [`crate::Backend::scale_and_cap`].
    pub(super) fn scaled_and_capped(
        &self,
        x: &CudaBuffer,
        len: usize,
        scale: f32,
        softcap: Option<f32>,
    ) -> Result<(), BackendError> {
        // SAFETY: `x` holds `len` (`at`).
        Ok(unsafe {
            launch!(
                self.kernels,
                "scale_and_cap",
                (blocks(len)?, 1),
                THREADS,
                [x.at(len), len as u64, scale, softcap.unwrap_or(0.0)]
            )
        }?)
    }

    /// See [`crate::Backend::clip`].
    pub(super) fn clipped(
        &self,
        x: &CudaBuffer,
        len: usize,
        [low, high]: [f32; 2],
    ) -> Result<(), BackendError> {
        let (x, grid) = (x.at(len), (blocks(len)?, 1));
        // SAFETY: `x` holds `len` (`at`).
        Ok(unsafe { launch!(self.kernels, "clip", grid, THREADS, [x, len as u64, low, high]) }?)
    }

    /// See [`crate::Backend::add`].
    pub(super) fn added(&self, x: &CudaBuffer, y: &CudaBuffer, len: usize) -> Result<(), BackendError> {
        // SAFETY: both hold `len` (`at`).
        Ok(unsafe {
            launch!(self.kernels, "add", (blocks(len)?, 1), THREADS, [x.at(len), y.at(len), len as u64])
        }?)
    }

    /// See [`crate::Backend::mean`].
    pub(super) fn means(
        &mut self,
        out: &CudaBuffer,
        x: &CudaBuffer,
        spans: &[Span],
        width: usize,
    ) -> Result<(), BackendError> {
        let mut rows = 0;
        let stack = |span: &Span| {
            let first = rows;
            rows += span.len;
            [first, span.len]
        };
        let stacks: Vec<[u32; 2]> = spans.iter().map(stack).collect();
        let (out, x) = (out.at(spans.len() * width), x.at(rows as usize * width));
        let numbers: Vec<u32> = stacks.into_iter().flatten().collect();
        let (stacks, width) = (self.indices(&numbers, usize::MAX)?, small(width));
        let grid = (width.div_ceil(THREADS), small(spans.len()));
        // SAFETY: `x` holds the rows of all spans and `out` one of each (`at`).
        Ok(unsafe { launch!(self.kernels, "mean", grid, THREADS, [out, x, stacks, width]) }?)
    }
}
