use super::Scores;
use crate::cache::{Number, TILE_POSITIONS};

pub(super) fn scores<E: Number>(scores: &mut [Scores], q: &[&[f32]], keys: &[E]) {
    for (scores, q) in scores.iter_mut().zip(q) {
        let tiles = keys.chunks_exact(E::elements(TILE_POSITIONS * q.len()));
        for (scores, tile) in scores.chunks_exact_mut(TILE_POSITIONS).zip(tiles) {
            let mut sums = [0.0_f32; TILE_POSITIONS];
            for (i, q) in q.iter().enumerate() {
                for (p, sum) in sums.iter_mut().enumerate() {
                    *sum += q * E::get(tile, i * TILE_POSITIONS + p);
                }
            }
            scores.copy_from_slice(&sums);
        }
    }
}

pub(super) fn mix<E: Number>(out: &mut [&mut [f32]], weights: &[Scores], decay: &[f32], values: &[E]) {
    for ((out, weights), decay) in out.iter_mut().zip(weights).zip(decay) {
        out.iter_mut().for_each(|x| *x *= decay);
        for (weight, values) in weights.iter().zip(values.chunks_exact(E::elements(out.len()))) {
            for (i, out) in out.iter_mut().enumerate() {
                *out += weight * E::get(values, i);
            }
        }
    }
}
