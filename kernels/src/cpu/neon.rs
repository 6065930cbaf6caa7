//! What the NEON kernels share: the instructions that stable Rust has no intrinsic for.

use std::arch::aarch64::{float32x4_t, int8x16_t, int32x4_t, uint16x8_t};
use std::arch::asm;

/// Eight f16 as f32, exactly.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn widen(halves: uint16x8_t) -> [float32x4_t; 2] {
    let (low, high);
    // SAFETY: registers alone are read and written; FCVTL for f16 is in every aarch64 CPU.
    unsafe {
        asm!(
            "fcvtl {low:v}.4s, {halves:v}.4h",
            "fcvtl2 {high:v}.4s, {halves:v}.8h",
            halves = in(vreg) halves, low = out(vreg) low, high = lateout(vreg) high,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    [low, high]
}

/// `sums[r] += w[r] . x[LANE]` for the four rows of `w`, four columns each.
#[inline]
#[target_feature(enable = "dotprod")]
pub(super) fn sdot<const LANE: i32>(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone are read and written; callers have the feature.
    unsafe {
        asm!(
            "sdot {sums:v}.4s, {w:v}.16b, {x:v}.4b[{lane}]",
            sums = inout(vreg) sums, w = in(vreg) w, x = in(vreg) x, lane = const LANE,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}

/// `sums[2 * r + t] += w[r] . x[t]` for two rows of `w` and two of `x`, eight columns each.
#[inline]
#[target_feature(enable = "i8mm")]
pub(super) fn smmla(mut sums: int32x4_t, w: int8x16_t, x: int8x16_t) -> int32x4_t {
    // SAFETY: registers alone are read and written; callers have the feature.
    unsafe {
        asm!(
            "smmla {sums:v}.4s, {w:v}.16b, {x:v}.16b",
            sums = inout(vreg) sums, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    sums
}
