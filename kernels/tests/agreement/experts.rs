//! Mixtures of experts.

use muse_format::{Activation, Layout, Score};
use muse_kernels::{Backend, Expert, ExpertsShape, Mixture, ReferenceBackend, Routing, ScaledNorm, Tensor};

use crate::test_data::Random;
use crate::{EPSILON, each, tensor, vector};

/// Runs the same mixture on a backend; the outputs of the rows of a batch.
fn mixed<B: Backend<Weight = Tensor, Buffer = Vec<f32>>>(
    backend: &mut B,
    case: &MixtureCase,
    x: &Vec<f32>,
    logits: &Vec<f32>,
    rows: usize,
) -> Vec<f32> {
    let mixture = Mixture {
        experts: &case.experts,
        choice_bias: case.bias.as_ref(),
        scales: case.scales.as_ref(),
        used: case.used,
        routing: case.routing,
        norm: case.norm.as_ref().map(|[scale, weight]| ScaledNorm { scale, weight, eps: 1e-3 }),
    };
    let dim = case.experts[0].gate.cols();
    let shape = ExpertsShape {
        count: case.experts.len(),
        used: case.used,
        dim,
        ffn_dim: case.experts[0].gate.rows(),
    };
    backend.reserve(rows, dim.max(shape.ffn_dim)).unwrap();
    backend.reserve_experts(rows, shape).unwrap();
    let mut out = vec![f32::NAN; rows * dim + 1];
    backend.experts(&mut out, x, logits, rows, &mixture).unwrap();
    assert!(out.pop().unwrap().is_nan(), "wrote past the batch");
    out
}

struct MixtureCase {
    experts: Vec<Expert<Tensor>>,
    bias: Option<Tensor>,
    scales: Option<Tensor>,
    used: usize,
    routing: Routing,
    norm: Option<[Tensor; 2]>,
}

#[test]
fn experts_agree() {
    let mut random = Random::new(15);
    let routing = Routing {
        score: Score::Softmax,
        normalise: true,
        scale: 1.5,
        weigh_input: false,
        activation: Activation::Silu,
    };
    let sigmoid = Routing { score: Score::Sigmoid, normalise: false, ..routing };
    let weigh_input = Routing { weigh_input: true, scale: 1.0, ..sigmoid };
    for (layout, dim, ffn_dim, count, used, routing, [biased, scaled, normed]) in [
        // More rows an expert than are multiplied at once.
        (Layout::Q4Asym { group: 64 }, 128, 70, 2, 1, routing, [false, false, false]),
        (Layout::F16, 40, 33, 2, 1, sigmoid, [false, false, false]),
        (Layout::F32, 33, 20, 5, 2, routing, [false, false, false]),
        (Layout::F32, 40, 50, 8, 8, sigmoid, [true, false, false]),
        (Layout::F32, 44, 30, 6, 3, sigmoid, [true, false, true]),
        (Layout::F32, 36, 30, 6, 4, routing, [false, true, false]),
        (Layout::F32, 37, 21, 4, 1, weigh_input, [false, false, false]),
        (Layout::Q8 { group: 32 }, 72, 48, 5, 3, weigh_input, [false, false, false]),
        (Layout::Bf16, 64, 17, 3, 1, sigmoid, [false, true, false]),
        (Layout::Q8 { group: 32 }, 72, 48, 9, 3, routing, [true, false, false]),
        (Layout::Q4 { group: 64 }, 128, 96, 4, 2, routing, [false, false, true]),
    ] {
        let experts = (0..count).map(|_| Expert {
            gate: tensor(layout, ffn_dim, dim, &mut random),
            up: tensor(layout, ffn_dim, dim, &mut random),
            down: tensor(layout, dim, ffn_dim, &mut random),
        });
        let experts = experts.collect();
        let bias = biased.then(|| vector(random.normal(count)));
        let scales = scaled.then(|| vector(random.normal(count)));
        let norm = normed
            .then(|| [(); 2].map(|()| vector(random.normal(dim).iter().map(|x| 1.0 + 0.1 * x).collect())));
        let case = MixtureCase { experts, bias, scales, used, routing, norm };
        let rows = if count == 2 { 150 } else { 19 };
        let (x, mut logits) = (random.normal(rows * dim), random.normal(rows * count));
        logits[..count].fill(0.5); // the first experts of equals
        let expected = mixed(&mut ReferenceBackend::new(), &case, &x, &logits, rows);
        let size =
            (expected.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / expected.len() as f64).sqrt();
        each_backend!(|cpu| {
            let name = format!("{} {layout} {used} of {count}", cpu.describe());
            let actual = mixed(cpu, &case, &x, &logits, rows);
            // The hidden values are rounded after sums of `dim` products, the outputs after sums of `ffn_dim`. Of
            // quantized weights the hidden values are rounded to 8 bits in between, where such an error may tip one
            // of `ffn_dim` to its neighbour: a 127th of the largest, which is 4 times their size, on one of them.
            let sums = ((dim + ffn_dim + 60) as f64) * EPSILON * 8.0;
            let tipped = 4.0 / 127.0 / (ffn_dim as f64).sqrt() * 3.0;
            // A norm leaves an error its share of the row; its vectors lie within 0.4 of 1, and so does their product
            // within a factor of 2.
            let normed = if normed { 2.0 } else { 1.0 };
            let bound = if layout.is_quantized() { tipped } else { sums } * size * normed;
            let close = |what: &str, actual: &[f32], expected: &[f32]| {
                for (i, (a, e)) in actual.iter().zip(expected).enumerate() {
                    let error = (f64::from(*a) - f64::from(*e)).abs();
                    assert!(error <= bound, "{name}, {what}: {i} is {a}, not {e}");
                }
            };
            close("all rows", &actual, &expected);
            for row in [0, 7, rows - 1] {
                let (x, logits) = (x[row * dim..][..dim].to_vec(), logits[row * count..][..count].to_vec());
                let alone = mixed(cpu, &case, &x, &logits, 1);
                close("one row", &alone, &expected[row * dim..][..dim]);
            }
        });
    }
}
