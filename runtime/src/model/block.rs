//! A drafter that proposes blocks, resident beside its target.

use muse_format::{BlockDrafter, Drafter, Spec};
use muse_kernels::{Backend, BackendError, Pass, Span, Step};

use super::loader::Loader;
use super::state::{Hidden, buffer};
use super::{DrafterWeights, State, Weights};
use crate::plan::DrafterPlan;
use crate::{Draft, Mapped, graph};

/// It on its target's backend.
pub(super) struct BlockModel<B: Backend> {
    spec: Spec,
    drafter: BlockDrafter,
    weights: DrafterWeights<B::Weight>,
    state: State<B>,
    /// Most rows of one pass.
    rows: usize,
    spans: Vec<Span>,
    tokens: Vec<u32>, // (rows)
    wanted: Vec<u32>, // (rows)
}

impl<B: Backend> BlockModel<B> {
    /// Makes the weights of `mapped` resident and allocates what `plan` says; nothing is allocated after this. Gives with it
    /// where its target keeps what it reads.
    pub(super) fn new(
        mapped: &Mapped,
        drafter: &BlockDrafter,
        backend: &mut B,
        plan: &DrafterPlan,
    ) -> Result<(Self, Hidden<B>), BackendError> {
        let (spec, drafter) = (mapped.spec.clone(), drafter.clone());
        let weights = Loader { mapped, backend }.drafter(&spec, &Drafter::Block(drafter.clone()))?;
        let state = State::of(backend, plan.buffers, &plan.caches, plan.rows)?;
        let values = buffer(backend, plan.hidden)?;
        let hidden = Hidden { layers: drafter.reads.clone(), last: false, values };
        let rows = plan.rows as usize;
        let spans = Vec::with_capacity(rows / drafter.block as usize);
        let (tokens, wanted) = (Vec::with_capacity(rows), Vec::with_capacity(rows));
        Ok((Self { spec, drafter, weights, state, rows, spans, tokens, wanted }, hidden))
    }

    /// Of its layers that forget: how many positions a query sees at most, and how many of a ring are kept whatever a block
    /// behind them has written.
    pub(super) fn rings<'a>(
        &'a self,
        plan: &'a DrafterPlan,
        context: u32,
    ) -> impl Iterator<Item = (u32, u32)> + 'a {
        let layers = self.spec.layers.iter().zip(&plan.caches);
        let rings = layers.filter(move |(_, cache)| cache.capacity < context);
        rings.filter_map(|(layer, cache)| {
            let ring = cache.capacity.saturating_sub(self.drafter.block);
            Some((layer.attention()?.reach()?, ring))
        })
    }

    /// Takes in what the target made of the rows of `spans`.
    pub(super) fn take_in(
        &mut self,
        backend: &mut B,
        read: &B::Buffer,
        spans: &[Span],
    ) -> Result<(), BackendError> {
        graph::take_in(backend, &self.spec, &self.weights, &mut self.state, read, spans)
    }

    /// [`Engine::draft`](crate::Engine::draft), as many blocks at once as there are rows for; `head` takes the target's
    /// products, `(logit_rows, vocab)`.
    pub(super) fn draft(
        &mut self,
        backend: &mut B,
        target: (&Spec, &Weights<B::Weight>),
        head: &mut B::Buffer,
        drafts: &[Draft],
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        let Self { spec, drafter, weights, state, spans, tokens, wanted, .. } = self;
        let (block, vocab) = (drafter.block, target.0.vocab as usize);
        let mut left = logits;
        for drafts in drafts.chunks(self.rows / block as usize) {
            spans.clear();
            tokens.clear();
            wanted.clear();
            for Draft { slot, start, token, count } in drafts {
                let first = tokens.len() as u32;
                spans.push(Span { slot: *slot, start: *start, len: block });
                tokens.push(*token);
                tokens.resize((first + block) as usize, drafter.mask);
                wanted.extend(first + 1..=first + count);
            }
            let (spans, tokens, wanted) = (spans.as_slice(), tokens.as_slice(), wanted.as_slice());
            let (lists, fixed) = ([tokens], [wanted]);
            let step = Step { pass: Pass::Propose, spans: &[spans], lists: &lists, fixed: &fixed };
            backend.step(&step, &mut |backend| {
                graph::propose(backend, target, spec, weights, state, spans, tokens, wanted, head)
            })?;
            let (own, others) = left.split_at_mut(wanted.len() * vocab);
            backend.read(head, own)?;
            left = others;
        }
        Ok(())
    }
}
