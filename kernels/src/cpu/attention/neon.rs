use std::arch::aarch64::{float32x4_t, vdupq_n_f32, vfmaq_n_f32, vmulq_n_f32, vst1q_f32};

use super::{BLOCK, Scores};
use crate::cache::TILE_POSITIONS;
use crate::cpu::neon::Run;

#[target_feature(enable = "neon")]
pub(super) fn scores<E: Run>(scores: &mut [Scores], q: &[&[f32]], keys: &[E]) {
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
#[target_feature(enable = "neon")]
fn tiles<E: Run, const N: usize>(scores: &mut [Scores], q: &[&[f32]], keys: &[E]) {
    let head_dim = q[0].len();
    let q: [&[f32]; N] = std::array::from_fn(|n| &q[n][..head_dim]);
    for (t, tile) in keys.chunks_exact(E::elements(head_dim * TILE_POSITIONS)).enumerate() {
        let mut sums = [[vdupq_n_f32(0.0); 4]; N];
        for i in 0..head_dim {
            let key: [_; 4] = load(tile, i * TILE_POSITIONS);
            for (sums, q) in sums.iter_mut().zip(&q) {
                add_scaled(sums, &key, q[i]);
            }
        }
        for (scores, sums) in scores.iter_mut().zip(&sums) {
            store(&mut scores[t * TILE_POSITIONS..][..TILE_POSITIONS], sums);
        }
    }
}

#[target_feature(enable = "neon")]
pub(super) fn mix<E: Run>(out: &mut [&mut [f32]], weights: &[Scores], decay: &[f32], values: &[E]) {
    let outs = out.chunks_mut(2).zip(weights.chunks(2)).zip(decay.chunks(2));
    for ((out, weights), decay) in outs {
        match decay.len() {
            2 => elements::<E, 2>(out, weights, decay, values),
            _ => elements::<E, 1>(out, weights, decay, values),
        }
    }
}

/// All elements of `N` queries.
#[inline]
#[target_feature(enable = "neon")]
fn elements<E: Run, const N: usize>(out: &mut [&mut [f32]], weights: &[Scores], decay: &[f32], values: &[E]) {
    let head_dim = out[0].len();
    let mut first = 0;
    while first + 32 <= head_dim {
        strip::<E, N, 8>(out, weights, decay, values, first);
        first += 32;
    }
    while first + 8 <= head_dim {
        strip::<E, N, 2>(out, weights, decay, values, first);
        first += 8;
    }
    for ((out, weights), decay) in out.iter_mut().zip(weights).zip(decay) {
        for (i, out) in out.iter_mut().enumerate().skip(first) {
            let rows = values.chunks_exact(E::elements(head_dim));
            let terms = weights.iter().zip(rows).map(|(w, v)| w * E::get(v, i));
            *out = *out * decay + terms.sum::<f32>();
        }
    }
}

/// `V` vectors of elements from `first` of `N` queries.
#[inline]
#[target_feature(enable = "neon")]
fn strip<E: Run, const N: usize, const V: usize>(
    out: &mut [&mut [f32]],
    weights: &[Scores],
    decay: &[f32],
    values: &[E],
    first: usize,
) {
    let head_dim = out[0].len();
    let weights: [&Scores; N] = std::array::from_fn(|n| &weights[n]);
    let mut sums = [[vdupq_n_f32(0.0); V]; N];
    for ((sums, out), decay) in sums.iter_mut().zip(out.iter()).zip(decay) {
        *sums = load(out, first);
        for sum in sums {
            *sum = vmulq_n_f32(*sum, *decay);
        }
    }
    for (p, values) in values.chunks_exact(E::elements(head_dim)).enumerate().take(BLOCK) {
        let columns: [_; V] = load(values, first);
        for (sums, weights) in sums.iter_mut().zip(&weights) {
            add_scaled(sums, &columns, weights[p]);
        }
    }
    for (out, sums) in out.iter_mut().zip(&sums) {
        store(&mut out[first..][..4 * V], sums);
    }
}

/// `V` vectors, an even number, from number `at` of a run.
#[inline]
#[target_feature(enable = "neon")]
fn load<E: Run, const V: usize>(run: &[E], at: usize) -> [float32x4_t; V] {
    let mut vectors = [vdupq_n_f32(0.0); V];
    for (n, vectors) in vectors.as_chunks_mut::<2>().0.iter_mut().enumerate() {
        *vectors = E::load_at(run, at + 8 * n);
    }
    vectors
}

#[inline]
#[target_feature(enable = "neon")]
fn add_scaled<const V: usize>(sums: &mut [float32x4_t; V], x: &[float32x4_t; V], factor: f32) {
    for (sum, x) in sums.iter_mut().zip(x) {
        *sum = vfmaq_n_f32(*sum, *x, factor);
    }
}

#[inline]
#[target_feature(enable = "neon")]
fn store(to: &mut [f32], vectors: &[float32x4_t]) {
    for (to, vector) in to.as_chunks_mut::<4>().0.iter_mut().zip(vectors) {
        // SAFETY: 4 elements are written to an array of 4.
        unsafe { vst1q_f32(to.as_mut_ptr(), *vector) };
    }
}
