//! What is expected of the answer in one slot.

use super::block::Block;
use super::lookup::Lookup;
use super::speculate::{Proposer, Source};
use crate::ModelInfo;

/// By each source.
#[derive(Debug)]
pub(super) struct Expected {
    pub(super) lookup: Lookup,
    pub(super) block: Block,
}

impl Expected {
    /// Of answers of a model of `info`.
    pub(super) fn new(info: &ModelInfo) -> Self {
        let block = info.drafter.as_ref().map_or(0, |drafter| drafter.length_max());
        Self { lookup: Lookup::new(info.context), block: Block::new(block) }
    }

    /// Another answer, which has `tokens`.
    pub(super) fn restart(&mut self, tokens: &[u32]) {
        self.lookup.restart(tokens);
        self.block.restart(tokens);
    }

    pub(super) fn of(&self, source: Source) -> &dyn Proposer {
        match source {
            Source::Repeats => &self.lookup,
            Source::Drafter => &self.block,
        }
    }
}
