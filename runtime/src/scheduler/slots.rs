//! Which session's keys and values each slot of an engine holds.

use super::media::Key;

/// A slot between or during answers.
#[derive(Debug, Default)]
struct Slot {
    /// The session whose tokens these are.
    owner: Option<u64>,
    /// What the cache holds; empty while an answer runs, which knows better.
    tokens: Vec<u32>,
    /// The media among them.
    media: Vec<Key>,
    /// Most positions held since the slot was last filled from position 0.
    most: u32,
    running: bool,
    /// Larger is later.
    used: u64,
}

/// A slot to run in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) slot: u32,
    /// What it still holds of the session.
    pub(super) tokens: Vec<u32>,
    /// The media among them.
    pub(super) media: Vec<Key>,
    /// Most positions it has held since it was last filled from position 0.
    pub(super) most: u32,
}

#[derive(Debug)]
pub(super) struct Slots {
    slots: Vec<Slot>,
    clock: u64,
}

impl Slots {
    pub(super) fn new(count: u32) -> Self {
        Self { slots: (0..count).map(|_| Slot::default()).collect(), clock: 0 }
    }

    /// A slot for `session`: its own, or a free one, or the idle one unused for longest. `None` where all are
    /// running.
    pub(super) fn take(&mut self, session: u64) -> Option<Taken> {
        let rank = |slot: &Slot| match slot.owner {
            Some(owner) if owner == session => (0, 0),
            None => (1, 0),
            Some(_) => (2, slot.used),
        };
        let idle = self.slots.iter_mut().zip(0u32..).filter(|(slot, _)| !slot.running);
        let (slot, index) = idle.min_by_key(|(slot, _)| rank(slot))?;
        if slot.owner != Some(session) {
            *slot = Slot { owner: Some(session), ..Slot::default() };
        }
        slot.running = true;
        let (tokens, media) = (std::mem::take(&mut slot.tokens), std::mem::take(&mut slot.media));
        Some(Taken { slot: index, tokens, media, most: slot.most })
    }

    /// The session's answer has ended; the slot holds `tokens`, `media` among them.
    pub(super) fn put_back(&mut self, index: u32, tokens: Vec<u32>, media: Vec<Key>, most: u32) {
        self.clock += 1;
        let slot = &mut self.slots[index as usize];
        assert!(slot.running && most as usize >= tokens.len());
        *slot = Slot { owner: slot.owner, tokens, media, most, running: false, used: self.clock };
    }

    /// Nobody's keys and values are in the slot any more.
    pub(super) fn free(&mut self, index: u32) {
        self.slots[index as usize] = Slot::default();
    }

    /// The session is gone; its running answer, if any, frees its slot itself.
    pub(super) fn forget(&mut self, session: u64) {
        for slot in &mut self.slots {
            if slot.owner == Some(session) && !slot.running {
                *slot = Slot::default();
            }
        }
    }
}
