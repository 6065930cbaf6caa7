//! `w = CODEBOOK[q] * scale`.

use muse_format::CODEBOOK;

use super::symmetric::{extreme, fit};
use super::{Levels, Line, Scale};

/// The levels of [`CODEBOOK`].
#[derive(Debug, Clone, Copy)]
struct Codebook;

/// Half way between a level and the next.
const MIDDLES: [f32; 15] = {
    let mut middles = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        middles[i] = (CODEBOOK[i] as f32 + CODEBOOK[i + 1] as f32) / 2.0;
        i += 1;
    }
    middles
};

impl Levels for Codebook {
    #[inline]
    fn nearest(self, x: f32) -> f32 {
        // A step up for every middle below `x`: vector code has no search.
        let mut level = f32::from(CODEBOOK[0]);
        for (middle, pair) in MIDDLES.iter().zip(CODEBOOK.windows(2)) {
            level += if x > *middle { f32::from(pair[1]) - f32::from(pair[0]) } else { 0.0 };
        }
        level
    }
}

/// `q` one of the codebook's levels. They are not the same to both sides of zero, so the weight of largest magnitude is
/// tried at either end.
pub(super) fn q4(weights: &[f32], quants: &mut [i8]) -> Option<Scale> {
    // Times the last level, or the first: at 1 the largest weight lands on it. Below, the others share more levels than
    // it needs; above, it is clamped and the others get finer steps.
    const PARTS: [f32; 10] = [0.8, 0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15, 1.2, 1.25];
    let extreme = extreme(weights);
    let ends = [CODEBOOK[15], CODEBOOK[0]].map(f32::from);
    let divisors = ends.into_iter().flat_map(|end| PARTS.map(|part| part * end));
    let lines = divisors.map(|d| Line::new(extreme / d, 0.0, Codebook));
    fit(weights, lines, quants)
}
