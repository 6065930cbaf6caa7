//! As `avx512`, with two vectors of 8 for 16 positions or elements and up to six queries to a load: 12 sums of 16
//! registers. A tile of keys, or a strip of values, stays in the first cache while all queries pass over it.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::{BLOCK, QUERIES, Scores};
use crate::cache::TILE_POSITIONS;
use crate::cpu::load_x86::{Run, load_8};

/// Bytes of values that stay in the first cache while all strips of them are taken: half of 32 KiB.
const CACHED: usize = 16 * 1024;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn scores<E: Run>(scores: &mut [Scores], q: &[&[f32]], keys: &[E]) {
    let head_dim = q[0].len();
    let tile = E::elements(head_dim * TILE_POSITIONS);
    assert!(scores.len() == q.len() && q.iter().all(|q| q.len() == head_dim));
    assert!(tile > 0 && keys.len().is_multiple_of(tile) && keys.len() / tile * TILE_POSITIONS <= BLOCK);
    let count = keys.len() / tile;
    let mut at = 0;
    while at < count {
        let keys = &keys[at * tile..];
        // Fewer than 8 sums would wait for one another.
        match (q.len(), count - at) {
            (1, 4..) => tiles::<E, 1, 4>(scores, q, keys, at),
            (2, 2..) => tiles::<E, 2, 2>(scores, q, keys, at),
            (3, 2..) => tiles::<E, 3, 2>(scores, q, keys, at),
            _ => {
                for (scores, q) in scores.chunks_mut(6).zip(q.chunks(6)) {
                    match q.len() {
                        6 => tiles::<E, 6, 1>(scores, q, keys, at),
                        5 => tiles::<E, 5, 1>(scores, q, keys, at),
                        4 => tiles::<E, 4, 1>(scores, q, keys, at),
                        3 => tiles::<E, 3, 1>(scores, q, keys, at),
                        2 => tiles::<E, 2, 1>(scores, q, keys, at),
                        _ => tiles::<E, 1, 1>(scores, q, keys, at),
                    }
                }
            }
        }
        at += match (q.len(), count - at) {
            (1, 4..) => 4,
            (2 | 3, 2..) => 2,
            _ => 1,
        };
    }
}

/// The first `T` tiles of `keys`, which become the scores from tile `at` on, for `N` queries.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tiles<E: Run, const N: usize, const T: usize>(scores: &mut [Scores], q: &[&[f32]], keys: &[E], at: usize) {
    let head_dim = q[0].len();
    let tile = E::elements(head_dim * TILE_POSITIONS);
    assert!(q.len() == N && scores.len() == N && keys.len() >= T * tile);
    assert!((at + T) * TILE_POSITIONS <= BLOCK && q.iter().all(|q| q.len() == head_dim));
    let q: [*const f32; N] = std::array::from_fn(|n| q[n].as_ptr());
    let mut sums = [[[_mm256_setzero_ps(); 2]; T]; N];
    for i in 0..head_dim {
        let mut key = [[_mm256_setzero_ps(); 2]; T];
        for (t, key) in key.iter_mut().enumerate() {
            // SAFETY: row `i` of tile `t` is inside `keys` by the first assertion.
            unsafe {
                let (from, at) = (keys.as_ptr().add(t * tile), i * TILE_POSITIONS);
                *key = [load_8(from, at), load_8(from, at + 8)];
            }
        }
        for (sums, q) in sums.iter_mut().zip(q) {
            // SAFETY: every query has `head_dim` elements by the second assertion.
            let q = unsafe { _mm256_broadcast_ss(&*q.add(i)) };
            for (sums, key) in sums.iter_mut().zip(key) {
                *sums = [_mm256_fmadd_ps(q, key[0], sums[0]), _mm256_fmadd_ps(q, key[1], sums[1])];
            }
        }
    }
    for (scores, sums) in scores.iter_mut().zip(sums) {
        for (t, sums) in sums.into_iter().enumerate() {
            // SAFETY: 16 scores from `(at + t) * 16` are inside the block by the second assertion.
            unsafe {
                let to = scores.as_mut_ptr().add((at + t) * TILE_POSITIONS);
                _mm256_storeu_ps(to, sums[0]);
                _mm256_storeu_ps(to.add(8), sums[1]);
            }
        }
    }
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn mix<E: Run>(out: &mut [&mut [f32]], weights: &[Scores], decay: &[f32], values: &[E]) {
    let head_dim = out[0].len();
    let row = E::elements(head_dim);
    assert!(head_dim > 0 && values.len() / row <= BLOCK && values.len().is_multiple_of(row));
    assert!(weights.len() == out.len() && decay.len() == out.len());
    assert!(out.iter().all(|out| out.len() == head_dim));
    // A strip's rows lie far apart, so that few of them share the sets of the first cache.
    let step = (CACHED / (row * size_of::<E>())).clamp(16, BLOCK);
    let once = [1.0; QUERIES];
    let whole = head_dim / 8 * 8;
    for (at, values) in (0..).step_by(step).zip(values.chunks(step * row)) {
        let decay = if at == 0 { decay } else { &once[..out.len()] };
        strips(out, weights, decay, values, at);
    }
    for ((out, weights), decay) in out.iter_mut().zip(weights).zip(decay) {
        for (i, out) in out.iter_mut().enumerate().skip(whole) {
            let terms = weights.iter().zip(values.chunks_exact(row)).map(|(w, v)| w * E::get(v, i));
            *out = *out * decay + terms.sum::<f32>();
        }
    }
}

