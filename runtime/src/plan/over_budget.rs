//! What is said of a model that does not fit.

use std::fmt;

use super::mib;

/// A model that does not fit, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverBudget {
    pub weight_bytes: u64,
    pub cache_bytes: u64,
    pub buffer_bytes: u64,
    pub budget_bytes: u64,
    pub context: u32,
    pub slots: u32,
    /// The longest context with which it would fit.
    pub context_that_fits: Option<u32>,
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.weight_bytes, self.cache_bytes, self.buffer_bytes];
        let total = parts.iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        let [weights, cache, buffers] = parts.map(mib);
        write!(
            f,
            "it takes {:.0} MiB (weights {weights:.0}, cache {cache:.0} for {} slots of {} positions, buffers \
             {buffers:.0}) and the budget is {:.0} MiB: ",
            mib(total),
            self.slots,
            self.context,
            mib(self.budget_bytes)
        )?;
        match self.context_that_fits {
            Some(context) => write!(f, "a context of {context} fits, or take fewer slots"),
            None => write!(f, "no context fits; take fewer slots or a file with fewer bits a weight"),
        }
    }
}
