//! Every operation of the CPU backend, with every set of features that this machine has and with one and several
//! threads, against the reference backend; with the feature `cuda`, of the CUDA backend too, which then needs a device:
//! `scripts/cuda.sh` runs this on an emulated one.

#[macro_use]
#[path = "../each/mod.rs"]
mod each;
mod attention;
mod experts;
mod linear;
mod rows;
#[path = "../../src/test_data.rs"]
mod test_data;

use std::sync::Arc;

use half::{bf16, f16};
use muse_format::Layout;
use muse_kernels::{Span, Tensor};
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

/// Two sequences in one batch: a long prompt in slot 2 and the next token of slot 0.
fn spans(start: u32, len: u32) -> [Span; 2] {
    [Span { slot: 2, start, len }, Span { slot: 0, start: start + len, len: 1 }]
}
