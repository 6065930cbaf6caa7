//! Products of heads, each with a matrix of its own.

use muse_format::TILE_ROWS;

use super::backend::{CudaBackend, CudaBuffer, CudaWeight, blocks, small};
use super::launch::{Heads, THREADS, launch, layout_name};
use crate::reference::GROUP;
use crate::{BackendError, HeadsShape};

impl CudaBackend {
    /// See [`crate::Backend::linear_heads`].
    pub(super) fn product_of_heads(
        &mut self,
        out: &CudaBuffer,
        x: &CudaBuffer,
        tokens: usize,
        weight: &CudaWeight,
        shape: HeadsShape,
    ) -> Result<(), BackendError> {
        let (all, cols) = (weight.rows as usize, weight.cols as usize);
        assert!(all.is_multiple_of(shape.heads) && cols <= shape.cols, "{all} x {cols} of {shape:?}");
        let (out, x) = (out.at(tokens * all), x.at(tokens * shape.heads * shape.cols));
        let quantized = weight.layout.is_quantized();
        if quantized {
            self.scratch.reserve_heads(tokens, HeadsShape { cols, ..shape })?;
        }
        let product = Heads {
            out,
            weight: weight.memory.at(),
            x,
            quants: self.scratch.heads_quants.at(),
            scales: self.scratch.heads_scales.at(),
            heads: small(shape.heads),
            rows: small(all / shape.heads),
            cols: weight.cols,
            stride: small(shape.cols),
            group: if quantized { small(weight.layout.group()) } else { 0 },
        };
        let each = if quantized { TILE_ROWS } else { THREADS as usize / 32 };
        if quantized {
            let (quants, scales, count) = (product.quants, product.scales, small(tokens * shape.heads));
            let grid = (blocks(32 * tokens * shape.heads * cols.div_ceil(GROUP))?, 1);
            let (cols, stride) = (product.cols, product.stride);
            // SAFETY: `x` holds all heads (`at`), and as many quants and scales were reserved.
            unsafe {
                launch!(
                    self.kernels,
                    "quantize_heads",
                    grid,
                    THREADS,
                    [quants, scales, x, count, cols, stride]
                )
            }?;
        }
        let name = format!("heads_{}", layout_name(weight.layout));
        let grid = (small(all.div_ceil(each)), small(tokens));
        // SAFETY: `out` holds `tokens * rows` (`at`), the weight what its layout takes, and the input is as above.
        Ok(unsafe { launch!(self.kernels, &name, grid, THREADS, [product]) }?)
    }
}
