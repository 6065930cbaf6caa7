//! As `avx512`, with two vectors of 8 for 16 positions or elements.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::{BLOCK, Scores};
use crate::cache::TILE_POSITIONS;
use crate::cpu::load_x86::{Element, load_8};

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scores<E: Element>(scores: &mut [Scores], q: &[&[f32]], keys: &[E]) {
    for (scores, q) in scores.chunks_mut(4).zip(q.chunks(4)) {
        match q.len() {
            4 => tiles::<E, 4>(scores, q, keys),
            3 => tiles::<E, 3>(scores, q, keys),
            2 => tiles::<E, 2>(scores, q, keys),
            _ => tiles::<E, 1>(scores, q, keys),
        }
    }
}

/// All tiles for `N` queries.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tiles<E: Element, const N: usize>(scores: &mut [Scores], q: &[&[f32]], keys: &[E]) {
    let head_dim = q[0].len();
    assert!(q.len() == N && scores.len() == N && q.iter().all(|q| q.len() == head_dim));
    assert!(keys.len() / head_dim <= BLOCK);
    for (t, tile) in keys.chunks_exact(head_dim * TILE_POSITIONS).enumerate() {
        let mut sums = [[_mm256_setzero_ps(); 2]; N];
        for (i, key) in tile.chunks_exact(TILE_POSITIONS).enumerate() {
            // SAFETY: `key` is 16 elements.
            let key = unsafe { [load_8(key.as_ptr()), load_8(key.as_ptr().add(8))] };
            for (sums, q) in sums.iter_mut().zip(q) {
                let q = _mm256_set1_ps(q[i]);
                for (sum, key) in sums.iter_mut().zip(key) {
                    *sum = _mm256_fmadd_ps(q, key, *sum);
                }
            }
        }
        for (scores, sums) in scores.iter_mut().zip(sums) {
            let scores = &mut scores[t * TILE_POSITIONS..][..TILE_POSITIONS];
            // SAFETY: `scores` is two vectors.
            unsafe {
                _mm256_storeu_ps(scores.as_mut_ptr(), sums[0]);
                _mm256_storeu_ps(scores.as_mut_ptr().add(8), sums[1]);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn mix<E: Element>(out: &mut [&mut [f32]], weights: &[Scores], decay: &[f32], values: &[E]) {
    for ((out, weights), decay) in out.iter_mut().zip(weights).zip(decay) {
        let head_dim = out.len();
        let whole = head_dim / 8 * 8;
        let mut first = 0;
        while first < whole {
            if first + 64 <= whole {
                strip::<E, 8>(out, weights, *decay, values, first);
                first += 64;
            } else {
                strip::<E, 1>(out, weights, *decay, values, first);
                first += 8;
            }
        }
        for (i, out) in out.iter_mut().enumerate().skip(whole) {
            let values = values.iter().skip(i).step_by(head_dim);
            let terms = weights.iter().zip(values).map(|(w, v)| w * (*v).into());
            *out = *out * decay + terms.sum::<f32>();
        }
    }
}

/// `C` vectors of elements from `first` of one query.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn strip<E: Element, const C: usize>(
    out: &mut [f32],
    weights: &Scores,
    decay: f32,
    values: &[E],
    first: usize,
) {
    let head_dim = out.len();
    let out = &mut out[first..first + 8 * C];
    let mut sums = [_mm256_setzero_ps(); C];
    for (sum, out) in sums.iter_mut().zip(out.chunks_exact(8)) {
        // SAFETY: `out` is 8 elements.
        *sum = _mm256_mul_ps(unsafe { load_8(out.as_ptr()) }, _mm256_set1_ps(decay));
    }
    for (weight, values) in weights.iter().zip(values.chunks_exact(head_dim)) {
        let weight = _mm256_set1_ps(*weight);
        for (sum, values) in sums.iter_mut().zip(values[first..first + 8 * C].chunks_exact(8)) {
            // SAFETY: `values` is 8 elements.
            *sum = _mm256_fmadd_ps(weight, unsafe { load_8(values.as_ptr()) }, *sum);
        }
    }
    for (sum, out) in sums.into_iter().zip(out.chunks_exact_mut(8)) {
        // SAFETY: as for the load.
        unsafe { _mm256_storeu_ps(out.as_mut_ptr(), sum) };
    }
}
