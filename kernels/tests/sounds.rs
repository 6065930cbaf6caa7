//! What models that listen to sounds ask for beside the operations of `agreement/`: convolutions along a sequence that
//! comes in parts. Every backend against the reference.

#[macro_use]
mod each;
#[allow(dead_code)] // other tests use the rest
#[path = "../src/test_data.rs"]
mod test_data;

use muse_kernels::{Backend, ReferenceBackend, Tensor};
use test_data::Random;

const EPSILON: f64 = f32::EPSILON as f64;

/// A convolution and what it is applied to.
struct Case {
    taps: usize,
    width: usize,
    /// `(rows, width)`
    x: Vec<f32>,
    weight: Tensor,
    bias: Tensor,
}

impl Case {
    fn new(taps: usize, width: usize, rows: usize) -> Self {
        let mut random = Random::new((taps * 100 + width) as u64);
        let x = random.normal(rows * width);
        let weight = Tensor::from_f32(taps, width, random.normal(taps * width));
        Self { taps, width, x, weight, bias: Tensor::from_f32(1, width, random.normal(width)) }
    }

    /// All rows, so many at a time, and what is kept at the end.
    fn run<B: Backend<Weight = Tensor, Buffer = Vec<f32>>>(
        &self,
        backend: &mut B,
        most: usize,
    ) -> [Vec<f32>; 2] {
        let mut before = backend.buffer((self.taps - 1) * self.width).unwrap();
        let mut all = Vec::new();
        for x in self.x.chunks(most * self.width) {
            let mut out = vec![f32::NAN; x.len()];
            let rows = x.len() / self.width;
            backend
                .convolve_causal(&mut out, &x.to_vec(), &mut before, &self.weight, &self.bias, rows)
                .unwrap();
            all.extend(out);
        }
        [all, before]
    }

    /// By the definition, and the sum of what its terms are at most.
    fn exact(&self, row: usize, channel: usize) -> [f64; 2] {
        let mut sum = f64::from(self.bias.f32()[channel]);
        let mut most = sum.abs();
        for back in 0..self.taps.min(row + 1) {
            let weight = self.weight.f32()[(self.taps - 1 - back) * self.width + channel];
            let product = f64::from(weight) * f64::from(self.x[(row - back) * self.width + channel]);
            (sum, most) = (sum + product, most + product.abs());
        }
        [sum, most]
    }
}

#[test]
fn a_row_is_of_itself_and_those_before_it() {
    let case = Case::new(4, 3, 9);
    let [actual, before] = case.run(&mut ReferenceBackend::new(), 9);
    for (i, actual) in actual.iter().enumerate() {
        let [exact, most] = case.exact(i / 3, i % 3);
        assert!((f64::from(*actual) - exact).abs() <= EPSILON * most, "{i} is {actual}, not {exact}");
    }
    assert_eq!(before, case.x[6 * 3..]);
}

#[test]
fn backends_and_parts_agree() {
    for (taps, width, rows) in [(1, 5, 4), (2, 16, 7), (3, 6, 2), (7, 33, 40), (7, 256, 300)] {
        let case = Case::new(taps, width, rows);
        let [expected, kept] = case.run(&mut ReferenceBackend::new(), rows);
        each_backend!(|cpu| {
            let name = format!("{taps} taps of {width}, {}", cpu.describe());
            let whole = case.run(cpu, rows);
            for (i, (actual, expected)) in whole[0].iter().zip(&expected).enumerate() {
                // Each of the sums and products rounds once.
                let bound = 2.0 * (taps as f64 + 1.0) * EPSILON * case.exact(i / width, i % width)[1];
                let error = (f64::from(*actual) - f64::from(*expected)).abs();
                assert!(error <= bound, "{name}: {i} is {actual}, not {expected}");
            }
            assert_eq!(whole[1], kept, "{name}");
            // Parts that are shorter than what is kept, and longer; bit for bit.
            for most in [1, 2, 5, 64] {
                assert!(case.run(cpu, most) == whole, "{name}: {most} at a time");
            }
        });
    }
}
