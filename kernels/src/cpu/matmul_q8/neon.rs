use std::arch::aarch64::{
    int8x16_t, int32x4_t, vaddq_s32, vdupq_laneq_s32, vdupq_n_s32, vget_low_s8, vmlal_high_s8, vmlal_s8,
    vmull_high_s8, vmull_s8, vpadalq_s16, vpaddq_s32, vreinterpretq_s8_s32, vreinterpretq_s32_s8,
};

use muse_format::TILE_ROWS;

use super::Activations;
use super::neon_tile::{Group, Q4, Q4Asym, Q8, RowValues, Sums, Weights, groups};

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
fn run<W: Weights>(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    for (t, out) in out.as_chunks_mut::<1>().0.iter_mut().enumerate() {
        let x = x.row(t);
        let mut sums = Sums::<1>::zero();
        for group in groups::<W>(tile, group, x.groups) {
            let rows = group.row_values::<W>();
            let columns = fours(group.columns(x, 0));
            quarter::<W, 0>(&mut sums, group, &rows, &columns, x);
            quarter::<W, 1>(&mut sums, group, &rows, &columns, x);
            quarter::<W, 2>(&mut sums, group, &rows, &columns, x);
            quarter::<W, 3>(&mut sums, group, &rows, &columns, x);
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
    columns: &[int8x16_t; 8],
    x: Activations<'_>,
) {
    // Of each row the sums of columns 0, 1, 4, 5 and of 2, 3, 6, 7: rows 0 and 1, then 2 and 3.
    let mut dots = [vdupq_n_s32(0); 2];
    for step in 0..4 {
        let w = group.weights::<W>(step, Q);
        dots = add_eight(dots, w, [columns[2 * step], columns[2 * step + 1]]);
    }
    let dots = vaddq_s32(vpaddq_s32(dots[0], dots[1]), group.start::<W>(x, 0));
    sums.add((0, Q), dots, rows, x, group.index);
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

/// Adds the products of eight columns. Two of them meet in an i16: 2 * 128 * 127 < 2^15.
#[inline]
#[target_feature(enable = "neon")]
fn add_eight(sums: [int32x4_t; 2], w: [int8x16_t; 2], x: [int8x16_t; 2]) -> [int32x4_t; 2] {
    let low = vmull_s8(vget_low_s8(w[0]), vget_low_s8(x[0]));
    let low = vmlal_s8(low, vget_low_s8(w[1]), vget_low_s8(x[1]));
    let high = vmlal_high_s8(vmull_high_s8(w[0], x[0]), w[1], x[1]);
    [vpadalq_s16(sums[0], low), vpadalq_s16(sums[1], high)]
}
