//! What is done with each row by itself.

use muse_format::{Activation, Temperature};
use muse_kernels::{Backend, ReferenceBackend, Span};

use crate::test_data::Random;
use crate::{EPSILON, each, layouts, spans, tensor, vector};

#[test]
fn embed_and_gather_are_exact() {
    let mut random = Random::new(11);
    for layout in layouts() {
        for (rows, cols) in [(1, 1), (17, 33), (40, 172)] {
            let table = tensor(layout, rows, cols, &mut random);
            let tokens: Vec<u32> = (0..9).map(|_| random.int(0, rows as i32 - 1) as u32).collect();
            let mut expected = vec![f32::NAN; tokens.len() * cols];
            ReferenceBackend::new().embed(&mut expected, &table, &tokens, 1.5).unwrap();
            each_backend!(|cpu| {
                let mut actual = vec![f32::NAN; tokens.len() * cols];
                cpu.embed(&mut actual, &table, &tokens, 1.5).unwrap();
                assert_eq!(actual, expected, "{layout} {rows} x {cols}");
                let mut rows = vec![0.0; 2 * cols];
                cpu.gather(&mut rows, &actual, &[8, 0], cols).unwrap();
                assert_eq!(rows, [&expected[8 * cols..], &expected[..cols]].concat());
            });
        }
    }
}

#[test]
fn queries_grow_with_their_positions() {
    let temperature = Temperature { every: 4, strength: 0.5 };
    let spans = [Span { slot: 1, start: 2, len: 2 }, Span { slot: 0, start: 11, len: 1 }];
    // Positions 2, 3 and 11: 0, 1 and 3 times 4 positions are behind them with their own.
    let factors = [1.0, 1.0 + 0.5 * 2.0_f64.ln(), 1.0 + 0.5 * 4.0_f64.ln()];
    let x = Random::new(21).normal(3 * 6);
    let expected: Vec<f32> = x
        .chunks_exact(6)
        .zip(factors)
        .flat_map(|(x, f)| x.iter().map(move |x| (f64::from(*x) * f) as f32))
        .collect();
    let mut reference = x.clone();
    ReferenceBackend::new().temper(&mut reference, &spans, 6, temperature).unwrap();
    assert_eq!(reference, expected);
    each_backend!(|cpu| {
        let mut actual = x.clone();
        cpu.temper(&mut actual, &spans, 6, temperature).unwrap();
        assert_eq!(actual, expected);
    });
}

#[test]
fn rope_agrees_and_notices_a_new_batch() {
    let mut random = Random::new(13);
    let tables = [vector(vec![1.0, 0.3, 0.01]), vector(vec![0.5])];
    let inputs: Vec<(Vec<f32>, u32, usize)> =
        (0..4).map(|i| (random.normal(21 * 3 * 8), i / 2 * 1000, i as usize % 2)).collect();
    each_backend!(|cpu| {
        for (x, start, table) in &inputs {
            let run = |backend: &mut dyn FnMut(&mut Vec<f32>)| {
                let mut x = x.clone();
                backend(&mut x);
                x
            };
            let (table, spans) = (&tables[*table], spans(*start, 20));
            let expected = run(&mut |x| ReferenceBackend::new().rope(x, table, &spans, 3, 8).unwrap());
            let actual = run(&mut |x| cpu.rope(x, table, &spans, 3, 8).unwrap());
            for (i, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                // A sine, a product and a sum each round once; inputs are within 6.
                let error = (f64::from(*actual) - f64::from(*expected)).abs();
                assert!(error <= 4.0 * EPSILON * 12.0, "{i} is {actual}, not {expected}");
            }
        }
    });
}

#[test]
fn row_operations_agree() {
    let mut random = Random::new(14);
    for (rows, cols) in [(1, 1), (3, 17), (40, 576)] {
        let weight = vector(random.normal(cols));
        let len = rows * cols;
        let (x, y) = (random.normal(len), random.normal(len));
        let within = |actual: &[f32], expected: &[f32], bound: &dyn Fn(f64) -> f64, case: &str| {
            for (actual, expected) in actual.iter().zip(expected).map(|(a, e)| (f64::from(*a), f64::from(*e)))
            {
                let error = (actual - expected).abs();
                assert!(error <= bound(expected), "{case} {rows} x {cols}: {actual}, not {expected}");
            }
        };
        each_backend!(|cpu| {
            let mut reference = ReferenceBackend::new();
            let (mut a, mut e) = (vec![f32::NAN; len], vec![f32::NAN; len]);
            cpu.rms_norm(&mut a, &x, &weight, rows, 1e-5).unwrap();
            reference.rms_norm(&mut e, &x, &weight, rows, 1e-5).unwrap();
            // Half of the `cols` roundings of a sum, halved by the root, and 7 operations.
            within(&a, &e, &|e| (cols as f64 / 4.0 + 7.0) * EPSILON * e.abs(), "norm");
            let mut in_place = x.clone();
            cpu.rms_norm_in_place(&mut in_place, &weight, rows, 1e-5).unwrap();
            assert_eq!(in_place, a);

            for activation in [Activation::Silu, Activation::Sigmoid, Activation::GeluTanh] {
                let (mut a, mut e) = (x.clone(), x.clone());
                cpu.glu(&mut a, &y, len, activation).unwrap();
                reference.glu(&mut e, &y, len, activation).unwrap();
                // 8 ulp, and the argument of exp, below 2 * 0.8 * (6 + 0.045 * 216) = 25, errs by 3 half ulps.
                within(&a, &e, &|e| 48.0 * EPSILON * e.abs(), "glu");
            }
            let (mut a, mut e) = (x.clone(), x.clone());
            cpu.scale_and_cap(&mut a, len, 3.0, Some(5.0)).unwrap();
            reference.scale_and_cap(&mut e, len, 3.0, Some(5.0)).unwrap();
            within(&a, &e, &|_| 4.5 * EPSILON * 5.0, "cap");
            let (mut a, mut e) = (x.clone(), x.clone());
            cpu.add(&mut a, &y, len - 1).unwrap();
            reference.add(&mut e, &y, len - 1).unwrap();
            assert_eq!(a, e);
            let (mut a, mut e) = (x.clone(), x.clone());
            reference.multiply(&mut e, &weight, rows - 1).unwrap();
            cpu.multiply(&mut a, &weight, rows - 1).unwrap();
            assert_eq!(a, e);
        });
    }
}
