use super::Scores;
use crate::cache::TILE_POSITIONS;

pub(super) fn scores<E: Copy + Into<f32>>(scores: &mut [Scores], q: &[&[f32]], keys: &[E]) {
    for (scores, q) in scores.iter_mut().zip(q) {
        let tiles = keys.chunks_exact(TILE_POSITIONS * q.len());
        for (scores, tile) in scores.chunks_exact_mut(TILE_POSITIONS).zip(tiles) {
            let mut sums = [0.0_f32; TILE_POSITIONS];
            for (q, keys) in q.iter().zip(tile.as_chunks::<TILE_POSITIONS>().0) {
                for (sum, k) in sums.iter_mut().zip(keys) {
                    *sum += q * (*k).into();
                }
            }
            scores.copy_from_slice(&sums);
        }
    }
}

pub(super) fn mix<E: Copy + Into<f32>>(
    out: &mut [&mut [f32]],
    weights: &[Scores],
    decay: &[f32],
    values: &[E],
) {
    for ((out, weights), decay) in out.iter_mut().zip(weights).zip(decay) {
        out.iter_mut().for_each(|x| *x *= decay);
        for (weight, values) in weights.iter().zip(values.chunks_exact(out.len())) {
            for (out, v) in out.iter_mut().zip(values) {
                *out += weight * (*v).into();
            }
        }
    }
}
