//! The best of a row of logits: what a token is drawn from, where it says enough.

use zerocopy::{FromBytes, IntoBytes};

/// What [`Backend::best`](crate::Backend::best) gives of one row: its largest numbers, where they stand, and a sum over all.
#[derive(Debug, Clone, Copy)]
pub struct Best<'a>(&'a [f32]); // (WIDTH): numbers, indices, the sum

impl<'a> Best<'a> {
    /// Numbers that are given of a row: some more than callers keep of a distribution.
    pub const COUNT: usize = 256;
    /// f32 that a row takes.
    pub const WIDTH: usize = 2 * Self::COUNT + 1;
    /// What the sum errs by at most, relative to itself. In f32 an exponent `a` errs by no more than `2^-23 |a|`, which in the
    /// mean over weights is below `ln(2^24) * 2^-23`; a power by `2^-22`; and no sum has more than 64 roundings in a row.
    pub const SUM_ERROR: f64 = 1.0 / 65536.0;

    /// # Panics
    /// If `row` is not of [`WIDTH`](Self::WIDTH).
    pub fn new(row: &'a [f32]) -> Self {
        assert_eq!(row.len(), Self::WIDTH);
        Self(row)
    }

    /// The numbers, and the index of each; those that a narrower row does not have are -inf at index -1.
    pub fn pairs(self) -> impl Iterator<Item = (f32, f32)> + 'a {
        let (numbers, indices) = (&self.0[..Self::COUNT], &self.0[Self::COUNT..]);
        numbers.iter().copied().zip(indices.iter().copied())
    }

    /// The sum of `exp((x - largest) / temperature)` over the row.
    pub fn sum(self) -> f32 {
        self.0[2 * Self::COUNT]
    }
}

/// The bits of temperatures, which a [`Step`](crate::Step) has among its lists.
pub fn bits(temperatures: &[f32]) -> &[u32] {
    <[u32]>::ref_from_bytes(temperatures.as_bytes()).expect("numbers of one size")
}

/// The definition of [`Backend::best`](crate::Backend::best) for one row; `out` is ([`Best::WIDTH`]).
pub(crate) fn best_of(row: &[f32], temperature: f32, out: &mut [f32]) {
    // As integers, so that NaN has a place: before all others.
    let key = |x: f32| if x.is_nan() { i32::MAX } else { ordered(x + 0.0) };
    let mut order: Vec<u32> = (0..row.len() as u32).collect();
    order.sort_unstable_by_key(|&i| (std::cmp::Reverse(key(row[i as usize])), i));
    let (numbers, rest) = out.split_at_mut(Best::COUNT);
    let (indices, sum) = rest.split_at_mut(Best::COUNT);
    numbers.fill(f32::NEG_INFINITY);
    indices.fill(-1.0);
    for ((number, index), &i) in numbers.iter_mut().zip(indices).zip(&order) {
        (*number, *index) = (row[i as usize] + 0.0, i as f32);
    }
    let weight = |x: &f32| ((f64::from(*x) - f64::from(numbers[0])) / f64::from(temperature)).exp();
    sum[0] = if temperature > 0.0 { row.iter().map(weight).sum::<f64>() as f32 } else { 0.0 };
}

/// Integers that order as their numbers do.
fn ordered(x: f32) -> i32 {
    let bits = x.to_bits() as i32;
    bits ^ (((bits >> 31) as u32) >> 1) as i32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(row: &[f32], temperature: f32) -> Vec<f32> {
        let mut out = vec![f32::NAN; Best::WIDTH];
        best_of(row, temperature, &mut out);
        out
    }

    #[test]
    fn the_largest_come_first_and_of_equals_the_lower_index() {
        let out = best(&[1.0, 3.0, f32::NEG_INFINITY, 3.0, -0.0, 0.0], 2.0);
        let pairs: Vec<_> = Best::new(&out).pairs().take(7).collect();
        let none = f32::NEG_INFINITY;
        assert_eq!(
            pairs,
            [(3.0, 1.0), (3.0, 3.0), (1.0, 0.0), (0.0, 4.0), (0.0, 5.0), (none, 2.0), (none, -1.0)]
        );
        assert!(pairs[3].0.is_sign_positive(), "-0 is 0");
        let sum = 2.0 + (-1.0_f64).exp() + 2.0 * (-1.5_f64).exp();
        assert!((f64::from(Best::new(&out).sum()) - sum).abs() < 1e-6 * sum);
        assert_eq!(Best::new(&best(&[1.0, 2.0], 0.0)).sum(), 0.0, "nobody asks");
    }

    #[test]
    fn what_is_no_number_is_seen() {
        for nan in [f32::NAN, -f32::NAN] {
            let out = best(&[1.0, f32::INFINITY, nan], 1.0);
            assert!(out[0].is_nan() && out[1] == f32::INFINITY && out[2] == 1.0, "{:?}", &out[..3]);
        }
    }
}
