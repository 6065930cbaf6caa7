//! One loop thread owns every engine; this handle queues work for it and never waits for a step.
//!
//! * Prompts are encoded on the caller's thread, so a refusal is immediate and carries numbers.
//! * Each step of a model carries one row of every running answer and shares the rest of the batch among prompts
//!   (`share.rs`). Interactive answers run before background ones, which get no rows meanwhile.
//! * A session keeps its slot between answers; the common prefix of its last tokens and the new prompt is not
//!   computed again. Sessions never share keys and values. Where slots are short, the idle session unused for
//!   longest loses its slot, then a background answer, which continues later.
//! * Tokens that repeat the prompt or the answer, and those of a drafter, are verified several in one step where that pays
//!   (`speculate.rs`).
//! * Texts of a model that embeds are a request like an answer, served a batch a turn (`embedding.rs`).
//! * An answer always ends with [`Event::Done`] or [`Event::Error`], unless its sink is closed.

mod answer;
mod batch;
mod block;
mod costs;
mod drafting;
mod embedding;
mod expected;
mod lookup;
mod media;
mod resident;
mod service;
mod share;
mod slots;
mod speculate;
mod state;
#[cfg(test)]
mod tests;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use crate::constraint::Grammars;
use crate::embed::encode_texts;
use crate::protocol::Reader;
use crate::{
    EmbedOptions, Engine, GenerateOptions, ModelInfo, Prompt, Refusal, SamplerOptions, Sink, TextError,
};
use answer::{Answer, Request};
use embedding::Job;
pub use embedding::{EmbedEnd, EmbedSink};
use state::{Command, ReadyModel, Shared};

/// Most stop texts of a request, and most bytes of one.
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulerOptions {
    /// Most open sessions, over all models.
    pub sessions_max: u32,
    /// Most requests that wait for a slot, over all models.
    pub queue_max: u32,
}

impl Default for SchedulerOptions {
    fn default() -> Self {
        Self { sessions_max: 64, queue_max: 64 }
    }
}

/// A moment's view of the service.
#[derive(Debug, Clone, PartialEq)]
pub struct Status {
    /// By name, ascending.
    pub models: Vec<ModelStatus>,
    pub sessions: u32,
    pub sessions_max: u32,
    /// Requests that wait for a slot.
    pub queued: u32,
    pub queue_max: u32,
}

