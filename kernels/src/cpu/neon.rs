//! What the NEON kernels share: the instructions that stable Rust has no intrinsic for, and loads of any float type.

use std::arch::aarch64::{
    float32x4_t, int8x8_t, int8x16_t, int32x4_t, uint16x4_t, uint16x8_t, vand_u8, vcvtq_f32_s32, vdup_n_s8,
    vdup_n_u8, vdupq_n_u16, vget_high_s16, vget_low_s16, vld1_s8, vld1_u8, vld1q_f32, vld1q_s8, vld1q_u16,
    vmovl_s8, vmovl_s16, vqtbl1_s8, vreinterpretq_f32_u16, vshl_u8, vzip1q_u16, vzip2q_u16,
};
use std::arch::asm;

use half::{bf16, f16};

use crate::cache::{LEVELS, Nibbles, Number};

/// An element type that vectors of f32 can be loaded from.
pub(super) trait Element: Copy + Into<f32> {
    /// Eight elements, exactly.
    fn load(from: &[Self; 8]) -> [float32x4_t; 2];
}

/// A form of numbers whose runs vectors of f32 can be loaded from.
pub(super) trait Run: Number {
    /// Numbers `at` to `at + 7`, exactly; `at` is a multiple of 8.
    ///
    /// # Panics
    /// If the run does not hold them.
    fn load_at(run: &[Self], at: usize) -> [float32x4_t; 2];
}

impl<E: Element + Number> Run for E {
    #[inline(always)]
    fn load_at(run: &[Self], at: usize) -> [float32x4_t; 2] {
        E::load(run[at..].first_chunk().expect("a run holds 8 numbers"))
    }
}

impl Run for Nibbles {
    #[inline(always)]
    fn load_at(run: &[Self], at: usize) -> [float32x4_t; 2] {
        let (element, bit) = Self::place(at);
        let from: &[Self; 8] = run[element..].first_chunk().expect("a run holds 8 numbers");
        // SAFETY: 8 bytes are read from an array of 8, and 16 from the levels.
        unsafe {
            let both = vld1_u8(from.as_ptr().cast());
            let indices = vand_u8(vshl_u8(both, vdup_n_s8(-(bit as i8))), vdup_n_u8(15));
            eight_bits(vqtbl1_s8(vld1q_s8(LEVELS.as_ptr()), indices))
        }
    }
}

impl Element for f32 {
    #[inline(always)]
    fn load(from: &[Self; 8]) -> [float32x4_t; 2] {
        // SAFETY: 8 elements are read from an array of 8; every CPU of this target has NEON.
        unsafe { [vld1q_f32(from.as_ptr()), vld1q_f32(from.as_ptr().add(4))] }
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load(from: &[Self; 8]) -> [float32x4_t; 2] {
        // SAFETY: as for f32; an f16 is the u16 of its bits.
        unsafe { widen(vld1q_u16(from.as_ptr().cast())) }
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn load(from: &[Self; 8]) -> [float32x4_t; 2] {
        // SAFETY: as for f32; a bf16 is the u16 of its bits, which are the upper half of an f32.
        unsafe {
            let (zero, bits) = (vdupq_n_u16(0), vld1q_u16(from.as_ptr().cast()));
            [vreinterpretq_f32_u16(vzip1q_u16(zero, bits)), vreinterpretq_f32_u16(vzip2q_u16(zero, bits))]
        }
    }
}

impl Element for i8 {
    #[inline(always)]
    fn load(from: &[Self; 8]) -> [float32x4_t; 2] {
        // SAFETY: as for f32.
        unsafe { eight_bits(vld1_s8(from.as_ptr())) }
    }
}

/// Eight integers as f32.
#[inline]
#[target_feature(enable = "neon")]
fn eight_bits(integers: int8x8_t) -> [float32x4_t; 2] {
    let wide = vmovl_s8(integers);
    let (low, high) = (vmovl_s16(vget_low_s16(wide)), vmovl_s16(vget_high_s16(wide)));
    [vcvtq_f32_s32(low), vcvtq_f32_s32(high)]
}

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

/// Four f16 as f32, exactly.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn widen_four(halves: uint16x4_t) -> float32x4_t {
    let wide;
    // SAFETY: as for `widen`.
    unsafe {
        asm!(
            "fcvtl {wide:v}.4s, {halves:v}.4h",
            halves = in(vreg) halves, wide = lateout(vreg) wide,
            options(pure, nomem, nostack, preserves_flags)
        );
    }
    wide
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

/// The same vector, of which the compiler knows nothing: it turns `smull` of what it knows to be non-negative into two
/// widenings and a multiplication of words.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn opaque(mut x: int8x16_t) -> int8x16_t {
    // SAFETY: there is no instruction.
    unsafe { asm!("/* {x:v} */", x = inout(vreg) x, options(pure, nomem, nostack, preserves_flags)) };
    x
}
