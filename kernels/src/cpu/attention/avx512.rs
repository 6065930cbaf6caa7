//! Scores take 16 positions a vector and one element of a query broadcast; the mix takes 16 elements a vector and one
//! weight broadcast. Neither sums across a vector. Six queries share four loaded vectors: 24 sums of 32 registers, far
//! enough apart not to wait for one another.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::{BLOCK, Scores};
use crate::cache::TILE_POSITIONS;
use crate::cpu::load_x86::{Run, load_half, load_some};

/// Queries that share a load.
const SHARED: usize = 6;
/// Tiles of keys, or vectors of values, that share a query.
const WIDE: usize = 4;
/// How many positions ahead values are asked for.
const AHEAD: usize = 32;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn scores<E: Run>(scores: &mut [Scores], q: &[&[f32]], keys: &[E]) {
    let head_dim = q[0].len();
    let tile = E::elements(head_dim * TILE_POSITIONS);
    assert!(scores.len() == q.len() && q.iter().all(|q| q.len() == head_dim));
    assert!(tile > 0 && keys.len().is_multiple_of(tile) && keys.len() / tile * TILE_POSITIONS <= BLOCK);
    let wide = keys.chunks_exact(WIDE * tile);
    let rest = wide.remainder();
    let mut at = 0;
    for keys in wide {
        queries::<E, WIDE>(scores, q, keys, at);
        at += WIDE;
    }
    for keys in rest.chunks_exact(tile) {
        queries::<E, 1>(scores, q, keys, at);
        at += 1;
    }
}

/// The `T` tiles of `keys`, which become the scores from tile `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn queries<E: Run, const T: usize>(scores: &mut [Scores], q: &[&[f32]], keys: &[E], at: usize) {
    for (scores, q) in scores.chunks_mut(SHARED).zip(q.chunks(SHARED)) {
        match q.len() {
            SHARED => tiles::<E, SHARED, T>(scores, q, keys, at),
            5 => tiles::<E, 5, T>(scores, q, keys, at),
            4 => tiles::<E, 4, T>(scores, q, keys, at),
            3 => tiles::<E, 3, T>(scores, q, keys, at),
            2 => tiles::<E, 2, T>(scores, q, keys, at),
            _ => tiles::<E, 1, T>(scores, q, keys, at),
        }
    }
}

