//! `smmla`: eight columns of two tokens meet the same columns of two rows.
//!
//! Counted as in `neon_dotprod` (before activations stood in blocks of 16 rows), one group of Q4, 288 bytes, takes 1172 instructions for sixteen tokens, 0.25 a byte and
//! token, 256 of them multiplications.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s8, vdupq_n_s32, vfmaq_f32,
    vmulq_f32, vreinterpretq_s8_s32, vreinterpretq_s8_s64, vreinterpretq_s32_s8, vreinterpretq_s64_s8,
    vst1q_f32, vuzp1q_f32, vuzp2q_f32, vzip1q_f32, vzip1q_s32, vzip1q_s64, vzip2q_f32, vzip2q_s32,
    vzip2q_s64,
};

use muse_format::TILE_ROWS;

use super::Activations;
use super::neon_dotprod;
use super::neon_tile::{
    Columns, Group, Q4, Q4Asym, Q4Codebook, Q8, RowValues, Weights, groups, keep_in_memory,
};
use crate::cpu::neon::smmla;

/// Rows of activations that share one unpacking of the weights.
const TOKENS: usize = 16;

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
    let (full, rest) = out.as_chunks_mut::<TOKENS>();
    let (fours, rest) = rest.as_chunks_mut::<4>();
    let (pairs, last) = rest.as_chunks_mut::<2>();
    let mut done = 0;
    for out in full {
        tokens::<W, TOKENS, { TOKENS / 2 }>(out, tile, group, x.rows(done, TOKENS));
        done += TOKENS;
    }
    for out in fours {
        tokens::<W, 4, 2>(out, tile, group, x.rows(done, 4));
        done += 4;
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
    x.assert_rows(N);
    let mut sums = [[[vdupq_n_f32(0.0); 2]; 4]; P];
    let mut pairs = [Pair::zero(); P];
    for group in groups::<W>(tile, group, x.groups) {
        let rows = group.row_values::<W>();
        for (p, pair) in pairs.iter_mut().enumerate() {
            // SAFETY: there are `2 * P` rows, and `groups` was given their groups.
            *pair = unsafe { Pair::new([group.columns::<W>(x, 2 * p), group.columns::<W>(x, 2 * p + 1)]) };
        }
        quarter::<W, P, 0>(&mut sums, group, &rows, &mut pairs);
        quarter::<W, P, 1>(&mut sums, group, &rows, &mut pairs);
        quarter::<W, P, 2>(&mut sums, group, &rows, &mut pairs);
        quarter::<W, P, 3>(&mut sums, group, &rows, &mut pairs);
    }
    let pairs = out.as_chunks_mut::<2>().0;
    for ([first, second], sums) in pairs.iter_mut().zip(&sums) {
        for (quarter, [low, high]) in sums.iter().enumerate() {
            // SAFETY: 4 elements are written to each row, of 16, and there are 4 quarters.
            unsafe {
                vst1q_f32(first.as_mut_ptr().add(4 * quarter), vuzp1q_f32(*low, *high));
                vst1q_f32(second.as_mut_ptr().add(4 * quarter), vuzp2q_f32(*low, *high));
            }
        }
    }
}

/// Sums of two tokens, the first in the even lanes: of each quarter rows 0 and 1, then 2 and 3.
type PairSums = [[float32x4_t; 2]; 4];

/// Adds the products of quarter `Q` of one group.
#[inline]
#[target_feature(enable = "dotprod,i8mm")]
fn quarter<W: Weights, const P: usize, const Q: usize>(
    sums: &mut [PairSums; P],
    group: Group<'_>,
    rows: &RowValues,
    pairs: &mut [Pair; P],
) {
    keep_in_memory(pairs);
    keep_in_memory(sums);
    let mut weights = [[vdupq_n_s8(0); 2]; 4];
    for (step, weights) in weights.iter_mut().enumerate() {
        *weights = row_pairs(group.weights::<W>(step, Q));
    }
    let scales = twice(rows.scales[Q]);
    #[expect(clippy::manual_map, reason = "`Option::map` has no NEON and would call `twice` out of line")]
    let offsets = match rows.offsets {
        Some(offsets) => Some(twice(offsets[Q])),
        None => None,
    };
    for (sums, pair) in sums.iter_mut().zip(pairs) {
        let start = if W::BIASED { pair.start } else { vdupq_n_s32(0) };
        let mut squares = [start; 2];
        for (w, x) in weights.iter().zip(&pair.eights) {
            squares = [smmla(squares[0], w[0], *x), smmla(squares[1], w[1], *x)];
        }
        for (half, sum) in sums[Q].iter_mut().enumerate() {
            *sum = vfmaq_f32(*sum, vcvtq_f32_s32(squares[half]), vmulq_f32(scales[half], pair.scale));
            if let Some(offsets) = offsets {
                *sum = vfmaq_f32(*sum, offsets[half], pair.total);
            }
        }
    }
}

/// 32 columns of two rows of activations.
#[derive(Clone, Copy)]
struct Pair {
    /// As `smmla` takes them: eight columns of both rows in a vector.
    eights: [int8x16_t; 4],
    /// The rest of [`Columns`], the first row in the even lanes.
    start: int32x4_t,
    scale: float32x4_t,
    total: float32x4_t,
}

impl Pair {
    #[inline]
    #[target_feature(enable = "neon")]
    fn zero() -> Self {
        let zero = vdupq_n_f32(0.0);
        Self { eights: [vdupq_n_s8(0); 4], start: vdupq_n_s32(0), scale: zero, total: zero }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    fn new([first, second]: [Columns; 2]) -> Self {
        let [[a, b], [c, d]] = [first.quants, second.quants];
        let [[e, f], [g, h]] = [zip_eights(a, c), zip_eights(b, d)];
        Self {
            eights: [e, f, g, h],
            start: vzip1q_s32(first.start, second.start),
            scale: vzip1q_f32(vdupq_n_f32(first.scale), vdupq_n_f32(second.scale)),
            total: vzip1q_f32(vdupq_n_f32(first.total), vdupq_n_f32(second.total)),
        }
    }
}

/// A value of each of four rows beside itself: rows 0 and 1, then 2 and 3.
#[inline]
#[target_feature(enable = "neon")]
fn twice(rows: float32x4_t) -> [float32x4_t; 2] {
    [vzip1q_f32(rows, rows), vzip2q_f32(rows, rows)]
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
