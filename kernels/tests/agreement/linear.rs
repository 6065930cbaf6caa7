//! Products with matrices of every layout.

use muse_format::{Activation, Layout};
use muse_kernels::{Backend, Linear, ReferenceBackend, Tensor};

use crate::test_data::Random;
use crate::{EPSILON, each, layouts, tensor, vector};

/// The sum of `|w * x|` for each output of a product, where a quantized weight is `scale * q + offset` and each of the
/// two parts counts by itself: the rounding of the one does not cancel with that of the other. A part is at most
/// 16 times `|w|` plus `|offset|`, so the parts are found by asking the reference for absolute values.
fn magnitudes(weight: &Tensor, x: &[f32], tokens: usize) -> Vec<f64> {
    let (rows, cols) = (weight.rows(), weight.cols());
    let mut table = vec![0.0; cols];
    let mut sums = vec![0.0; tokens * rows];
    for row in 0..rows {
        ReferenceBackend::new().embed(&mut table, weight, &[row as u32], 1.0).unwrap();
        // 0.34 bounds the offsets of `quantized_bytes`; an offset's own part adds at most twice its size.
        let extra = if matches!(weight.layout(), Layout::Q4Asym { .. }) { 2.0 * 0.34 } else { 0.0 };
        for (t, x) in x.chunks_exact(cols).take(tokens).enumerate() {
            let terms = table.iter().zip(x).map(|(w, x)| (f64::from(w.abs()) + extra) * f64::from(x.abs()));
            sums[t * rows + row] = terms.sum();
        }
    }
    sums
}

#[test]
fn linear_agrees() {
    let mut random = Random::new(10);
    for layout in layouts() {
        for (rows, cols, tokens) in [
            (1, 1, 1),
            (15, 31, 2),
            (16, 32, 1),
            (17, 33, 3),
            (33, 64, 5),
            (1, 172, 17),
            (33, 172, 1),
            (17, 576, 2),
            (48, 576, 65),
            (200, 64, 1),
            // Rows of a prompt, shared out to threads.
            (100, 64, 197),
        ] {
            let weights =
                [tensor(layout, rows, cols, &mut random), tensor(Layout::F32, 5, cols, &mut random)];
            let bias = vector(random.normal(rows));
            let x = random.normal(tokens * cols + 3);
            let run = |backend: &mut dyn FnMut(&mut Vec<f32>, &mut Vec<f32>)| {
                let (mut first, mut second) = (vec![f32::NAN; tokens * rows], vec![f32::NAN; tokens * 5 + 1]);
                backend(&mut first, &mut second);
                (first, second)
            };
            macro_rules! linear {
                ($backend:expr) => {
                    run(&mut |first, second| {
                        let mut products = [
                            Linear { out: first, weight: &weights[0], bias: Some(&bias) },
                            Linear { out: second, weight: &weights[1], bias: None },
                        ];
                        $backend.linear(&x, tokens, &mut products).unwrap();
                    })
                };
            }
            let expected = linear!(ReferenceBackend::new());
            let bounds = [magnitudes(&weights[0], &x, tokens), magnitudes(&weights[1], &x, tokens)];
            each_backend!(|cpu| {
                let actual = linear!(cpu);
                let case = format!("{} {layout} {rows} x {cols}, {tokens} tokens", cpu.describe());
                // `cols` additions of products, and up to 6 roundings of a group's scales and of the bias. The
                // integers of activations differ from them by half a step: |q * scale| <= 1.5 |x| where q is not 0.
                let close =
                    |actual: &[f32], expected: &[f32], magnitude: &[f64], bias: &dyn Fn(usize) -> f64| {
                        for i in 0..magnitude.len() {
                            let bound = (cols + 8) as f64 * EPSILON * (1.5 * magnitude[i] + bias(i));
                            let error = (f64::from(actual[i]) - f64::from(expected[i])).abs();
                            assert!(error <= bound, "{case}: {i} is {}, not {}", actual[i], expected[i]);
                        }
                    };
                close(&actual.0, &expected.0, &bounds[0], &|i| f64::from(bias.f32()[i % rows].abs()));
                close(&actual.1, &expected.1, &bounds[1], &|_| 0.0);
                assert!(actual.1[tokens * 5].is_nan(), "{case}: wrote past the batch");
            });
        }
    }
}