/// All whole vectors of elements, with the weights from position `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn strips<E: Run>(out: &mut [&mut [f32]], weights: &[Scores], decay: &[f32], values: &[E], at: usize) {
    let head_dim = out[0].len();
    // Vectors a strip: as many as leave 8 to 12 sums.
    let wide = match out.len() {
        1 => 8,
        2 | 3 => 4,
        _ => 2,
    };
    let mut first = 0;
    while first + 8 <= head_dim {
        let vectors = if first + 8 * wide <= head_dim { wide } else { 1 };
        let queries = out.chunks_mut(6).zip(weights.chunks(6)).zip(decay.chunks(6));
        for ((out, weights), decay) in queries {
            match (out.len(), vectors) {
                (1, 8) => strip::<E, 1, 8>(out, weights, decay, values, at, first),
                (2, 4) => strip::<E, 2, 4>(out, weights, decay, values, at, first),
                (3, 4) => strip::<E, 3, 4>(out, weights, decay, values, at, first),
                (6, 2) => strip::<E, 6, 2>(out, weights, decay, values, at, first),
                (5, 2) => strip::<E, 5, 2>(out, weights, decay, values, at, first),
                (4, 2) => strip::<E, 4, 2>(out, weights, decay, values, at, first),
                (3, 2) => strip::<E, 3, 2>(out, weights, decay, values, at, first),
                (2, 2) => strip::<E, 2, 2>(out, weights, decay, values, at, first),
                (1, 2) => strip::<E, 1, 2>(out, weights, decay, values, at, first),
                _ => {
                    let each = out.chunks_mut(1).zip(weights.chunks(1)).zip(decay.chunks(1));
                    for ((out, weights), decay) in each {
                        strip::<E, 1, 1>(out, weights, decay, values, at, first);
                    }
                }
            }
        }
        first += 8 * vectors;
    }
}

/// `V` vectors of elements from `first` of `N` queries, with the weights from position `at` on.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn strip<E: Run, const N: usize, const V: usize>(
    out: &mut [&mut [f32]],
    weights: &[Scores],
    decay: &[f32],
    values: &[E],
    at: usize,
    first: usize,
) {
    let head_dim = out[0].len();
    let row = E::elements(head_dim);
    let positions = values.len() / row;
    assert!(out.len() == N && weights.len() == N && decay.len() == N && at + positions <= BLOCK);
    assert!(first + 8 * V <= head_dim && out.iter().all(|out| out.len() == head_dim));
    let rows: [*const f32; N] = std::array::from_fn(|n| weights[n].as_ptr());
    let mut sums = [[_mm256_setzero_ps(); V]; N];
    for ((sums, out), decay) in sums.iter_mut().zip(out.iter()).zip(decay) {
        for (c, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the strip is inside `out` by the second assertion.
            let before = unsafe { load_8(out.as_ptr(), first + 8 * c) };
            *sum = _mm256_mul_ps(before, _mm256_set1_ps(*decay));
        }
    }
    for p in 0..positions {
        let mut value = [_mm256_setzero_ps(); V];
        for (c, value) in value.iter_mut().enumerate() {
            // SAFETY: `p < positions`, and the strip is inside a row by the second assertion; `first` is a multiple of 8.
            *value = unsafe { load_8(values.as_ptr().add(p * row), first + 8 * c) };
        }
        for (sums, weights) in sums.iter_mut().zip(rows) {
            // SAFETY: `at + p < at + positions <= BLOCK` by the first assertion.
            let weight = unsafe { _mm256_broadcast_ss(&*weights.add(at + p)) };
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum = _mm256_fmadd_ps(weight, value, *sum);
            }
        }
    }
    for (sums, out) in sums.into_iter().zip(out) {
        for (c, sum) in sums.into_iter().enumerate() {
            // SAFETY: as for the load.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr().add(first + 8 * c), sum) };
        }
    }
}
