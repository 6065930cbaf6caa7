//! What proposes tokens beside a model: whether a file can, and how it is asked.

use muse_format::{Drafter, Spec};

use crate::{LoadError, Mapped};

/// What callers may know of what drafts for a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrafterInfo {
    /// [`Spec::family`] of its file.
    pub family: String,
    /// Positions of a proposal, its last known token's included: it is asked only where so many are left of the context.
    pub block: u32,
    /// Whether each token takes a pass of its own, and not all of a block the same one.
    pub chain: bool,
}

impl DrafterInfo {
    pub(crate) fn of(spec: &Spec) -> Option<Self> {
        let drafter = spec.drafter.as_ref()?;
        let chain = matches!(drafter, Drafter::Chain(_));
        Some(Self { family: spec.family.clone(), block: drafter.block(), chain })
    }

    /// Most tokens that it proposes at once.
    pub fn length_max(&self) -> u32 {
        self.block - 1
    }
}

/// What a drafter is asked for: the tokens behind `token`, which is the one at `start` of a slot whose positions before
/// that were stepped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draft {
    pub slot: u32,
    pub start: u32,
    pub token: u32,
    /// How many, 1 to [`DrafterInfo::length_max`].
    pub count: u32,
}

/// Whether `drafter` proposes tokens of `target`.
///
/// # Errors
/// [`LoadError::NotADrafter`], [`LoadError::DrafterFits`] with what both say, or [`LoadError::DrafterOfAnother`].
pub(crate) fn check(target: &Mapped, drafter: &Mapped) -> Result<(), LoadError> {
    let not = || LoadError::NotADrafter { path: drafter.path.clone(), family: drafter.spec.family.clone() };
    let reads = drafter.spec.drafter.as_ref().ok_or_else(not)?.reads();
    let (own, theirs) = (&drafter.spec, &target.spec);
    if theirs.embedding.is_some() {
        return Err(LoadError::NothingToDraft { path: target.path.clone() });
    }
    let fits = |what, wanted: u32, has: u32, fits: bool| {
        let paths = (drafter.path.clone(), target.path.clone());
        let refusal = || LoadError::DrafterFits { drafter: paths.0, target: paths.1, what, wanted, has };
        if fits { Ok(()) } else { Err(refusal()) }
    };
    fits("rows of a width of", own.dim, theirs.dim, own.dim == theirs.dim)?;
    fits("a vocabulary of at least", own.vocab, theirs.vocab, own.vocab <= theirs.vocab)?;
    let weights = [drafter, target].map(|file| file.provenance.weights.as_ref());
    if let [Some(own), Some(theirs)] = weights
        && own != theirs
    {
        let (drafter, target) = (drafter.path.clone(), target.path.clone());
        return Err(LoadError::DrafterOfAnother { drafter, target });
    }
    // Behind the last layer there are rows only where logits are wanted.
    let Some(last) = reads.iter().max().copied() else { return Ok(()) };
    let layers = theirs.layers.len() as u32;
    fits("layers of at least", last.saturating_add(2), layers, last.saturating_add(1) < layers)
}
