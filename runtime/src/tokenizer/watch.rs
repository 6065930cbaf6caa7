//! The time that a text may take on its way to ids. What the library does in one go, a piece or a step over the whole text, is
//! a few seconds at most by the bounds of [`growth`](super::growth).

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

/// Steps between two looks at the clock. Most are far less than a microsecond; at worst one is a state of an automaton that has
/// to be made, of about a millisecond.
const STEPS: usize = 256;

/// Says when a text is given up. It is one thread's, but the library asks for more.
pub(super) struct Watch {
    end: Instant,
    steps: AtomicUsize,
    over: AtomicBool,
}

impl Watch {
    pub(super) fn new(end: Instant) -> Self {
        Self { end, steps: AtomicUsize::new(0), over: AtomicBool::new(false) }
    }

    /// Counts a step.
    ///
    /// # Errors
    /// Where the time is over.
    pub(super) fn step(&self) -> tokenizers::Result<()> {
        self.steps(1)
    }

    /// Counts `steps` in one go.
    ///
    /// # Errors
    /// Where the time is over.
    pub(super) fn steps(&self, steps: usize) -> tokenizers::Result<()> {
        let before = self.steps.load(Ordering::Relaxed);
        let after = before.wrapping_add(steps);
        self.steps.store(after, Ordering::Relaxed);
        if before / STEPS == after / STEPS { Ok(()) } else { self.look() }
    }

    /// Looks at the clock.
    ///
    /// # Errors
    /// Where the time is over.
    pub(super) fn look(&self) -> tokenizers::Result<()> {
        if self.is_over() || Instant::now() >= self.end {
            self.over.store(true, Ordering::Relaxed);
            return Err("its time is over".into());
        }
        Ok(())
    }

    /// Whether the text was given up.
    pub(super) fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}
