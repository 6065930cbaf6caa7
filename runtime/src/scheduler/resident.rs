//! One model in the loop: its engine, its slots and its answers.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use muse_kernels::{BackendError, Span};

use super::answer::{Answer, End, Seat};
use super::batch::{Batch, Entry, Share};
use super::costs::Costs;
use super::drafting::Drafting;
use super::embedding::{Job, Jobs};
use super::expected::Expected;
use super::media::agreed;
use super::share::share_whole;
use super::slots::{Slots, Taken};
use super::speculate::{Acceptance, Offers, Proposal, Source, choose};
use super::state::Shared;
use crate::engine::Placed;
use crate::eval::top;
use crate::rows::Row;
use crate::{Draft, DrafterInfo, Engine, FinishReason, LogitRows, MediaRows, Medium, Priority};

/// Why an engine is of no more use.
pub(super) enum Broken {
    /// It or its tokenizer panicked: a bug of ours, and nothing in it can be trusted any more.
    Panicked,
    /// What the engine said, after which every step would fail.
    Failed(String),
}

pub(super) struct Resident {
    pub(super) key: u64,
    pub(super) name: String,
    engine: Box<dyn Engine>,
    slots: Slots,
    /// In the order of arrival.
    answers: Vec<Answer>,
    /// Of a model that embeds, in place of answers.
    jobs: Jobs,
    steps: u64,
    /// Of a step, or of a drafter; allocated once.
    rows: LogitRows,
    /// One a slot, of the answer that runs in it.
    expected: Vec<Expected>,
    /// What drafts, until it fails.
    drafter: Option<DrafterInfo>,
    /// Of steps, by their rows.
    costs: Costs,
    /// Of what a drafter proposes at once.
    drafting: Drafting,
    /// What all answers saw of the drafter.
    learned: Acceptance,
    /// [`Medium::hash`] of what the engine perceived last.
    perceived: Option<[u8; 32]>,
    shared: Arc<Shared>,
}

impl Resident {
    pub(super) fn new(key: u64, name: String, engine: Box<dyn Engine>, shared: Arc<Shared>) -> Self {
        let info = engine.info();
        let rows = LogitRows::new(info.logit_rows, info.vocab);
        let expected = (0..info.slots).map(|_| Expected::new(info)).collect();
        let (slots, costs) = (Slots::new(info.slots), Costs::new(info.logit_rows));
        let drafter = info.drafter.clone();
        let chain = drafter.as_ref().is_some_and(|drafter| drafter.chain);
        let drafting = Drafting::new(info.slots, chain);
        let jobs = Jobs::new(key, Arc::clone(&shared));
        Self {
            key,
            name,
            engine,
            slots,
            answers: Vec::new(),
            jobs,
            steps: 0,
            rows,
            expected,
            drafter,
            costs,
            drafting,
            learned: Acceptance::of_blocks(),
            perceived: None,
            shared,
        }
    }

    pub(super) fn push(&mut self, answer: Answer) {
        self.answers.push(answer);
    }

    pub(super) fn push_texts(&mut self, job: Job) {
        self.jobs.push(job);
    }

    pub(super) fn close(&mut self, session: u64) {
        self.slots.forget(session);
        if let Some(answer) = self.answers.iter_mut().find(|answer| answer.session() == session) {
            answer.orphaned = true;
        }
    }

    /// Of the most urgent request.
    pub(super) fn priority(&self) -> Option<Priority> {
        self.answers.iter().map(Answer::priority).max().max(self.jobs.priority())
    }

