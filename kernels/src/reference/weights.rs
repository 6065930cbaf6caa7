use half::f16;
use muse_format::{Block, Layout, TILE_ROWS};

use crate::Tensor;

/// The block of `tensor` that holds row `row` (of all rows) and column group `group`.
pub(super) fn block(tensor: &Tensor, row: usize, group: usize) -> Block<'_> {
    let layout = tensor.layout();
    let groups = tensor.cols().div_ceil(layout.group());
    let size = layout.block_bytes();
    let at = (row / TILE_ROWS * groups + group) * size;
    Block::new(layout, &tensor.bytes()[at..at + size])
}

/// The values of one row of a tensor in any layout, rounded to f32.
///
/// # Panics
/// If `row` is outside the tensor or `out` is not `tensor.cols()` long.
pub(crate) fn dequantize_row(out: &mut [f32], tensor: &Tensor, row: usize) {
    let cols = tensor.cols();
    assert!(row < tensor.rows() && out.len() == cols, "row {row} of {tensor:?}");
    match tensor.layout() {
        Layout::F32 => out.copy_from_slice(&tensor.f32()[row * cols..][..cols]),
        Layout::F16 => {
            let values = &tensor.f16()[row * cols..][..cols];
            out.iter_mut().zip(values).for_each(|(out, x)| *out = x.to_f32());
        }
        Layout::Bf16 => {
            let values = &tensor.bf16()[row * cols..][..cols];
            out.iter_mut().zip(values).for_each(|(out, x)| *out = x.to_f32());
        }
        Layout::Q8 { .. } | Layout::Q4 { .. } | Layout::Q4Asym { .. } | Layout::Q4Codebook { .. } => {
            for (g, out) in out.chunks_mut(tensor.layout().group()).enumerate() {
                let block = block(tensor, row, g);
                let r = row % TILE_ROWS;
                let scale = f16::from_bits(block.scale(r)).to_f64();
                let offset = f16::from_bits(block.offset(r)).to_f64();
                for (c, out) in out.iter_mut().enumerate() {
                    *out = (f64::from(block.quant(r, c)) * scale + offset) as f32;
                }
            }
        }
    }
}
