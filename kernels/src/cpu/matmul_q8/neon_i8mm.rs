use std::arch::aarch64::{
    int8x16_t, vdupq_n_s8, vreinterpretq_s8_s32, vreinterpretq_s8_s64, vreinterpretq_s32_s8,
    vreinterpretq_s64_s8, vuzp1q_s32, vuzp2q_s32, vzip1q_s32, vzip1q_s64, vzip2q_s32, vzip2q_s64,
};

use muse_format::TILE_ROWS;

use super::Activations;
use super::neon_dotprod;
use super::neon_tile::{Group, Q4, Q4Asym, Q8, RowValues, Sums, Weights, groups};
use crate::cpu::neon::smmla;

/// Rows of activations that share one unpacking of the weights.
const TOKENS: usize = 8;

#[target_feature(enable = "dotprod,i8mm")]
pub(super) fn q8(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q8>(out, tile, group, x);
}

#[target_feature(enable = "dotprod,i8mm")]
pub(super) fn q4(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q4>(out, tile, group, x);
}

#[target_feature(enable = "dotprod,i8mm")]
pub(super) fn q4_asym(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q4Asym>(out, tile, group, x);
}

#[target_feature(enable = "dotprod,i8mm")]
fn run<W: Weights>(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    let (eights, rest) = out.as_chunks_mut::<TOKENS>();
    let (pairs, last) = rest.as_chunks_mut::<2>();
    let mut done = 0;
    for out in eights {
        tokens::<W, TOKENS, { TOKENS / 2 }>(out, tile, group, x.rows(done, TOKENS));
        done += TOKENS;
    }
    for out in pairs {
        tokens::<W, 2, 1>(out, tile, group, x.rows(done, 2));
        done += 2;
    }
    if let Ok(out) = last.try_into() {
        neon_dotprod::tokens::<W, 1>(out, tile, group, x.row(done));
    }
}

/// The tile times `N` rows of activations, which are `P` pairs.
#[inline]
#[target_feature(enable = "dotprod,i8mm")]
fn tokens<W: Weights, const N: usize, const P: usize>(
    out: &mut [[f32; TILE_ROWS]; N],
    tile: &[u8],
    group: usize,
    x: Activations<'_>,
) {
    const { assert!(N == 2 * P) };
    let mut sums = Sums::<N>::zero();
    for group in groups::<W>(tile, group, x.groups) {
        let rows = group.row_values::<W>();
        let mut columns = [[vdupq_n_s8(0); 4]; P];
        for (p, columns) in columns.iter_mut().enumerate() {
            *columns = eights(group.columns(x, 2 * p), group.columns(x, 2 * p + 1));
        }
        quarter::<W, N, P, 0>(&mut sums, group, &rows, &columns, x);
        quarter::<W, N, P, 1>(&mut sums, group, &rows, &columns, x);
        quarter::<W, N, P, 2>(&mut sums, group, &rows, &columns, x);
        quarter::<W, N, P, 3>(&mut sums, group, &rows, &columns, x);
    }
    sums.store(out);
}

/// Adds the products of quarter `Q` of one group.
#[inline]
#[target_feature(enable = "dotprod,i8mm")]
fn quarter<W: Weights, const N: usize, const P: usize, const Q: usize>(
    sums: &mut Sums<N>,
    group: Group<'_>,
    rows: &RowValues,
    columns: &[[int8x16_t; 4]; P],
    x: Activations<'_>,
) {
    // Spelled out: a closure has this function's features and is not inlined into `map`, which lacks them.
    let w = [
        row_pairs(group.weights::<W>(0, Q)),
        row_pairs(group.weights::<W>(1, Q)),
        row_pairs(group.weights::<W>(2, Q)),
        row_pairs(group.weights::<W>(3, Q)),
    ];
    for (p, columns) in columns.iter().enumerate() {
        // Rows 0 and 1 of the quarter, then 2 and 3; the first token of the pair in the even lanes.
        let start = vzip1q_s32(group.start::<W>(x, 2 * p), group.start::<W>(x, 2 * p + 1));
        let mut squares = [start; 2];
        for step in 0..4 {
            squares[0] = smmla(squares[0], w[step][0], columns[step]);
            squares[1] = smmla(squares[1], w[step][1], columns[step]);
        }
        sums.add((2 * p, Q), vuzp1q_s32(squares[0], squares[1]), rows, x, group.index);
        sums.add((2 * p + 1, Q), vuzp2q_s32(squares[0], squares[1]), rows, x, group.index);
    }
}

/// 32 columns of two rows of activations as `smmla` takes them: eight columns of both in a vector.
#[inline]
#[target_feature(enable = "neon")]
fn eights(a: [int8x16_t; 2], b: [int8x16_t; 2]) -> [int8x16_t; 4] {
    let [c, d] = zip_eights(a[0], b[0]);
    let [e, f] = zip_eights(a[1], b[1]);
    [c, d, e, f]
}

/// 16 columns of two rows: both rows' first eight, then both rows' last.
#[inline]
#[target_feature(enable = "neon")]
fn zip_eights(a: int8x16_t, b: int8x16_t) -> [int8x16_t; 2] {
    let (a, b) = (vreinterpretq_s64_s8(a), vreinterpretq_s64_s8(b));
    [vreinterpretq_s8_s64(vzip1q_s64(a, b)), vreinterpretq_s8_s64(vzip2q_s64(a, b))]
}

/// Four rows of eight columns as `smmla` takes them: rows 0 and 1, then 2 and 3.
#[inline]
#[target_feature(enable = "neon")]
fn row_pairs([a, b]: [int8x16_t; 2]) -> [int8x16_t; 2] {
    let (a, b) = (vreinterpretq_s32_s8(a), vreinterpretq_s32_s8(b));
    [vreinterpretq_s8_s32(vzip1q_s32(a, b)), vreinterpretq_s8_s32(vzip2q_s32(a, b))]
}
