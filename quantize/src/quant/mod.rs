//! f32 weights -> groups of integers with f16 scales: round-to-nearest, with a search over scales.
//!
//! A group's error is the sum of `(w - dequantized)^2`. The search tries a small grid of scales, already rounded to
//! the f16 that the file stores, then refits by least squares the scale (and offset) to the integers found, as long
//! as that lowers the error. The result is a pure function of the group: no state, no randomness, no threads.

mod asymmetric;
mod codebook;
mod symmetric;
#[cfg(test)]
mod tests;

use half::f16;
use muse_format::Layout;

/// Largest group of any layout.
pub const GROUP_MAX: usize = 128;

/// f16 bits; the offset is 0 where the layout has none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scale {
    pub scale: u16,
    pub offset: u16,
}

/// Quantizes one group of finite `weights`, at most [`GROUP_MAX`] and maybe fewer than the layout's group (a row's
/// tail), to the integers that [`muse_format::Block::quant`] gives back. `None` where a scale or offset would not
/// fit f16: weights beyond about 4.5e5 in 4 bits, 6.5e4 with an offset, 6e6 with a codebook, 8e6 in 8 bits.
///
/// # Panics
/// If `layout` is not quantized.
pub fn group(layout: Layout, weights: &[f32], quants: &mut [i8]) -> Option<Scale> {
    assert!(weights.len() == quants.len() && weights.len() <= GROUP_MAX);
    match layout {
        Layout::Q8 { .. } => symmetric::q8(weights, quants),
        Layout::Q4 { .. } => symmetric::q4(weights, quants),
        Layout::Q4Asym { .. } => asymmetric::q4(weights, quants),
        Layout::Q4Codebook { .. } => codebook::q4(weights, quants),
        Layout::F32 | Layout::F16 | Layout::Bf16 => panic!("{layout} has no groups"),
    }
}

/// The integers that a group may hold.
trait Levels: Copy {
    /// The one nearest to `x`.
    fn nearest(self, x: f32) -> f32;
}

/// Every whole number of `low..=high`.
#[derive(Debug, Clone, Copy)]
struct Whole {
    low: f32,
    high: f32,
}

impl Levels for Whole {
    #[inline]
    fn nearest(self, x: f32) -> f32 {
        // Adding and taking off 1.5 * 2^23 rounds half to even; |x| is at most 128 there. Plain comparisons instead
        // of `clamp` and `round` let the loops below compile to vector code.
        const ROUND: f32 = 12_582_912.0;
        let x = if x < self.low { self.low } else { x };
        let x = if x > self.high { self.high } else { x };
        x + ROUND - ROUND
    }
}

/// A line of the grid: `w ~ q * scale + offset`, `q` one of the levels.
#[derive(Debug, Clone, Copy)]
struct Line<L> {
    scale: f32,
    /// `1 / scale`, or 0 where the scale is 0.
    inverse: f32,
    offset: f32,
    levels: L,
}

impl<L: Levels> Line<L> {
    /// With scale and offset as f16 keeps them; `None` where f16 cannot.
    fn new(scale: f32, offset: f32, levels: L) -> Option<Self> {
        let (scale, offset) = (f16::from_f32(scale).to_f32(), f16::from_f32(offset).to_f32());
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        (scale.is_finite() && offset.is_finite()).then_some(Self { scale, inverse, offset, levels })
    }

    /// The nearest `q`.
    #[inline]
    fn quant(&self, w: f32) -> f32 {
        self.levels.nearest((w - self.offset) * self.inverse)
    }

    /// Sum of squared errors, in eight partial sums.
    fn error(&self, weights: &[f32]) -> f32 {
        let one = |w: f32| {
            let error = w - (self.quant(w) * self.scale + self.offset);
            error * error
        };
        let (chunks, tail) = weights.as_chunks::<8>();
        let mut sums = [0.0f32; 8];
        for chunk in chunks {
            for (sum, w) in sums.iter_mut().zip(chunk) {
                *sum += one(*w);
            }
        }
        sums.iter().sum::<f32>() + tail.iter().map(|w| one(*w)).sum::<f32>()
    }

    fn store(&self, weights: &[f32], quants: &mut [i8]) -> Scale {
        for (q, w) in quants.iter_mut().zip(weights) {
            *q = self.quant(*w) as i8;
        }
        Scale { scale: f16::from_f32(self.scale).to_bits(), offset: f16::from_f32(self.offset).to_bits() }
    }
}

/// The line of least error among `candidates`, refitted by `refit` while that helps; `None` where f16 cannot hold one
/// of them, since what is left would clamp a weight that is too large.
fn search<L: Levels>(
    weights: &[f32],
    candidates: impl Iterator<Item = Option<Line<L>>>,
    refit: impl Fn(&Line<L>) -> Option<Line<L>>,
) -> Option<Line<L>> {
    let mut best: Option<(f32, Line<L>)> = None;
    for line in candidates {
        let line = line?;
        let error = line.error(weights);
        if best.is_none_or(|(least, _)| error < least) {
            best = Some((error, line));
        }
    }
    let (mut error, mut best) = best?;
    const REFITS: usize = 3;
    for _ in 0..REFITS {
        let Some(line) = refit(&best) else { break };
        let refitted = line.error(weights);
        if refitted >= error {
            break;
        }
        (error, best) = (refitted, line);
    }
    Some(best)
}
