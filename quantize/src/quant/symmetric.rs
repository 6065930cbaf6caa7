//! `w = q * scale`.

use super::{Levels, Line, Scale, Whole, search};

/// `q` in `-8..=7`. The weight of largest magnitude may sit at either end, so the scale may be negative.
pub(super) fn q4(weights: &[f32], quants: &mut [i8]) -> Option<Scale> {
    // At 8.0 the largest weight lands on -8. Below 8.0 the others share more steps than it needs; above, it is clamped
    // and the others get finer steps.
    let divisors = (0..21).map(|i| 7.0 + 0.125 * i as f32);
    let extreme = extreme(weights);
    let lines = divisors.map(|d| Line::new(-extreme / d, 0.0, Whole { low: -8.0, high: 7.0 }));
    fit(weights, lines, quants)
}

/// `q` in `-127..=127`.
pub(super) fn q8(weights: &[f32], quants: &mut [i8]) -> Option<Scale> {
    let divisors = (0..5).map(|i| 126.0 + 0.5 * i as f32);
    let extreme = extreme(weights).abs();
    let lines = divisors.map(|d| Line::new(extreme / d, 0.0, Whole { low: -127.0, high: 127.0 }));
    fit(weights, lines, quants)
}

/// The weight of largest magnitude, with its sign.
pub(super) fn extreme(weights: &[f32]) -> f32 {
    weights.iter().fold(0.0, |max: f32, w| if w.abs() > max.abs() { *w } else { max })
}

/// The best of `lines`, none of which has an offset, refitted.
pub(super) fn fit<L: Levels>(
    weights: &[f32],
    lines: impl Iterator<Item = Option<Line<L>>>,
    quants: &mut [i8],
) -> Option<Scale> {
    let refit = |line: &Line<L>| {
        let (mut wq, mut qq) = (0.0, 0.0);
        for w in weights {
            let q = line.quant(*w);
            wq += w * q;
            qq += q * q;
        }
        if qq == 0.0 { None } else { Line::new(wq / qq, 0.0, line.levels) }
    };
    search(weights, lines, refit).map(|line| line.store(weights, quants))
}