    /// Ends what nobody wants, seats what waits and runs one batch of answers of at least `urgent`.
    pub(super) fn turn(&mut self, urgent: Priority) -> Result<(), Broken> {
        catch_unwind(AssertUnwindSafe(|| {
            self.end_unwanted();
            self.seat_waiting(urgent);
            self.step(urgent)?;
            self.jobs.turn(&mut *self.engine, urgent)
        }))
        .unwrap_or(Err(Broken::Panicked))
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
        self.jobs.fail_all(message);
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
            let Some(Taken { slot, tokens: held, media, most }) = taken else { break };
            let answer = &mut self.answers[at];
            // The last token is computed in any case: its logits are wanted.
            let known = &answer.tokens()[..answer.tokens().len() - 1];
            let common = held.iter().zip(known).take_while(|(held, known)| held == known).count() as u32;
            let common = agreed(common, &media, &answer.media().keys(common));
            let written = self.engine.keep(slot, common, most);
            assert!(written <= common, "an engine keeps no more than it was asked");
            self.expected[slot as usize].restart(answer.tokens());
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

    fn step(&mut self, urgent: Priority) -> Result<(), Broken> {
        let (medium, mut shares) = self.shares(urgent);
        if shares.is_empty() {
            return Ok(());
        }
        self.draft(&mut shares)?;
        let batch = self.batch(medium, &shares);
        if !self.perceive(&batch)? {
            return Ok(());
        }
        self.steps += 1;
        let failure = self.run(&batch).err();
        if let Some(error) = &failure {
            tracing::error!(model = self.name, %error, "a step failed");
        }
        let mut ends = Vec::new();
        let (mut tokens, mut wanted) = (batch.tokens.as_slice(), 0);
        for (entry, span) in batch.entries.iter().zip(&batch.spans) {
            let (rows, rest) = tokens.split_at(span.len as usize);
            let first = Row { engine: &mut *self.engine, rows: &mut self.rows, index: wanted };
            (tokens, wanted) = (rest, wanted + entry.wanted as usize);
            if let Some(error) = &failure {
                ends.push((entry.at, End::Failed(format!("the model failed: {error}"))));
                continue;
            }
            let answer = &mut self.answers[entry.at];
            let proposal = &rows[rows.len() - entry.proposed as usize..];
            answer.wrote(span.len, proposal, self.steps);
            if entry.wanted > 0 {
                let expected = &mut self.expected[span.slot as usize];
                let end = answer.advance(first, proposal, expected, &mut self.learned);
                ends.extend(end.map(|end| (entry.at, end)));
            }
        }
        // From the back, so that the places of the others stay.
        ends.sort_unstable_by_key(|(at, _)| std::cmp::Reverse(*at));
        for (at, end) in ends {
            self.end(at, end);
        }
        match failure.or(self.rows.failed.take()) {
            Some(error) if error.is_final() => Err(Broken::Failed(error.to_string())),
            _ => Ok(()),
        }
    }

    /// Steps the engine and leaves what tokens are drawn from of the rows wanted.
    fn run(&mut self, batch: &Batch) -> Result<(), BackendError> {
        let Self { engine, rows, answers, .. } = self;
        rows.temperatures.clear();
        let mut of_best = false;
        for entry in &batch.entries {
            let temperature = answers[entry.at].temperature_of_best();
            of_best |= entry.wanted > 0 && temperature.is_some();
            let own = std::iter::repeat_n(temperature.unwrap_or(0.0), entry.wanted as usize);
            rows.temperatures.extend(own);
        }
        let began = Instant::now();
        let media = MediaRows { placed: &batch.placed, turns: &batch.turns };
        let (spans, tokens, wanted) = (&batch.spans, &batch.tokens, &batch.wanted);
        if of_best {
            engine.step_to_draw(spans, tokens, media, wanted, rows)?;
        } else {
            rows.whole = true;
            engine.step_with_media(spans, tokens, media, wanted, rows.logits(wanted.len()))?;
        }
        if batch.wanted.len() == batch.tokens.len() {
            self.costs.note(batch.wanted.len() as u32, began.elapsed());
        }
        Ok(())
    }

    /// Has the engine perceive the medium of a batch. Where it cannot, the answers that need it end, and false is
    /// returned: the batch is not to be run.
    fn perceive(&mut self, batch: &Batch) -> Result<bool, Broken> {
        let Some(medium) = batch.medium.as_ref().filter(|medium| self.perceived != Some(*medium.hash()))
        else {
            return Ok(true);
        };
        self.perceived = None;
        let Err(error) = self.engine.perceive(medium) else {
            self.perceived = Some(*medium.hash());
            return Ok(true);
        };
        tracing::error!(model = self.name, %error, kind = %medium.kind(), "a medium could not be perceived");
        let needs = |answer: &Answer| {
            let next = answer.seat.map(|seat| answer.media().part(seat.written, answer.rows_wanted()));
            next.and_then(|(_, part)| part).is_some_and(|(other, _)| other.hash() == medium.hash())
        };
        while let Some(at) = self.answers.iter().position(needs) {
            self.end(at, End::Failed(format!("the model failed on the {}: {error}", medium.kind())));
        }
        if error.is_final() { Err(Broken::Failed(error.to_string())) } else { Ok(false) }
    }

    /// The medium of the next step, the last one where somebody still needs it, and how many rows each of `seated` may
    /// take: up to the first medium that is another.
    fn media(&self, seated: &[(usize, &Answer, Seat)]) -> (Option<Arc<Medium>>, Vec<u32>) {
        let part = |(_, answer, seat): &(usize, &Answer, Seat)| {
            let (len, part) = answer.media().part(seat.written, answer.rows_wanted());
            (len, part.map(|(medium, placed)| (Arc::clone(medium), placed.row)))
        };
        let parts: Vec<_> = seated.iter().map(part).collect();
        let needed = || parts.iter().filter_map(|(_, part)| Some(&part.as_ref()?.0));
        let last = needed().find(|medium| self.perceived == Some(*medium.hash()));
        let medium = last.or_else(|| needed().next()).cloned();
        let rows = parts.iter().map(|(len, part)| match (part, &medium) {
            (Some((other, before)), Some(medium)) if other.hash() != medium.hash() => *before,
            _ => *len,
        });
        let rows = rows.collect();
        (medium, rows)
    }

    /// What takes part in the next batch: every seated answer of at least `urgent` with its share, those served longest ago
    /// first, and the medium that their rows may be of.
    fn shares(&self, urgent: Priority) -> (Option<Arc<Medium>>, Vec<Share>) {
        let seated = self.answers.iter().enumerate();
        let mut seated: Vec<_> = seated
            .filter(|(_, answer)| answer.priority() >= urgent)
            .filter_map(|(at, answer)| Some((at, answer, answer.seat?)))
            .collect();
        seated.sort_by_key(|(_, answer, _)| answer.served);
        let (medium, mut rows) = self.media(&seated);
        // Who waits for a medium takes no part.
        let mut takes = rows.iter().map(|rows| *rows > 0);
        seated.retain(|_| takes.next().unwrap_or(false));
        rows.retain(|rows| *rows > 0);
        let proposals = self.proposals(&seated);
        // A medium whose rows see each other is read in one step.
        let part = |(_, answer, seat): &(usize, &Answer, Seat), len| answer.media().part(seat.written, len).0;
        let least: Vec<u32> = seated.iter().map(|seated| part(seated, 1)).collect();
        let shares = share_whole(self.engine.info().batch_tokens, &least, &rows).into_iter().zip(proposals);
        let shares = seated.iter().zip(shares).filter(|(_, (len, _))| *len > 0);
        let shares = shares.map(|(seated, (len, proposal))| {
            let (at, _, seat) = *seated;
            Share { at, seat, len: part(seated, len), proposal }
        });
        let shares = shares.collect();
        (medium, shares)
    }

    /// Asks the drafter for the tokens that `shares` propose of it. Where it fails, answers go on without it.
    fn draft(&mut self, shares: &mut [Share]) -> Result<(), Broken> {
        let of_drafter =
            |share: &Share| share.proposal.source == Source::Drafter && share.proposal.length > 0;
        let asked =
            shares.iter().filter(|share| of_drafter(share)).map(|Share { at, seat, proposal, .. }| {
                let tokens = self.answers[*at].tokens();
                let (start, token) = (tokens.len() as u32 - 1, tokens[tokens.len() - 1]);
                Draft { slot: seat.slot, start, token, count: proposal.length }
            });
        let asked: Vec<Draft> = asked.collect();
        if asked.is_empty() {
            return Ok(());
        }
        let vocab = self.engine.info().vocab as usize;
        let rows: usize = asked.iter().map(|draft| draft.count as usize).sum();
        let logits = self.rows.logits(rows);
        let began = Instant::now();
        if let Err(error) = self.engine.draft(&asked, logits) {
            tracing::error!(model = self.name, %error, "the drafter failed and is not asked again");
            self.drafter = None;
            shares
                .iter_mut()
                .filter(|share| of_drafter(share))
                .for_each(|share| share.proposal = Proposal::NONE);
            return if error.is_final() { Err(Broken::Failed(error.to_string())) } else { Ok(()) };
        }
        // Any token may be proposed, also where a drafter has lost its numbers.
        let mut chosen = logits.chunks_exact(vocab).map(|row| top(row).unwrap_or(0));
        for draft in &asked {
            let tokens: Vec<u32> = chosen.by_ref().take(draft.count as usize).collect();
            self.expected[draft.slot as usize].block.expect(draft.start as usize + 1, &tokens);
        }
        let longest = asked.iter().map(|draft| draft.count).max().unwrap_or(0);
        self.drafting.note(asked.len() as u32, longest, began.elapsed());
        Ok(())
    }

    /// The rows of `shares`.
    fn batch(&self, medium: Option<Arc<Medium>>, shares: &[Share]) -> Batch {
        let mut batch = Batch::default();
        for Share { at, seat, len, proposal: Proposal { source, length: proposed } } in shares {
            let answer = &self.answers[*at];
            if let (_, Some((_, placed))) = answer.media().part(seat.written, *len) {
                let row = placed.row + batch.tokens.len() as u32;
                batch.placed.push(Placed { row, ..placed });
                batch.medium.clone_from(&medium);
            }
            batch.tokens.extend_from_slice(&answer.tokens()[seat.written as usize..][..*len as usize]);
            if *proposed > 0 {
                let proposer = self.expected[seat.slot as usize].of(*source);
                proposer.propose(answer.tokens(), *proposed, &mut batch.tokens);
            }
            batch.spans.push(Span { slot: seat.slot, start: seat.written, len: len + proposed });
            // The row of the last known token, and those of the proposed ones.
            let wanted = if *len == answer.rows_wanted() { 1 + proposed } else { 0 };
            let end = batch.tokens.len() as u32;
            batch.wanted.extend(end - wanted..end);
            batch.entries.push(Entry { at: *at, proposed: *proposed, wanted });
        }
        batch.turns = self.turns(&batch);
        batch
    }

    /// What the rows of a batch turn by, where not all do by their positions.
    fn turns(&self, batch: &Batch) -> Vec<[u32; 3]> {
        let rows = || {
            batch.entries.iter().zip(&batch.spans).map(|(entry, span)| (self.answers[entry.at].media(), span))
        };
        if !rows().any(|(media, span)| media.turns_before(span.start + span.len)) {
            return Vec::new();
        }
        rows().flat_map(|(media, span)| media.turns(span.start, span.len)).collect()
    }

    /// How many tokens to propose for each answer. None while one of them reads its prompt: that is what rows are
    /// for then, and the time of such a step says nothing of others.
    ///
    /// A ring holds `window + batch_tokens - 1` positions and a step writes at most `batch_tokens`, the first of
    /// them for good. So the next position still sees its whole window, even where all proposals are rejected,
    /// and their keys and values are overwritten before a row can see them.
    fn proposals(&self, seated: &[(usize, &Answer, Seat)]) -> Vec<Proposal> {
        let (info, plain) = (self.engine.info(), seated.len() as u32);
        let room = (info.batch_tokens.saturating_sub(plain)).min(info.logit_rows.saturating_sub(info.slots));
        if room == 0 || seated.iter().any(|(_, answer, _)| answer.rows_wanted() > 1) {
            return vec![Proposal::NONE; seated.len()];
        }
        let of = |(_, answer, seat): &(usize, &Answer, Seat)| {
            let block = self.block_max(answer.tokens().len() as u32 - 1);
            answer.offers(&self.expected[seat.slot as usize], block, &self.learned)
        };
        let offers: Vec<Offers> = seated.iter().map(of).collect();
        choose(&offers, room, &self.costs, &self.drafting)
    }

    /// Most tokens that a block proposes whose first row is at `start`; a chain none in front of the first step, which gives it
    /// what it reads.
    fn block_max(&self, start: u32) -> u32 {
        let context = self.engine.info().context;
        let reads = |drafter: &DrafterInfo| start > 0 || !drafter.chain;
        let fits = |drafter: &&DrafterInfo| reads(drafter) && start.saturating_add(drafter.block) <= context;
        let fits = self.drafter.as_ref().filter(fits);
        fits.map_or(0, |drafter| drafter.length_max())
    }

    fn end(&mut self, at: usize, end: End) {
        let mut answer = self.answers.remove(at);
        if let Some(seat) = answer.seat {
            // After a failure nobody knows what the slot holds.
            if answer.orphaned || matches!(end, End::Failed(_)) {
                self.slots.free(seat.slot);
            } else {
                let tokens = answer.tokens()[..seat.written as usize].to_vec();
                self.slots.put_back(seat.slot, tokens, answer.media().keys(seat.written), seat.most);
            }
        }
        let (session, seated, usage) = (answer.session(), answer.seat.is_some(), answer.usage());
        tracing::debug!(model = self.name, session, ?usage, ?end, "an answer ended");
        // Before the last event, so that its reader may ask again at once.
        self.shared.locked(|state| state.note_end(self.key, session, seated, usage));
        answer.end(end);
    }
}
