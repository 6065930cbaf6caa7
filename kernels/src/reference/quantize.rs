//! The 8-bit activations that integer layouts multiply.

/// Activations that share one scale, whatever the group of the weights.
pub(crate) const GROUP: usize = 32;

/// Below this largest magnitude a group is zero: `127 / max` would overflow f32.
pub(crate) const TINY: f32 = 1e-36;

/// One row of activations, zero-padded to whole groups.
#[derive(Debug)]
pub(crate) struct Quantized {
    /// `(groups * 32)`
    pub(crate) quants: Vec<i8>,
    /// `(groups)`
    pub(crate) scales: Vec<f32>,
}

/// `scale = max|x| / 127` and `q = round_ties_even(x * (127 / max|x|))`, all in f32, so that every variant finds the
/// same integers. A group that holds a NaN or an infinity has that scale, which makes its products not finite.
pub(crate) fn quantize_group(quants: &mut [i8], x: &[f32]) -> f32 {
    // As unsigned integers, the bits of magnitudes order like the magnitudes, infinity next to last and NaN last.
    let max = f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0));
    if max < TINY {
        quants.fill(0);
        return 0.0;
    }
    let inverse = 127.0 / max;
    for (q, x) in quants.iter_mut().zip(x) {
        *q = (x * inverse).round_ties_even() as i8;
    }
    max / 127.0
}

/// Quantizes one row of any length.
pub(crate) fn quantize_row(x: &[f32]) -> Quantized {
    let groups = x.len().div_ceil(GROUP);
    let mut quantized = Quantized { quants: vec![0; groups * GROUP], scales: Vec::with_capacity(groups) };
    for (quants, x) in quantized.quants.chunks_exact_mut(GROUP).zip(x.chunks(GROUP)) {
        quantized.scales.push(quantize_group(quants, x));
    }
    quantized
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extremes_ties_zeros_and_tails() {
        let mut x = [0.0; 35];
        (x[0], x[1], x[2], x[3]) = (-127.0, 2.5, 3.5, 126.6);
        x[34] = 1e-37;
        let row = quantize_row(&x);
        assert_eq!(row.quants[..5], [-127, 2, 4, 127, 0]);
        assert_eq!(row.quants.len(), 64);
        assert_eq!(row.scales, [1.0, 0.0]);
        assert_eq!(row.quants[32..], [0; 32]);
    }

    #[test]
    fn what_is_not_finite_stays_so() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let row = quantize_row(&[1.0, bad, 2.0]);
            assert!(!row.scales[0].is_finite());
        }
    }
}
