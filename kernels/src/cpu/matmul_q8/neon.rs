//! `smull` and `smlal` into words, for CPUs before `sdot`: Cortex-A72 and A53. Counted as in `neon_dotprod`, one group of
//! Q4, 288 bytes, takes 195 instructions, 0.68 a byte of weights.

use std::arch::aarch64::{
    int8x16_t, int16x8_t, vaddq_s32, vdupq_laneq_s32, vdupq_n_s16, vdupq_n_s32, vget_low_s8, vmlal_high_s8,
    vmlal_s8, vpadalq_s16, vpaddq_s32, vreinterpretq_s8_s32, vreinterpretq_s32_s8,
};

use muse_format::TILE_ROWS;

use super::Activations;
use super::neon_tile::{Columns, Group, Q4, Q4Asym, Q4Codebook, Q8, RowValues, Sums, Weights, groups};
use crate::cpu::neon::opaque;

#[target_feature(enable = "neon")]
pub(super) fn q8(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q8>(out, tile, group, x);
}

#[target_feature(enable = "neon")]
pub(super) fn q4(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q4>(out, tile, group, x);
}

#[target_feature(enable = "neon")]
pub(super) fn q4_asym(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q4Asym>(out, tile, group, x);
}

#[target_feature(enable = "neon")]
pub(super) fn q4_codebook(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<Q4Codebook>(out, tile, group, x);
}

#[target_feature(enable = "neon")]
fn run<W: Weights>(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    for (t, out) in out.as_chunks_mut::<1>().0.iter_mut().enumerate() {
        let x = x.row(t);
        let mut sums = Sums::<1>::zero();
        for group in groups::<W>(tile, group, x.groups) {
            let rows = group.row_values::<W>();
            // SAFETY: there is one row, and `groups` was given its groups.
            let columns = unsafe { group.columns::<W>(x, 0) };
            let fours = fours(columns.quants);
            quarter::<W, 0>(&mut sums, group, &rows, &columns, &fours);
            quarter::<W, 1>(&mut sums, group, &rows, &columns, &fours);
            quarter::<W, 2>(&mut sums, group, &rows, &columns, &fours);
            quarter::<W, 3>(&mut sums, group, &rows, &columns, &fours);
        }
        sums.store(out);
    }
}

/// Adds the products of quarter `Q` of one group.
#[inline]
#[target_feature(enable = "neon")]
fn quarter<W: Weights, const Q: usize>(
    sums: &mut Sums<1>,
    group: Group<'_>,
    rows: &RowValues,
    columns: &Columns,
    fours: &[int8x16_t; 8],
) {
    // Of each row two sums, of columns 0 and 1 and of 2 and 3 of every four: rows 0 and 1, then 2 and 3.
    let mut dots = [vdupq_n_s32(0); 2];
    let mut products = [vdupq_n_s16(0); 2];
    for step in 0..4 {
        let [a, b] = group.weights::<W>(step, Q).map(|w| opaque(w));
        products = add_products(products, a, fours[2 * step]);
        products = add_products(products, b, fours[2 * step + 1]);
        // Two products always fit an i16: 2 * 128 * 127 < 2^15.
        if !W::NARROW || step == 3 {
            dots = [vpadalq_s16(dots[0], products[0]), vpadalq_s16(dots[1], products[1])];
            products = [vdupq_n_s16(0); 2];
        }
    }
    let dots = vaddq_s32(vpaddq_s32(dots[0], dots[1]), columns.start::<W>());
    sums.add(Q, 0, dots, rows, columns);
}

/// 32 columns, four in each vector, repeated for four rows.
#[inline]
#[target_feature(enable = "neon")]
fn fours(x: [int8x16_t; 2]) -> [int8x16_t; 8] {
    let [a, b] = x.map(|x| vreinterpretq_s32_s8(x));
    [
        vdupq_laneq_s32::<0>(a),
        vdupq_laneq_s32::<1>(a),
        vdupq_laneq_s32::<2>(a),
        vdupq_laneq_s32::<3>(a),
        vdupq_laneq_s32::<0>(b),
        vdupq_laneq_s32::<1>(b),
        vdupq_laneq_s32::<2>(b),
        vdupq_laneq_s32::<3>(b),
    ]
    .map(|x| vreinterpretq_s8_s32(x))
}

/// Adds the products of four rows and four columns, each by itself: rows 0 and 1, then 2 and 3.
#[inline]
#[target_feature(enable = "neon")]
fn add_products([low, high]: [int16x8_t; 2], w: int8x16_t, x: int8x16_t) -> [int16x8_t; 2] {
    [vmlal_s8(low, vget_low_s8(w), vget_low_s8(x)), vmlal_high_s8(high, w, x)]
}
