//! Where recurrent states are in their sequences, and what they can go on from.
//!
//! A state goes on from its end, or from one of the rows of its last step that it can still take back. The one before an
//! answer is remembered as well: the next prompt of a conversation often has another text in the answer's place, as
//! where a template drops what the model thought.

use muse_kernels::{Held, Span};

/// What happens to a slot's states before a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    Remember(u32),
    Recall(u32),
}

/// The states of every slot.
pub(super) struct Recurrent {
    slots: Vec<Slot>,
    /// Rows at the end of a step that can be taken back.
    undo: u32,
}

#[derive(Debug, Clone, Copy, Default)]
struct Slot {
    held: Held,
    remembered: Held,
    /// Whether the last step was of a prompt: it had rows whose logits nobody wanted.
    reads: bool,
}

impl Recurrent {
    pub(super) fn new(slots: u32, undo: u32) -> Self {
        Self { slots: vec![Slot::default(); slots as usize], undo }
    }

    /// Whether a span of `slot` may start at `position`.
    pub(super) fn reaches(&self, slot: u32, position: u32) -> bool {
        let slot = &self.slots[slot as usize];
        slot.held.reaches(position) || slot.remembered.reaches(position)
    }

    /// The longest part of the first `len` positions of `slot` that a span may go on from.
    pub(super) fn longest(&self, slot: u32, len: u32) -> u32 {
        let ends = [len, self.slots[slot as usize].remembered.end().min(len)];
        ends.into_iter().find(|end| self.reaches(slot, *end)).unwrap_or(0)
    }

    /// What to do before a step. `wanted` are rows of the batch, ascending. Until [`after`](Self::after) is called,
    /// the slots have nothing to go on from.
    pub(super) fn before(&mut self, spans: &[Span], wanted: &[u32]) -> Vec<Move> {
        let mut moves = Vec::new();
        let mut row = 0;
        for span in spans {
            let rows = row..row + span.len;
            row = rows.end;
            let reads = wanted.iter().filter(|row| rows.contains(row)).count() < span.len as usize;
            let slot = &mut self.slots[span.slot as usize];
            if !slot.held.reaches(span.start) {
                moves.push(Move::Recall(span.slot));
            } else if slot.reads && !reads && span.start > 0 {
                moves.push(Move::Remember(span.slot));
                slot.remembered = slot.held;
            }
            // What comes now is in the place of what was remembered behind it.
            slot.remembered = slot.remembered.up_to(span.start);
            (slot.held, slot.reads) = (Held::default(), reads);
        }
        moves
    }

    /// The step of `spans` is done.
    pub(super) fn after(&mut self, spans: &[Span]) {
        for span in spans {
            self.slots[span.slot as usize].held = Held::after(*span, self.undo);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(start: u32, len: u32) -> Span {
        Span { slot: 1, start, len }
    }

    /// A step of slot 1 whose last `wanted` rows are wanted.
    fn step(recurrent: &mut Recurrent, span: Span, wanted: u32) -> Vec<Move> {
        let wanted: Vec<u32> = (span.len - wanted..span.len).collect();
        let moves = recurrent.before(&[span], &wanted);
        recurrent.after(&[span]);
        moves
    }

    #[test]
    fn the_state_before_an_answer_is_remembered_until_it_is_overwritten() {
        let mut recurrent = Recurrent::new(2, 4);
        assert_eq!(step(&mut recurrent, span(0, 32), 0), []);
        assert_eq!(step(&mut recurrent, span(32, 10), 1), []);
        assert_eq!(step(&mut recurrent, span(42, 1), 1), [Move::Remember(1)]);
        assert_eq!(step(&mut recurrent, span(43, 3), 3), []);
        assert_eq!(step(&mut recurrent, span(44, 1), 1), [], "two proposals were wrong");
        let longest = |recurrent: &Recurrent, len| recurrent.longest(1, len);
        let all = [45, 44, 43, 42, 41, 38, 37, 0].map(|len| longest(&recurrent, len));
        assert_eq!(all, [45, 42, 42, 42, 41, 38, 0, 0]);
        // Another text in the answer's place, from within the last rows of the prompt.
        assert_eq!(step(&mut recurrent, span(40, 9), 1), [Move::Recall(1)]);
        assert_eq!([49, 45, 44, 42, 40, 39].map(|len| longest(&recurrent, len)), [49, 45, 40, 40, 40, 39]);
        assert_eq!(step(&mut recurrent, span(49, 1), 1), [Move::Remember(1)]);
        assert_eq!([50, 49, 45, 44].map(|len| longest(&recurrent, len)), [50, 49, 45, 0]);
        // Another sequence.
        assert_eq!(step(&mut recurrent, span(0, 60), 1), []);
        assert_eq!([60, 56, 49, 45].map(|len| longest(&recurrent, len)), [60, 56, 0, 0]);
        assert_eq!(recurrent.longest(0, 60), 0, "nothing was ever in the other slot");
    }

    #[test]
    fn a_step_that_fails_leaves_only_what_is_remembered() {
        let mut recurrent = Recurrent::new(2, 4);
        step(&mut recurrent, span(0, 20), 1);
        step(&mut recurrent, span(20, 1), 1);
        recurrent.before(&[span(21, 1)], &[0]);
        assert!(!recurrent.reaches(1, 21) && !recurrent.reaches(1, 22) && recurrent.reaches(1, 20));
    }
}