/// More products than go in one launch, of shapes and layouts that begin and end at odd places.
#[test]
fn products_of_one_input_agree() {
    let mut random = Random::new(16);
    let cols = 96;
    let q8 = Layout::Q8 { group: 32 };
    let shapes =
        [(q8, 1), (q8, 130), (Layout::Q8 { group: 64 }, 16), (q8, 33), (q8, 257), (Layout::F16, 5), (q8, 47)];
    let weights = shapes.map(|(layout, rows)| tensor(layout, rows, cols, &mut random));
    for tokens in [1, 7, 70] {
        let x = random.normal(tokens * cols);
        let outputs = || shapes.map(|(_, rows)| vec![f32::NAN; tokens * rows]);
        macro_rules! linear {
            ($backend:expr) => {{
                let mut outputs = outputs();
                let mut products: Vec<_> = outputs
                    .iter_mut()
                    .zip(&weights)
                    .map(|(out, weight)| Linear { out, weight, bias: None })
                    .collect();
                $backend.linear(&x, tokens, &mut products).unwrap();
                outputs
            }};
        }
        let expected = linear!(ReferenceBackend::new());
        each_backend!(|cpu| {
            let actual = linear!(cpu);
            for (i, weight) in weights.iter().enumerate() {
                let magnitudes = magnitudes(weight, &x, tokens);
                for (n, magnitude) in magnitudes.iter().enumerate() {
                    let error = (f64::from(actual[i][n]) - f64::from(expected[i][n])).abs();
                    // As in `linear_agrees`.
                    let bound = (cols + 8) as f64 * EPSILON * 1.5 * magnitude;
                    assert!(error <= bound, "{} product {i}, {tokens} tokens: {n}", cpu.describe());
                }
            }
        });
    }
}

/// A gated product has the bits of its parts, whether a kernel makes it at once or not.
#[test]
fn gated_products_are_their_parts() {
    let mut random = Random::new(17);
    for layout in layouts() {
        for (rows, cols, tokens) in
            [(1, 1, 1), (16, 40, 8), (17, 172, 3), (100, 576, 1), (33, 64, 9), (250, 96, 2)]
        {
            let weights = [(); 2].map(|()| tensor(layout, rows, cols, &mut random));
            let bias = vector(random.normal(rows));
            let (x, len) = (random.normal(tokens * cols), tokens * rows);
            let activation =
                [Activation::Silu, Activation::Sigmoid, Activation::GeluTanh, Activation::Gelu][cols % 4];
            for bias in [None, Some(&bias)] {
                each_backend!(|backend| {
                    let mut outs = [(); 4].map(|()| vec![f32::NAN; len + 1]);
                    let [gate, up, fused, lost] = &mut outs;
                    let [on_gate, on_up] = &weights;
                    let mut parts = [
                        Linear { out: &mut *gate, weight: on_gate, bias },
                        Linear { out: &mut *up, weight: on_up, bias },
                    ];
                    backend.linear(&x, tokens, &mut parts).unwrap();
                    backend.glu(gate, up, len, activation).unwrap();
                    let both = [
                        Linear { out: &mut *fused, weight: on_gate, bias },
                        Linear { out: lost, weight: on_up, bias },
                    ];
                    backend.linear_glu(&x, tokens, both, len, activation).unwrap();
                    let bits = |out: &[f32]| out[..len].iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                    let case = format!("{} {layout} {rows} x {cols}, {tokens} tokens", backend.describe());
                    assert!(gate[..len].iter().all(|x| x.is_finite()) && bits(fused) == bits(gate), "{case}");
                    assert!(fused[len].is_nan(), "{case}: wrote past the batch");
                });
            }
        }
    }
}
