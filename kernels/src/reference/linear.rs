use half::f16;
use muse_format::TILE_ROWS;

use super::quantize::{GROUP, Quantized, quantize_row};
use super::weights::{block, dequantize_row};
use crate::{HeadsShape, Tensor};

/// `out[t] = weight * x[t] + bias`; `x` is `(tokens, cols)`, `out` `(tokens, rows)`.
pub(super) fn run(out: &mut [f32], weight: &Tensor, bias: Option<&[f32]>, x: &[f32]) {
    let (rows, cols) = (weight.rows(), weight.cols());
    let bias = |row: usize| bias.map_or(0.0, |bias| f64::from(bias[row]));
    let outputs = out.chunks_exact_mut(rows).zip(x.chunks_exact(cols));
    if weight.layout().is_quantized() {
        for (out, x) in outputs {
            let x = quantize_row(x);
            for (row, out) in out.iter_mut().enumerate() {
                *out = (quantized_dot(weight, row, &x) + bias(row)) as f32;
            }
        }
        return;
    }
    let mut values = vec![0.0; cols];
    let mut outputs: Vec<_> = outputs.collect();
    for row in 0..rows {
        dequantize_row(&mut values, weight, row);
        for (out, x) in &mut outputs {
            let dot: f64 = values.iter().zip(*x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            out[row] = (dot + bias(row)) as f32;
        }
    }
}

/// `out[t][h] = weight[h] * x[t][h]`; `x` is `(tokens, heads, shape.cols)`, of which the first columns of a head are read.
pub(super) fn heads(out: &mut [f32], weight: &Tensor, x: &[f32], shape: HeadsShape) {
    let (rows, cols) = (weight.rows() / shape.heads, weight.cols());
    let outputs = || x.chunks_exact(shape.cols).enumerate();
    if weight.layout().is_quantized() {
        for ((i, x), out) in outputs().zip(out.chunks_exact_mut(rows)) {
            let x = quantize_row(&x[..cols]);
            let first = i % shape.heads * rows;
            for (row, out) in (first..).zip(out) {
                *out = quantized_dot(weight, row, &x) as f32;
            }
        }
        return;
    }
    let mut values = vec![0.0; cols];
    for row in 0..weight.rows() {
        dequantize_row(&mut values, weight, row);
        for (i, x) in outputs().filter(|(i, _)| i % shape.heads == row / rows) {
            let dot: f64 = values.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            out[i * rows + row % rows] = dot as f32;
        }
    }
}

/// The product of one row: integers within each group of activations, f64 between them.
fn quantized_dot(weight: &Tensor, row: usize, x: &Quantized) -> f64 {
    let r = row % TILE_ROWS;
    let per_block = weight.layout().group() / GROUP;
    let mut sum = 0.0;
    for (g, x_scale) in x.scales.iter().enumerate() {
        let block = block(weight, row, g / per_block);
        let quants = &x.quants[g * GROUP..][..GROUP];
        let first = g % per_block * GROUP;
        let dot: i32 =
            quants.iter().enumerate().map(|(i, q)| block.quant(r, first + i) * i32::from(*q)).sum();
        let total: i32 = quants.iter().map(|q| i32::from(*q)).sum();
        let scale = f16::from_bits(block.scale(r)).to_f64();
        let offset = f16::from_bits(block.offset(r)).to_f64();
        sum += f64::from(*x_scale) * (scale * f64::from(dot) + offset * f64::from(total));
    }
    sum
}
