//! Products of heads, every backend against the reference.

#[macro_use]
mod each;
#[path = "../src/test_data.rs"]
mod test_data;

use std::sync::Arc;

use half::{bf16, f16};
use muse_format::Layout;
use muse_kernels::{Backend, HeadsShape, Linear, ReferenceBackend, Tensor};
use test_data::{Random, quantized_bytes};

fn tensor(layout: Layout, rows: usize, cols: usize, random: &mut Random) -> Tensor {
    let values = random.normal(rows * cols);
    let bytes: Vec<u8> = match layout {
        Layout::F32 => return Tensor::from_f32(rows, cols, values),
        Layout::F16 => values.iter().flat_map(|x| f16::from_f32(*x).to_le_bytes()).collect(),
        Layout::Bf16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect(),
        _ => quantized_bytes(layout, rows, cols, random),
    };
    let len = bytes.len();
    Tensor::new(layout, rows, cols, Arc::new(bytes), 0..len).unwrap()
}

const LAYOUTS: [Layout; 7] = [
    Layout::F32,
    Layout::F16,
    Layout::Bf16,
    Layout::Q8 { group: 32 },
    Layout::Q4 { group: 64 },
    Layout::Q4Asym { group: 32 },
    Layout::Q4Codebook { group: 128 },
];

/// For each output the sum of `|w * x|`, `scale * q` and an offset, of up to 0.34, counted by themselves.
fn magnitudes(weight: &Tensor, x: &[f32], shape: HeadsShape) -> Vec<f64> {
    let (rows, cols) = (weight.rows() / shape.heads, weight.cols());
    let offsets = if matches!(weight.layout(), Layout::Q4Asym { .. }) { 2.0 * 0.34 } else { 0.0 };
    let mut sums = Vec::new();
    let mut values = vec![0.0; cols];
    for (i, x) in x.chunks_exact(shape.cols).enumerate() {
        for row in i % shape.heads * rows..(i % shape.heads + 1) * rows {
            ReferenceBackend::new().embed(&mut values, weight, &[row as u32], 1.0).unwrap();
            let terms =
                values.iter().zip(x).map(|(w, x)| (f64::from(w.abs()) + offsets) * f64::from(x.abs()));
            sums.push(terms.sum());
        }
    }
    sums
}

#[test]
fn a_head_is_a_product_of_its_own() {
    let mut random = Random::new(41);
    let (rows, cols, stride) = (5, 33, 40);
    let x = random.normal(2 * stride);
    let weight = tensor(Layout::F32, 2 * rows, cols, &mut random);
    let mut out = vec![f32::NAN; 2 * rows];
    let shape = HeadsShape { heads: 2, cols: stride };
    ReferenceBackend::new().linear_heads(&mut out, &x, 1, &weight, shape).unwrap();
    for head in 0..2 {
        let own = weight.f32()[head * rows * cols..][..rows * cols].to_vec();
        let (own, mut alone) = (Tensor::from_f32(rows, cols, own), vec![f32::NAN; rows]);
        let x = x[head * stride..][..cols].to_vec();
        let product = Linear { out: &mut alone, weight: &own, bias: None };
        ReferenceBackend::new().linear(&x, 1, &mut [product]).unwrap();
        assert_eq!(alone, out[head * rows..][..rows]);
    }
}

#[test]
fn products_of_heads_agree() {
    let mut random = Random::new(42);
    for layout in LAYOUTS {
        // Heads that share tiles, that are tiles, and more tokens than are brought together at once.
        for (heads, rows, cols, stride, tokens) in [
            (1, 1, 1, 1, 1),
            (3, 5, 33, 40, 1),
            (3, 21, 172, 172, 5),
            (5, 32, 64, 72, 17),
            (2, 40, 96, 100, 81),
        ] {
            let weight = tensor(layout, heads * rows, cols, &mut random);
            let x = random.normal(tokens * heads * stride);
            let len = tokens * heads * rows;
            let shape = HeadsShape { heads, cols: stride };
            let mut expected = vec![f32::NAN; len];
            ReferenceBackend::new().linear_heads(&mut expected, &x, tokens, &weight, shape).unwrap();
            let magnitudes = magnitudes(&weight, &x, shape);
            each_backend!(|backend| {
                backend.reserve_heads(tokens, shape).unwrap();
                let mut actual = vec![f32::NAN; len + 1];
                backend.linear_heads(&mut actual, &x, tokens, &weight, shape).unwrap();
                let name = backend.describe();
                let case = format!("{layout} {heads} x {rows} x {cols}, {tokens} tokens, {name}");
                for (i, magnitude) in magnitudes.iter().enumerate() {
                    // `cols` additions and 8 roundings of scales; integers err by half a step of activations.
                    let bound = (cols + 8) as f64 * f64::from(f32::EPSILON) * 1.5 * magnitude;
                    let error = (f64::from(actual[i]) - f64::from(expected[i])).abs();
                    assert!(error <= bound, "{case}: {i} is {}, not {}", actual[i], expected[i]);
                }
                assert!(actual[len].is_nan(), "{case}: wrote past the batch");
            });
        }
    }
}

#[test]
fn rows_are_joined_in_order() {
    let mut random = Random::new(43);
    for (rows, a, b) in [(1, 1, 1), (3, 5, 2), (700, 64, 7)] {
        let (x, y) = (random.normal(rows * a + 1), random.normal(rows * b + 1));
        let expected: Vec<f32> =
            (0..rows).flat_map(|r| [&x[r * a..][..a], &y[r * b..][..b]].concat()).collect();
        let mut out = vec![f32::NAN; rows * (a + b) + 1];
        ReferenceBackend::new().join(&mut out, &x, &y, rows, [a, b]).unwrap();
        assert_eq!(out[..rows * (a + b)], expected);
        each_backend!(|backend| {
            let mut out = vec![f32::NAN; rows * (a + b) + 1];
            backend.join(&mut out, &x, &y, rows, [a, b]).unwrap();
            assert_eq!(out[..rows * (a + b)], expected);
            assert!(out[rows * (a + b)].is_nan());
        });
    }
}
