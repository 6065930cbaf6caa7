//! The best of rows of logits, every backend against the reference: the same numbers at the same indices.

#[macro_use]
mod each;
#[path = "../src/test_data.rs"]
#[allow(dead_code)] // another test's
mod test_data;

use muse_kernels::{Backend, Best, ReferenceBackend};
use test_data::Random;

/// Rows of `width` that differ in what makes the order of logits hard to keep.
fn rows(random: &mut Random, width: usize) -> Vec<(&'static str, Vec<f32>)> {
    let normal = random.normal(width);
    let with = |at: usize, x: f32| {
        let mut row = normal.clone();
        row[at % width] = x;
        row
    };
    let none = f32::NEG_INFINITY;
    let few: Vec<f32> = (0..width).map(|_| random.int(-2, 2) as f32).collect();
    let masked = (0..width).map(|i| if i % 97 == 5 { normal[i] } else { none }).collect();
    let zeros = (0..width).map(|i| if i % 3 == 1 { 0.0 } else { -0.0 }).collect();
    vec![
        ("peaked", normal.iter().map(|x| 8.0 * x).collect()),
        ("flat", normal.clone()),
        ("ties", few),
        ("one number", vec![-1.5; width]),
        ("masked", masked),
        ("zeros of both signs", zeros),
        ("all -inf", vec![none; width]),
        ("NaN", with(width / 2, f32::NAN)),
        ("-NaN, last", with(width - 1, -f32::NAN)),
        ("inf", with(width / 3, f32::INFINITY)),
        ("huge", normal.iter().map(|x| 1e38 * x).collect()),
    ]
}

fn best<B: Backend<Buffer = Vec<f32>>>(
    backend: &mut B,
    x: &Vec<f32>,
    width: usize,
    temperatures: &[f32],
) -> Vec<f32> {
    backend.reserve_best(temperatures.len(), width).unwrap();
    let mut out = vec![f32::NAN; temperatures.len() * Best::WIDTH];
    backend.best(&mut out, x, width, temperatures).unwrap();
    out
}

#[test]
fn backends_find_the_same_best() {
    let mut random = Random::new(61);
    for width in [1, 5, 255, 256, 257, 1003, 8191, 8193, 8450, 33_000] {
        let cases = rows(&mut random, width);
        let x: Vec<f32> = cases.iter().flat_map(|(_, row)| row.iter().copied()).collect();
        let temperatures: Vec<f32> = (0..cases.len()).map(|i| [1.0, 0.6, 0.0, 3.0][i % 4]).collect();
        let expected = best(&mut ReferenceBackend::new(), &x, width, &temperatures);
        each_backend!(|backend| {
            let actual = best(backend, &x, width, &temperatures);
            let both = actual.chunks(Best::WIDTH).zip(expected.chunks(Best::WIDTH));
            for ((actual, expected), (name, _)) in both.zip(&cases) {
                let case = format!("{name} of {width}, {}", backend.describe());
                let (actual, expected) = (Best::new(actual), Best::new(expected));
                for (place, (a, e)) in actual.pairs().zip(expected.pairs()).enumerate() {
                    let same = a.1 == e.1 && (a.0.is_nan() && e.0.is_nan() || a.0.to_bits() == e.0.to_bits());
                    assert!(same, "{case}: {a:?} in place {place}, not {e:?}");
                }
                // Of what is no distribution the sum says nothing.
                if expected.pairs().next().is_some_and(|(largest, _)| largest.is_finite()) {
                    let (a, e) = (f64::from(actual.sum()), f64::from(expected.sum()));
                    assert!((a - e).abs() <= Best::SUM_ERROR * e, "{case}: a sum of {a}, not {e}");
                }
            }
        });
    }
}
