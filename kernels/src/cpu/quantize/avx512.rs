#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::{GROUP, Groups};
use crate::reference::TINY;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
pub(super) fn run(out: Groups<'_>, x: &[f32], cols: usize, first: usize) {
    out.each(x, cols, first, |quants, x| group(quants, x));
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn group(quants: &mut [i8; GROUP], x: &[f32; GROUP]) -> (f32, i32) {
    // SAFETY: 32 f32 are two vectors; no alignment is needed.
    let (a, b) = unsafe { (_mm512_loadu_ps(x.as_ptr()), _mm512_loadu_ps(x.as_ptr().add(16))) };
    let bits = |x: __m512| _mm512_castps_si512(_mm512_abs_ps(x));
    let max = f32::from_bits(_mm512_reduce_max_epu32(_mm512_max_epu32(bits(a), bits(b))));
    if max < TINY {
        quants.fill(0);
        return (0.0, 0);
    }
    let inverse = _mm512_set1_ps(127.0 / max);
    let (a, b) = (_mm512_mul_ps(a, inverse), _mm512_mul_ps(b, inverse));
    let (a, b) = (_mm512_cvtps_epi32(a), _mm512_cvtps_epi32(b));
    // SAFETY: 32 bytes are two vectors; no alignment is needed.
    unsafe {
        _mm_storeu_si128(quants.as_mut_ptr().cast(), _mm512_cvtsepi32_epi8(a));
        _mm_storeu_si128(quants.as_mut_ptr().add(16).cast(), _mm512_cvtsepi32_epi8(b));
    }
    (max / 127.0, _mm512_reduce_add_epi32(_mm512_add_epi32(a, b)))
}
