//! What a batch asks of the states: heads and spans side by side, rows one after another.

use super::{Columns, Delta, Row, gates};
use crate::cache::row_count;
use crate::cpu::CpuBackend;
use crate::cpu::pool::Pool;
use crate::delta::{COLUMNS, HostDeltaState, KEY_DIM_MAX, Stretch};
use crate::output::Output;
use crate::{DeltaShape, Span};

/// The rows of a batch, ready for [`Delta::run`].
struct Rows<'a> {
    /// `(rows, channels)`, queries and keys normalised.
    x: &'a [f32],
    /// How much of the state each row keeps: `(rows, value_heads)`
    decay: &'a [f32],
    /// How much each row changes it: `(rows, value_heads)`
    beta: &'a [f32],
}

/// Rows and the memory that they change.
struct Batch<'a> {
    delta: Delta,
    rows: &'a Rows<'a>,
    shape: DeltaShape,
    out: Output<'a, f32>,
    states: Output<'a, f32>,
    deltas: Output<'a, f32>,
    keys: &'a [f32],
    decays: &'a [f32],
}

impl CpuBackend {
    /// See [`crate::Backend::delta_rule`].
    pub(in crate::cpu) fn rule_of_rows(
        &mut self,
        out: &mut [f32],
        x: &mut [f32],
        [decay, beta]: [&mut [f32]; 2],
        rate: &[f32],
        state: &mut HostDeltaState,
        spans: &[Span],
    ) {
        let (shape, elementwise, rows) = (state.shape(), self.elementwise, row_count(spans));
        let (width, heads) = (shape.channels() as usize, shape.value_heads as usize);
        let stretches = state.stretches(spans);
        self.split(x, rows * width, width, |_, x| gates::normalise(elementwise, x, state));
        let (decay, beta) = (&mut decay[..rows * heads], &mut beta[..rows * heads]);
        gates::gates(decay, beta, rate);
        let rows = Rows { x, decay, beta };
        self.delta.run(&mut self.pool, out, &rows, state, &stretches);
        state.settle(&stretches, rows.x, rows.decay);
    }
}

impl Delta {
    /// Answers every row and takes in those that settle; `out` is `(rows, value_heads * value_dim)`.
    /// [`HostDeltaState::settle`] is to follow.
    fn run(
        self,
        pool: &mut Pool,
        out: &mut [f32],
        rows: &Rows<'_>,
        state: &mut HostDeltaState,
        stretches: &[Stretch],
    ) {
        let shape = state.shape();
        let heads = shape.value_heads as usize;
        let HostDeltaState { states, first, keys, deltas, decays, .. } = state;
        let batch = Batch {
            delta: self,
            rows,
            shape,
            out: Output::new(out),
            states: Output::new(&mut states[*first..]),
            deltas: Output::new(deltas),
            keys,
            decays,
        };
        let tiles = shape.columns() / COLUMNS;
        pool.run(stretches.len() * heads, &|chunk| {
            (0..tiles).for_each(|tile| batch.tile(&stretches[chunk / heads], chunk % heads, tile));
        });
    }
}

/// A copy of a tile that begins at a cache line, as tiles do.
#[repr(align(64))]
struct Aligned([Columns; KEY_DIM_MAX]);

impl Batch<'_> {
    /// Takes 32 columns of one head through the rows of a span. No two calls of a batch have the same slot, head and
    /// tile.
    fn tile(&self, stretch: &Stretch, head: usize, tile: usize) {
        let (heads, key_dim) = (self.shape.value_heads as usize, self.shape.key_dim as usize);
        let columns = self.shape.columns();
        let first = ((stretch.slot * heads + head) * columns / COLUMNS + tile) * key_dim * COLUMNS;
        // SAFETY: a slot is in one stretch (`HostDeltaState::stretches`), and each tile in one call.
        let state = unsafe { self.states.slice(first, key_dim * COLUMNS) }.as_chunks_mut::<COLUMNS>().0;
        let delta_of = |position: u32| {
            let open = self.shape.open_at(stretch.slot, position);
            // SAFETY: as above; a reference is gone before the next is made.
            let delta =
                unsafe { self.deltas.slice((open * heads + head) * columns + tile * COLUMNS, COLUMNS) };
            &mut delta.as_chunks_mut::<COLUMNS>().0[0]
        };
        if stretch.start == 0 {
            state.fill([0.0; COLUMNS]);
        }
        for position in stretch.settled..stretch.start {
            let open = self.shape.open_at(stretch.slot, position);
            let (key_head, width) = self.key_head(head);
            let k = &self.keys[open * width + key_head..][..key_dim];
            self.delta.take_in(state, k, self.decays[open * heads + head], delta_of(position));
        }
        for n in 0..stretch.settling {
            self.answer(state, stretch.row + n, head, tile);
        }
        if stretch.settling == stretch.len {
            return;
        }
        let mut open = Aligned([[0.0; COLUMNS]; KEY_DIM_MAX]);
        let open = &mut open.0[..key_dim];
        open.copy_from_slice(state);
        for n in stretch.settling..stretch.len {
            *delta_of(stretch.start + n as u32) = self.answer(open, stretch.row + n, head, tile);
        }
    }

    /// Where the keys of a value head begin among all, and how many numbers those are.
    fn key_head(&self, head: usize) -> (usize, usize) {
        let DeltaShape { key_heads, value_heads, key_dim, .. } = self.shape;
        let sharing = (value_heads / key_heads) as usize;
        (head / sharing * key_dim as usize, (key_heads * key_dim) as usize)
    }

    /// Takes row `row` into `state` and writes its answer; returns what was added along its key.
    fn answer(&self, state: &mut [Columns], row: usize, head: usize, tile: usize) -> Columns {
        let (heads, key_dim) = (self.shape.value_heads as usize, self.shape.key_dim as usize);
        let (width, channels) = (self.shape.value_dim as usize, self.shape.channels() as usize);
        let (key_head, keys) = self.key_head(head);
        let own = COLUMNS.min(width - tile * COLUMNS);
        let at = head * width + tile * COLUMNS;
        let x = &self.rows.x[row * channels..][..channels];
        let mut v = [0.0; COLUMNS];
        v[..own].copy_from_slice(&x[2 * keys + at..][..own]);
        let (q, k) = (&x[key_head..][..key_dim], &x[keys + key_head..][..key_dim]);
        let (decay, beta) = (self.rows.decay[row * heads + head], self.rows.beta[row * heads + head]);
        let step = self.delta.step(state, Row { q, k, v: &v, decay, beta });
        // SAFETY: a row is in one span; by `tile`'s contract nobody else has these columns.
        let out = unsafe { self.out.slice(row * heads * width + at, own) };
        out.copy_from_slice(&step.out[..own]);
        step.delta
    }
}
