//! Partial sums 16 columns a vector. One row of activations walks one row of weights at a time, which keeps memory in
//! one stream; several share each loaded vector among 4 rows of weights and 4 of activations.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use muse_format::TILE_ROWS;

use crate::cpu::load_x86::{Element, load_16, load_some};

/// Columns of one vector.
const LANES: usize = 16;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
pub(super) fn run<E: Element>(out: &mut [[f32; TILE_ROWS]], weights: &[E], cols: usize, x: &[f32]) {
    if let [out] = out {
        for (out, weights) in out.iter_mut().zip(weights.chunks_exact(cols)) {
            *out = row(weights, x);
        }
        return;
    }
    for (first, weights) in (0..).step_by(4).zip(weights.chunks(4 * cols)) {
        for (out, x) in out.chunks_mut(4).zip(x.chunks(4 * cols)) {
            match (weights.len() / cols, out.len()) {
                (4, 4) => block::<E, 4, 4>(out, first, weights, x),
                (4, 3) => block::<E, 4, 3>(out, first, weights, x),
                (4, 2) => block::<E, 4, 2>(out, first, weights, x),
                (4, _) => block::<E, 4, 1>(out, first, weights, x),
                (rows, _) => {
                    for row in 0..rows {
                        let weights = &weights[row * cols..][..cols];
                        for (out, x) in out.chunks_mut(1).zip(x.chunks(cols)) {
                            block::<E, 1, 1>(out, first + row, weights, x);
                        }
                    }
                }
            }
        }
    }
}

/// One row by one row, in four sums that do not wait for one another.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn row<E: Element>(weights: &[E], x: &[f32]) -> f32 {
    assert_eq!(weights.len(), x.len());
    let mut sums = [_mm512_setzero_ps(); 4];
    let whole = weights.len() / (4 * LANES);
    for i in 0..whole {
        for (j, sum) in sums.iter_mut().enumerate() {
            let at = (4 * i + j) * LANES;
            // SAFETY: `at + 16 <= whole * 64 <= len` of both, whose equality is asserted.
            let (w, x) = unsafe { (load_16(weights.as_ptr(), at), load_16(x.as_ptr(), at)) };
            *sum = _mm512_fmadd_ps(w, x, *sum);
        }
    }
    let mut at = whole * 4 * LANES;
    while at < x.len() {
        let mask = u16::MAX >> (LANES - (x.len() - at).min(LANES));
        // SAFETY: the mask covers elements below the length of both.
        let (w, x) = unsafe { (load_some(weights.as_ptr(), at, mask), load_some(x.as_ptr(), at, mask)) };
        sums[0] = _mm512_fmadd_ps(w, x, sums[0]);
        at += LANES;
    }
    let halves = (_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    _mm512_reduce_add_ps(_mm512_add_ps(halves.0, halves.1))
}

/// `R` rows of weights by `N` of activations, written from row `first` of the tile on.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,f16c")]
fn block<E: Element, const R: usize, const N: usize>(
    out: &mut [[f32; TILE_ROWS]],
    first: usize,
    weights: &[E],
    x: &[f32],
) {
    let cols = weights.len() / R;
    assert!(weights.len() == R * cols && x.len() == N * cols && out.len() == N);
    let mut sums = [[_mm512_setzero_ps(); N]; R];
    let mut at = 0;
    while at < cols {
        let mask = u16::MAX >> (LANES - (cols - at).min(LANES));
        let mut inputs = [_mm512_setzero_ps(); N];
        for (n, input) in inputs.iter_mut().enumerate() {
            // SAFETY: the mask covers columns below `cols` of row `n < N`, whose length is asserted.
            *input = unsafe { load_some(x.as_ptr(), n * cols + at, mask) };
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: as above, for row `r < R`.
            let weight = unsafe { load_some(weights.as_ptr(), r * cols + at, mask) };
            for (sum, input) in sums.iter_mut().zip(inputs) {
                *sum = _mm512_fmadd_ps(weight, input, *sum);
            }
        }
        at += LANES;
    }
    for (r, sums) in sums.into_iter().enumerate() {
        for (out, sum) in out.iter_mut().zip(sums) {
            out[first + r] = _mm512_reduce_add_ps(sum);
        }
    }
}
