//! What goes through the engine in one step.

use std::sync::Arc;

use muse_kernels::Span;

use super::answer::Seat;
use super::speculate::Proposal;
use crate::Medium;
use crate::engine::Placed;

/// An answer's part.
#[derive(Debug, Clone, Copy)]
pub(super) struct Share {
    /// The place in [`Resident`](super::resident::Resident)'s answers.
    pub(super) at: usize,
    pub(super) seat: Seat,
    /// Of its tokens that the model has not seen in this seat, as many as have rows.
    pub(super) len: u32,
    pub(super) proposal: Proposal,
}

/// One call of [`Engine::step`].
#[derive(Debug, Default)]
pub(super) struct Batch {
    pub(super) spans: Vec<Span>,
    pub(super) tokens: Vec<u32>,
    pub(super) wanted: Vec<u32>,
    /// Rows that are vectors of `medium`.
    pub(super) placed: Vec<Placed>,
    pub(super) medium: Option<Arc<Medium>>,
    /// What rows turn by, where not all do by their positions; else empty.
    pub(super) turns: Vec<[u32; 3]>,
    /// One for each span.
    pub(super) entries: Vec<Entry>,
}

#[derive(Debug)]
pub(super) struct Entry {
    /// The place in [`Resident`](super::resident::Resident)'s answers.
    pub(super) at: usize,
    /// Proposed tokens at the end of the span.
    pub(super) proposed: u32,
    /// Rows of logits: none where the span does not reach the end of the answer's tokens, else one and one more
    /// for each proposed token.
    pub(super) wanted: u32,
}
