//! A drafter that proposes one token after another, resident beside its target.
//!
//! Its row of a position needs the token of the next one. So the row of a span's last position is made by the step, or the
//! proposal, behind it, of what the target gave there: the last rows of each slot are kept, as many as may be taken back.

use muse_format::{ChainDrafter, Drafter, Spec};
use muse_kernels::{Backend, BackendError, Pass, Span, Step};

use super::drafter::{Stepped, Target};
use super::loader::Loader;
use super::state::{Hidden, buffer};
use super::{DrafterWeights, State};
use crate::eval::top;
use crate::graph::{self, ChainRows};
use crate::plan::{CHAIN_KEPT, DrafterPlan, Plan};
use crate::{Draft, Mapped};

/// It on its target's backend.
pub(super) struct ChainModel<B: Backend> {
    spec: Spec,
    weights: DrafterWeights<B::Weight>,
    state: State<B>,
    pairs: B::Buffer, // (rows, 2, dim): a token's embedding and what was given in front of it, both normed
    /// Rows of a step; behind them [`Hidden`] has those that are kept.
    step_rows: u32,
    slots: Vec<Kept>,
    /// What kept rows turned by.
    turns: Vec<[u32; 3]>, // (slots, CHAIN_KEPT)
    rows: ChainRows,
    tokens: Vec<u32>, // (slots)
    /// What the head says in one pass.
    pass: Vec<f32>, // (slots, vocab)
}

/// Positions of a slot that what was given of them is kept of.
#[derive(Debug, Clone, Copy, Default)]
struct Kept {
    from: u32,
    end: u32,
}

impl Kept {
    fn has(self, position: u32) -> bool {
        (self.from..self.end).contains(&position)
    }

    /// What is kept once `span` was stepped.
    fn after(self, span: Span) -> Self {
        let goes_on = span.start <= self.end;
        let from = if goes_on { self.from.min(span.start) } else { span.start };
        let end = span.start + span.len;
        Self { from: from.max(end.saturating_sub(CHAIN_KEPT)), end }
    }
}

impl<B: Backend> ChainModel<B> {
    /// Makes the weights of `mapped` resident and allocates what `planned` of `plan` says. Gives with it where its target
    /// keeps what it reads.
    pub(super) fn new(
        mapped: &Mapped,
        drafter: &ChainDrafter,
        target: &Spec,
        backend: &mut B,
        plan: &Plan,
        planned: &DrafterPlan,
    ) -> Result<(Self, Hidden<B>), BackendError> {
        let spec = mapped.spec.clone();
        let weights = Loader { mapped, backend }.drafter(&spec, &Drafter::Chain(drafter.clone()))?;
        let (rows, slots) = (planned.rows as usize, plan.slots as usize);
        let axes = plan.vision.as_ref().and_then(|vision| vision.axes);
        let turned = if axes.is_some() { rows } else { 0 };
        let state = State {
            axes,
            turns: Vec::with_capacity(turned),
            ..State::of(backend, planned.buffers, &planned.caches, planned.rows)?
        };
        let hidden = Hidden { layers: Vec::new(), last: true, values: buffer(backend, planned.hidden)? };
        let model = Self {
            spec,
            weights,
            state,
            pairs: buffer(backend, planned.pairs)?,
            step_rows: plan.batch_tokens,
            slots: vec![Kept::default(); slots],
            turns: vec![[0; 3]; slots * CHAIN_KEPT as usize],
            rows: ChainRows::new(slots, slots),
            tokens: Vec::with_capacity(slots),
            pass: vec![0.0; slots * target.vocab as usize],
        };
        Ok((model, hidden))
    }

    /// The place among kept rows of a position of `slot`.
    fn place(slot: u32, position: u32) -> u32 {
        slot * CHAIN_KEPT + position % CHAIN_KEPT
    }

    pub(super) fn goes_on(&self, slot: u32, position: u32) -> bool {
        position.checked_sub(1).is_none_or(|before| self.slots[slot as usize].has(before))
    }

