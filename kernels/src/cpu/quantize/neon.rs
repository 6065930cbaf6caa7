use std::arch::aarch64::{
    float32x4_t, vabsq_f32, vaddq_s16, vaddvq_s16, vcombine_s8, vcombine_s16, vcvtnq_s32_f32, vld1q_f32,
    vmaxq_u32, vmaxvq_u32, vmulq_n_f32, vpaddlq_s8, vqmovn_s16, vqmovn_s32, vreinterpretq_u32_f32, vst1q_s8,
};

use super::{GROUP, Groups};
use crate::reference::TINY;

#[target_feature(enable = "neon")]
pub(super) fn run(out: Groups<'_>, x: &[f32], cols: usize, first: usize) {
    out.each(x, cols, first, |quants, x| quantize_group(quants, x));
}

/// The conversions saturate, turn NaN into 0 and round ties to even, as those of the definition do.
#[inline]
#[target_feature(enable = "neon")]
fn quantize_group(quants: &mut [i8; GROUP], x: &[f32; GROUP]) -> (f32, i32) {
    let (fours, _) = x.as_chunks::<4>();
    // SAFETY: 4 elements are read from an array of 4.
    let x: [float32x4_t; 8] = std::array::from_fn(|i| unsafe { vld1q_f32(fours[i].as_ptr()) });
    // As unsigned integers, the bits of magnitudes order like the magnitudes, NaN last.
    let bits = x.map(|x| vreinterpretq_u32_f32(vabsq_f32(x)));
    let max = bits.into_iter().reduce(|a, b| vmaxq_u32(a, b)).map_or(0, |max| vmaxvq_u32(max));
    let max = f32::from_bits(max);
    if max < TINY {
        quants.fill(0);
        return (0.0, 0);
    }
    let inverse = 127.0 / max;
    let words = x.map(|x| vqmovn_s32(vcvtnq_s32_f32(vmulq_n_f32(x, inverse))));
    let [a, b, c, d] = [0, 2, 4, 6].map(|i| vqmovn_s16(vcombine_s16(words[i], words[i + 1])));
    let bytes = [vcombine_s8(a, b), vcombine_s8(c, d)];
    let (halves, _) = quants.as_chunks_mut::<16>();
    for (half, bytes) in halves.iter_mut().zip(bytes) {
        // SAFETY: 16 elements are written to an array of 16.
        unsafe { vst1q_s8(half.as_mut_ptr(), bytes) };
    }
    let sums = vaddq_s16(vpaddlq_s8(bytes[0]), vpaddlq_s8(bytes[1]));
    (max / 127.0, i32::from(vaddvq_s16(sums)))
}