#[derive(Debug, Clone, PartialEq)]
pub struct ModelStatus {
    pub name: String,
    pub info: Arc<ModelInfo>,
    pub sessions: u32,
    /// Answers that hold a slot.
    pub running: u32,
    /// Answers that wait for one.
    pub waiting: u32,
    /// Since the last answer ended or the model was added; `None` while there is work.
    pub idle: Option<Duration>,
    /// Tokens of finished answers since the model was added.
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// Handle to the service; clones share it. The service stops when the last one is dropped.
#[derive(Clone)]
pub struct Scheduler {
    handle: Arc<Handle>,
}

struct Handle {
    shared: Arc<Shared>,
}

/// A request of a session that could be taken when it was begun; nothing is read or queued yet. See [`Scheduler::begin`].
pub struct Begun {
    scheduler: Scheduler,
    session: u64,
    ready: ReadyModel,
    submitted: Instant,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Scheduler {
    /// Starts the loop thread.
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub fn start(options: SchedulerOptions) -> Self {
        let shared = Arc::new(Shared::new(options));
        let service = service::Service::new(Arc::clone(&shared));
        std::thread::Builder::new()
            .name("muse-scheduler".into())
            .spawn(move || service.run())
            .expect("the scheduler thread starts");
        Self { handle: Arc::new(Handle { shared }) }
    }

    /// Serves `engine` under `name`. A name that is already served keeps its engine, and this one is dropped.
    ///
    /// # Errors
    /// [`Refusal::ShuttingDown`].
    ///
    /// # Panics
    /// If the engine has no slots, no context or no vocabulary: loading makes no such engine.
    pub fn add_model(&self, name: &str, engine: Box<dyn Engine>) -> Result<(), Refusal> {
        let info = engine.info();
        assert!(info.slots > 0 && info.batch_tokens > 0 && info.vocab > 0 && info.context > 1);
        let (info, text) = (Arc::new(info.clone()), engine.text());
        self.handle.shared.locked(|state| state.add_model(name, info, text, engine))
    }

    /// Stops serving `name`; its sessions are closed and its answers end with an error. Unknown names are ignored.
    pub fn remove_model(&self, name: &str) {
        self.handle.shared.locked(|state| {
            if let Some(key) = state.forget_model(name) {
                state.commands.push_back(Command::Remove { key });
            }
        });
    }

    /// # Errors
    /// [`Refusal::NoModel`], [`Refusal::TooManySessions`], [`Refusal::ShuttingDown`].
    pub fn open_session(&self, model: &str) -> Result<u64, Refusal> {
        self.handle.shared.locked(|state| state.open_session(model))
    }

    /// Closes a session and frees its slot; its answer ends as cancelled. Unknown ids are ignored.
    pub fn close_session(&self, id: u64) {
        self.handle.shared.locked(|state| state.close_session(id));
    }

    /// Begins a request, whose texts may be read later and on another thread.
    ///
    /// # Errors
    /// [`Refusal::NoSession`], [`Refusal::Busy`], [`Refusal::QueueFull`], [`Refusal::ShuttingDown`].
    pub fn begin(&self, id: u64) -> Result<Begun, Refusal> {
        let ready = self.handle.shared.locked(|state| state.ready(id))?;
        Ok(Begun { scheduler: self.clone(), session: id, ready, submitted: Instant::now() })
    }

    /// [`Begun::respond`] of a request that is [begun](Self::begin) now.
    ///
    /// # Errors
    /// Those of both.
    pub fn respond(
        &self,
        id: u64,
        prompt: Prompt,
        options: GenerateOptions,
        sink: Sink,
    ) -> Result<(), Refusal> {
        self.begin(id)?.respond(prompt, options, sink)
    }

    /// [`Begun::embed`] of a request that is [begun](Self::begin) now.
    ///
    /// # Errors
    /// Those of both.
    pub fn embed(
        &self,
        id: u64,
        texts: &[String],
        options: &EmbedOptions,
        sink: EmbedSink,
    ) -> Result<(), Refusal> {
        self.begin(id)?.embed(texts, options, sink)
    }

    /// Ends the session's answer at the next token, or its texts before the next of them. False where neither was queued;
    /// what is [begun](Self::begin) is refused then when it comes to that.
    pub fn cancel(&self, id: u64) -> bool {
        self.handle.shared.locked(|state| state.cancel(id))
    }

    pub fn status(&self) -> Status {
        self.handle.shared.locked(|state| state.status())
    }

    /// Takes no more work and ends every answer with an error, at the next token. Returns at once.
    pub fn stop(&self) {
        self.handle.shared.stop();
    }

    /// Waits until [`stop`](Self::stop) has taken effect: every sink is dropped and every engine freed.
    pub fn join(&self) {
        self.handle.shared.join();
    }
}

impl Begun {
    /// Queues an answer. `sink` is called on the loop thread, starting with [`crate::Event::Start`], and must not
    /// block; it may call this handle.
    ///
    /// # Errors
    /// [`Refusal`] where the session is unknown, busy or was cancelled since, an option or the prompt cannot be used, or the queue is
    /// full. The sink is dropped uncalled.
    pub fn respond(self, prompt: Prompt, options: GenerateOptions, sink: Sink) -> Result<(), Refusal> {
        let Self { scheduler, session, ready: ReadyModel { info, text, grammars, cancels }, submitted } =
            self;
        if info.embedding.is_some() {
            return Err(Refusal::MakesVectors);
        }
        check_lengths(&options)?;
        let sampler = SamplerOptions::resolve(&options, &info.generation, fresh_seed())?;
        let (tokens, media) = match &prompt {
            Prompt::Chat(messages) => {
                media::place(text.encode_chat(messages, &options.chat)?, messages, &info, &*text)?
            }
            Prompt::Text(raw) => (text.encode(raw)?, media::Media::default()),
        };
        let prompt_len = u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        if prompt_len == 0 {
            return Err(Refusal::EmptyPrompt);
        }
        // The first new token needs a position of its own.
        let limit = info.context - 1;
        if prompt_len > limit {
            return Err(Refusal::PromptTooLong { tokens: prompt_len, limit });
        }
        if let Some(id) = tokens.iter().find(|&&id| id >= info.vocab) {
            let problem = format!("the tokenizer gives id {id}; the model has {}", info.vocab);
            return Err(Refusal::Text(TextError::Encode(problem)));
        }
        let reader = match &prompt {
            Prompt::Chat(_) => Reader::chat(&*text, &tokens, options.chat.tools.as_ref(), fresh_seed()),
            Prompt::Text(_) => Reader::plain(&*text),
        };
        let constraint = options.json_schema.as_ref().map(|schema| {
            let grammars = grammars.get_or_init(|| Grammars::new(&info, &*text));
            grammars.as_ref().map_err(Clone::clone)?.constraint(schema)
        });
        let constraint = constraint.transpose()?;
        let room = info.context - prompt_len;
        let request = Request {
            session,
            tokens,
            media,
            tokens_max: options.max_tokens.unwrap_or(room).min(room),
            sampler,
            stops: options.stop,
            priority: options.priority,
            speculation: options.speculation,
            constraint,
            cancelled: Arc::new(AtomicBool::new(false)),
            submitted,
            sink,
        };
        let answer = Box::new(Answer::new(request, &info.generation, reader));
        let cancelled = answer.cancelled();
        let shared = &scheduler.handle.shared;
        shared.locked(|state| state.queue(session, cancels, cancelled, |key| Command::Answer { key, answer }))
    }

