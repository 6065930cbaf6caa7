//! Experts that stay in the file: which are asked for, and when.
//!
//! The kernel's page cache holds what was read and decides what to drop; nothing is copied. What it lacks is foresight:
//! experts lie apart, so reading ahead on a fault brings in neighbours that nobody chose, and one fault waits for the
//! next. So the experts of a layer are asked for as soon as its router has chosen them, all at once, before the first is
//! multiplied.
//!
//! What did not pay, measured where the file is two and three times the memory (EPYC, 2 cores, a disk of 1.5 to 3 GB/s,
//! random weights): not asking for experts that were asked for lately, whether or not the oldest of these are dropped on
//! purpose (the kernel had dropped some, and a fault reads 8 MiB there), and asking for the next layer's by applying its
//! router to the residual stream before this layer's experts (60% of the guesses were right, and 70% more was read).

use std::ops::Range;

use muse_format::Spec;
use muse_kernels::{Backend, BackendError, Chooser, Tensor};

use crate::graph::routing;
use crate::plan::{EXPERT_PARTS, Plan, expert_tensor};
use crate::weights::{Mapped, Pages};

/// A layer that has experts.
struct Mixture {
    /// Index of its first expert among those of all layers.
    first: usize,
    count: usize,
    bias: Option<Tensor>,
    chooser: Chooser,
}

/// The experts of a model that stay in its file.
pub(crate) struct Flash {
    pages: Pages,
    layers: Vec<Option<Mixture>>,
    /// Where the matrices of each expert of all layers lie.
    extents: Vec<[Range<usize>; 3]>,
    /// The most bytes that are asked for at once.
    hot_bytes: u64,
    /// Products of a router: (rows, experts)
    scores: Vec<f32>,
    /// Of the experts of one layer, whether any row chose it.
    chosen: Vec<bool>,
}

impl Flash {
    /// Of the model in `mapped`, where `plan` leaves its experts in the file.
    ///
    /// # Errors
    /// [`BackendError::Tensor`] where a tensor that the spec names is missing.
    pub fn new(mapped: &Mapped, plan: &Plan) -> Result<Option<Self>, BackendError> {
        let Some(on_flash) = plan.experts_on_flash else { return Ok(None) };
        let layers = &mapped.spec.layers;
        let all = layers.iter().filter_map(|layer| Some(layer.experts.as_ref()?.count as usize)).sum();
        let (mut layers, mut extents) = (Vec::with_capacity(layers.len()), Vec::with_capacity(all));
        for (i, layer) in mapped.spec.layers.iter().enumerate() {
            let Some(experts) = &layer.experts else {
                layers.push(None);
                continue;
            };
            let (first, count) = (extents.len(), experts.count as usize);
            for expert in 0..experts.count {
                let extent = |part: &str| {
                    let name = expert_tensor(i, expert, part);
                    let missing = || BackendError::Tensor { problem: format!("{name}: missing") };
                    mapped.extent(&name).ok_or_else(missing)
                };
                let [gate, up, down] = EXPERT_PARTS.map(extent);
                extents.push([gate?, up?, down?]);
            }
            let bias = match experts.choice_bias {
                false => None,
                true => Some(mapped.tensor(&format!("l{i}.experts.choice_bias"), 1, experts.count)?),
            };
            let chooser = Chooser::new(experts.used as usize, routing(experts));
            layers.push(Some(Mixture { first, count, bias, chooser }));
        }
        let (rows, widest) = (plan.batch_tokens as usize, widest(&mapped.spec));
        Ok(Some(Self {
            pages: mapped.pages(),
            layers,
            extents,
            hot_bytes: on_flash.hot_bytes,
            scores: vec![0.0; rows * widest],
            chosen: vec![false; widest],
        }))
    }

    /// Bytes that [`new`](Self::new) allocates for batches of `rows`, a few for each layer aside.
    pub fn bytes(spec: &Spec, rows: u32) -> u64 {
        let mixtures = spec.layers.iter().filter_map(|layer| layer.experts.as_ref());
        let all: u64 = mixtures.map(|experts| u64::from(experts.count)).sum();
        all * size_of::<[Range<usize>; 3]>() as u64 + widest(spec) as u64 * (4 * u64::from(rows) + 1)
    }

    /// Asks for the experts of layer `index` that `rows` rows choose by `scores`, `(rows, experts)`, what its router gave.
    ///
    /// # Errors
    /// What reading `scores` gives.
    pub fn ask<B: Backend>(
        &mut self,
        backend: &mut B,
        index: usize,
        scores: &B::Buffer,
        rows: usize,
    ) -> Result<(), BackendError> {
        let Some(mixture) = &mut self.layers[index] else { return Ok(()) };
        let (scores_read, chosen) =
            (&mut self.scores[..rows * mixture.count], &mut self.chosen[..mixture.count]);
        backend.read(scores, scores_read)?;
        chosen.fill(false);
        mixture.chooser.mark(chosen, scores_read, mixture.bias.as_ref().map(Tensor::f32));
        // A batch that chooses more than there is room for would push the first out before it is multiplied.
        let mut left = self.hot_bytes;
        for expert in (0..mixture.count).filter(|expert| chosen[*expert]) {
            for extent in &self.extents[mixture.first + expert] {
                let Some(after) = left.checked_sub(extent.len() as u64) else { return Ok(()) };
                left = after;
                self.pages.want(extent);
            }
        }
        Ok(())
    }
}

/// The most experts of any layer.
fn widest(spec: &Spec) -> usize {
    let counts = spec.layers.iter().filter_map(|layer| Some(layer.experts.as_ref()?.count as usize));
    counts.max().unwrap_or(0)
}
