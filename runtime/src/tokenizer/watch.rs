//! The time that a text may take on its way to ids.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Steps between two looks at the clock, each of about a millisecond at worst.
const STEPS: u32 = 256;

/// Says when a text is given up. It is one thread's, but the library asks for more.
pub(super) struct Watch {
    end: Instant,
    steps: AtomicU32,
    over: AtomicBool,
}

impl Watch {
    pub(super) fn new(time: Duration) -> Self {
        Self { end: Instant::now() + time, steps: AtomicU32::new(0), over: AtomicBool::new(false) }
    }

    /// Counts a step.
    ///
    /// # Errors
    /// Where the time is over.
    pub(super) fn step(&self) -> tokenizers::Result<()> {
        let steps = self.steps.load(Ordering::Relaxed).wrapping_add(1);
        self.steps.store(steps, Ordering::Relaxed);
        if steps.is_multiple_of(STEPS) { self.look() } else { Ok(()) }
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