    /// Queues texts to be embedded. `sink` is called once, on the loop thread, and may call this handle; it is dropped
    /// uncalled where the model panics.
    ///
    /// # Errors
    /// [`Refusal`] where the session is unknown, busy or was cancelled since, the model makes no vectors, a text cannot be used, or the queue
    /// is full. The sink is dropped uncalled.
    pub fn embed(self, texts: &[String], options: &EmbedOptions, sink: EmbedSink) -> Result<(), Refusal> {
        let Self { scheduler, session, ready: ReadyModel { info, text, cancels, .. }, .. } = self;
        let encoded = encode_texts(&info, &*text, texts, options)?;
        let cancelled = Arc::new(AtomicBool::new(false));
        let job =
            Job { session, encoded, priority: options.priority, cancelled: Arc::clone(&cancelled), sink };
        let shared = &scheduler.handle.shared;
        shared.locked(|state| {
            state.queue(session, cancels, cancelled, |key| Command::Embed { key, job: Box::new(job) })
        })
    }
}

fn check_lengths(options: &GenerateOptions) -> Result<(), Refusal> {
    let refuse = |name, value: String, rule| Err(Refusal::Option { name, value, rule });
    if options.json_schema.is_some() && options.chat.tools.is_some() {
        let rule = "an answer is JSON of a schema or may call tools: give one of them";
        return refuse("json_schema", "given with tools".into(), rule);
    }
    if options.max_tokens == Some(0) {
        return refuse("max_tokens", "0".into(), "it must be at least 1");
    }
    if options.stop.len() > STOPS_MAX {
        return refuse("stop", format!("{} texts", options.stop.len()), "at most 16 are taken");
    }
    for stop in &options.stop {
        if stop.is_empty() || stop.len() > STOP_BYTES_MAX {
            return refuse(
                "stop",
                format!("a text of {} bytes", stop.len()),
                "each must be of 1 to 256 bytes",
            );
        }
    }
    Ok(())
}

/// A seed nobody chose: the standard library's per-process keys, stepped at each call.
fn fresh_seed() -> u64 {
    std::hash::RandomState::new().build_hasher().finish()
}