    /// See [`DrafterModel::lay_out`](super::DrafterModel::lay_out). A span whose first token follows a position of which nothing is
    /// kept leaves that position's row as it is: it is one that was read before.
    pub(super) fn lay_out(&mut self, spans: &[Span], turns: &[[u32; 3]], rows: &mut ChainRows) {
        rows.clear();
        self.state.turns.clear();
        // Where no row of a step turns by anything but its position, none in front of it does.
        let turned = !turns.is_empty();
        let mut row = 0;
        for span in spans {
            let Span { slot, start, len } = *span;
            let turn = |i: u32| {
                let of_position = [start + i; 3];
                turns.get((row + i) as usize).copied().unwrap_or(of_position)
            };
            let before = start.checked_sub(1).filter(|before| self.slots[slot as usize].has(*before));
            if let Some(before) = before {
                let place = Self::place(slot, before);
                rows.add(row, self.step_rows + place);
                self.state.turns.extend(turned.then(|| self.turns[place as usize]));
            }
            for i in 1..len {
                rows.add(row + i, row + i - 1);
                self.state.turns.extend(turned.then(|| turn(i - 1)));
            }
            rows.span(Span { slot, start: before.unwrap_or(start), len: len - u32::from(before.is_none()) });
            for i in len.saturating_sub(CHAIN_KEPT)..len {
                let place = Self::place(slot, start + i);
                rows.keep(row + i, self.step_rows + place);
                self.turns[place as usize] = turn(i);
            }
            self.slots[slot as usize] = self.slots[slot as usize].after(*span);
            row += len;
        }
    }

    /// Takes in the rows of a step, the first of `hidden`.
    pub(super) fn take_in(
        &mut self,
        backend: &mut B,
        target: Target<'_, B>,
        hidden: &mut B::Buffer,
        stepped: &Stepped<'_, B>,
    ) -> Result<(), BackendError> {
        let Self { spec, weights, state, pairs, .. } = self;
        let placed = (stepped.vectors, stepped.placed);
        graph::take_in_chain(
            backend,
            target,
            spec,
            weights,
            state,
            (pairs, hidden),
            stepped.tokens,
            placed,
            stepped.chain,
        )
    }

    /// As many passes as the longest of `drafts` has tokens, all of them in each; `head` takes the target's products.
    pub(super) fn draft(
        &mut self,
        backend: &mut B,
        target: Target<'_, B>,
        hidden: &B::Buffer,
        head: &mut B::Buffer,
        drafts: &[Draft],
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        self.rows.clear();
        self.tokens.clear();
        for draft @ Draft { slot, start, token, .. } in drafts {
            assert!(*start > 0 && self.goes_on(*slot, *start), "{draft:?} behind no step");
            self.rows.add(0, self.step_rows + Self::place(*slot, start - 1));
            self.tokens.push(*token);
        }
        let vocab = target.0.vocab as usize;
        let pass = drafts.len() * vocab;
        for step in 0..drafts.iter().map(|draft| draft.count).max().unwrap_or(0) {
            self.turn_drafts(drafts, step);
            let Self { spec, weights, state, pairs, rows, tokens, .. } = self;
            rows.spans.clear();
            let span = |draft: &Draft| Span { slot: draft.slot, start: draft.start - 1 + step, len: 1 };
            rows.spans.extend(drafts.iter().map(span));
            let (kind, given) =
                if step == 0 { (Pass::Propose, Some(hidden)) } else { (Pass::ProposeNext, None) };
            let (by_position, rows, own) = (state.turns.is_empty(), &*rows, tokens.as_slice());
            let mut operations = |backend: &mut B| {
                graph::propose_chain(backend, target, spec, weights, state, (pairs, given), rows, own, head)
            };
            if by_position {
                let (spans, lists) = ([rows.spans.as_slice()], [own, rows.given.as_slice()]);
                let step = Step { pass: kind, spans: &spans, lists: &lists, fixed: &[] };
                backend.step(&step, &mut operations)?;
            } else {
                operations(backend)?;
            }
            backend.read(head, &mut self.pass[..pass])?;
            let mut place = step as usize;
            for ((draft, row), token) in
                drafts.iter().zip(self.pass.chunks_exact(vocab)).zip(&mut self.tokens)
            {
                // Any token may be proposed, also where numbers were lost.
                *token = top(row).unwrap_or(0);
                if step < draft.count {
                    logits[place * vocab..][..vocab].copy_from_slice(row);
                }
                place += draft.count as usize;
            }
        }
        Ok(())
    }

    /// What the rows of pass `step` turn by: each as far behind the kept row as it lies, along all axes.
    fn turn_drafts(&mut self, drafts: &[Draft], step: u32) {
        self.state.turns.clear();
        if self.state.axes.is_none() {
            return;
        }
        let turn =
            |draft: &Draft| self.turns[Self::place(draft.slot, draft.start - 1) as usize].map(|at| at + step);
        let is_position = |draft: &Draft| turn(draft) == [draft.start - 1 + step; 3];
        if !drafts.iter().all(is_position) {
            self.state.turns.extend(drafts.iter().map(turn));
        }
    }
}
