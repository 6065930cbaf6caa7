//! Products of packed matrices: of a few rows, which read weights, and of a prompt's, which multiply.

use muse_format::{Activation, Layout};
use muse_kernels::{Backend, BackendError, CudaBackend, CudaBuffer, CudaWeight, Linear, Span};

use super::report::Row;
use super::timing::{each, poison, step, written};
use super::{Dims, Extent, noise, put};
use crate::report::BenchError;
use crate::synthetic;

/// Products of one input that a model makes together.
struct Together {
    name: &'static str,
    rows: Vec<u32>,
    cols: u32,
    /// Whether two make the gated hidden values.
    gated: bool,
}

impl Dims {
    fn products(&self) -> [Together; 5] {
        let (queries, keys) = (self.heads * self.head_dim, self.kv_heads * self.head_dim);
        let of = |name, rows: &[u32], cols, gated| Together { name, rows: rows.to_vec(), cols, gated };
        [
            of("q, k, v", &[queries, keys, keys], self.dim, false),
            of("o", &[self.dim], queries, false),
            of("gate, up", &[self.ffn, self.ffn], self.dim, true),
            of("down", &[self.dim], self.ffn, false),
            of("head", &[self.vocab], self.dim, false),
        ]
    }
}

/// The matrices of each copy, and outputs for them.
struct Loaded {
    copies: Vec<Vec<CudaWeight>>,
    outs: Vec<CudaBuffer>, // (tokens, rows) each
    gated: bool,
}

impl Loaded {
    /// The products with the matrices of one copy.
    fn run(
        &mut self,
        cuda: &mut CudaBackend,
        x: &CudaBuffer,
        tokens: usize,
        copy: usize,
    ) -> Result<(), BackendError> {
        let weights = &self.copies[copy % self.copies.len()];
        let products: Vec<_> = self
            .outs
            .iter_mut()
            .zip(weights)
            .map(|(out, weight)| Linear { out, weight, bias: None })
            .collect();
        match <[Linear<'_, CudaBackend>; 2]>::try_from(products) {
            Ok(two) if self.gated => {
                let len = tokens * two[0].weight.rows() as usize;
                cuda.linear_glu(x, tokens, two, len, Activation::Silu)
            }
            Ok(mut two) => cuda.linear(x, tokens, &mut two),
            Err(mut others) => cuda.linear(x, tokens, &mut others),
        }
    }
}

/// A row for each number of rows, and one of a prompt.
pub(super) fn measure(
    cuda: &mut CudaBackend,
    dims: &Dims,
    layout: Layout,
    extent: &Extent,
) -> Result<Vec<Row>, BenchError> {
    let mut rows = Vec::new();
    for product in dims.products() {
        let bytes = |rows: &u32| layout.byte_len((*rows).into(), product.cols.into()).unwrap_or(u64::MAX);
        let bytes: u64 = product.rows.iter().map(bytes).sum();
        let row =
            |operation: &str, rows, seconds| Row::new(dims, operation, layout.to_string(), rows, seconds);
        // A head has no prompt.
        let most = if product.name == "head" { 0 } else { extent.prompt };
        let most = extent.few.iter().copied().max().unwrap_or(1).max(most);
        cuda.reserve(most, product.cols as usize)?;
        let x = put(cuda, &noise(most * product.cols as usize))?;
        let copies = (extent.turn_bytes / bytes).clamp(2, extent.operations as u64) as usize;
        let mut loaded = load(cuda, &product, layout, copies, most)?;

        let operations = extent.operations.min((8 * extent.turn_bytes / bytes) as usize).max(copies);
        for tokens in extent.few.iter().copied() {
            poison_all(cuda, &product, &mut loaded, most)?;
            let span = [Span { slot: 0, start: 0, len: tokens as u32 }];
            let mut all = |cuda: &mut CudaBackend| {
                (0..operations).try_for_each(|copy| loaded.run(cuda, &x, tokens, copy))
            };
            let (all, graph) = step(cuda, &[&span], extent.rounds, &mut all)?;
            written_all(cuda, dims, &product, &loaded, tokens)?;
            let seconds = all / operations as f64;
            rows.push(row(product.name, tokens, seconds).reading(bytes, graph));
        }

        if product.name != "head" {
            loaded.gated = false;
            poison_all(cuda, &product, &mut loaded, most)?;
            let seconds = each(cuda, extent.rounds, &mut |cuda| loaded.run(cuda, &x, extent.prompt, 0))?;
            written_all(cuda, dims, &product, &loaded, extent.prompt)?;
            let outputs: u64 = product.rows.iter().map(|rows| u64::from(*rows)).sum();
            let operations = 2 * extent.prompt as u64 * outputs * u64::from(product.cols);
            rows.push(row(product.name, extent.prompt, seconds).multiplying(operations));
        }
    }
    Ok(rows)
}

fn load(
    cuda: &mut CudaBackend,
    product: &Together,
    layout: Layout,
    copies: usize,
    tokens: usize,
) -> Result<Loaded, BenchError> {
    let tensor = |rows: &u32| synthetic::matrix(layout, *rows as usize, product.cols as usize);
    let tensors: Vec<_> = product.rows.iter().map(tensor).collect::<Result<_, _>>()?;
    let copy = |cuda: &mut CudaBackend| tensors.iter().map(|tensor| cuda.load(tensor.clone())).collect();
    let copies = (0..copies).map(|_| copy(cuda)).collect::<Result<_, _>>()?;
    let outs =
        product.rows.iter().map(|rows| cuda.buffer(tokens * *rows as usize)).collect::<Result<_, _>>()?;
    Ok(Loaded { copies, outs, gated: product.gated })
}

fn poison_all(
    cuda: &mut CudaBackend,
    product: &Together,
    loaded: &mut Loaded,
    tokens: usize,
) -> Result<(), BenchError> {
    let outs = loaded.outs.iter_mut().zip(&product.rows);
    outs.into_iter().try_for_each(|(out, rows)| poison(cuda, out, tokens * *rows as usize))
}

fn written_all(
    cuda: &mut CudaBackend,
    dims: &Dims,
    product: &Together,
    loaded: &Loaded,
    tokens: usize,
) -> Result<(), BenchError> {
    // What is in the second of two that are gated is lost.
    let outs = if loaded.gated { &loaded.outs[..1] } else { &loaded.outs[..] };
    outs.iter().zip(&product.rows).try_for_each(|(out, rows)| {
        written(cuda, out, tokens * *rows as usize, || format!("{} of {}", product.name, dims.name))
    })
}
