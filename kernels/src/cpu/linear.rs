//! Splits matrix products into tiles of 16 rows, and tiles into chunks for the pool.

use std::ops::Range;

use muse_format::{Layout, TILE_ROWS};

use super::CpuBackend;
use super::matmul_float::MatmulFloat;
use super::matmul_q8::MatmulQ8;
use super::pool::Pool;
use super::quantize::{BLOCK, Batch, Quantize, Scratch};
use crate::output::Output;
use crate::{Linear, Tensor};

/// Tiles whose outputs are written together: one row of outputs is far from the next, so that each is worth a longer
/// write.
const STRIP: usize = 15;
/// Chunks for each thread: enough that a thread which is late leaves little to wait for, and long strips.
const CHUNKS_A_THREAD: usize = 4;
/// The same of one row, which has no strips: a thread reads on from chunk to chunk.
const CHUNKS_OF_ONE_ROW: usize = 16;
/// Blocks of rows that make it worth reading all weights for them alone.
const WORTH_A_PART: usize = 4;
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
    /// Tiles that no thread shares with another.
    unit: usize,
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

    /// [`crate::Backend::linear`] of some rows.
    pub(super) fn run(
        &mut self,
        pool: &mut Pool,
        x: &[f32],
        rows: Range<usize>,
        products: &mut [Linear<'_, CpuBackend>],
    ) {
        let Some(cols) = products.first().map(|product| product.weight.cols()) else { return };
        assert!(products.iter().all(|product| product.weight.cols() == cols), "products of one input");
        let tokens = rows.len();
        let x = &x[rows.start * cols..rows.end * cols];
        let quantized = products.iter().any(|product| product.weight.layout().is_quantized()).then(|| {
            self.quantize.run(pool, &mut self.scratch, x, cols);
            self.scratch.view(tokens, cols)
        });
        let inputs = Inputs { q8: self.q8, float: self.float, x, quantized };
        let unit = if tokens == 1 { 1 } else { self.q8.tiles() };
        let products: Vec<Product<'_>> = products.iter_mut().map(|p| Product::new(p, &rows, unit)).collect();
        let units: usize = products.iter().map(Product::units).sum();
        let bytes: usize = products.iter().map(|product| product.weight.bytes().len()).sum();
        let worth = (bytes * tokens).div_ceil(WORTH_A_CHUNK);
        let blocks = tokens.div_ceil(BLOCK);
        // Rows stay with a thread from one operation to the next.
        let parts = (blocks / WORTH_A_PART).clamp(1, pool.threads());
        let a_thread = if tokens == 1 { CHUNKS_OF_ONE_ROW } else { CHUNKS_A_THREAD };
        let chunks = (worth.min(pool.threads() * a_thread) / parts).clamp(1, units.max(1));
        pool.run(parts * chunks, &|chunk| {
            let (part, chunk) = (chunk / chunks, chunk % chunks);
            let own = chunk * units / chunks..(chunk + 1) * units / chunks;
            if tokens == 1 {
                inputs.units::<1>(&products, own, 0..1)
            } else {
                let first = |part: usize| tokens.min(part * blocks / parts * BLOCK);
                inputs.units::<BLOCK>(&products, own, first(part)..first(part + 1))
            }
        });
    }
}

impl<'a> Product<'a> {
    fn new(product: &'a mut Linear<'_, CpuBackend>, tokens: &Range<usize>, unit: usize) -> Self {
        let rows = product.weight.rows();
        let bias = product.bias.map(Tensor::f32);
        assert!(bias.is_none_or(|bias| bias.len() == rows));
        Self {
            out: Output::new(&mut product.out[tokens.start * rows..tokens.end * rows]),
            weight: product.weight,
            bias,
            tiles: rows.div_ceil(TILE_ROWS),
            unit,
        }
    }

    fn units(&self) -> usize {
        self.tiles.div_ceil(self.unit)
    }
}

impl Inputs<'_> {
    /// Multiplies the units `own`, counted over all products, by some rows of activations, `T` at a time: one block, or
    /// the only row.
    fn units<const T: usize>(&self, products: &[Product<'_>], own: Range<usize>, tokens: Range<usize>) {
        let mut sums = [[[0.0; TILE_ROWS]; T]; STRIP];
        let mut begin = 0;
        for product in products {
            let end = begin + product.units();
            let tile = |unit: usize| product.tiles.min((unit.clamp(begin, end) - begin) * product.unit);
            let tiles = tile(own.start)..tile(own.end);
            for first in tiles.clone().step_by(STRIP) {
                let strip = first..tiles.end.min(first + STRIP);
                self.strip::<T>(product, strip, tokens.clone(), sums.as_flattened_mut());
            }
            begin = end;
        }
    }

    /// Multiplies some tiles of one product; `sums` is working memory for that many and `T` rows.
    fn strip<const T: usize>(
        &self,
        product: &Product<'_>,
        tiles: Range<usize>,
        tokens: Range<usize>,
        sums: &mut [[f32; TILE_ROWS]],
    ) {
        let weight = product.weight;
        let first = tiles.start * TILE_ROWS;
        let rows = weight.rows().min(tiles.end * TILE_ROWS) - first;
        for begin in tokens.clone().step_by(T) {
            let tokens = T.min(tokens.end - begin);
            let sums = &mut sums[..tiles.len() * tokens];
            self.multiply(product, tiles.clone(), begin, tokens, sums);
            for t in 0..tokens {
                // SAFETY: rows of a tile are in no other tile, a tile is in one chunk, and each token comes once.
                let out = unsafe { product.out.slice((begin + t) * weight.rows() + first, rows) };
                let (whole, rest) = out.as_chunks_mut::<TILE_ROWS>();
                let mut own = sums[t..].iter().step_by(tokens);
                whole.iter_mut().zip(own.by_ref()).for_each(|(out, sums)| *out = *sums);
                rest.iter_mut().zip(own.flatten()).for_each(|(out, sum)| *out = *sum);
                if let Some(bias) = product.bias {
                    out.iter_mut().zip(&bias[first..]).for_each(|(out, bias)| *out += bias);
                }
            }
        }
    }

    /// Multiplies tiles by `tokens` rows of activations from `begin`; `sums` is `(tiles, tokens)`.
    fn multiply(
        &self,
        product: &Product<'_>,
        tiles: Range<usize>,
        begin: usize,
        tokens: usize,
        sums: &mut [[f32; TILE_ROWS]],
    ) {
        let weight = product.weight;
        match weight.layout() {
            Layout::F32 | Layout::F16 | Layout::Bf16 => {
                let x = &self.x[begin * weight.cols()..][..tokens * weight.cols()];
                for (tile, sums) in tiles.zip(sums.chunks_exact_mut(tokens)) {
                    self.float.run(weight, tile, sums, x);
                }
            }
            layout => {
                let x = self.quantized.expect("activations of a quantized weight are quantized");
                let len = weight.bytes().len() / product.tiles;
                let tiles = &weight.bytes()[tiles.start * len..tiles.end * len];
                self.q8.run(layout, sums, tiles, x.block(begin), tokens);
            }
        }
    }
}
