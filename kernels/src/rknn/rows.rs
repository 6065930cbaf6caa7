//! Activations as the left operand: 8 bits a number, each row with a scale of its own.
//!
//! One scale for thousands of numbers is coarse where one of them is far larger than the rest, as in a few tokens of most
//! models (Sun et al. 2024, <https://arxiv.org/abs/2402.17762>). What rounding leaves of such a row is a row of a second
//! operand, in 254ths of the first's steps, so that it has 15 bits.

use std::ops::Range;

use crate::cpu::Pool;
use crate::output::Output;
use crate::reference::TINY;

/// Columns that lie beside each other for one row; the rows' pieces follow one another.
pub(super) const PIECE: usize = 16;

/// A row whose largest magnitude is so many times the root of its mean square is left to 15 bits.
const FAR: f32 = 8.0;

/// Steps of what rounding leaves, in one step of a row.
pub(super) const FINE: f32 = 254.0;

/// Rows that a thread takes at a time.
const BLOCK: usize = 16;

/// How the rows of an operand were rounded.
#[derive(Debug, Default)]
pub(super) struct Scales {
    /// The step of each row.
    pub(super) steps: Vec<f32>,
    /// The row's number in the second operand.
    pub(super) rest: Vec<Option<usize>>,
    /// How many rows that has.
    pub(super) left: usize,
}

impl Scales {
    pub(super) fn reserve(&mut self, rows: usize) {
        if self.steps.len() < rows {
            self.steps.resize(rows, 0.0);
            self.rest.resize(rows, None);
        }
    }

    /// Finds the scales of the columns `cols` of `x`, rows of `width`.
    pub(super) fn find(&mut self, pool: &mut Pool, x: &[f32], width: usize, cols: Range<usize>) {
        let rows = x.len() / width;
        self.reserve(rows);
        let (steps, far) = (Output::new(&mut self.steps), Output::new(&mut self.rest));
        pool.run(rows.div_ceil(BLOCK), &|block| {
            let first = block * BLOCK;
            let own = BLOCK.min(rows - first);
            // SAFETY: blocks of different chunks do not meet, and each chunk comes once.
            let (steps, far) = unsafe { (steps.slice(first, own), far.slice(first, own)) };
            for (row, (step, far)) in (first..).zip(steps.iter_mut().zip(far)) {
                let x = &x[row * width..][cols.clone()];
                // As unsigned integers, the bits of magnitudes order like the magnitudes, NaN last.
                let max = f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0));
                let (pieces, rest) = x.as_chunks::<PIECE>();
                let mut squares = [0.0; PIECE];
                for piece in pieces {
                    squares.iter_mut().zip(piece).for_each(|(sum, x)| *sum += x * x);
                }
                let all = squares.into_iter().chain(rest.iter().map(|x| x * x)).sum::<f32>();
                let mean = all / x.len() as f32;
                *step = if max < TINY { 0.0 } else { max / 127.0 };
                *far = (max > FAR * mean.sqrt()).then_some(0);
            }
        });
        self.left = 0;
        for far in self.rest[..rows].iter_mut().flatten() {
            *far = self.left;
            self.left += 1;
        }
    }

    /// Writes the columns `cols` of `x` to the operands, `(k / 16, m, 16)` each with its `m`, as [`find`](Self::find) found
    /// them. Columns from `cols` to `k` are zero; rows that are not there are left as they are.
    pub(super) fn write(
        &self,
        pool: &mut Pool,
        x: &[f32],
        width: usize,
        cols: Range<usize>,
        operands: [(&mut [i8], usize); 2],
    ) {
        let rows = x.len() / width;
        let [m, rest_m] = [operands[0].1, operands[1].1];
        let k = operands[0].0.len() / m;
        assert!(rows <= m && self.left <= rest_m && cols.len() <= k && operands[1].0.len() == k * rest_m);
        let [whole, rest] = operands.map(|(out, _)| Output::new(out));
        pool.run(rows.div_ceil(BLOCK), &|block| {
            for row in block * BLOCK..rows.min((block + 1) * BLOCK) {
                let x = &x[row * width..][cols.clone()];
                let inverse = if self.steps[row] > 0.0 { 1.0 / self.steps[row] } else { 0.0 };
                for piece in 0..k / PIECE {
                    let (own, left) = round(x, piece, inverse);
                    // SAFETY: each row has its own place in both operands, and is in one chunk.
                    unsafe {
                        whole.slice((piece * m + row) * PIECE, PIECE).copy_from_slice(&own);
                        if let Some(row) = self.rest[row] {
                            rest.slice((piece * rest_m + row) * PIECE, PIECE).copy_from_slice(&left);
                        }
                    }
                }
            }
        });
    }
}

/// Piece number `piece` of a row in steps, and what that leaves in 254ths; zero past its end.
fn round(x: &[f32], piece: usize, inverse: f32) -> ([i8; PIECE], [i8; PIECE]) {
    let mut own = [0.0; PIECE];
    let x = x.get(piece * PIECE..).unwrap_or_default();
    let len = x.len().min(PIECE);
    own[..len].copy_from_slice(&x[..len]);
    let scaled = own.map(|x| x * inverse);
    let whole = scaled.map(f32::round_ties_even);
    let rest = std::array::from_fn(|i| ((scaled[i] - whole[i]) * FINE).round_ties_even() as i8);
    (whole.map(|x| x as i8), rest)
}
