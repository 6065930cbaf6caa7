//! Launches that find the best of rows of logits.

use super::backend::{CudaBackend, CudaBuffer, small};
use super::launch::{BEST_THREADS, Parts, launch};
use super::scratch::BEST_PART;
use crate::{BackendError, Best, bits};

impl CudaBackend {
    /// See [`crate::Backend::best`].
    pub(super) fn best_of(
        &mut self,
        out: &CudaBuffer,
        x: &CudaBuffer,
        width: usize,
        temperatures: &[f32],
    ) -> Result<(), BackendError> {
        let rows = temperatures.len();
        assert!((1..=1 << 24).contains(&width), "rows of {width}");
        let (out, x) = (out.at(rows * Best::WIDTH), x.at(rows * width));
        let [numbers, indices, sums] = self.scratch.reserve_best(rows, width)?;
        let parts = Parts { numbers, indices, sums };
        let temperatures = self.indices(bits(temperatures), usize::MAX)?;
        let (rows, width) = (small(rows), small(width));
        let count = width.div_ceil(BEST_PART as u32);
        // SAFETY: `x` holds all rows (`at`), the parts were reserved, and there is a temperature for each row.
        unsafe {
            launch!(
                self.kernels,
                "best_of_parts",
                (count, rows),
                BEST_THREADS,
                [parts, x, temperatures, width]
            )
        }?;
        // SAFETY: as above; `out` holds all rows (`at`).
        Ok(unsafe {
            launch!(
                self.kernels,
                "best_of_rows",
                (rows, 1),
                BEST_THREADS,
                [out, parts, temperatures, count, width]
            )
        }?)
    }
}
