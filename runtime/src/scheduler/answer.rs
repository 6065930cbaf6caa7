//! One answer on its way: tokens in, events out.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use muse_format::Generation;

use super::expected::Expected;
use super::media::Media;
use super::speculate::{Acceptance, Gains, Offers, Proposer};
use crate::constraint::Constraint;
use crate::protocol::{Call, Part, Reader};
use crate::rows::Row;
use crate::stop::StopFilter;
use crate::{Event, FinishReason, Priority, Sampler, SamplerOptions, Sink, Speculation, Timing, Usage};

/// A request whose prompt is encoded and whose options are checked.
pub(super) struct Request {
    pub(super) session: u64,
    /// The prompt, at least one token.
    pub(super) tokens: Vec<u32>,
    /// The media among them.
    pub(super) media: Media,
    /// Most tokens to generate; prompt and answer together fit the context.
    pub(super) tokens_max: u32,
    pub(super) sampler: SamplerOptions,
    pub(super) stops: Vec<String>,
    pub(super) priority: Priority,
    pub(super) speculation: Speculation,
    pub(super) constraint: Option<Constraint>,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) submitted: Instant,
    pub(super) sink: Sink,
}

/// The place of an answer in its engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seat {
    pub(super) slot: u32,
    /// How many of the answer's tokens have their keys and values in the slot.
    pub(super) written: u32,
    /// Most positions the slot has held since it was last filled from position 0.
    pub(super) most: u32,
}

/// How an answer ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Finished(FinishReason),
    Failed(String),
}

pub(super) struct Answer {
    request: Request,
    prompt_len: u32,
    cached_len: u32,
    proposed: u32,
    accepted: u32,
    /// Of what it repeats.
    repeats: Acceptance,
    /// Of what a drafter expects, beginning with what the answers before it saw.
    blocks: Option<Acceptance>,
    /// Tokens since the last block.
    undrafted: u32,
    stop_ids: Vec<u32>,
    sampler: Sampler,
    reader: Reader,
    stop: StopFilter,
    started: Option<Instant>,
    first_token: Option<Instant>,
    pub(super) seat: Option<Seat>,
    /// The step that last gave it rows; smaller is longer ago.
    pub(super) served: u64,
    /// The session was closed meanwhile.
    pub(super) orphaned: bool,
    sink_closed: bool,
}

impl Answer {
    pub(super) fn new(mut request: Request, model: &Generation, reader: Reader) -> Self {
        Self {
            prompt_len: request.tokens.len() as u32,
            cached_len: 0,
            proposed: 0,
            accepted: 0,
            repeats: Acceptance::of_repeats(),
            blocks: None,
            undrafted: 0,
            stop_ids: model.stop_ids.clone(),
            sampler: Sampler::new(&request.sampler),
            reader,
            stop: StopFilter::new(std::mem::take(&mut request.stops)),
            started: None,
            first_token: None,
            seat: None,
            served: 0,
            orphaned: false,
            sink_closed: false,
            request,
        }
    }

    pub(super) fn session(&self) -> u64 {
        self.request.session
    }

    pub(super) fn priority(&self) -> Priority {
        self.request.priority
    }

