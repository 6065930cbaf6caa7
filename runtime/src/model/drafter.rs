//! A drafter of either kind, resident beside its target.

use muse_format::{Drafter, Spec};
use muse_kernels::{Backend, BackendError, Span};

use super::Weights;
use super::block::BlockModel;
use super::chain::ChainModel;
use super::state::Hidden;
use crate::engine::Placed;
use crate::graph::ChainRows;
use crate::plan::Plan;
use crate::{Draft, DrafterInfo, Mapped};

/// What a drafter may read of a step.
pub(super) struct Stepped<'a, B: Backend> {
    pub spans: &'a [Span],
    /// As the target embedded them.
    pub tokens: &'a [u32],
    /// What took the place of tokens.
    pub vectors: Option<&'a B::Buffer>,
    pub placed: &'a [Placed],
    /// What a chain's drafter takes in: [`DrafterModel::lay_out`].
    pub chain: &'a ChainRows,
}

/// A target's spec and weights.
pub(super) type Target<'a, B> = (&'a Spec, &'a Weights<<B as Backend>::Weight>);

/// A drafter on its target's backend.
pub(super) enum DrafterModel<B: Backend> {
    Block(BlockModel<B>),
    Chain(ChainModel<B>),
}

impl<B: Backend> DrafterModel<B> {
    /// Makes the weights of `mapped` resident and allocates what `plan`, the target's, says; nothing is allocated after
    /// this. Gives with it where its target keeps what it reads. None where `plan` has none.
    pub(super) fn new(
        mapped: &Mapped,
        target: &Spec,
        backend: &mut B,
        plan: &Plan,
    ) -> Result<Option<(Self, Hidden<B>)>, BackendError> {
        let Some(planned) = &plan.drafter else { return Ok(None) };
        let made = match mapped.spec.drafter.as_ref().expect("`Mapped::with_drafter` asks") {
            Drafter::Block(block) => {
                let (model, hidden) = BlockModel::new(mapped, block, backend, planned)?;
                (Self::Block(model), hidden)
            }
            Drafter::Chain(chain) => {
                let (model, hidden) = ChainModel::new(mapped, chain, target, backend, plan, planned)?;
                (Self::Chain(model), hidden)
            }
        };
        Ok(Some(made))
    }

    /// Says in `rows` which rows a chain's drafter takes in of a step of `spans` before that runs. `turns` are what its rows turn by;
    /// empty where all turn by their positions.
    pub(super) fn lay_out(&mut self, spans: &[Span], turns: &[[u32; 3]], rows: &mut ChainRows) {
        match self {
            Self::Block(_) => {}
            Self::Chain(model) => model.lay_out(spans, turns, rows),
        }
    }

    /// Takes in what the target made of the rows of a step, which `hidden` holds.
    pub(super) fn take_in(
        &mut self,
        backend: &mut B,
        target: Target<'_, B>,
        hidden: &mut Hidden<B>,
        stepped: &Stepped<'_, B>,
    ) -> Result<(), BackendError> {
        match self {
            Self::Block(model) => model.take_in(backend, &hidden.values, stepped.spans),
            Self::Chain(model) => model.take_in(backend, target, &mut hidden.values, stepped),
        }
    }

    /// [`Engine::draft`](crate::Engine::draft); `head` takes the target's products, `(logit_rows, vocab)`.
    pub(super) fn draft(
        &mut self,
        backend: &mut B,
        target: Target<'_, B>,
        hidden: &Hidden<B>,
        head: &mut B::Buffer,
        drafts: &[Draft],
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        match self {
            Self::Block(model) => model.draft(backend, target, head, drafts, logits),
            Self::Chain(model) => model.draft(backend, target, &hidden.values, head, drafts, logits),
        }
    }

    /// Whether a span of `slot` may start at `position` with nothing lost of what the drafter keeps of its target's rows.
    pub(super) fn goes_on(&self, slot: u32, position: u32) -> bool {
        match self {
            Self::Block(_) => true,
            Self::Chain(model) => model.goes_on(slot, position),
        }
    }
}

/// Panics where a caller broke the contract of [`Engine::draft`](crate::Engine::draft).
pub(super) fn check(drafter: &DrafterInfo, drafts: &[Draft], slots: u32, context: u32) {
    for draft in drafts {
        let Draft { slot, start, count, .. } = *draft;
        let end = u64::from(start) + u64::from(drafter.block);
        assert!(slot < slots && end <= u64::from(context), "{draft:?} in a context of {context}");
        assert!((1..=drafter.length_max()).contains(&count), "{draft:?}");
    }
}
