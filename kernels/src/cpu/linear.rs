//! Splits matrix products into tiles of 16 rows, and tiles into chunks for the pool.

use std::ops::Range;

use muse_format::{Layout, TILE_ROWS};

use super::CpuBackend;
use super::matmul_float::MatmulFloat;
use super::matmul_q8::MatmulQ8;
use super::output::Output;
use super::pool::Pool;
use super::quantize::{BLOCK, Batch, Quantize, Scratch};
use crate::{Linear, Tensor};

/// Tiles whose outputs are written together: one row of outputs is far from the next, so that each is worth a longer
/// write.
const STRIP: usize = 16;
/// Chunks for each thread: enough that a thread which is late leaves little to wait for.
const CHUNKS_A_THREAD: usize = 8;
/// Bytes of weights times rows of activations that make a chunk worth claiming.
const WORTH_A_CHUNK: usize = 64 * 1024;

/// The kernels of [`crate::Backend::linear`] and what they share.
pub(super) struct Multiply {
    pub(super) quantize: Quantize,
    pub(super) q8: MatmulQ8,
    pub(super) float: MatmulFloat,
    scratch: Scratch,
}

/// What the chunks of one call read.
struct Inputs<'a> {
    q8: MatmulQ8,
    float: MatmulFloat,
    tokens: usize,
    x: &'a [f32],
    /// Present where a weight is quantized.
    quantized: Option<Batch<'a>>,
}

/// One matrix of a call.
struct Product<'a> {
    out: Output<'a, f32>,
    weight: &'a Tensor,
    bias: Option<&'a [f32]>,
    tiles: usize,
}

impl Multiply {
    pub(super) fn best(features: super::Features) -> Self {
        Self {
            quantize: Quantize::best(features),
            q8: MatmulQ8::best(features),
            float: MatmulFloat::best(features),
            scratch: Scratch::default(),
        }
    }

    /// The chosen variant of each operation.
    pub(super) fn variants(&self) -> [(&'static str, &'static str); 3] {
        [
            ("matmul_q8", self.q8.name()),
            ("matmul_float", self.float.name()),
            ("quantize", self.quantize.name()),
        ]
    }

    /// See [`crate::Backend::reserve`].
    pub(super) fn reserve(&mut self, tokens: usize, cols: usize) {
        self.scratch.reserve(tokens, cols);
    }

    /// See [`crate::Backend::linear`].
    pub(super) fn run(
        &mut self,
        pool: &mut Pool,
        x: &[f32],
        tokens: usize,
        products: &mut [Linear<'_, CpuBackend>],
    ) {
        let Some(cols) = products.first().map(|product| product.weight.cols()) else { return };
        assert!(products.iter().all(|product| product.weight.cols() == cols), "products of one input");
        let x = &x[..tokens * cols];
        let quantized = products.iter().any(|product| product.weight.layout().is_quantized()).then(|| {
            self.quantize.run(pool, &mut self.scratch, x, cols);
            self.scratch.view(tokens, cols)
        });
        let inputs = Inputs { q8: self.q8, float: self.float, tokens, x, quantized };
        let products: Vec<Product<'_>> = products.iter_mut().map(|p| Product::new(p, tokens)).collect();
        let tiles: usize = products.iter().map(|product| product.tiles).sum();
        let bytes: usize = products.iter().map(|product| product.weight.bytes().len()).sum();
        let worth = (bytes * tokens).div_ceil(WORTH_A_CHUNK);
        let chunks = worth.min(pool.threads() * CHUNKS_A_THREAD).clamp(1, tiles.max(1));
        pool.run(chunks, &|chunk| {
            let own = chunk * tiles / chunks..(chunk + 1) * tiles / chunks;
            if tokens == 1 {
                inputs.tiles::<1>(&products, own)
            } else {
                inputs.tiles::<BLOCK>(&products, own)
            }
        });
    }
}

impl<'a> Product<'a> {
    fn new(product: &'a mut Linear<'_, CpuBackend>, tokens: usize) -> Self {
        let rows = product.weight.rows();
        let bias = product.bias.map(Tensor::f32);
        assert!(bias.is_none_or(|bias| bias.len() == rows));
        Self {
            out: Output::new(&mut product.out[..tokens * rows]),
            weight: product.weight,
            bias,
            tiles: rows.div_ceil(TILE_ROWS),
        }
    }
}

impl Inputs<'_> {
    /// Multiplies the tiles `own`, counted over all products, by all rows of activations, `T` at a time: one block, or the only row.
    fn tiles<const T: usize>(&self, products: &[Product<'_>], own: Range<usize>) {
        let mut sums = [[[0.0; TILE_ROWS]; T]; STRIP];
        let mut begin = 0;
        for product in products {
            let end = begin + product.tiles;
            let tiles = own.start.clamp(begin, end) - begin..own.end.clamp(begin, end) - begin;
            for first in tiles.clone().step_by(STRIP) {
                self.strip(product, first..tiles.end.min(first + STRIP), &mut sums);
            }
            begin = end;
        }
    }

    /// Multiplies up to [`STRIP`] tiles of one product; `sums` is working memory.
    fn strip<const T: usize>(
        &self,
        product: &Product<'_>,
        tiles: Range<usize>,
        sums: &mut [[[f32; TILE_ROWS]; T]; STRIP],
    ) {
        let weight = product.weight;
        let first = tiles.start * TILE_ROWS;
        let rows = weight.rows().min(tiles.end * TILE_ROWS) - first;
        for begin in (0..self.tokens).step_by(T) {
            let tokens = T.min(self.tokens - begin);
            for (sums, tile) in sums.iter_mut().zip(tiles.clone()) {
                self.multiply(product, tile, begin, &mut sums[..tokens]);
            }
            for t in 0..tokens {
                // SAFETY: rows of a tile are in no other tile, a tile is in one chunk, and each token comes once.
                let out = unsafe { product.out.slice((begin + t) * weight.rows() + first, rows) };
                let (whole, rest) = out.as_chunks_mut::<TILE_ROWS>();
                whole.iter_mut().zip(&*sums).for_each(|(out, sums)| *out = sums[t]);
                rest.iter_mut().zip(&sums[tiles.len() - 1][t]).for_each(|(out, sum)| *out = *sum);
                if let Some(bias) = product.bias {
                    out.iter_mut().zip(&bias[first..]).for_each(|(out, bias)| *out += bias);
                }
            }
        }
    }

    /// Multiplies one tile by the rows of activations from `begin`, one for each element of `sums`.
    fn multiply(&self, product: &Product<'_>, tile: usize, begin: usize, sums: &mut [[f32; TILE_ROWS]]) {
        let weight = product.weight;
        let tokens = sums.len();
        match weight.layout() {
            Layout::F32 | Layout::F16 | Layout::Bf16 => {
                let x = &self.x[begin * weight.cols()..][..tokens * weight.cols()];
                self.float.run(weight, tile, sums, x);
            }
            layout => {
                let x = self.quantized.expect("activations of a quantized weight are quantized");
                let len = weight.bytes().len() / product.tiles;
                self.q8.run(layout, sums, &weight.bytes()[tile * len..][..len], x.block(begin));
            }
        }
    }
}
