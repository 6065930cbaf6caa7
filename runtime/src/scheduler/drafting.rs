//! How long a drafter's proposals take, as its own have taken.

use std::time::Duration;

use super::costs::Costs;

/// Times of a drafter.
#[derive(Debug)]
pub(super) struct Drafting {
    /// Of one pass, by the answers that it is for.
    passes: Costs,
    /// Whether each token takes a pass, see [`DrafterInfo::chain`](crate::DrafterInfo::chain).
    chain: bool,
}

impl Drafting {
    /// For up to `answers` answers at once.
    pub(super) fn new(answers: u32, chain: bool) -> Self {
        Self { passes: Costs::new(answers), chain }
    }

    fn passes(&self, tokens: u32) -> u32 {
        if self.chain { tokens } else { 1 }
    }

    /// Proposals for `answers`, the longest of `tokens`, took `time`.
    pub(super) fn note(&mut self, answers: u32, tokens: u32, time: Duration) {
        self.passes.note(answers, time / self.passes(tokens).max(1));
    }

    /// Seconds of such proposals. Where none was seen yet, one is to be.
    pub(super) fn expect(&self, answers: u32, tokens: u32) -> f64 {
        f64::from(self.passes(tokens)) * self.passes.about(answers).unwrap_or(0.0)
    }
}
