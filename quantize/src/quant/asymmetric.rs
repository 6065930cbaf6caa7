//! `w = q * scale + offset`.

use super::{Line, Scale, Whole, search};

const LEVELS: Whole = Whole { low: 0.0, high: 15.0 };

/// `q` in `0..=15`.
pub(super) fn q4(weights: &[f32], quants: &mut [i8]) -> Option<Scale> {
    let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
    let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let range = high - low;
    // Fractions of the range cut off at each end.
    const CUTS: [f32; 4] = [0.0, 0.03, 0.06, 0.1];
    let ends = CUTS.iter().flat_map(|a| CUTS.iter().map(move |b| (*a, *b)));
    let lines = ends.map(|(a, b)| Line::new(range * (1.0 - a - b) / LEVELS.high, low + a * range, LEVELS));
    let refit = |line: &Line<Whole>| {
        let n = weights.len() as f32;
        let (mut q1, mut q2, mut w1, mut wq) = (0.0, 0.0, 0.0, 0.0);
        for w in weights {
            let q = line.quant(*w);
            q1 += q;
            q2 += q * q;
            // Against the mean of the range, so that a large offset does not cancel the digits of the slope.
            w1 += w - low;
            wq += (w - low) * q;
        }
        let determinant = n * q2 - q1 * q1;
        if determinant <= 0.0 {
            return None;
        }
        let scale = (n * wq - q1 * w1) / determinant;
        Line::new(scale, low + (w1 - scale * q1) / n, LEVELS)
    };
    search(weights, lines, refit).map(|line| line.store(weights, quants))
}
