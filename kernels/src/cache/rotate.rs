//! The rotation that spreads a row's few large numbers over all of it before they become 4 bits each (QuaRot, Ashkboos
//! and others 2024, <https://arxiv.org/abs/2404.00456>). It is orthogonal and its own inverse, so a query that is rotated
//! too gives the same scores, and rotated sums of values are rotated back.

/// Most numbers that are rotated together.
pub(crate) const ROTATED_MAX: usize = 256;

/// Numbers of a row of `len` that are rotated together: the largest power of two that divides it, up to [`ROTATED_MAX`].
pub(crate) fn rotated_len(len: usize) -> usize {
    (1 << len.trailing_zeros().min(ROTATED_MAX.ilog2())).min(len.max(1))
}

/// Multiplies every `n` numbers of a row by the Walsh-Hadamard matrix of that size over `sqrt(n)`.
///
/// # Panics
/// If `n` is not a power of two, or does not divide the row.
pub(crate) fn rotate(row: &mut [f32], n: usize) {
    assert!(n.is_power_of_two() && row.len().is_multiple_of(n), "{} numbers by {n}", row.len());
    let factor = 1.0 / (n as f32).sqrt();
    for x in row.chunks_exact_mut(n) {
        let mut half = 1;
        while half < n {
            for pair in x.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (low, high) in low.iter_mut().zip(high) {
                    (*low, *high) = (*low + *high, *low - *high);
                }
            }
            half *= 2;
        }
        x.iter_mut().for_each(|x| *x *= factor);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_data::Random;

    #[test]
    fn as_many_turn_together_as_divide_a_row() {
        for (len, n) in
            [(0, 1), (1, 1), (3, 1), (20, 4), (64, 64), (80, 16), (128, 128), (576, 64), (1024, 256)]
        {
            assert_eq!(rotated_len(len), n, "{len}");
        }
    }

    #[test]
    fn a_rotation_is_the_walsh_hadamard_matrix_and_its_own_inverse() {
        let x = Random::new(3).normal(24);
        let mut y = x.clone();
        rotate(&mut y, 8);
        for (i, y) in y.iter().enumerate() {
            let block = &x[i / 8 * 8..][..8];
            let sign = |j: usize| if ((i % 8) & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
            let expected: f64 = block.iter().enumerate().map(|(j, x)| sign(j) * f64::from(*x)).sum();
            // Three sums and a product of 8 numbers within 6.
            let error = (f64::from(*y) - expected / 8.0_f64.sqrt()).abs();
            assert!(error <= 48.0 * 4.0 * f64::from(f32::EPSILON), "{i}: {error}");
        }
        rotate(&mut y, 8);
        assert!(x.iter().zip(&y).all(|(x, y)| (x - y).abs() <= 1e-5), "{x:?} {y:?}");
    }
}
