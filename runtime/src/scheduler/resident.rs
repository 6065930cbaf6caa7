//! One model in the loop: its engine, its slots and its answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use muse_kernels::Span;

use super::answer::{Answer, End, Seat};
use super::share::share;
use super::slots::{Slots, Taken};
use super::state::Shared;
use crate::{Engine, FinishReason, Priority};

/// The engine or its tokenizer panicked: a bug of ours, and nothing in it can be trusted any more.
pub(super) struct Panicked;

pub(super) struct Resident {
    pub(super) key: u64,
    pub(super) name: String,
    engine: Box<dyn Engine>,
    slots: Slots,
    /// In the order of arrival.
    answers: Vec<Answer>,
    steps: u64,
    /// `(slots, vocab)`, allocated once.
    logits: Vec<f32>,
    shared: Arc<Shared>,
}

impl Resident {
    pub(super) fn new(key: u64, name: String, engine: Box<dyn Engine>, shared: Arc<Shared>) -> Self {
        let info = engine.info();
        let logits = vec![0.0; info.slots as usize * info.vocab as usize];
        let slots = Slots::new(info.slots);
        Self { key, name, engine, slots, answers: Vec::new(), steps: 0, logits, shared }
    }

    pub(super) fn push(&mut self, answer: Answer) {
        self.answers.push(answer);
    }

    pub(super) fn close(&mut self, session: u64) {
        self.slots.forget(session);
        if let Some(answer) = self.answers.iter_mut().find(|answer| answer.session() == session) {
            answer.orphaned = true;
        }
    }

    /// Of the most urgent answer.
    pub(super) fn priority(&self) -> Option<Priority> {
        self.answers.iter().map(Answer::priority).max()
    }

    /// Ends what nobody wants, seats what waits and runs one batch of answers of at least `urgent`.
    pub(super) fn turn(&mut self, urgent: Priority) -> Result<(), Panicked> {
        catch_unwind(AssertUnwindSafe(|| {
            self.end_unwanted();
            self.seat_waiting(urgent);
            self.step(urgent);
        }))
        .map_err(|_| Panicked)
    }

    pub(super) fn end_unwanted(&mut self) {
        while let Some(at) = self.answers.iter().position(Answer::unwanted) {
            self.end(at, End::Finished(FinishReason::Cancelled));
        }
    }

    pub(super) fn fail_all(&mut self, message: &str) {
        while !self.answers.is_empty() {
            self.end(0, End::Failed(message.to_owned()));
        }
    }

    /// Gives slots to waiting answers of at least `urgent`, the most urgent and then the oldest first.
    fn seat_waiting(&mut self, urgent: Priority) {
        while let Some(at) = self.first_waiting(urgent) {
            let priority = self.answers[at].priority();
            let session = self.answers[at].session();
            let taken = self.slots.take(session).or_else(|| {
                self.unseat_below(priority);
                self.slots.take(session)
            });
            let Some(Taken { slot, tokens: held, most }) = taken else { break };
            let answer = &mut self.answers[at];
            // The last token is computed in any case: its logits are wanted.
            let known = &answer.tokens()[..answer.tokens().len() - 1];
            let common = held.iter().zip(known).take_while(|(held, known)| held == known).count() as u32;
            let written = self.engine.keep(common, most);
            assert!(written <= common, "an engine keeps no more than it was asked");
            answer.sit(Seat { slot, written, most: if written == 0 { 0 } else { most } });
            self.shared.locked(|state| state.note_slot(self.key, true));
        }
    }

    fn first_waiting(&self, urgent: Priority) -> Option<usize> {
        let waiting = self.answers.iter().enumerate();
        let waiting = waiting.filter(|(_, answer)| answer.seat.is_none() && answer.priority() >= urgent);
        // `max_by_key` keeps the last of equals, so the oldest must come last.
        waiting.rev().max_by_key(|(_, answer)| answer.priority()).map(|(at, _)| at)
    }

