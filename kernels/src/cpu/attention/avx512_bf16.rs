//! As `avx512`, by `vdpbf16ps`, which multiplies twice as many numbers. Keys, values, queries and weights are rounded to
//! bf16, 8 significant bits, which is what activations have in the products around them; sums are f32. A block of keys
//! or values is rounded once for all queries, which pays for the many of a prompt.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::{BLOCK, Scores, avx512};
use crate::cache::TILE_POSITIONS;
use crate::cpu::load_x86::{Run, load_16, load_some};

/// Queries that share a load.
const SHARED: usize = 6;
/// Tiles of keys, or vectors of values, that share a query.
const WIDE: usize = 4;
/// Two bf16 side by side are two neighbours of a sum: 16 positions, or elements, of each.
type Panel<const PAIRS: usize> = [[__m512i; WIDE]; PAIRS];

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,f16c")]
pub(super) fn scores<E: Run>(scores: &mut [Scores], q: &[&[f32]], keys: &[E]) {
    let head_dim = q[0].len();
    let tile = E::elements(head_dim * TILE_POSITIONS);
    assert!(scores.len() == q.len() && q.iter().all(|q| q.len() == head_dim));
    assert!(tile > 0 && keys.len().is_multiple_of(tile) && keys.len() / tile * TILE_POSITIONS <= BLOCK);
    // No more memory than the heads need: clearing it takes time.
    match head_dim.div_ceil(2) {
        ..33 => blocks::<E, 32>(scores, q, keys),
        33..65 => blocks::<E, 64>(scores, q, keys),
        65..129 => blocks::<E, 128>(scores, q, keys),
        _ => avx512::scores(scores, q, keys),
    }
}

/// Heads of up to `PAIRS` pairs of elements.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,f16c")]
fn blocks<E: Run, const PAIRS: usize>(scores: &mut [Scores], q: &[&[f32]], keys: &[E]) {
    let head_dim = q[0].len();
    let tile = E::elements(head_dim * TILE_POSITIONS);
    let mut panel = [[_mm512_setzero_si512(); WIDE]; PAIRS];
    let wide = keys.chunks_exact(WIDE * tile);
    let rest = wide.remainder();
    let mut at = 0;
    for keys in wide {
        key_panel::<E, WIDE, PAIRS>(&mut panel, keys, head_dim);
        products::<WIDE, PAIRS>(scores, q, &panel, at);
        at += WIDE;
    }
    for keys in rest.chunks_exact(tile) {
        key_panel::<E, 1, PAIRS>(&mut panel, keys, head_dim);
        products::<1, PAIRS>(scores, q, &panel, at);
        at += 1;
    }
}

/// Rounds `x` to pairs, the last padded with zero, and leaves what is after them.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16,avx2,f16c")]
fn round<const PAIRS: usize>(pairs: &mut [u32; PAIRS], x: &[f32]) {
    assert!(x.len() <= 2 * PAIRS);
    for (pairs, x) in pairs.chunks_mut(8).zip(x.chunks(16)) {
        let mask = u16::MAX >> (16 - x.len());
        // SAFETY: the mask has as many bits as `x` has elements.
        let rounded = _mm512_cvtneps_pbh(unsafe { load_some(x.as_ptr(), 0, mask) });
        // SAFETY: both are 32 bytes of plain numbers.
        let rounded: [u32; 8] = unsafe { std::mem::transmute(rounded) };
        pairs.copy_from_slice(&rounded[..pairs.len()]);
    }
}

/// Two rows of 16 as 16 pairs.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
fn pair(first: __m512, second: __m512) -> __m512i {
    let order = _mm512_set_epi16(
        31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18,
        2, 17, 1, 16, 0,
    );
    // SAFETY: both are 64 bytes of plain numbers.
    let halves: __m512i = unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(second, first)) };
    _mm512_permutexvar_epi16(order, halves)
}

/// The pairs of elements of `T` tiles of keys.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,f16c")]
fn key_panel<E: Run, const T: usize, const P: usize>(panel: &mut Panel<P>, keys: &[E], head_dim: usize) {
    let tile = E::elements(head_dim * TILE_POSITIONS);
    assert!(keys.len() == T * tile && head_dim <= 2 * P);
    for (t, tile) in keys.chunks_exact(tile).enumerate() {
        for (i, panel) in (0..head_dim).step_by(2).zip(panel.iter_mut()) {
            // SAFETY: a tile has `head_dim` rows of 16 numbers.
            panel[t] = unsafe {
                let first = load_16(tile.as_ptr(), i * TILE_POSITIONS);
                let second = match i + 1 == head_dim {
                    true => _mm512_setzero_ps(),
                    false => load_16(tile.as_ptr(), (i + 1) * TILE_POSITIONS),
                };
                pair(first, second)
            };
        }
    }
}

/// The products of all queries with a panel of `T` tiles, from tile `at` on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,f16c")]
fn products<const T: usize, const P: usize>(
    scores: &mut [Scores],
    q: &[&[f32]],
    panel: &Panel<P>,
    at: usize,
) {
    assert!((at + T) * TILE_POSITIONS <= BLOCK);
    let count = q[0].len().div_ceil(2);
    let mut pairs = [[0; P]; SHARED];
    for (scores, q) in scores.chunks_mut(SHARED).zip(q.chunks(SHARED)) {
        for (pairs, q) in pairs.iter_mut().zip(q) {
            round(pairs, q);
        }
        let q = &pairs[..q.len()];
        let sums = match q.len() {
            SHARED => &sums::<SHARED, T, P>(q, panel, count)[..],
            5 => &sums::<5, T, P>(q, panel, count),
            4 => &sums::<4, T, P>(q, panel, count),
            3 => &sums::<3, T, P>(q, panel, count),
            2 => &sums::<2, T, P>(q, panel, count),
            _ => &sums::<1, T, P>(q, panel, count),
        };
        for (scores, sums) in scores.iter_mut().zip(sums) {
            for (t, sum) in sums.iter().enumerate() {
                // SAFETY: 16 scores from `(at + t) * 16` are inside the block by the assertion.
                unsafe { _mm512_storeu_ps(scores.as_mut_ptr().add((at + t) * TILE_POSITIONS), *sum) };
            }
        }
    }
}

