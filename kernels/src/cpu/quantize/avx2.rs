#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::{GROUP, Groups};
use crate::reference::TINY;

#[target_feature(enable = "avx2")]
pub(super) fn run(out: Groups<'_>, x: &[f32], cols: usize, first: usize) {
    out.each(x, cols, first, |quants, x| group(quants, x));
}

#[inline]
#[target_feature(enable = "avx2")]
fn group(quants: &mut [i8; GROUP], x: &[f32; GROUP]) -> (f32, i32) {
    // SAFETY: 32 f32 are four vectors; no alignment is needed.
    let x = [0, 8, 16, 24].map(|i| unsafe { _mm256_loadu_ps(x.as_ptr().add(i)) });
    let magnitude = _mm256_castsi256_ps(_mm256_set1_epi32(i32::MAX));
    let bits = x.map(|x| _mm256_castps_si256(_mm256_and_ps(x, magnitude)));
    let pairs = (_mm256_max_epu32(bits[0], bits[1]), _mm256_max_epu32(bits[2], bits[3]));
    let max = f32::from_bits(max_across(_mm256_max_epu32(pairs.0, pairs.1)));
    if max < TINY {
        quants.fill(0);
        return (0.0, 0);
    }
    let inverse = _mm256_set1_ps(127.0 / max);
    let q = x.map(|x| _mm256_cvtps_epi32(_mm256_mul_ps(x, inverse)));
    let sums = _mm256_add_epi32(_mm256_add_epi32(q[0], q[1]), _mm256_add_epi32(q[2], q[3]));
    // Packing interleaves the 128-bit halves; the permutation puts groups of 4 bytes back in order.
    let words = (_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    let bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(words.0, words.1), order);
    // SAFETY: 32 bytes are one vector; no alignment is needed.
    unsafe { _mm256_storeu_si256(quants.as_mut_ptr().cast(), bytes) };
    (max / 127.0, add_across(sums))
}

#[inline]
#[target_feature(enable = "avx2")]
fn max_across(x: __m256i) -> u32 {
    let x = _mm_max_epu32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_max_epu32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_max_epu32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x))) as u32
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_across(x: __m256i) -> i32 {
    let x = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_add_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_add_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
}
