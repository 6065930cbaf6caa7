//! Scores take 16 positions a vector and one element of a query broadcast; the mix takes 16 elements a vector and one
//! weight broadcast. Neither sums across a vector, and loaded keys and values are shared by the queries of a call.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::{BLOCK, Scores};
use crate::cache::TILE_POSITIONS;
use crate::cpu::load_x86::{Element, load_16, load_some};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn scores<E: Element>(scores: &mut [Scores], q: &[&[f32]], keys: &[E]) {
    let head_dim = q[0].len();
    let tile = head_dim * TILE_POSITIONS;
    assert!(scores.len() == q.len() && q.iter().all(|q| q.len() == head_dim));
    assert!(tile > 0 && keys.len().is_multiple_of(tile) && keys.len() / head_dim <= BLOCK);
    let mut at = 0;
    // Few queries take two tiles at a time: their sums would wait for one another.
    while at < keys.len() / tile {
        let two = q.len() <= 4 && at + 2 <= keys.len() / tile;
        let keys = &keys[at * tile..];
        match (q.len(), two) {
            (1, true) => tiles::<E, 1, 2>(scores, q, keys, at),
            (2, true) => tiles::<E, 2, 2>(scores, q, keys, at),
            (3, true) => tiles::<E, 3, 2>(scores, q, keys, at),
            (4, true) => tiles::<E, 4, 2>(scores, q, keys, at),
            (8, _) => tiles::<E, 8, 1>(scores, q, keys, at),
            _ => {
                for (scores, q) in scores.chunks_mut(3).zip(q.chunks(3)) {
                    match q.len() {
                        3 => tiles::<E, 3, 1>(scores, q, keys, at),
                        2 => tiles::<E, 2, 1>(scores, q, keys, at),
                        _ => tiles::<E, 1, 1>(scores, q, keys, at),
                    }
                }
            }
        }
        at += if two { 2 } else { 1 };
    }
}

/// The first `T` tiles of `keys`, which become the scores from tile `at` on, for `N` queries.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn tiles<E: Element, const N: usize, const T: usize>(
    scores: &mut [Scores],
    q: &[&[f32]],
    keys: &[E],
    at: usize,
) {
    let head_dim = q[0].len();
    assert!(q.len() == N && scores.len() == N && keys.len() >= T * TILE_POSITIONS * head_dim);
    assert!((at + T) * TILE_POSITIONS <= BLOCK && q.iter().all(|q| q.len() == head_dim));
    let mut sums = [[_mm512_setzero_ps(); T]; N];
    for i in 0..head_dim {
        let mut key = [_mm512_setzero_ps(); T];
        for (t, key) in key.iter_mut().enumerate() {
            // SAFETY: row `i` of tile `t` is inside `keys` by the first assertion.
            *key = unsafe { load_16(keys.as_ptr().add((t * head_dim + i) * TILE_POSITIONS)) };
        }
        for (sums, q) in sums.iter_mut().zip(q) {
            // SAFETY: every query has `head_dim` elements by the second assertion.
            let q = _mm512_set1_ps(unsafe { *q.get_unchecked(i) });
            for (sum, key) in sums.iter_mut().zip(key) {
                *sum = _mm512_fmadd_ps(q, key, *sum);
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
pub(super) fn mix<E: Element>(out: &mut [&mut [f32]], weights: &[Scores], decay: &[f32], values: &[E]) {
    let head_dim = out[0].len();
    assert!(head_dim > 0 && values.len() / head_dim <= BLOCK && values.len().is_multiple_of(head_dim));
    assert!(weights.len() == out.len() && decay.len() == out.len());
    assert!(out.iter().all(|out| out.len() == head_dim));
    let queries = out.chunks_mut(4).zip(weights.chunks(4)).zip(decay.chunks(4));
    for ((out, weights), decay) in queries {
        match out.len() {
            4 => columns::<E, 4>(out, weights, decay, values),
            3 => columns::<E, 3>(out, weights, decay, values),
            2 => columns::<E, 2>(out, weights, decay, values),
            _ => columns::<E, 1>(out, weights, decay, values),
        }
    }
}

/// `N` queries, 64 elements of the values at a time, then 16 or fewer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn columns<E: Element, const N: usize>(
    out: &mut [&mut [f32]],
    weights: &[Scores],
    decay: &[f32],
    values: &[E],
) {
    let head_dim = out[0].len();
    let mut first = 0;
    while first < head_dim {
        if first + 64 <= head_dim {
            strip::<E, N, 4>(out, weights, decay, values, first, u16::MAX);
            first += 64;
        } else {
            let left = (head_dim - first).min(16);
            strip::<E, N, 1>(out, weights, decay, values, first, u16::MAX >> (16 - left));
            first += left;
        }
    }
}

/// `C` vectors of elements from `first`, the last limited to `mask`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn strip<E: Element, const N: usize, const C: usize>(
    out: &mut [&mut [f32]],
    weights: &[Scores],
    decay: &[f32],
    values: &[E],
    first: usize,
    mask: __mmask16,
) {
    let head_dim = out[0].len();
    let positions = values.len() / head_dim;
    let elements = (C - 1) * 16 + mask.count_ones() as usize;
    assert!(out.len() == N && weights.len() == N && decay.len() == N && positions <= BLOCK);
    assert!(first + elements <= head_dim && out.iter().all(|out| out.len() == head_dim));
    let mut sums = [[_mm512_setzero_ps(); C]; N];
    for ((sums, out), decay) in sums.iter_mut().zip(out.iter()).zip(decay) {
        for (c, sum) in sums.iter_mut().enumerate() {
            // SAFETY: the elements of the mask are inside `out` by the second assertion.
            let before = unsafe { load_some(out.as_ptr().add(first + 16 * c), mask) };
            *sum = _mm512_mul_ps(before, _mm512_set1_ps(*decay));
        }
    }
    for p in 0..positions {
        let mut value = [_mm512_setzero_ps(); C];
        for (c, value) in value.iter_mut().enumerate() {
            let at = p * head_dim + first + 16 * c;
            // SAFETY: `p < positions`, and the elements of the mask are inside a row by the second assertion.
            *value = unsafe { load_some(values.as_ptr().add(at), mask) };
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
