//! `smmla`: eight columns of two tokens meet the same columns of two rows.
//!
//! Counted as in `neon_dotprod`, one group of Q4, 288 bytes, takes 736 instructions for eight tokens, 0.32 a byte and
//! token: as many as there, but 128 multiplications instead of 256, and 336 vector operations instead of 416.

use std::arch::aarch64::{
    int8x16_t, int32x4_t, vdupq_n_s8, vdupq_n_s32, vreinterpretq_s8_s32, vreinterpretq_s8_s64,
    vreinterpretq_s32_s8, vreinterpretq_s64_s8, vuzp1q_s32, vuzp2q_s32, vzip1q_s32, vzip1q_s64, vzip2q_s32,
    vzip2q_s64,
};

use muse_format::TILE_ROWS;

use super::Activations;
use super::neon_dotprod;
use super::neon_tile::{Columns, Group, Q4, Q4Asym, Q4Codebook, Q8, RowValues, Sums, Weights, groups};
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
pub(super) fn q4_codebook(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q4Codebook>(out, tile, group, x);
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
        let mut pairs = [Pair::zero(); P];
        for (p, pair) in pairs.iter_mut().enumerate() {
            *pair = Pair::new::<W>([group.columns(x, 2 * p), group.columns(x, 2 * p + 1)]);
        }
        quarter::<W, N, P, 0>(&mut sums, group, &rows, &pairs);
        quarter::<W, N, P, 1>(&mut sums, group, &rows, &pairs);
        quarter::<W, N, P, 2>(&mut sums, group, &rows, &pairs);
        quarter::<W, N, P, 3>(&mut sums, group, &rows, &pairs);
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
    pairs: &[Pair; P],
) {
    // Rows 0 and 1 of the quarter, then 2 and 3; the first token of a pair in the even lanes.
    let mut squares = [[vdupq_n_s32(0); 2]; P];
    for (squares, pair) in squares.iter_mut().zip(pairs) {
        *squares = [pair.start; 2];
    }
    for step in 0..4 {
        let w = row_pairs(group.weights::<W>(step, Q));
        for (squares, pair) in squares.iter_mut().zip(pairs) {
            squares[0] = smmla(squares[0], w[0], pair.eights[step]);
            squares[1] = smmla(squares[1], w[1], pair.eights[step]);
        }
    }
    for (p, (squares, pair)) in squares.iter().zip(pairs).enumerate() {
        sums.add(Q, 2 * p, vuzp1q_s32(squares[0], squares[1]), rows, &pair.columns[0]);
        sums.add(Q, 2 * p + 1, vuzp2q_s32(squares[0], squares[1]), rows, &pair.columns[1]);
    }
}

/// 32 columns of two rows of activations.
#[derive(Clone, Copy)]
struct Pair {
    columns: [Columns; 2],
    /// As `smmla` takes them: eight columns of both rows in a vector.
    eights: [int8x16_t; 4],
    /// What integer products start from, the first row in the even lanes.
    start: int32x4_t,
}

impl Pair {
    #[inline]
    #[target_feature(enable = "neon")]
    fn zero() -> Self {
        Self { columns: [Columns::zero(); 2], eights: [vdupq_n_s8(0); 4], start: vdupq_n_s32(0) }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn new<W: Weights>(columns: [Columns; 2]) -> Self {
        let [[a, b], [c, d]] = [columns[0].quants, columns[1].quants];
        let [[e, f], [g, h]] = [zip_eights(a, c), zip_eights(b, d)];
        let start = vzip1q_s32(columns[0].start::<W>(), columns[1].start::<W>());
        Self { columns, eights: [e, f, g, h], start }
    }
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
