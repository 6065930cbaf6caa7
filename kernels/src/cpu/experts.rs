//! Mixture of experts: rows are sorted by the experts that they chose, so that each expert's weights are read once for
//! all of its rows, and those of experts that nobody chose are not touched.

use super::CpuBackend;
use crate::cache::zeroed;
use crate::routing::{Choice, choose};
use crate::{Backend, BackendError, ExpertsShape, Linear, Mixture};

/// Working memory, made at load for the largest batch.
#[derive(Default)]
pub(super) struct Scratch {
    /// `(rows, used)`
    chosen: Vec<Choice>,
    /// Where each expert's rows begin in `pairs`, and one more: `(experts + 1)`
    starts: Vec<u32>,
    /// Indices into `chosen`, by expert: `(rows * used)`
    pairs: Vec<u32>,
    /// Rows of `x` that chose one expert, together: `(rows, dim)`
    gathered: Vec<f32>,
    /// One for each expert of a single row; the first has room for all rows.
    hidden: Vec<Hidden>,
}

#[derive(Default)]
struct Hidden {
    gate: Vec<f32>, // (rows, ffn_dim)
    up: Vec<f32>,   // (rows, ffn_dim)
    down: Vec<f32>, // (rows, dim)
}

impl Hidden {
    fn new(rows: usize, shape: ExpertsShape) -> Result<Self, BackendError> {
        let inner = rows * shape.ffn_dim;
        Ok(Self { gate: zeroed(inner)?, up: zeroed(inner)?, down: zeroed(rows * shape.dim)? })
    }
}

impl Scratch {
    pub(super) fn new(rows: usize, shape: ExpertsShape) -> Result<Self, BackendError> {
        let all = Hidden::new(rows, shape);
        Ok(Self {
            chosen: zeroed(rows * shape.used)?,
            starts: zeroed(shape.count + 1)?,
            pairs: zeroed(rows * shape.used)?,
            gathered: zeroed(rows * shape.dim)?,
            hidden: std::iter::once(all)
                .chain((1..shape.used).map(|_| Hidden::new(1, shape)))
                .collect::<Result<_, _>>()?,
        })
    }

    /// Bytes that [`new`](Self::new) allocates.
    pub(super) fn bytes(rows: u64, shape: ExpertsShape) -> u64 {
        let [count, used, dim, ffn] =
            [shape.count, shape.used, shape.dim, shape.ffn_dim].map(|number| number as u64);
        let (choice, hidden) = (size_of::<Choice>() as u64, 4 * (2 * ffn + dim));
        rows * used * (choice + 4) + 4 * (count + 1) + 4 * rows * dim + (rows + used - 1) * hidden
    }

    /// Chooses the experts of every row and sorts the choices by expert.
    fn route(&mut self, logits: &[f32], mixture: &Mixture<'_, CpuBackend>) {
        let (count, used) = (mixture.experts.len(), mixture.used);
        let vectors = [mixture.choice_bias, mixture.scales].map(|vector| vector.map(|v| v.f32()));
        let chosen = &mut self.chosen[..logits.len() / count * used];
        for (chosen, logits) in chosen.chunks_exact_mut(used).zip(logits.chunks_exact(count)) {
            choose(chosen, logits, vectors, &mixture.routing);
        }
        let starts = &mut self.starts[..=count];
        starts.fill(0);
        chosen.iter().for_each(|choice| starts[choice.expert as usize + 1] += 1);
        (1..=count).for_each(|e| starts[e] += starts[e - 1]);
        // Each start moves up to its expert's end as pairs are put there; then all move down by one place.
        for (pair, choice) in chosen.iter().enumerate() {
            let at = &mut starts[choice.expert as usize];
            self.pairs[*at as usize] = pair as u32;
            *at += 1;
        }
        starts.rotate_right(1);
        starts[0] = 0;
    }
}

