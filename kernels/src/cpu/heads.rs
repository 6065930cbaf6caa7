//! A matrix for each head: inputs are brought together by head, so that each head's product is one of several rows.

use muse_format::TILE_ROWS;

use super::CpuBackend;
use super::quantize::{self, BLOCK};
use crate::cache::zeroed;
use crate::output::Output;
use crate::{BackendError, HeadsShape, Tensor};

/// Most tokens whose inputs are brought together at once.
const TOKENS: usize = 64;
/// Chunks for each thread.
const CHUNKS_A_THREAD: usize = 8;
/// Bytes of weights times tokens that make a chunk worth claiming.
const WORTH_A_CHUNK: usize = 64 * 1024;

/// Working memory, made at load for the largest batch.
#[derive(Default)]
pub(super) struct Scratch {
    gathered: Vec<f32>, // (heads, apart(tokens), cols)
    quantized: quantize::Scratch,
}

/// Rows from one head's inputs to the next's: whole blocks, or one.
fn apart(tokens: usize) -> usize {
    if tokens == 1 { 1 } else { tokens.next_multiple_of(BLOCK) }
}

/// Rows of `gathered` for batches of `tokens`.
fn rows(tokens: usize, heads: usize) -> usize {
    heads * apart(tokens.min(TOKENS))
}

impl Scratch {
    pub(super) fn new(tokens: usize, shape: HeadsShape) -> Result<Self, BackendError> {
        let rows = rows(tokens, shape.heads);
        let mut quantized = quantize::Scratch::default();
        quantized.reserve(rows, shape.cols);
        Ok(Self { gathered: zeroed(rows * shape.cols)?, quantized })
    }

    /// Bytes that [`new`](Self::new) allocates.
    pub(super) fn bytes(tokens: u64, shape: HeadsShape) -> u64 {
        let (rows, cols) = (rows(tokens as usize, shape.heads) as u64, shape.cols as u64);
        4 * rows * cols + quantize::scratch_bytes(rows, cols)
    }
}

impl CpuBackend {
    /// See [`crate::Backend::linear_heads`].
    pub(super) fn per_head(
        &mut self,
        out: &mut [f32],
        x: &[f32],
        tokens: usize,
        weight: &Tensor,
        shape: HeadsShape,
    ) {
        let HeadsShape { heads, cols: stride } = shape;
        let (rows, cols) = (weight.rows() / heads, weight.cols());
        assert!(weight.rows().is_multiple_of(heads) && cols <= stride);
        let mut scratch = std::mem::take(&mut self.heads);
        for begin in (0..tokens).step_by(TOKENS) {
            let tokens = TOKENS.min(tokens - begin);
            let x = &x[begin * heads * stride..][..tokens * heads * stride];
            let out = &mut out[begin * heads * rows..][..tokens * heads * rows];
            self.some_tokens(&mut scratch, out, x, weight, shape);
        }
        self.heads = scratch;
    }

    /// [`per_head`](Self::per_head) of at most [`TOKENS`].
    fn some_tokens(
        &mut self,
        scratch: &mut Scratch,
        out: &mut [f32],
        x: &[f32],
        weight: &Tensor,
        shape: HeadsShape,
    ) {
        let HeadsShape { heads, cols: stride } = shape;
        let (rows, cols) = (weight.rows() / heads, weight.cols());
        let tokens = x.len() / (heads * stride);
        let apart = apart(tokens);
        let Scratch { gathered, quantized } = scratch;
        let gathered = &mut gathered[..heads * apart * cols];
        self.split(gathered, heads * apart * cols, cols, |at, gathered| {
            for (row, gathered) in (at / cols..).zip(gathered.chunks_exact_mut(cols)) {
                let (head, token) = (row / apart, row % apart);
                match token < tokens {
                    true => gathered.copy_from_slice(&x[(token * heads + head) * stride..][..cols]),
                    false => gathered.fill(0.0),
                }
            }
        });
        let (q8, float) = (self.multiply.q8, self.multiply.float);
        let quantized = weight.layout().is_quantized().then(|| {
            self.multiply.quantize.run(&mut self.pool, quantized, gathered, cols);
            quantized.view(heads * apart, cols)
        });
        let (gathered, out) = (&*gathered, Output::new(out));
        let tile_bytes = weight.bytes().len() / weight.rows().div_ceil(TILE_ROWS);
        // A tile whose rows are of two heads is multiplied for each of them.
        let tiles = |head: usize| head * rows / TILE_ROWS..((head + 1) * rows).div_ceil(TILE_ROWS);
        let each = rows.div_ceil(TILE_ROWS) + 1;
        let worth = (weight.bytes().len() * tokens).div_ceil(WORTH_A_CHUNK);
        let units = heads * each;
        let chunks = worth.min(self.pool.threads() * CHUNKS_A_THREAD).clamp(1, units);
        self.pool.run(chunks, &|chunk| {
            let mut sums = [[0.0; TILE_ROWS]; BLOCK];
            for unit in chunk * units / chunks..(chunk + 1) * units / chunks {
                let head = unit / each;
                let Some(tile) = tiles(head).nth(unit % each) else { continue };
                let own =
                    (head * rows).max(tile * TILE_ROWS)..((head + 1) * rows).min((tile + 1) * TILE_ROWS);
                for first in (0..tokens).step_by(BLOCK) {
                    let sums = &mut sums[..BLOCK.min(tokens - first)];
                    let row = head * apart + first;
                    match quantized {
                        None => float.run(weight, tile, sums, &gathered[row * cols..][..sums.len() * cols]),
                        Some(x) => {
                            let x = x.block(row / BLOCK * BLOCK).rows(row % BLOCK, sums.len());
                            let tile = &weight.bytes()[tile * tile_bytes..][..tile_bytes];
                            let rows = sums.len();
                            q8.run(weight.layout(), sums, tile, x, rows);
                        }
                    }
                    for (token, sums) in (first..).zip(sums) {
                        // SAFETY: a head's part of a tile is in one chunk, and each token comes once.
                        let out = unsafe { out.slice(token * heads * rows + own.start, own.len()) };
                        out.copy_from_slice(&sums[own.start % TILE_ROWS..][..own.len()]);
                    }
                }
            }
        });
    }
}