    pub(super) fn cancelled(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.request.cancelled)
    }

    /// The prompt and what was generated.
    pub(super) fn tokens(&self) -> &[u32] {
        &self.request.tokens
    }

    pub(super) fn media(&self) -> &Media {
        &self.request.media
    }

    /// Whether nobody wants the answer any more.
    pub(super) fn unwanted(&self) -> bool {
        self.sink_closed || self.request.cancelled.load(Ordering::Relaxed)
    }

    /// Tokens that the model has not seen in this seat; at least 1. 0 without a seat.
    pub(super) fn rows_wanted(&self) -> u32 {
        self.seat.map_or(0, |seat| self.request.tokens.len() as u32 - seat.written)
    }

    /// Takes a seat. The first one starts the answer.
    pub(super) fn sit(&mut self, seat: Seat) {
        self.seat = Some(seat);
        if self.started.is_none() {
            self.started = Some(Instant::now());
            self.cached_len = seat.written;
            self.emit(Event::Start { prompt_tokens: self.prompt_len, cached_tokens: seat.written });
        }
    }

    /// What proposals promise now that `expected` has read all tokens; one of a drafter is `block` tokens at most, and
    /// `learned` what earlier answers saw of it. At least one token of the answer is left to the row after a proposal.
    pub(super) fn offers(&self, expected: &Expected, block: u32, learned: &Acceptance) -> Offers {
        let left = self.request.tokens_max - self.usage().completion_tokens - 1;
        let (matched, block) = (expected.lookup.matched(), block.min(left));
        match self.request.speculation {
            Speculation::Off => Offers::default(),
            Speculation::Auto => Offers {
                repeats: if matched > 0 { self.repeats.gains(matched, left) } else { Gains::default() },
                drafter: {
                    let blocks = self.blocks.unwrap_or_else(|| learned.again());
                    blocks.tried_after(self.undrafted).gains(0, block)
                },
            },
            Speculation::Always => Offers {
                repeats: if matched > 0 { Gains::always(left) } else { Gains::default() },
                drafter: if block > 0 { Gains::always(block) } else { Gains::default() },
            },
        }
    }

    /// `rows` rows of it went through the model in step `step`: its next tokens and `proposal`.
    pub(super) fn wrote(&mut self, rows: u32, proposal: &[u32], step: u64) {
        let seat = self.seat.as_mut().expect("only seated answers are stepped");
        seat.most = seat.most.max(seat.written + rows);
        seat.written += rows - proposal.len() as u32;
        self.proposed += proposal.len() as u32;
        self.served = step;
    }

    /// Takes the tokens after the last one for as long as they are those of `proposal`, and the one that is not.
    /// `first` is the first of `proposal.len() + 1` rows of logits; `learned` is what all answers see of a drafter. Says how the answer ends,
    /// where one of them ended it.
    pub(super) fn advance(
        &mut self,
        mut first: Row<'_>,
        proposal: &[u32],
        expected: &mut Expected,
        learned: &mut Acceptance,
    ) -> Option<End> {
        let before = self.request.tokens.len() as u32;
        let mut end = None;
        for row in 0..=proposal.len() {
            // Cancelled, or its reader is gone: the next turn ends it.
            if self.unwanted() {
                break;
            }
            if row > 0 {
                // The token before was proposed: it is in the cache.
                self.seat.as_mut().expect("only seated answers are stepped").written += 1;
            }
            end = match self.take(first.nth(row)) {
                Ok(reason) => reason.map(End::Finished),
                Err(problem) => Some(End::Failed(problem)),
            };
            let accepted = self.request.tokens.last() == proposal.get(row);
            self.accepted += u32::from(accepted);
            if end.is_some() || !accepted {
                break;
            }
        }
        self.undrafted += self.request.tokens.len() as u32 - before;
        let (tokens, repeats) = (&self.request.tokens, &mut self.repeats);
        expected.lookup.read(tokens, &mut |matched, came| repeats.note(matched, came));
        let (blocks, undrafted) = (&mut self.blocks, &mut self.undrafted);
        expected.block.read(tokens, &mut |place, came| {
            blocks.get_or_insert_with(|| learned.again()).note(place, came);
            learned.note(place, came);
            *undrafted = 0;
        });
        end
    }

    /// The temperature that the sum of each of its rows is for, 0 where it needs none; `None` where it needs all logits.
    pub(super) fn temperature_of_best(&self) -> Option<f32> {
        self.sampler.temperature_of_best().filter(|_| self.request.constraint.is_none())
    }

    /// Draws the token after the last one from the row's best, or from all of its logits where those do not say.
    fn draw(&mut self, mut row: Row<'_>) -> Result<u32, String> {
        let best = row.best().filter(|_| self.request.constraint.is_none());
        if let Some(token) = best.and_then(|best| self.sampler.sample_best(best)) {
            return Ok(token);
        }
        let logits = row.logits()?;
        // A schema is for the text: it waits while the model reasons, and lets it begin to.
        let free = self.reader.reasoning_token();
        let constraint = self.request.constraint.as_mut().filter(|_| self.reader.is_text());
        if let Some(constraint) = constraint {
            constraint.mask(logits, free)?;
        }
        self.sampler.sample(logits, &self.request.tokens).map_err(|error| error.to_string())
    }

    /// Takes the token after the last one and says whether it was the last of the answer.
    fn take(&mut self, row: Row<'_>) -> Result<Option<FinishReason>, String> {
        let token = self.draw(row)?;
        let free = self.reader.reasoning_token();
        self.first_token.get_or_insert_with(Instant::now);
        self.request.tokens.push(token);
        if self.stop_ids.contains(&token) {
            return self.stopped().map(Some);
        }
        let mut complete = false;
        if self.reader.is_text()
            && free != Some(token)
            && let Some(constraint) = &mut self.request.constraint
        {
            complete = constraint.take(token)?;
            self.reader.all_is_text();
        }
        let parts = self.reader.push(token);
        self.show(parts);
        if self.stop.stopped() || complete {
            return Ok(Some(FinishReason::Stop));
        }
        if self.reader.ended() {
            return self.stopped().map(Some);
        }
        Ok((self.usage().completion_tokens >= self.request.tokens_max).then_some(FinishReason::Length))
    }

    /// The model ended its answer, which must not be before the text that a schema wants.
    fn stopped(&self) -> Result<FinishReason, String> {
        if self.request.constraint.is_some() && !self.reader.is_text() {
            return Err("the model ended its answer before the JSON that was asked for".into());
        }
        Ok(FinishReason::Stop)
    }

    /// Shows what is still held back, unless the answer failed, and how it ended.
    pub(super) fn end(&mut self, end: End) {
        let event = match end {
            End::Finished(mut finish_reason) => {
                let complete = finish_reason == FinishReason::Stop && !self.stop.stopped();
                let parts = self.reader.finish(complete);
                self.show(parts);
                let rest = self.stop.finish();
                self.delta(rest);
                if finish_reason == FinishReason::Length && self.stop.stopped() {
                    finish_reason = FinishReason::Stop;
                }
                if complete && self.reader.has_calls() {
                    finish_reason = FinishReason::ToolCall;
                }
                Event::Done { finish_reason, usage: self.usage(), timing: self.timing() }
            }
            End::Failed(message) => Event::Error { message },
        };
        self.emit(event);
    }

    pub(super) fn usage(&self) -> Usage {
        Usage {
            prompt_tokens: self.prompt_len,
            cached_tokens: self.cached_len,
            completion_tokens: self.request.tokens.len() as u32 - self.prompt_len,
            proposed_tokens: self.proposed,
            accepted_tokens: self.accepted,
        }
    }

    fn timing(&self) -> Timing {
        let total = self.request.submitted.elapsed();
        let until = |at: Option<Instant>| at.map_or(total, |at| at.duration_since(self.request.submitted));
        Timing { queued: until(self.started), first_token: until(self.first_token), total }
    }

    /// Nothing is shown after a stop text, and no text beside the JSON that a schema wants.
    fn show(&mut self, parts: Vec<Part>) {
        let beside = self.request.constraint.is_some() && !self.reader.is_all_text();
        for part in parts {
            let event = match part {
                Part::Text(_) if beside => continue,
                Part::Text(text) => {
                    let text = self.stop.push(&text);
                    self.delta(text);
                    continue;
                }
                _ if self.stop.stopped() => return,
                Part::Reasoning(text) => Event::Reasoning { text },
                Part::Call(Call { id, name, arguments }) => Event::ToolCall { id, name, arguments },
            };
            // No stop text goes on behind what is not text.
            let rest = self.stop.finish();
            self.delta(rest);
            self.emit(event);
        }
    }

    fn delta(&mut self, text: String) {
        if !text.is_empty() {
            self.emit(Event::Delta { text });
        }
    }

    /// A sink that fails, or panics, is not called again.
    fn emit(&mut self, event: Event) {
        if !self.sink_closed {
            let sink = AssertUnwindSafe(&mut self.request.sink);
            self.sink_closed = !matches!(catch_unwind(|| { sink }.0(event)), Ok(Ok(())));
        }
    }
}
