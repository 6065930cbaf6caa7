//! The scheduler on [`SimEngine`]. [`Gate`] holds the loop inside a step while a test acts, so nothing here waits
//! for time to pass.

mod drawing;
mod embedding;
mod endings;
mod protocol;
mod refusals;
mod serving;
mod speculation;

use std::sync::mpsc::{Receiver, Sender, channel};

use muse_kernels::{BackendError, Span};

use super::*;
use crate::sim::{SimEngine, SimOptions};
use crate::{Draft, Event, FinishReason, Message, Priority, SinkClosed, Text, Usage};

/// The test's side of a [`Gated`] engine; dropping it lets the engine run free.
struct Gate {
    entered: Receiver<Vec<Span>>,
    permits: Sender<()>,
}

impl Gate {
    /// Waits until the loop is inside a step; says what the step was asked to do.
    fn entered(&self) -> Vec<Span> {
        self.entered.recv().expect("the loop steps")
    }

    /// Lets the step that was entered go on.
    fn permit(&self) {
        self.permits.send(()).expect("the engine lives");
    }

    /// One whole step, as `(slot, rows)`.
    fn step(&self) -> Vec<(u32, u32)> {
        let spans = self.entered();
        self.permit();
        spans.iter().map(|span| (span.slot, span.len)).collect()
    }
}

/// A [`SimEngine`] that a test steps by hand.
struct Gated {
    inner: SimEngine,
    entered: Sender<Vec<Span>>,
    permits: Receiver<()>,
    /// Positions after which the cache of a slot is a ring that has lost its start.
    ring: u32,
    /// Every logit is NaN.
    poisoned: bool,
}

impl Gated {
    fn pass(&self, spans: Vec<Span>) {
        if self.entered.send(spans).is_ok() {
            let _ = self.permits.recv();
        }
    }
}

impl Engine for Gated {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn text(&self) -> Arc<dyn Text> {
        self.inner.text()
    }

    fn step(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        wanted: &[u32],
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        self.pass(spans.to_vec());
        self.inner.step(spans, tokens, wanted, logits)?;
        if self.poisoned {
            logits.fill(f32::NAN);
        }
        Ok(())
    }

    fn draft(&mut self, drafts: &[Draft], logits: &mut [f32]) -> Result<(), BackendError> {
        self.inner.draft(drafts, logits)
    }

    /// A text is shown as a span of its length.
    fn embed(&mut self, texts: &[&[u32]], out: &mut [f32]) -> Result<(), BackendError> {
        let span =
            |(slot, text): (usize, &&[u32])| Span { slot: slot as u32, start: 0, len: text.len() as u32 };
        self.pass(texts.iter().enumerate().map(span).collect());
        self.inner.embed(texts, out)
    }

    fn keep(&self, slot: u32, len: u32, written: u32) -> u32 {
        if written > self.ring { 0 } else { self.inner.keep(slot, len, written) }
    }
}

fn gated(options: SimOptions) -> (Gated, Gate) {
    let ((entered, entered_by), (permits, permitted)) = (channel(), channel());
    let inner = SimEngine::new(options);
    let engine = Gated { inner, entered, permits: permitted, ring: u32::MAX, poisoned: false };
    (engine, Gate { entered: entered_by, permits })
}

fn sized(slots: u32, batch_tokens: u32) -> SimOptions {
    SimOptions { slots, batch_tokens, ..SimOptions::default() }
}

/// A service with one gated model, `sim`.
fn gated_service(options: SimOptions) -> (Scheduler, Gate) {
    let (engine, gate) = gated(options);
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("sim", Box::new(engine)).unwrap();
    (scheduler, gate)
}

/// A service with one model, `sim`, that runs free.
fn service(options: SimOptions) -> Scheduler {
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("sim", Box::new(SimEngine::new(options))).unwrap();
    scheduler
}

fn chat(messages: &[(&str, &str)]) -> Prompt {
    Prompt::Chat(messages.iter().map(|(role, content)| Message::new(*role, *content)).collect())
}

fn user(content: &str) -> Prompt {
    chat(&[("user", content)])
}

/// Tokens of [`user`]: two marks around `user\n` and the content, one mark and `assistant\n`.
fn user_len(content: &str) -> u32 {
    (2 + 5 + content.len() + 1 + 10) as u32
}

fn at_most(max_tokens: u32) -> GenerateOptions {
    GenerateOptions { max_tokens: Some(max_tokens), ..GenerateOptions::default() }
}

fn background() -> GenerateOptions {
    GenerateOptions { priority: Priority::Background, ..GenerateOptions::default() }
}

fn sink() -> (Sink, Receiver<Event>) {
    let (sender, events) = channel();
    (Box::new(move |event| sender.send(event).map_err(|_| SinkClosed)), events)
}

fn ask(scheduler: &Scheduler, session: u64, prompt: Prompt, options: GenerateOptions) -> Receiver<Event> {
    let (sink, events) = sink();
    scheduler.respond(session, prompt, options, sink).unwrap();
    events
}

/// A whole answer.
#[derive(Debug)]
struct Answered {
    text: String,
    cached: Option<u32>,
    last: Event,
}

impl Answered {
    fn finished(&self) -> (FinishReason, Usage) {
        match self.last {
            Event::Done { finish_reason, usage, .. } => (finish_reason, usage),
            ref other => panic!("not done but {other:?}"),
        }
    }

    fn failure(&self) -> &str {
        match &self.last {
            Event::Error { message } => message,
            other => panic!("no error but {other:?}"),
        }
    }
}

/// Waits for the end of an answer and checks the order of its events.
fn collect(events: Receiver<Event>) -> Answered {
    let mut events: Vec<Event> = events.into_iter().collect();
    let last = events.pop().expect("an answer has an end");
    assert!(matches!(last, Event::Done { .. } | Event::Error { .. }), "{last:?}");
    let (mut text, mut cached) = (String::new(), None);
    for (at, event) in events.into_iter().enumerate() {
        match event {
            Event::Start { cached_tokens, .. } if at == 0 => cached = Some(cached_tokens),
            Event::Delta { text: delta } if at > 0 && !delta.is_empty() => text.push_str(&delta),
            other => panic!("{other:?} at {at}"),
        }
    }
    Answered { text, cached, last }
}
