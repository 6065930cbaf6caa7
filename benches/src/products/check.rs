//! Whether a device computes what it should, before it is timed.

use std::sync::Arc;

use muse_format::{Activation, Layout};
use muse_kernels::{
    AttentionShape, Backend, BackendError, CacheDtype, CudaBackend, Linear, ReferenceBackend, Span, Tensor,
};

use super::{Dims, Extent, noise, put};
use crate::report::BenchError;
use crate::synthetic;

/// Of the size of a vector. Integers are exact and sums in floats round: of a few hundred terms by some 2^-22.
const EXACT: f64 = 1.0 / (1 << 16) as f64;
/// Attention of prompts rounds to f16.
const COARSE: f64 = 1.0 / 512.0;
/// Rows of matrices, positions, and those that each of many rows sees.
const ROWS: usize = 200;
const CONTEXT: u32 = 300;
const WINDOW: u32 = 64;
/// Queries of a processor where attention's kernels take the most that they take together: kernels/src/cuda/attention.rs.
const PROCESSOR_QUERIES: u32 = 256;

/// Compares products of each layout of few rows and many, gated ones of few, and attention of each shape over each cache, with
/// the reference.
pub(super) fn all(cuda: &mut CudaBackend, extent: &Extent) -> Result<(), BenchError> {
    let cols = extent.shapes.first().ok_or(BenchError::NoShape)?.dim as usize;
    for layout in &extent.layouts {
        for (tokens, gated) in [(1, false), (8, false), (70, false), (1, true), (8, true)] {
            let found = multiply(cuda, *layout, cols, (tokens, gated), put)?;
            let mut reference = ReferenceBackend::new();
            let expected = multiply(&mut reference, *layout, cols, (tokens, gated), |_, v| Ok(v.to_vec()))?;
            let kind = if gated { "gated product" } else { "product" };
            compare(&found, &expected, EXACT, || format!("a {kind} of {tokens} rows and {layout}"))?;
        }
    }
    // How many heads share keys chooses among kernels, and how many rows there are for this device.
    for dims in &extent.shapes {
        let many = (PROCESSOR_QUERIES * cuda.processors()).div_ceil(dims.heads).max(70);
        for dtype in &extent.caches {
            for (rows, window, bound) in [(1, None, EXACT), (70, None, COARSE), (many, Some(WINDOW), COARSE)]
            {
                let shape = AttentionShape { window, ..dims.attention() };
                let found = attend(cuda, *dtype, dims, (rows, &shape), put)?;
                let mut reference = ReferenceBackend::new();
                let own = |_: &mut ReferenceBackend, values: &[f32]| Ok(values.to_vec());
                let expected = attend(&mut reference, *dtype, dims, (rows, &shape), own)?;
                let what = || format!("attention of {rows} rows of {} over {dtype}", dims.name);
                compare(&found, &expected, bound, what)?;
            }
        }
    }
    Ok(())
}

/// The length of the difference over that of `expected`; a NaN is over every bound.
fn compare(
    found: &[f32],
    expected: &[f32],
    bound: f64,
    what: impl FnOnce() -> String,
) -> Result<(), BenchError> {
    let squares = |of: &mut dyn Iterator<Item = f64>| of.map(|x| x * x).sum::<f64>();
    let difference = squares(&mut found.iter().zip(expected).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    let error = (difference / squares(&mut expected.iter().map(|x| f64::from(*x)))).sqrt();
    match error <= bound && found.len() == expected.len() {
        true => Ok(()),
        false => Err(BenchError::Wrong { what: what(), error, bound }),
    }
}

fn multiply<B: Backend>(
    backend: &mut B,
    layout: Layout,
    cols: usize,
    (tokens, gated): (usize, bool),
    put: impl Fn(&mut B, &[f32]) -> Result<B::Buffer, BenchError>,
) -> Result<Vec<f32>, BenchError> {
    let matrix = synthetic::matrix(layout, ROWS, cols)?;
    let bytes = matrix.bytes().len();
    let weight = backend.load(matrix)?;
    let (x, mut out) = (put(backend, &noise(tokens * cols))?, put(backend, &vec![f32::NAN; tokens * ROWS])?);
    backend.reserve(tokens, cols)?;
    let product = Linear { out: &mut out, weight: &weight, bias: None };
    if gated {
        // The end of a longer one, which is another matrix.
        let both = Arc::new(synthetic::matrix(layout, 2 * ROWS, cols)?.bytes().to_vec());
        let end = both.len() - bytes..both.len();
        let up = backend.load(Tensor::new(layout, ROWS, cols, both, end)?)?;
        let mut lost = put(backend, &vec![f32::NAN; tokens * ROWS])?;
        let up = Linear { out: &mut lost, weight: &up, bias: None };
        backend.linear_glu(&x, tokens, [product, up], tokens * ROWS, Activation::Silu)?;
    } else {
        backend.linear(&x, tokens, &mut [product])?;
    }
    Ok(read(backend, &out, tokens * ROWS)?)
}

fn attend<B: Backend>(
    backend: &mut B,
    dtype: CacheDtype,
    dims: &Dims,
    (rows, shape): (u32, &AttentionShape),
    put: impl Fn(&mut B, &[f32]) -> Result<B::Buffer, BenchError>,
) -> Result<Vec<f32>, BenchError> {
    let context = rows.max(CONTEXT);
    let mut cache = backend.cache(dims.cache(dtype, 1, context))?;
    let k = noise((context * dims.kv_heads * dims.head_dim) as usize);
    let v: Vec<f32> = k.iter().map(|x| 1.0 - x).collect();
    let (k, v) = (put(backend, &k)?, put(backend, &v)?);
    backend.reserve(context as usize, (dims.heads * dims.head_dim) as usize)?;
    backend.store(&mut cache, &k, &v, &[Span { slot: 0, start: 0, len: context }])?;
    let len = (rows * dims.heads * dims.head_dim) as usize;
    let (q, mut out) = (put(backend, &noise(len))?, put(backend, &vec![f32::NAN; len])?);
    let span = Span { slot: 0, start: context - rows, len: rows };
    backend.attention(&mut out, &q, &cache, &[span], shape)?;
    Ok(read(backend, &out, len)?)
}

fn read<B: Backend>(backend: &mut B, buffer: &B::Buffer, len: usize) -> Result<Vec<f32>, BackendError> {
    let mut values = vec![0.0; len];
    backend.read(buffer, &mut values)?;
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wrong_is_refused() {
        let right = noise(64);
        let with = |at: usize, value: f32| {
            let mut found = right.clone();
            found[at] = value;
            found
        };
        compare(&right, &right, 0.0, String::new).unwrap();
        compare(&with(3, right[3] * (1.0 + 1e-6)), &right, EXACT, String::new).unwrap();
        for (case, found) in [
            ("another number", with(3, right[3] + 0.01)),
            ("not a number", with(63, f32::NAN)),
            ("infinite", with(0, f32::INFINITY)),
            ("too few", right[..63].to_vec()),
        ] {
            compare(&found, &right, EXACT, String::new).expect_err(case);
        }
    }
}