/// [`queries`] for `N` of them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn tiles<E: Run, const N: usize, const T: usize>(scores: &mut [Scores], q: &[&[f32]], keys: &[E], at: usize) {
    let head_dim = q[0].len();
    let tile = E::elements(head_dim * TILE_POSITIONS);
    assert!(q.len() == N && scores.len() == N && keys.len() >= T * tile);
    assert!((at + T) * TILE_POSITIONS <= BLOCK && q.iter().all(|q| q.len() == head_dim));
    let mut sums = [[_mm512_setzero_ps(); T]; N];
    for pair in 0..head_dim.div_ceil(2) {
        for half in 0..2 {
            let i = 2 * pair + half;
            if i == head_dim {
                break;
            }
            let mut key = [_mm512_setzero_ps(); T];
            for (t, key) in key.iter_mut().enumerate() {
                let from = keys.as_ptr().wrapping_add(t * tile);
                // SAFETY: row `i` of tile `t` is inside `keys` by the first assertion.
                *key = unsafe { load_half(from, pair, half, u16::MAX) };
                if half == 0 || E::elements(32) == 32 {
                    // The next tiles of as many, once where two rows share elements, into the second cache: a Zen 4's
                    // first one takes few lines at once (others were not measured). Any address may be asked for.
                    let next = from.wrapping_add(T * tile + E::elements(i * TILE_POSITIONS));
                    _mm_prefetch::<_MM_HINT_T1>(next.cast());
                }
            }
            for (sums, q) in sums.iter_mut().zip(q) {
                // SAFETY: every query has `head_dim` elements by the second assertion.
                let q = _mm512_set1_ps(unsafe { *q.get_unchecked(i) });
                for (sum, key) in sums.iter_mut().zip(key) {
                    *sum = _mm512_fmadd_ps(q, key, *sum);
                }
            }
        }
    }
    for (scores, sums) in scores.iter_mut().zip(sums) {
        for (t, sum) in sums.into_iter().enumerate() {
            // SAFETY: 16 scores from `(at + t) * 16` are inside the block by the second assertion.
            unsafe { _mm512_storeu_ps(scores.as_mut_ptr().add((at + t) * TILE_POSITIONS), sum) };
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn mix<E: Run>(out: &mut [&mut [f32]], weights: &[Scores], decay: &[f32], values: &[E]) {
    let head_dim = out[0].len();
    let row = E::elements(head_dim);
    assert!(head_dim > 0 && values.len() / row <= BLOCK && values.len().is_multiple_of(row));
    assert!(weights.len() == out.len() && decay.len() == out.len());
    assert!(out.iter().all(|out| out.len() == head_dim));
    let mut first = 0;
    while first < head_dim {
        if first + WIDE * 16 <= head_dim {
            columns::<E, WIDE>(out, weights, decay, values, first, u16::MAX);
            first += WIDE * 16;
        } else {
            let left = (head_dim - first).min(16);
            columns::<E, 1>(out, weights, decay, values, first, u16::MAX >> (16 - left));
            first += left;
        }
    }
}

/// `C` vectors of elements from `first`, the last limited to `mask`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn columns<E: Run, const C: usize>(
    out: &mut [&mut [f32]],
    weights: &[Scores],
    decay: &[f32],
    values: &[E],
    first: usize,
    mask: __mmask16,
) {
    let queries = out.chunks_mut(SHARED).zip(weights.chunks(SHARED)).zip(decay.chunks(SHARED));
    for ((out, weights), decay) in queries {
        match out.len() {
            SHARED => strip::<E, SHARED, C>(out, weights, decay, values, first, mask),
            5 => strip::<E, 5, C>(out, weights, decay, values, first, mask),
            4 => strip::<E, 4, C>(out, weights, decay, values, first, mask),
            3 => strip::<E, 3, C>(out, weights, decay, values, first, mask),
            2 => strip::<E, 2, C>(out, weights, decay, values, first, mask),
            _ => strip::<E, 1, C>(out, weights, decay, values, first, mask),
        }
    }
}

/// [`columns`] for `N` queries.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn strip<E: Run, const N: usize, const C: usize>(
    out: &mut [&mut [f32]],
    weights: &[Scores],
    decay: &[f32],
    values: &[E],
    first: usize,
    mask: __mmask16,
) {
    let head_dim = out[0].len();
    let row = E::elements(head_dim);
    let positions = values.len() / row;
    let elements = (C - 1) * 16 + mask.count_ones() as usize;
    assert!(out.len() == N && weights.len() == N && decay.len() == N && positions <= BLOCK);
    assert!(
        first.is_multiple_of(16 * C)
            && first + elements <= head_dim
            && out.iter().all(|out| out.len() == head_dim)
    );
    let mut sums = [[_mm512_setzero_ps(); C]; N];
    for ((sums, out), decay) in sums.iter_mut().zip(out.iter()).zip(decay) {
        for (c, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the elements of the mask are inside `out` by the second assertion.
            let before = unsafe { load_some(out.as_ptr(), first + 16 * c, mask) };
            *sum = _mm512_mul_ps(before, _mm512_set1_ps(*decay));
        }
    }
    for p in 0..positions {
        let mut value = [_mm512_setzero_ps(); C];
        for (c, value) in value.iter_mut().enumerate() {
            // Known when this is compiled where vectors are more than one: they begin at a multiple of 64.
            let (pair, half) =
                if C == WIDE { (first / 32 + c / 2, c % 2) } else { (first / 32, first / 16 % 2) };
            // SAFETY: `p < positions`, and the elements of the mask are inside a row by the second assertion.
            unsafe {
                let from = values.as_ptr().add(p * row);
                *value = load_half(from, pair, half, mask);
                // As keys are.
                let next = from.wrapping_add(AHEAD * row + E::elements(first + 16 * c));
                _mm_prefetch::<_MM_HINT_T1>(next.cast());
            }
        }
        for (sums, weights) in sums.iter_mut().zip(weights) {
            // SAFETY: `p < positions <= BLOCK` by the first assertion.
            let weight = _mm512_set1_ps(unsafe { *weights.get_unchecked(p) });
            for (sum, value) in sums.iter_mut().zip(value) {
                *sum = _mm512_fmadd_ps(weight, value, *sum);
            }
        }
    }
    for (sums, out) in sums.into_iter().zip(out) {
        for (c, sum) in sums.into_iter().enumerate() {
            // SAFETY: as for the load.
            unsafe { _mm512_mask_storeu_ps(out.as_mut_ptr().add(first + 16 * c), mask, sum) };
        }
    }
}