impl CpuBackend {
    /// See [`Backend::experts`]. Sums are taken in the order of experts, whatever the batch.
    pub(super) fn mixture(
        &mut self,
        scratch: &mut Scratch,
        out: &mut [f32],
        x: &Vec<f32>,
        logits: &[f32],
        mixture: &Mixture<'_, Self>,
    ) -> Result<(), BackendError> {
        scratch.route(logits, mixture);
        out.fill(0.0);
        let rows = logits.len() / mixture.experts.len();
        // One row's experts have one input, unless their weights are part of it.
        if rows == 1 && !mixture.routing.weigh_input {
            self.one_row(scratch, out, x, mixture)
        } else {
            self.by_expert(scratch, out, x, mixture)
        }
    }

    /// All experts of one row have one input: one dispatch covers their first two products.
    fn one_row(
        &mut self,
        scratch: &mut Scratch,
        out: &mut [f32],
        x: &Vec<f32>,
        mixture: &Mixture<'_, Self>,
    ) -> Result<(), BackendError> {
        let chosen = &scratch.chosen[..mixture.used];
        let expert = |choice: &Choice| &mixture.experts[choice.expert as usize];
        let mut products = Vec::with_capacity(2 * chosen.len());
        for (choice, hidden) in chosen.iter().zip(&mut scratch.hidden) {
            let Hidden { gate, up, .. } = hidden;
            products.push(Linear { out: gate, weight: &expert(choice).gate, bias: None });
            products.push(Linear { out: up, weight: &expert(choice).up, bias: None });
        }
        self.linear(x, 1, &mut products)?;
        for (choice, Hidden { gate, up, down }) in chosen.iter().zip(&mut scratch.hidden) {
            let expert = expert(choice);
            self.glu(gate, up, expert.gate.rows(), mixture.routing.activation)?;
            self.linear(gate, 1, &mut [Linear { out: down, weight: &expert.down, bias: None }])?;
            self.normed(down, 1, mixture)?;
            add_weighted(out, &down[..out.len()], choice.weight);
        }
        Ok(())
    }

    fn by_expert(
        &mut self,
        scratch: &mut Scratch,
        out: &mut [f32],
        x: &[f32],
        mixture: &Mixture<'_, Self>,
    ) -> Result<(), BackendError> {
        let Scratch { chosen, starts, pairs, gathered, hidden } = scratch;
        let Hidden { gate, up, down } = &mut hidden[0];
        let dim = mixture.experts[0].gate.cols();
        for (expert, ends) in mixture.experts.iter().zip(starts.windows(2)) {
            let own = &pairs[ends[0] as usize..ends[1] as usize];
            if own.is_empty() {
                continue;
            }
            let row = |pair: &u32| *pair as usize / mixture.used * dim;
            for (gathered, pair) in gathered.chunks_exact_mut(dim).zip(own) {
                gathered.copy_from_slice(&x[row(pair)..][..dim]);
                if mixture.routing.weigh_input {
                    let weight = chosen[*pair as usize].weight;
                    gathered.iter_mut().for_each(|x| *x *= weight);
                }
            }
            let mut products = [
                Linear { out: &mut *gate, weight: &expert.gate, bias: None },
                Linear { out: &mut *up, weight: &expert.up, bias: None },
            ];
            self.linear(gathered, own.len(), &mut products)?;
            self.glu(gate, up, own.len() * expert.gate.rows(), mixture.routing.activation)?;
            self.linear(
                gate,
                own.len(),
                &mut [Linear { out: &mut *down, weight: &expert.down, bias: None }],
            )?;
            self.normed(down, own.len(), mixture)?;
            for (down, pair) in down.chunks_exact(dim).zip(own) {
                let weight = if mixture.routing.weigh_input { 1.0 } else { chosen[*pair as usize].weight };
                add_weighted(&mut out[row(pair)..][..dim], down, weight);
            }
        }
        Ok(())
    }

    /// What an expert gives for `rows` rows, as [`Mixture::norm`] makes it.
    fn normed(
        &mut self,
        down: &mut Vec<f32>,
        rows: usize,
        mixture: &Mixture<'_, Self>,
    ) -> Result<(), BackendError> {
        let Some(norm) = &mixture.norm else { return Ok(()) };
        self.multiply(down, norm.scale, rows)?;
        self.rms_norm_in_place(down, norm.weight, rows, norm.eps)
    }
}

fn add_weighted(out: &mut [f32], x: &[f32], weight: f32) {
    out.iter_mut().zip(x).for_each(|(out, x)| *out += weight * x);
}
