//! The short convolution in front of the delta rule: every channel for itself, so threads share the channels.

use muse_format::Activation;

use super::elementwise::Elementwise;
use super::pool::Pool;
use super::{CpuBackend, WORTH_A_CHUNK};
use crate::Span;
use crate::delta::HostDeltaState;
use crate::output::Output;

/// Channels that stay in the first cache while all taps are added.
const PIECE: usize = 1024;
const ONES: [f32; PIECE] = [1.0; PIECE];

/// Channels `at..at + len` of a batch and of the inputs that a state keeps.
struct Channels<'a> {
    elementwise: Elementwise,
    weight: &'a [f32],
    taps: usize,
    ring: usize,
    width: usize,
    x: &'a Output<'a, f32>,
    inputs: &'a Output<'a, f32>,
    before: &'a Output<'a, f32>,
    at: usize,
    len: usize,
}

impl CpuBackend {
    /// See [`crate::Backend::convolve`].
    pub(super) fn convolve_rows(
        &mut self,
        x: &mut [f32],
        weight: &[f32],
        state: &mut HostDeltaState,
        spans: &[Span],
    ) {
        let shape = state.shape();
        let (taps, ring, width) = (shape.taps as usize, shape.ring(), shape.channels() as usize);
        assert_eq!(weight.len(), taps * width);
        let worth = x.len().div_ceil(WORTH_A_CHUNK).max(width.div_ceil(PIECE));
        let len = width.div_ceil(worth).next_multiple_of(16).min(PIECE);
        let (x, inputs, before) =
            (Output::new(x), Output::new(&mut state.inputs), Output::new(&mut state.before));
        let elementwise = self.elementwise;
        let pool: &mut Pool = &mut self.pool;
        pool.run(width.div_ceil(len), &|chunk| {
            let at = chunk * len;
            let len = len.min(width - at);
            let (x, inputs, before) = (&x, &inputs, &before);
            let channels = Channels { elementwise, weight, taps, ring, width, x, inputs, before, at, len };
            let mut row = 0;
            for span in spans {
                channels.span(*span, row);
                row += span.len as usize;
            }
        });
    }
}

impl Channels<'_> {
    /// The channels of one row of `rows`, `(any, width)`.
    fn of<'a>(&'a self, rows: &'a Output<'a, f32>, row: usize) -> &'a mut [f32] {
        // SAFETY: nobody else has these channels, and a caller drops a row before it asks for it again.
        unsafe { rows.slice(row * self.width + self.at, self.len) }
    }

    /// Convolves a span whose first row in the batch is `row`, the last row first: inputs are overwritten.
    fn span(&self, span: Span, row: usize) {
        let (start, len, history) = (span.start as usize, span.len as usize, self.taps - 1);
        let kept = |position: usize| span.slot as usize * self.ring + position % self.ring;
        // Inputs of the positions before the span, the last one last.
        for back in 1..=history.min(start) {
            self.of(self.before, history - back).copy_from_slice(self.of(self.inputs, kept(start - back)));
        }
        for i in len.saturating_sub(self.ring)..len {
            self.of(self.inputs, kept(start + i)).copy_from_slice(self.of(self.x, row + i));
        }
        for i in (0..len).rev() {
            let x = self.of(self.x, row + i);
            self.elementwise.multiply(x, self.tap(history));
            for back in 1..=history.min(start + i) {
                let input = match i.checked_sub(back) {
                    Some(earlier) => self.of(self.x, row + earlier),
                    None => self.of(self.before, history + i - back),
                };
                self.elementwise.add_products(x, self.tap(history - back), input);
            }
            self.elementwise.glu(x, &ONES[..self.len], Activation::Silu);
        }
    }

    fn tap(&self, tap: usize) -> &[f32] {
        &self.weight[tap * self.width + self.at..][..self.len]
    }
}
