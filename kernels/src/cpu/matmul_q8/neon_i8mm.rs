//! `smmla`: eight columns of two tokens meet the same columns of two rows.
//!
//! In a release build one quarter of a group of Q4, 72 bytes, takes 233 instructions for sixteen tokens, 0.20 a byte and
//! token, 64 of them multiplications.

use std::arch::aarch64::{
    int8x16_t, int32x4_t, vdupq_n_f32, vdupq_n_s32, vreinterpretq_s8_s32, vreinterpretq_s8_s64,
    vreinterpretq_s32_s8, vreinterpretq_s64_s8, vuzp1q_s32, vuzp2q_s32, vzip1q_s32, vzip1q_s64, vzip2q_s32,
    vzip2q_s64,
};

use muse_format::TILE_ROWS;

use super::Activations;
use super::neon_dotprod;
use super::neon_tile::{Q4, Q4Asym, Q4Codebook, Q8, Weights, groups, store_quarter};
use crate::cpu::neon::smmla;
use crate::cpu::quantize::BLOCK;

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
    let (blocks, rest) = out.as_chunks_mut::<BLOCK>();
    let (fours, rest) = rest.as_chunks_mut::<4>();
    let mut done = 0;
    for out in blocks {
        tokens::<W, BLOCK>(out, tile, group, x.rows(done, BLOCK));
        done += BLOCK;
    }
    for out in fours {
        tokens::<W, 4>(out, tile, group, x.rows(done, 4));
        done += 4;
    }
    for out in rest.as_chunks_mut().0 {
        neon_dotprod::tokens::<W, 1>(out, tile, group, x.row(done));
        done += 1;
    }
}

/// The tile times `N` rows of activations, 4 or a block, a quarter in turn: its sums stay in registers, and so do its
/// weights of a group, which all rows meet before the next group.
#[inline]
#[target_feature(enable = "dotprod,i8mm")]
fn tokens<W: Weights, const N: usize>(
    out: &mut [[f32; TILE_ROWS]; N],
    tile: &[u8],
    group: usize,
    x: Activations<'_>,
) {
    const { assert!(N == 4 || N == BLOCK) };
    x.assert_rows(N);
    for quarter in 0..4 {
        let mut sums = [vdupq_n_f32(0.0); N];
        for group in groups::<W>(tile, group, x.groups) {
            let rows = group.quarter_values::<W>(quarter);
            let weights = group.signed_weights::<W>(quarter);
            let weights = [0, 1, 2, 3].map(|step| row_pairs(weights[step]));
            let mut add = |t: usize| {
                // SAFETY: there are `N` rows, and `groups` was given their groups.
                let (four, quants) =
                    unsafe { (group.four_tokens::<W>(x, t), [0, 1, 2, 3].map(|i| group.quants(x, t + i))) };
                let [a, b] = dots(weights, [quants[0], quants[1]]);
                let [c, d] = dots(weights, [quants[2], quants[3]]);
                sums[t] = rows.add::<0>(sums[t], a, &four);
                sums[t + 1] = rows.add::<1>(sums[t + 1], b, &four);
                sums[t + 2] = rows.add::<2>(sums[t + 2], c, &four);
                sums[t + 3] = rows.add::<3>(sums[t + 3], d, &four);
            };
            // Written out: in a loop the sums would not be registers.
            add(0);
            if N == BLOCK {
                add(4);
                add(8);
                add(12);
            }
        }
        store_quarter(out, quarter, sums);
    }
}

/// The integer products of four rows, as [`row_pairs`] gives them, with 32 columns of two rows of activations.
#[inline]
#[target_feature(enable = "neon,dotprod,i8mm")]
fn dots(weights: [[int8x16_t; 2]; 4], [[a, b], [c, d]]: [[int8x16_t; 2]; 2]) -> [int32x4_t; 2] {
    let [[e, f], [g, h]] = [zip_eights(a, c), zip_eights(b, d)];
    let mut squares = [vdupq_n_s32(0); 2];
    for ([low, high], x) in weights.into_iter().zip([e, f, g, h]) {
        squares = [smmla(squares[0], low, x), smmla(squares[1], high, x)];
    }
    [vuzp1q_s32(squares[0], squares[1]), vuzp2q_s32(squares[0], squares[1])]
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
