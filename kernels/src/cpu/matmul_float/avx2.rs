//! Partial sums 8 columns a vector; each loaded vector of weights is shared by up to 4 rows of activations.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use muse_format::TILE_ROWS;

use crate::cpu::load_x86::{Element, load_8};

/// Columns of one vector.
const LANES: usize = 8;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn run<E: Element + Into<f32>>(
    out: &mut [[f32; TILE_ROWS]],
    weights: &[E],
    cols: usize,
    x: &[f32],
) {
    for (row, weights) in weights.chunks_exact(cols).enumerate() {
        for (out, x) in out.chunks_mut(4).zip(x.chunks(4 * cols)) {
            match out.len() {
                4 => tokens::<E, 4, 1>(out, row, weights, x),
                3 => tokens::<E, 3, 1>(out, row, weights, x),
                2 => tokens::<E, 2, 2>(out, row, weights, x),
                _ => tokens::<E, 1, 4>(out, row, weights, x),
            }
        }
    }
}

/// One row of weights by `N` of activations, each in `U` sums that do not wait for one another.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tokens<E: Element + Into<f32>, const N: usize, const U: usize>(
    out: &mut [[f32; TILE_ROWS]],
    row: usize,
    weights: &[E],
    x: &[f32],
) {
    let cols = weights.len();
    assert!(x.len() == N * cols && out.len() == N);
    let mut sums = [[_mm256_setzero_ps(); U]; N];
    let whole = cols / (U * LANES) * U * LANES;
    for at in (0..whole).step_by(U * LANES) {
        for u in 0..U {
            let at = at + u * LANES;
            // SAFETY: `at + 8 <= whole <= cols`.
            let weight = unsafe { load_8(weights.as_ptr(), at) };
            for (n, sums) in sums.iter_mut().enumerate() {
                // SAFETY: as above, in row `n < N`, whose length is asserted.
                let input = unsafe { load_8(x.as_ptr(), n * cols + at) };
                sums[u] = _mm256_fmadd_ps(weight, input, sums[u]);
            }
        }
    }
    for (n, (out, sums)) in out.iter_mut().zip(sums).enumerate() {
        let tail = weights[whole..].iter().zip(&x[n * cols + whole..]).map(|(w, x)| (*w).into() * x);
        out[row] = sums.into_iter().map(|sum| add_across(sum)).sum::<f32>() + tail.sum::<f32>();
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_across(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}
