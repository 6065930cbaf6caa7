//! Every operation of the CPU backend, with every set of features that this machine has and with one and several
//! threads, against the reference backend; with the feature `cuda`, of the CUDA backend too, which then needs a device:
//! `scripts/cuda.sh` runs this on an emulated one.

#[macro_use]
mod each;
#[path = "../src/test_data.rs"]
mod test_data;

use std::sync::Arc;

use half::{bf16, f16};
use muse_format::{Activation, Layout, Score, Temperature};
use muse_kernels::{
    AttentionShape, Backend, BackendError, CacheDtype, CacheShape, Expert, ExpertsShape, Linear, Mixture,
    ReferenceBackend, Routing, ScaledNorm, Span, Tensor,
};
use test_data::{Random, quantized_bytes};

const EPSILON: f64 = f32::EPSILON as f64;

fn tensor(layout: Layout, rows: usize, cols: usize, random: &mut Random) -> Tensor {
    let values = |random: &mut Random| random.normal(rows * cols);
    let bytes: Vec<u8> = match layout {
        Layout::F32 => return Tensor::from_f32(rows, cols, values(random)),
        Layout::F16 => values(random).iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Layout::Bf16 => values(random).iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => quantized_bytes(layout, rows, cols, random),
    };
    let len = bytes.len();
    Tensor::new(layout, rows, cols, Arc::new(bytes), 0..len).unwrap()
}

fn vector(values: Vec<f32>) -> Tensor {
    Tensor::from_f32(1, values.len(), values)
}

fn layouts() -> Vec<Layout> {
    let of = |group| {
        [Layout::Q8 { group }, Layout::Q4 { group }, Layout::Q4Asym { group }, Layout::Q4Codebook { group }]
    };
    [Layout::F32, Layout::F16, Layout::Bf16]
        .into_iter()
        .chain([32, 64, 128].into_iter().flat_map(of))
        .collect()
}

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

/// Two sequences in one batch: a long prompt in slot 2 and the next token of slot 0.
fn spans(start: u32, len: u32) -> [Span; 2] {
    [Span { slot: 2, start, len }, Span { slot: 0, start: start + len, len: 1 }]
}

#[derive(Debug)]
struct AttentionCase {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    start: u32,
    len: u32,
    window: Option<u32>,
    chunk: Option<u32>,
    softcap: Option<f32>,
    capacity: u32,
}

impl AttentionCase {
    fn shape(&self) -> AttentionShape {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let Self { heads, kv_heads, head_dim, window, chunk, softcap, .. } = *self;
        AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale,
            window,
            chunk,
            softcap,
            bidirectional: false,
            until: None,
        }
    }

    /// The numbers that [`Self::run`] takes.
    fn inputs(&self) -> Vec<f32> {
        let Self { heads, kv_heads, head_dim, start, len, .. } = *self;
        let (before, batch) = (4 * (start + len), (len + 1) * 2);
        Random::new(12).normal((((before + batch) * kv_heads + (len + 1) * heads) * head_dim) as usize)
    }

    /// Fills a cache up to the batch, stores the batch and attends.
    fn run<B: Backend<Buffer = Vec<f32>>>(
        &self,
        backend: &mut B,
        dtype: CacheDtype,
        inputs: &[f32],
    ) -> Result<Vec<f32>, BackendError> {
        let mut inputs = inputs.iter().copied();
        let mut next = |count: usize| inputs.by_ref().take(count).collect::<Vec<f32>>();
        let Self { heads, kv_heads, head_dim, capacity, start, len, .. } = *self;
        let mut cache =
            backend.cache(CacheShape { dtype, slots: 3, capacity, kv_heads, head_dim, values: true })?;
        backend.reserve(len as usize + 1, (heads * head_dim) as usize).unwrap();
        let width = (kv_heads * head_dim) as usize;
        for p in 0..start + len {
            let (k, v) = (next(2 * width), next(2 * width));
            let span = |slot, start| Span { slot, start, len: 1 };
            let both = [span(2, p), span(0, p)];
            backend.store(&mut cache, &k, &v, if p < start { &both } else { &both[1..] }).unwrap();
        }
        let spans = spans(start, len);
        let tokens = len as usize + 1;
        let (k, v) = (next(tokens * width), next(tokens * width));
        backend.store(&mut cache, &k, &v, &spans).unwrap();
        let size = tokens * (heads * head_dim) as usize;
        let (q, mut out) = (next(size), vec![f32::NAN; size]);
        backend.attention(&mut out, &q, &cache, &spans, &self.shape())?;
        Ok(out)
    }

    /// # Panics
    /// Where `actual` is not what is `expected`, within what the order of sums and the rounding of prompts may do.
    fn compare(&self, dtype: CacheDtype, name: &str, actual: &[f32], expected: &[f32]) {
        let error = |(actual, expected): (&f32, &f32)| (f64::from(*actual) - f64::from(*expected)).abs();
        let errors: Vec<f64> = actual.iter().zip(expected).map(error).collect();
        // The other sequence's row is an answer's, which nothing rounds.
        let mut rounded = 0;
        let coarse = each::coarseness(name).filter(|_| self.len >= 32 && dtype != CacheDtype::F32);
        if let Some(coarse) = coarse {
            rounded = (self.len * self.heads * self.head_dim) as usize;
            let mean = (errors[..rounded].iter().map(|e| e * e).sum::<f64>() / rounded as f64).sqrt();
            assert!(mean <= coarse, "{self:?} {dtype:?} {name}: {mean} in the mean");
            assert!(errors[..rounded].iter().all(|e| *e <= 8.0 * coarse), "{self:?} {dtype:?} {name}");
        }
        let bound = attention_bound(self, dtype);
        for (n, error) in errors.iter().enumerate().skip(rounded) {
            let (actual, expected) = (actual[n], expected[n]);
            assert!(*error <= bound, "{self:?} {dtype:?} {name}: {n} is {actual}, not {expected}");
        }
    }
}