    /// Takes the slot of the youngest answer less urgent than `priority`; it waits and computes again later.
    fn unseat_below(&mut self, priority: Priority) {
        let less = |answer: &&mut Answer| answer.seat.is_some() && answer.priority() < priority;
        if let Some(answer) = self.answers.iter_mut().rev().find(less) {
            let seat = answer.seat.take().expect("only seated answers are asked");
            self.slots.free(seat.slot);
            self.shared.locked(|state| state.note_slot(self.key, false));
        }
    }

    fn step(&mut self, urgent: Priority) {
        let batch = self.plan(urgent);
        if batch.entries.is_empty() {
            return;
        }
        self.steps += 1;
        let vocab = self.engine.info().vocab as usize;
        let logits = &mut self.logits[..batch.wanted.len() * vocab];
        let failure = self.engine.step(&batch.spans, &batch.tokens, &batch.wanted, logits).err();
        if let Some(error) = &failure {
            tracing::error!(model = self.name, %error, "a step failed");
        }
        let mut ends = Vec::new();
        for (entry, span) in batch.entries.iter().zip(&batch.spans) {
            if let Some(error) = &failure {
                ends.push((entry.at, End::Failed(format!("the model failed: {error}"))));
                continue;
            }
            let answer = &mut self.answers[entry.at];
            answer.wrote(span.len, self.steps);
            let Some(row) = entry.row.filter(|_| !answer.unwanted()) else { continue };
            match answer.advance(&mut self.logits[row * vocab..][..vocab]) {
                Ok(None) => {}
                Ok(Some(reason)) => ends.push((entry.at, End::Finished(reason))),
                Err(error) => ends.push((entry.at, End::Failed(error.to_string()))),
            }
        }
        // From the back, so that the places of the others stay.
        ends.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        for (at, end) in ends {
            self.end(at, end);
        }
    }

    /// The next batch: every seated answer of at least `urgent` gets its share, those served longest ago first.
    fn plan(&self, urgent: Priority) -> Batch {
        let seated = self.answers.iter().enumerate();
        let mut seated: Vec<_> = seated
            .filter(|(_, answer)| answer.priority() >= urgent)
            .filter_map(|(at, answer)| Some((at, answer, answer.seat?)))
            .collect();
        seated.sort_by_key(|(_, answer, _)| answer.served);
        let wants: Vec<u32> = seated.iter().map(|(_, answer, _)| answer.rows_wanted()).collect();
        let shares = share(self.engine.info().batch_tokens, &wants);
        let mut batch = Batch::default();
        for (((at, answer, seat), want), len) in seated.into_iter().zip(wants).zip(shares) {
            if len == 0 {
                continue;
            }
            batch.tokens.extend_from_slice(&answer.tokens()[seat.written as usize..][..len as usize]);
            batch.spans.push(Span { slot: seat.slot, start: seat.written, len });
            let row = (len == want).then(|| {
                batch.wanted.push(batch.tokens.len() as u32 - 1);
                batch.wanted.len() - 1
            });
            batch.entries.push(Entry { at, row });
        }
        batch
    }

    fn end(&mut self, at: usize, end: End) {
        let mut answer = self.answers.remove(at);
        if let Some(seat) = answer.seat {
            // After a failure nobody knows what the slot holds.
            if answer.orphaned || matches!(end, End::Failed(_)) {
                self.slots.free(seat.slot);
            } else {
                self.slots.put_back(seat.slot, answer.tokens()[..seat.written as usize].to_vec(), seat.most);
            }
        }
        let (session, seated, usage) = (answer.session(), answer.seat.is_some(), answer.usage());
        tracing::debug!(model = self.name, session, ?usage, ?end, "an answer ended");
        // Before the last event, so that its reader may ask again at once.
        self.shared.locked(|state| state.note_end(self.key, session, seated, usage));
        answer.end(end);
    }
}

/// One call of [`Engine::step`].
#[derive(Debug, Default)]
struct Batch {
    spans: Vec<Span>,
    tokens: Vec<u32>,
    wanted: Vec<u32>,
    /// One for each span.
    entries: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    /// The place in [`Resident::answers`].
    at: usize,
    /// The row of logits, where the span reaches the end of the answer's tokens.
    row: Option<usize>,
}
