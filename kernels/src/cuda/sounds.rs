//! The convolution of sounds on the device.

use muse_format::Layout;

use super::backend::{CudaBackend, CudaBuffer, CudaWeight, small};
use super::launch::{THREADS, launch};
use super::products::bias_at;
use crate::BackendError;

impl CudaBackend {
    /// See [`crate::Backend::convolve_causal`]; the operands are `out`, `x` and `before`.
    pub(super) fn convolve_sequence(
        &self,
        [out, x, before]: [&CudaBuffer; 3],
        weight: &CudaWeight,
        bias: &CudaWeight,
        rows: usize,
    ) -> Result<(), BackendError> {
        let (taps, channels) = (weight.rows, weight.cols);
        assert!(weight.layout == Layout::F32 && taps > 0);
        let (len, kept) = (rows * channels as usize, taps - 1);
        let (out, x, before) = (out.at(len), x.at(len), before.at(kept as usize * channels as usize));
        let (weight, bias, rows) = (weight.memory.at(), bias_at(Some(bias), channels), small(rows));
        let tiles = channels.div_ceil(THREADS);
        // SAFETY: the asserts above; the operands hold all rows (`at`), and so do the weight (`Tensor::new`) and the bias
        // (`bias_at`).
        unsafe {
            let kernel = "convolve_causal";
            let grid = (rows, tiles);
            launch!(self.kernels, kernel, grid, THREADS, [out, x, before, weight, bias, taps, channels])?;
            if kept > 0 && rows > 0 {
                launch!(self.kernels, "pass_on", (tiles, 1), THREADS, [before, x, rows, kept, channels])?;
            }
        }
        Ok(())
    }
}