/// Inputs are within 6 of 0 (a sum of 12 uniform ones), also as 8 bits. A score is a sum of `head_dim` terms, each within
/// 36 and 1 in the mean, times two scales, so it errs by less than `(head_dim + 4) * eps * head_dim * scale`; with a soft
/// cap by `4 * eps * cap` more. The weights then err by twice that, relatively, and by the `positions + 9` roundings of
/// their sum and of the values' sum, and by 3 where parts are put together; the values are within 6.
///
/// Rotating `n` numbers rounds each `log2(n) + 1` times, and leaves errors that are each for itself as large as they were:
/// once for a query, once for an output.
fn attention_bound(case: &AttentionCase, dtype: CacheDtype) -> f64 {
    let head_dim = f64::from(case.head_dim);
    let positions = f64::from(case.start + case.len + 1);
    let rotation = match dtype {
        CacheDtype::Int4 | CacheDtype::Int8Int4 => f64::from(case.head_dim.trailing_zeros() + 1),
        _ => 0.0,
    };
    let score = (head_dim + 4.0 + rotation) * EPSILON * head_dim.sqrt()
        + case.softcap.map_or(0.0, |cap| 4.0 * EPSILON * f64::from(cap));
    (2.0 * score + 2.0 * (positions + 12.0 + rotation) * EPSILON) * 6.0
}

#[test]
fn attention_agrees() {
    let base = AttentionCase {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        start: 0,
        len: 5,
        window: None,
        chunk: None,
        softcap: None,
        capacity: 400,
    };
    let cases = [
        AttentionCase { len: 1, ..base },
        AttentionCase { len: 16, ..base },
        AttentionCase { start: 127, len: 33, ..base },
        AttentionCase { heads: 9, kv_heads: 3, head_dim: 64, start: 255, len: 1, ..base },
        AttentionCase { heads: 9, kv_heads: 3, head_dim: 64, start: 3, len: 40, ..base },
        AttentionCase { heads: 1, kv_heads: 1, head_dim: 80, start: 300, len: 17, ..base },
        AttentionCase { heads: 2, kv_heads: 1, head_dim: 2, start: 20, len: 17, ..base },
        AttentionCase { heads: 10, kv_heads: 1, head_dim: 6, start: 20, len: 3, softcap: Some(2.0), ..base },
        AttentionCase { start: 90, len: 20, window: Some(7), ..base },
        AttentionCase { heads: 4, kv_heads: 1, head_dim: 128, start: 60, len: 65, ..base },
        AttentionCase { heads: 3, kv_heads: 1, head_dim: 7, start: 60, len: 65, window: Some(50), ..base },
        AttentionCase { heads: 1, kv_heads: 1, head_dim: 272, start: 60, len: 33, ..base },
        AttentionCase { start: 90, len: 20, window: Some(17), capacity: 36, ..base },
        AttentionCase { start: 777, len: 5, window: Some(150), capacity: 160, softcap: Some(20.0), ..base },
        AttentionCase { start: 10, len: 1, window: Some(1), ..base },
        AttentionCase { start: 90, len: 20, chunk: Some(7), ..base },
        AttentionCase { heads: 3, kv_heads: 1, head_dim: 7, start: 60, len: 65, chunk: Some(50), ..base },
        AttentionCase { start: 84, len: 20, chunk: Some(17), capacity: 36, ..base },
        AttentionCase { start: 749, len: 5, chunk: Some(150), capacity: 160, softcap: Some(20.0), ..base },
        AttentionCase { start: 3, len: 270, chunk: Some(130), ..base },
        AttentionCase { start: 10, len: 2, chunk: Some(1), ..base },
        // Prompts of heads that are whole pieces of a cache.
        AttentionCase { heads: 2, kv_heads: 1, head_dim: 80, start: 30, len: 37, ..base },
        AttentionCase {
            heads: 3,
            kv_heads: 1,
            head_dim: 256,
            start: 50,
            len: 33,
            softcap: Some(4.0),
            ..base
        },
        AttentionCase {
            heads: 2,
            head_dim: 96,
            start: 201,
            len: 70,
            window: Some(90),
            capacity: 160,
            ..base
        },
        AttentionCase {
            heads: 5,
            kv_heads: 1,
            head_dim: 64,
            start: 40,
            len: 34,
            chunk: Some(17),
            capacity: 51,
            ..base
        },
        // One row each and long: positions are split into parts.
        AttentionCase { heads: 2, kv_heads: 1, start: 1023, len: 1, capacity: 1040, ..base },
        AttentionCase { heads: 30, kv_heads: 1, head_dim: 6, start: 777, len: 1, capacity: 780, ..base },
        AttentionCase { start: 1999, len: 1, window: Some(800), capacity: 816, softcap: Some(9.0), ..base },
        AttentionCase { start: 1598, len: 1, chunk: Some(800), capacity: 816, ..base },
    ];
    for case in cases {
        let inputs = case.inputs();
        for dtype in CacheDtype::ALL {
            let expected = case.run(&mut ReferenceBackend::new(), dtype, &inputs).unwrap();
            each_backend!(|cpu| {
                let name = cpu.describe();
                let actual = case.run(cpu, dtype, &inputs).unwrap();
                case.compare(dtype, &name, &actual, &expected);
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
