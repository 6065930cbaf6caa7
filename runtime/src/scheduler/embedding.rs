//! Texts on their way to vectors: a batch of them a turn, of as many requests as have room in it, so that other requests
//! and other models come between.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use muse_kernels::BackendError;

use super::resident::Broken;
use super::state::Shared;
use crate::embed::{Room, vectors};
use crate::{Embedded, EncodedTexts, Engine, ModelInfo, Priority, Usage};

/// How a request to embed ended.
#[derive(Debug, Clone, PartialEq)]
pub enum EmbedEnd {
    Done(Embedded),
    Cancelled,
    /// The model failed or was unloaded.
    Failed(String),
}

/// Takes the end of a request to embed. Must not block.
pub type EmbedSink = Box<dyn FnOnce(EmbedEnd) + Send>;

/// One request.
pub(super) struct Job {
    pub(super) session: u64,
    pub(super) encoded: EncodedTexts,
    pub(super) priority: Priority,
    pub(super) cancelled: Arc<AtomicBool>,
    pub(super) sink: EmbedSink,
}

/// The requests of one model, those served longest ago first.
pub(super) struct Jobs {
    key: u64,
    queue: VecDeque<(Job, Made)>,
    shared: Arc<Shared>,
}

/// What is there of a request.
#[derive(Default)]
struct Made {
    vectors: Vec<Vec<f32>>,
    running: bool,
}

impl Jobs {
    /// Of the model that callers know by `key`.
    pub(super) fn new(key: u64, shared: Arc<Shared>) -> Self {
        Self { key, queue: VecDeque::new(), shared }
    }

    pub(super) fn push(&mut self, job: Job) {
        self.queue.push_back((job, Made::default()));
    }

    pub(super) fn priority(&self) -> Option<Priority> {
        self.queue.iter().map(|(job, _)| job.priority).max()
    }

    /// Ends what nobody wants and embeds one batch: the first request's of at least `urgent`, and where there is room, the
    /// next ones'.
    pub(super) fn turn(&mut self, engine: &mut dyn Engine, urgent: Priority) -> Result<(), Broken> {
        while let Some(at) = self.queue.iter().position(|(job, _)| job.cancelled.load(Ordering::Relaxed)) {
            self.end(at, EmbedEnd::Cancelled);
        }
        let mut batch = self.batch(engine.info(), urgent);
        let Some(&(first, _)) = batch.first() else { return Ok(()) };
        let mut result = self.embed(engine, &batch);
        if batch.len() > 1 && result.as_ref().is_err_and(|error| !error.is_final()) {
            // Only the request whose texts cannot be embedded fails, in its turn.
            batch.truncate(1);
            result = self.embed(engine, &batch);
        }
        let mut vectors = match result {
            Ok(vectors) => vectors.into_iter(),
            Err(error) => {
                tracing::error!(%error, "texts were not embedded");
                self.end(first, EmbedEnd::Failed(format!("the model failed: {error}")));
                return if error.is_final() { Err(Broken::Failed(error.to_string())) } else { Ok(()) };
            }
        };
        for &(at, count) in &batch {
            self.queue[at].1.vectors.extend(vectors.by_ref().take(count));
        }
        // From the last on, so that the places of the others stay what they are.
        let mut unfinished = Vec::new();
        for &(at, _) in batch.iter().rev() {
            let (job, made) = &mut self.queue[at];
            if made.vectors.len() == job.encoded.texts.len() {
                let (tokens, truncated) = (job.encoded.tokens(), job.encoded.truncated);
                let vectors = std::mem::take(&mut made.vectors);
                self.end(at, EmbedEnd::Done(Embedded { vectors, tokens, truncated }));
            } else {
                unfinished.push(self.queue.remove(at).expect("it was just served"));
            }
        }
        // Others come first now.
        self.queue.extend(unfinished.into_iter().rev());
        Ok(())
    }

    /// Which requests have texts in the next batch, by their places in the queue, and how many; they run from now on.
    fn batch(&mut self, info: &ModelInfo, urgent: Priority) -> Vec<(usize, usize)> {
        let mut room = Room::new(info);
        let mut batch = Vec::new();
        for (at, (job, made)) in
            self.queue.iter_mut().enumerate().filter(|(_, (job, _))| job.priority >= urgent)
        {
            let count = room.take(&job.encoded.texts[made.vectors.len()..]);
            if count == 0 {
                continue;
            }
            if !made.running {
                made.running = true;
                self.shared.locked(|state| state.note_slot(self.key, true));
            }
            batch.push((at, count));
        }
        batch
    }

    fn embed(
        &self,
        engine: &mut dyn Engine,
        batch: &[(usize, usize)],
    ) -> Result<Vec<Vec<f32>>, BackendError> {
        let texts = batch.iter().flat_map(|(at, count)| {
            let (job, made) = &self.queue[*at];
            job.encoded.texts[made.vectors.len()..][..*count].iter().map(Vec::as_slice)
        });
        vectors(engine, &texts.collect::<Vec<_>>())
    }

    pub(super) fn fail_all(&mut self, message: &str) {
        while !self.queue.is_empty() {
            self.end(0, EmbedEnd::Failed(message.to_owned()));
        }
    }

    fn end(&mut self, at: usize, end: EmbedEnd) {
        let (job, made) = self.queue.remove(at).expect("the caller found it");
        let prompt_tokens = match &end {
            EmbedEnd::Done(embedded) => u32::try_from(embedded.tokens).unwrap_or(u32::MAX),
            EmbedEnd::Cancelled | EmbedEnd::Failed(_) => 0,
        };
        let usage = Usage { prompt_tokens, ..Usage::default() };
        // Before the end is told, so that whoever hears of it may ask again at once.
        self.shared.locked(|state| state.note_end(self.key, job.session, made.running, usage));
        (job.sink)(end);
    }
}
