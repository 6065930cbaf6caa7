//! Launches of what turns and grows queries and keys by where they stand.

use muse_format::{Layout, Temperature};

use super::backend::{CudaBackend, CudaBuffer, CudaWeight, blocks, small};
use super::launch::{THREADS, launch};
use crate::cache::row_count;
use crate::{BackendError, Span};

impl CudaBackend {
    /// See [`crate::Backend::rope`].
    pub(super) fn rotated(
        &mut self,
        x: &CudaBuffer,
        frequencies: &CudaWeight,
        spans: &[Span],
        heads: u32,
        head_dim: u32,
    ) -> Result<(), BackendError> {
        let (tokens, half) = (row_count(spans), frequencies.cols);
        assert!(frequencies.layout == Layout::F32 && 2 * half <= head_dim);
        let pairs = tokens * heads as usize * half as usize;
        let at = x.at(tokens * heads as usize * head_dim as usize);
        let batch = self.batch(spans)?;
        let (weight, grid) = (frequencies.memory.at(), (blocks(pairs)?, 1));
        // SAFETY: the asserts above; `batch` holds `tokens` rows.
        Ok(unsafe {
            launch!(
                self.kernels,
                "rope",
                grid,
                THREADS,
                [at, weight, batch, small(tokens), heads, head_dim, half]
            )
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
        // They differ between steps of one shape.
        self.steps.refuse()?;
        let flat: Vec<u32> = numbers.iter().flatten().copied().collect();
        let (at, numbers) = (frequencies.memory.at(), self.indices(&flat, usize::MAX)?);
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

    /// See [`crate::Backend::temper`].
    pub(super) fn tempered(
        &mut self,
        x: &CudaBuffer,
        spans: &[Span],
        width: usize,
        temperature: Temperature,
    ) -> Result<(), BackendError> {
        let rows = row_count(spans);
        let (x, batch, grid) = (x.at(rows * width), self.batch(spans)?, (small(rows), 1));
        let (width, Temperature { every, strength }) = (small(width), temperature);
        // SAFETY: `x` and `batch` hold all rows.
        Ok(unsafe { launch!(self.kernels, "temper", grid, THREADS, [x, batch, width, every, strength]) }?)
    }
}
