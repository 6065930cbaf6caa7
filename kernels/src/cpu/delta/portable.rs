//! Loops over 32 columns, so that they vectorise; `inline(always)` so that a caller's target features apply.

use super::{Columns, Kernel, Row, Step};
use crate::delta::COLUMNS;

/// Whether the target multiplies and adds in one instruction whatever the CPU.
const FUSED: bool = cfg!(target_arch = "aarch64");

pub(super) const KERNEL: Kernel = Kernel { step: step::<FUSED, 1>, take_in: take_in::<FUSED> };

/// `a * b + c`, rounded once where `FUSED`.
#[inline(always)]
fn add_product<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// Calls `each` with the rows of a tile in order, and with one of `SUMS` sums in turn that do not wait for one another;
/// returns the total.
#[inline(always)]
fn total<const SUMS: usize, R>(rows: impl Iterator<Item = R>, each: impl Fn(R, &mut Columns)) -> Columns {
    let mut sums = [[0.0_f32; COLUMNS]; SUMS];
    let mut rows = rows.fuse();
    'all: loop {
        for sums in &mut sums {
            let Some(row) = rows.next() else { break 'all };
            each(row, sums);
        }
    }
    let mut total = sums[0];
    for sums in &sums[1..] {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += *sum);
    }
    total
}

#[inline(always)]
pub(super) fn step<const FUSED: bool, const SUMS: usize>(tile: &mut [Columns], row: Row<'_>) -> Step {
    let held = total::<SUMS, _>(tile.iter().zip(row.k), |(s, k), sums| {
        sums.iter_mut().zip(s).for_each(|(sum, s)| *sum = add_product::<FUSED>(*s, *k, *sum));
    });
    let mut delta = [0.0; COLUMNS];
    for ((delta, v), held) in delta.iter_mut().zip(row.v).zip(held) {
        *delta = row.beta * add_product::<FUSED>(-row.decay, held, *v);
    }
    let out = total::<SUMS, _>(tile.iter_mut().zip(row.k).zip(row.q), |((s, k), q), sums| {
        for ((s, delta), sum) in s.iter_mut().zip(&delta).zip(sums) {
            *s = add_product::<FUSED>(*k, *delta, row.decay * *s);
            *sum = add_product::<FUSED>(*s, *q, *sum);
        }
    });
    Step { out, delta }
}

#[inline(always)]
pub(super) fn take_in<const FUSED: bool>(tile: &mut [Columns], k: &[f32], decay: f32, delta: &Columns) {
    for (s, k) in tile.iter_mut().zip(k) {
        for (s, delta) in s.iter_mut().zip(delta) {
            *s = add_product::<FUSED>(*k, *delta, decay * *s);
        }
    }
}
