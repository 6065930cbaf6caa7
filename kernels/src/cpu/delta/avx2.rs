//! The portable loops, inlined here and so compiled for 256-bit registers.

use super::{Columns, Kernel, Row, Step, portable};

pub(super) const KERNEL: Kernel = Kernel { step, take_in };

#[target_feature(enable = "avx2,fma")]
fn step(tile: &mut [Columns], row: Row<'_>) -> Step {
    portable::step::<true, 2>(tile, row)
}

#[target_feature(enable = "avx2,fma")]
fn take_in(tile: &mut [Columns], k: &[f32], decay: f32, delta: &Columns) {
    portable::take_in::<true>(tile, k, decay, delta);
}
