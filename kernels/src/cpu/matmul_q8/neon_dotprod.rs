//! `sdot` by element: the four columns of one token that are the element meet the four columns of four rows.
//!
//! In a release build (`aarch64-linux-gnu-objdump -d`) one group of Q4, 288 bytes, takes 109 instructions for one token,
//! 0.38 a byte of weights, and 324 for four tokens, 0.28 a byte and token. For sixteen tokens a quarter of it takes 260,
//! 0.23 a byte and token, 128 of them multiplications.

use std::arch::aarch64::{int8x16_t, int32x4_t, vdupq_n_f32, vdupq_n_s32};

use muse_format::TILE_ROWS;

use super::Activations;
use super::neon_tile::{
    Columns, Group, Q4, Q4Asym, Q4Codebook, Q8, RowValues, Sums, Weights, groups, store_quarter,
};
use crate::cpu::neon::sdot;
use crate::cpu::quantize::BLOCK;

/// Rows of activations that share one unpacking of the weights, where all quarters of a tile meet them in turn.
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
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    let (full, last) = rest.as_chunks_mut::<TOKENS>();
    let mut done = 0;
    for out in blocks {
        for quarter in 0..4 {
            block::<W>(out, tile, group, x.rows(done, BLOCK), quarter);
        }
        done += BLOCK;
    }
    for out in full {
        tokens::<W, TOKENS>(out, tile, group, x.rows(done, TOKENS));
        done += TOKENS;
    }
    for out in last.as_chunks_mut().0 {
        tokens::<W, 1>(out, tile, group, x.row(done));
        done += 1;
    }
}

/// One quarter of the tile times a block of activations. A quarter's sums stay in registers, and so do its weights of a
/// group, which all rows of the block meet before the next group.
#[inline]
#[target_feature(enable = "dotprod")]
fn block<W: Weights>(
    out: &mut [[f32; TILE_ROWS]; BLOCK],
    tile: &[u8],
    group: usize,
    x: Activations<'_>,
    quarter: usize,
) {
    x.assert_rows(BLOCK);
    let mut sums = [vdupq_n_f32(0.0); BLOCK];
    for group in groups::<W>(tile, group, x.groups) {
        let rows = group.quarter_values::<W>(quarter);
        let weights = group.signed_weights::<W>(quarter);
        let mut add = |t: usize| {
            // SAFETY: there are `BLOCK` rows, and `groups` was given their groups.
            let (four, quants) =
                unsafe { (group.four_tokens::<W>(x, t), [0, 1, 2, 3].map(|i| group.quants(x, t + i))) };
            let dots = quants.map(|quants| dots(vdupq_n_s32(0), weights, quants));
            sums[t] = rows.add::<0>(sums[t], dots[0], &four);
            sums[t + 1] = rows.add::<1>(sums[t + 1], dots[1], &four);
            sums[t + 2] = rows.add::<2>(sums[t + 2], dots[2], &four);
            sums[t + 3] = rows.add::<3>(sums[t + 3], dots[3], &four);
        };
        // Written out: in a loop the sums would not be registers.
        add(0);
        add(4);
        add(8);
        add(12);
    }
    store_quarter(out, quarter, sums);
}

/// `start` and the integer products of a quarter's 32 columns with those of one row of activations.
#[inline]
#[target_feature(enable = "dotprod")]
fn dots(start: int32x4_t, weights: [[int8x16_t; 2]; 4], [low, high]: [int8x16_t; 2]) -> int32x4_t {
    let [[a, b], [c, d], [e, f], [g, h]] = weights;
    let dots = sdot::<1>(sdot::<0>(start, a, low), b, low);
    let dots = sdot::<3>(sdot::<2>(dots, c, low), d, low);
    let dots = sdot::<1>(sdot::<0>(dots, e, high), f, high);
    sdot::<3>(sdot::<2>(dots, g, high), h, high)
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
    x.assert_rows(N);
    let mut sums = Sums::<N>::zero();
    let mut columns = [Columns::zero(); N];
    for group in groups::<W>(tile, group, x.groups) {
        let rows = group.row_values::<W>();
        for (t, columns) in columns.iter_mut().enumerate() {
            // SAFETY: there are `N` rows, and `groups` was given their groups.
            *columns = unsafe { group.columns::<W>(x, t) };
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
    let weights = [0, 1, 2, 3].map(|step| group.weights::<W>(step, Q));
    for (t, columns) in columns.iter().enumerate() {
        sums.add(Q, t, dots(columns.start::<W>(), weights, columns.quants), rows, columns);
    }
}
