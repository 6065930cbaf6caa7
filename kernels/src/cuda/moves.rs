//! Launches of what takes rows from one place to another.

use super::backend::{CudaBackend, CudaBuffer, CudaWeight, blocks, small};
use super::launch::{THREADS, launch, layout_name};
use crate::BackendError;

impl CudaBackend {
    /// See [`crate::Backend::embed`].
    pub(super) fn embedded(
        &mut self,
        out: &CudaBuffer,
        table: &CudaWeight,
        tokens: &[u32],
        scale: f32,
    ) -> Result<(), BackendError> {
        assert!(tokens.iter().all(|token| *token < table.rows), "a token outside the table");
        let at = out.at(tokens.len() * table.cols as usize);
        let indices = match self.steps.list(tokens, table.rows)? {
            Some(at) => self.scratch.inputs.at() + at,
            None => self.indices(tokens, table.rows as usize)?,
        };
        let group = small(table.layout.group());
        let name = format!("embed_{}", layout_name(table.layout));
        let (weight, grid) = (table.memory.at(), (small(tokens.len()), 1));
        // SAFETY: the asserts above; the table holds what its layout takes (`Tensor::new`).
        Ok(unsafe {
            launch!(self.kernels, &name, grid, THREADS, [at, weight, indices, table.cols, group, scale])
        }?)
    }

    /// See [`crate::Backend::join`].
    pub(super) fn joined(
        &self,
        out: &CudaBuffer,
        [a, b]: [&CudaBuffer; 2],
        rows: usize,
        [first, second]: [usize; 2],
    ) -> Result<(), BackendError> {
        let len = rows * (first + second);
        let (out, a, b) = (out.at(len), a.at(rows * first), b.at(rows * second));
        let (first, second, grid) = (small(first), small(second), (blocks(len)?, 1));
        // SAFETY: all hold `rows` rows of their widths (`at`).
        Ok(unsafe { launch!(self.kernels, "join", grid, THREADS, [out, a, b, len as u64, first, second]) }?)
    }

    /// See [`crate::Backend::gather`].
    pub(super) fn gathered(
        &mut self,
        out: &CudaBuffer,
        x: &CudaBuffer,
        rows: &[u32],
        width: usize,
    ) -> Result<(), BackendError> {
        let last = rows.iter().max().map_or(0, |row| *row as usize + 1);
        let held = x.len / width.max(1);
        let (out, x) = (out.at(rows.len() * width), x.at(last * width));
        let indices = self.indices(rows, held)?;
        // SAFETY: `out` holds all rows, and `x` the last of those that are read (`at`).
        Ok(unsafe {
            launch!(self.kernels, "gather", (small(rows.len()), 1), THREADS, [out, x, indices, small(width)])
        }?)
    }

    /// See [`crate::Backend::scatter`].
    pub(super) fn scattered(
        &mut self,
        out: &CudaBuffer,
        x: &CudaBuffer,
        rows: &[u32],
        width: usize,
    ) -> Result<(), BackendError> {
        let last = rows.iter().max().map_or(0, |row| *row as usize + 1);
        let held = out.len / width.max(1);
        let (out, x) = (out.at(last * width), x.at(rows.len() * width));
        let (indices, width, grid) = (self.indices(rows, held)?, small(width), (small(rows.len()), 1));
        // SAFETY: `x` holds all rows, and `out` the last of those that are written (`at`).
        Ok(unsafe { launch!(self.kernels, "scatter", grid, THREADS, [out, x, indices, width]) }?)
    }
}
