use std::arch::aarch64::{vaddvq_f32, vdupq_n_f32, vfmaq_f32};

use muse_format::TILE_ROWS;

use crate::cpu::neon::Element;

/// Rows of weights that share one load of the activations.
const ROWS: usize = 4;
/// Rows of activations that share one load of the weights.
const TOKENS: usize = 4;

#[target_feature(enable = "neon")]
pub(super) fn run<E: Element>(out: &mut [[f32; TILE_ROWS]], weights: &[E], cols: usize, x: &[f32]) {
    let (fours, rest) = out.as_chunks_mut::<TOKENS>();
    let (first, last) = x.split_at(fours.len() * TOKENS * cols);
    for (out, x) in fours.iter_mut().zip(first.chunks_exact(TOKENS * cols)) {
        tokens(out, weights, cols, x);
    }
    for (out, x) in rest.as_chunks_mut::<1>().0.iter_mut().zip(last.chunks_exact(cols)) {
        tokens(out, weights, cols, x);
    }
}

/// All rows of weights times `T` rows of activations.
#[inline]
#[target_feature(enable = "neon")]
fn tokens<E: Element, const T: usize>(
    out: &mut [[f32; TILE_ROWS]; T],
    weights: &[E],
    cols: usize,
    x: &[f32],
) {
    let fours = weights.chunks_exact(ROWS * cols);
    let last = fours.remainder().chunks_exact(cols);
    let done = fours.len() * ROWS;
    for (i, weights) in fours.enumerate() {
        rows::<E, ROWS, T>(out, i * ROWS, weights, cols, x);
    }
    for (i, weights) in last.enumerate() {
        rows::<E, 1, T>(out, done + i, weights, cols, x);
    }
}

/// `R` rows of weights, rows from `first` of the output, times `T` rows of activations.
#[inline]
#[target_feature(enable = "neon")]
fn rows<E: Element, const R: usize, const T: usize>(
    out: &mut [[f32; TILE_ROWS]; T],
    first: usize,
    weights: &[E],
    cols: usize,
    x: &[f32],
) {
    let weights: [&[E]; R] = std::array::from_fn(|r| &weights[r * cols..][..cols]);
    let x: [&[f32]; T] = std::array::from_fn(|t| &x[t * cols..][..cols]);
    let mut sums = [[vdupq_n_f32(0.0); T]; R];
    let whole = cols / 8;
    let weight_eights = weights.map(|w| &w.as_chunks::<8>().0[..whole]);
    let x_eights = x.map(|x| &x.as_chunks::<8>().0[..whole]);
    for c in 0..whole {
        let mut columns = [[vdupq_n_f32(0.0); 2]; T];
        for (columns, x) in columns.iter_mut().zip(&x_eights) {
            *columns = f32::load(&x[c]);
        }
        for (sums, w) in sums.iter_mut().zip(&weight_eights) {
            let [a, b] = E::load(&w[c]);
            for (sum, x) in sums.iter_mut().zip(&columns) {
                *sum = vfmaq_f32(vfmaq_f32(*sum, a, x[0]), b, x[1]);
            }
        }
    }
    for (r, (sums, w)) in sums.iter().zip(&weights).enumerate() {
        for ((out, sum), x) in out.iter_mut().zip(sums).zip(&x) {
            let tail = w[8 * whole..].iter().zip(&x[8 * whole..]);
            out[first + r] = vaddvq_f32(*sum) + tail.map(|(w, x)| (*w).into() * x).sum::<f32>();
        }
    }
}