/// `N` rows of pairs by the first `count` of `T` columns of a panel.
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn sums<const N: usize, const T: usize, const P: usize>(
    rows: &[[u32; P]],
    panel: &Panel<P>,
    count: usize,
) -> [[__m512; T]; N] {
    assert!(rows.len() == N && count <= P);
    let mut sums = [[_mm512_setzero_ps(); T]; N];
    for (i, panel) in panel.iter().enumerate().take(count) {
        for (sums, row) in sums.iter_mut().zip(rows) {
            let pair = _mm512_set1_epi32(row[i].cast_signed());
            for (sum, column) in sums.iter_mut().zip(panel) {
                // SAFETY: all are 64 bytes of plain numbers.
                *sum = unsafe {
                    _mm512_dpbf16_ps(
                        *sum,
                        std::mem::transmute::<__m512i, __m512bh>(*column),
                        std::mem::transmute::<__m512i, __m512bh>(pair),
                    )
                };
            }
        }
    }
    sums
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,f16c")]
pub(super) fn mix<E: Run>(out: &mut [&mut [f32]], weights: &[Scores], decay: &[f32], values: &[E]) {
    let head_dim = out[0].len();
    let row = E::elements(head_dim);
    let positions = values.len() / row;
    assert!(head_dim > 0 && positions <= BLOCK && values.len().is_multiple_of(row));
    assert!(weights.len() == out.len() && decay.len() == out.len());
    assert!(out.iter().all(|out| out.len() == head_dim));
    let mut panel = [[_mm512_setzero_si512(); WIDE]; BLOCK / 2];
    let mut first = 0;
    while first < head_dim {
        if first + WIDE * 16 <= head_dim {
            value_panel::<E, WIDE>(&mut panel, values, head_dim, first, u16::MAX);
            strip::<WIDE>(out, weights, decay, &panel, positions, first, u16::MAX);
            first += WIDE * 16;
        } else {
            let left = (head_dim - first).min(16);
            let mask = u16::MAX >> (16 - left);
            value_panel::<E, 1>(&mut panel, values, head_dim, first, mask);
            strip::<1>(out, weights, decay, &panel, positions, first, mask);
            first += left;
        }
    }
}

/// The pairs of positions of `C` vectors of elements from `first`, the last limited to `mask`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,f16c")]
fn value_panel<E: Run, const C: usize>(
    panel: &mut Panel<{ BLOCK / 2 }>,
    values: &[E],
    head_dim: usize,
    first: usize,
    mask: __mmask16,
) {
    assert!(first + (C - 1) * 16 + mask.count_ones() as usize <= head_dim && first.is_multiple_of(16));
    let row = E::elements(head_dim);
    for (panel, rows) in panel.iter_mut().zip(values.chunks(2 * row)) {
        for (c, pairs) in panel.iter_mut().enumerate().take(C) {
            let at = first + 16 * c;
            // SAFETY: `rows` is one or two rows, in which the elements of the mask are by the assertion.
            *pairs = unsafe {
                let second = match rows.len() == row {
                    true => _mm512_setzero_ps(),
                    false => load_some(rows.as_ptr().add(row), at, mask),
                };
                pair(load_some(rows.as_ptr(), at, mask), second)
            };
        }
    }
}

/// Adds what a panel of values weighs to `C` vectors of the sums from `first`, the last limited to `mask`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,f16c")]
fn strip<const C: usize>(
    out: &mut [&mut [f32]],
    weights: &[Scores],
    decay: &[f32],
    panel: &Panel<{ BLOCK / 2 }>,
    positions: usize,
    first: usize,
    mask: __mmask16,
) {
    let count = positions.div_ceil(2);
    let mut pairs = [[0; BLOCK / 2]; SHARED];
    let queries = out.chunks_mut(SHARED).zip(weights.chunks(SHARED)).zip(decay.chunks(SHARED));
    for ((out, weights), decay) in queries {
        for (pairs, weights) in pairs.iter_mut().zip(weights) {
            round(pairs, &weights[..positions]);
        }
        let weights = &pairs[..out.len()];
        let sums = match out.len() {
            SHARED => &sums::<SHARED, C, { BLOCK / 2 }>(weights, panel, count)[..],
            5 => &sums::<5, C, { BLOCK / 2 }>(weights, panel, count),
            4 => &sums::<4, C, { BLOCK / 2 }>(weights, panel, count),
            3 => &sums::<3, C, { BLOCK / 2 }>(weights, panel, count),
            2 => &sums::<2, C, { BLOCK / 2 }>(weights, panel, count),
            _ => &sums::<1, C, { BLOCK / 2 }>(weights, panel, count),
        };
        for ((out, sums), decay) in out.iter_mut().zip(sums).zip(decay) {
            assert!(first + (C - 1) * 16 + mask.count_ones() as usize <= out.len());
            for (c, sum) in sums.iter().enumerate() {
                // SAFETY: the elements of the mask are inside `out` by the assertion.
                unsafe {
                    let at = first + 16 * c;
                    let before = load_some(out.as_ptr(), at, mask);
                    let after = _mm512_fmadd_ps(before, _mm512_set1_ps(*decay), *sum);
                    _mm512_mask_storeu_ps(out.as_mut_ptr().add(at), mask, after);
                }
            }
        }
    }
}
