//! `sdot` by element: the four columns of one token that are the element meet the four columns of four rows.
//!
//! In the release test binary (`cargo test --release -p muse-kernels --lib --no-run --target aarch64-unknown-linux-gnu`,
//! then `aarch64-linux-gnu-objdump -d`) one group of Q4, 288 bytes, takes 135 instructions for one token, 0.47 a byte of
//! weights, and 368 for four tokens, 0.32 a byte and token.

use muse_format::TILE_ROWS;

use super::Activations;
use super::neon_tile::{Columns, Group, Q4, Q4Asym, Q4Codebook, Q8, RowValues, Sums, Weights, groups};
use crate::cpu::neon::sdot;

/// Rows of activations that share one unpacking of the weights.
const TOKENS: usize = 4;

#[target_feature(enable = "dotprod")]
pub(super) fn q8(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q8>(out, tile, group, x);
}

#[target_feature(enable = "dotprod")]
pub(super) fn q4(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q4>(out, tile, group, x);
}

#[target_feature(enable = "dotprod")]
pub(super) fn q4_asym(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q4Asym>(out, tile, group, x);
}

#[target_feature(enable = "dotprod")]
pub(super) fn q4_codebook(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q4Codebook>(out, tile, group, x);
}

#[target_feature(enable = "dotprod")]
fn run<W: Weights>(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    let (fours, rest) = out.as_chunks_mut::<TOKENS>();
    let done = fours.len() * TOKENS;
    for (i, out) in fours.iter_mut().enumerate() {
        tokens::<W, TOKENS>(out, tile, group, x.rows(i * TOKENS, TOKENS));
    }
    for (i, out) in rest.as_chunks_mut().0.iter_mut().enumerate() {
        tokens::<W, 1>(out, tile, group, x.row(done + i));
    }
}

/// The tile times `N` rows of activations.
#[inline]
#[target_feature(enable = "dotprod")]
pub(super) fn tokens<W: Weights, const N: usize>(
    out: &mut [[f32; TILE_ROWS]; N],
    tile: &[u8],
    group: usize,
    x: Activations<'_>,
) {
    let mut sums = Sums::<N>::zero();
    for group in groups::<W>(tile, group, x.groups) {
        let rows = group.row_values::<W>();
        let mut columns = [Columns::zero(); N];
        for (t, columns) in columns.iter_mut().enumerate() {
            *columns = group.columns(x, t);
        }
        quarter::<W, N, 0>(&mut sums, group, &rows, &columns);
        quarter::<W, N, 1>(&mut sums, group, &rows, &columns);
        quarter::<W, N, 2>(&mut sums, group, &rows, &columns);
        quarter::<W, N, 3>(&mut sums, group, &rows, &columns);
    }
    sums.store(out);
}

/// Adds the products of quarter `Q` of one group.
#[inline]
#[target_feature(enable = "dotprod")]
fn quarter<W: Weights, const N: usize, const Q: usize>(
    sums: &mut Sums<N>,
    group: Group<'_>,
    rows: &RowValues,
    columns: &[Columns; N],
) {
    let [a, b] = group.weights::<W>(0, Q);
    let [c, d] = group.weights::<W>(1, Q);
    let [e, f] = group.weights::<W>(2, Q);
    let [g, h] = group.weights::<W>(3, Q);
    for (t, columns) in columns.iter().enumerate() {
        let [low, high] = columns.quants;
        let dots = sdot::<1>(sdot::<0>(columns.start::<W>(), a, low), b, low);
        let dots = sdot::<3>(sdot::<2>(dots, c, low), d, low);
        let dots = sdot::<1>(sdot::<0>(dots, e, high), f, high);
        let dots = sdot::<3>(sdot::<2>(dots, g, high), h, high);
        sums.add(Q, t, dots, rows, columns);
    }
}
