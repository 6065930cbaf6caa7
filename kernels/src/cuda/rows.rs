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
fn activation_index(activation: Activation) -> u32 {
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

    /// Rotates heads by numbers of each row, `axes` where they are three.
    pub(super) fn turn<const N: usize>(
        &mut self,
        x: &CudaBuffer,
        frequencies: &CudaWeight,
        numbers: &[[u32; N]],
        axes: [u32; 2],
        (heads, head_dim): (u32, u32),
    ) -> Result<(), BackendError> {
        let (rows, count) = (numbers.len(), frequencies.cols);
        // On a plane every frequency turns two pairs.
        let pairs = if N == 2 { 2 * count } else { count };
        assert!(frequencies.layout == Layout::F32 && 2 * pairs <= head_dim);
        let x = x.at(rows * heads as usize * head_dim as usize);
        let flat: Vec<u32> = numbers.iter().flatten().copied().collect();
        let (at, numbers) = (frequencies.memory.at(), self.indices(&flat)?);
        let (rows, [second, third]) = (small(rows), axes);
        let grid = (blocks(rows as usize * heads as usize * pairs as usize)?, 1);
        // SAFETY: `x` holds all rows (`at`), and a head its pairs (above); `numbers` holds N of each row.
        Ok(unsafe {
            if N == 2 {
                launch!(
                    self.kernels,
                    "rope_2d",
                    grid,
                    THREADS,
                    [x, at, numbers, rows, heads, head_dim, count]
                )
            } else {
                let kernel = "rope_axes";
                launch!(
                    self.kernels,
                    kernel,
                    grid,
                    THREADS,
                    [x, at, numbers, rows, heads, head_dim, count, second, third]
                )
            }
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
        let (stacks, width) = (self.indices(&numbers)?, small(width));
        let grid = (width.div_ceil(THREADS), small(spans.len()));
        // SAFETY: `x` holds the rows of all spans and `out` one of each (`at`).
        Ok(unsafe { launch!(self.kernels, "mean", grid, THREADS, [out, x, stacks, width]) }?)
    }
}
