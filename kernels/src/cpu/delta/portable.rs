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

/// The sum of all.
#[inline(always)]
fn total<const SUMS: usize>(sums: &[Columns; SUMS]) -> Columns {
    let mut total = sums[0];
    for sums in &sums[1..] {
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total += *sum);
    }
    total
}

/// A row in `SUMS` sums a column that do not wait for one another.
#[inline(always)]
pub(super) fn step<const FUSED: bool, const SUMS: usize>(tile: &mut [Columns], row: Row<'_>) -> Step {
    let add = |sums: &mut Columns, s: &Columns, k: f32| {
        sums.iter_mut().zip(s).for_each(|(sum, s)| *sum = add_product::<FUSED>(*s, k, *sum));
    };
    let mut held = [[0.0; COLUMNS]; SUMS];
    let (tiles, rest) = tile.as_chunks::<SUMS>();
    let (keys, last_keys) = row.k.as_chunks::<SUMS>();
    for (tile, k) in tiles.iter().zip(keys) {
        for n in 0..SUMS {
            add(&mut held[n], &tile[n], k[n]);
        }
    }
    for (s, k) in rest.iter().zip(last_keys) {
        add(&mut held[0], s, *k);
    }
    let mut delta = [0.0; COLUMNS];
    for ((delta, v), held) in delta.iter_mut().zip(row.v).zip(total(&held)) {
        *delta = row.beta * add_product::<FUSED>(-row.decay, held, *v);
    }
    let take = |sums: &mut Columns, s: &mut Columns, k: f32, q: f32| {
        for ((s, delta), sum) in s.iter_mut().zip(&delta).zip(sums) {
            *s = add_product::<FUSED>(k, *delta, row.decay * *s);
            *sum = add_product::<FUSED>(*s, q, *sum);
        }
    };
    let mut out = [[0.0; COLUMNS]; SUMS];
    let (tiles, rest) = tile.as_chunks_mut::<SUMS>();
    let (queries, last_queries) = row.q.as_chunks::<SUMS>();
    for ((tile, k), q) in tiles.iter_mut().zip(keys).zip(queries) {
        for n in 0..SUMS {
            take(&mut out[n], &mut tile[n], k[n], q[n]);
        }
    }
    for ((s, k), q) in rest.iter_mut().zip(last_keys).zip(last_queries) {
        take(&mut out[0], s, *k, *q);
    }
    Step { out: total(&out), delta }
}

#[inline(always)]
pub(super) fn take_in<const FUSED: bool>(tile: &mut [Columns], k: &[f32], decay: f32, delta: &Columns) {
    for (s, k) in tile.iter_mut().zip(k) {
        for (s, delta) in s.iter_mut().zip(delta) {
            *s = add_product::<FUSED>(*k, *delta, decay * *s);
        }
    }
}
