//! What callers and the loop share. The lock is held for bookkeeping only, never while an engine or a sink runs.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use super::answer::Answer;
use super::embedding::Job;
use super::{ModelStatus, SchedulerOptions, Status};
use crate::constraint::Grammars;
use crate::{Engine, ModelInfo, Refusal, Text, TextError, Usage};

/// Work for the loop, in order. Bounded: answers by the queue, closings by the sessions, models by memory.
pub(super) enum Command {
    Add { key: u64, name: String, engine: Box<dyn Engine> },
    Remove { key: u64 },
    Answer { key: u64, answer: Box<Answer> },
    Embed { key: u64, job: Box<Job> },
    Close { key: u64, session: u64 },
}

/// A model as callers see it. `key` tells it from an earlier one of the same name.
struct Model {
    key: u64,
    info: Arc<ModelInfo>,
    text: Arc<dyn Text>,
    grammars: Arc<OnceLock<Result<Grammars, TextError>>>,
    sessions: u32,
    waiting: u32,
    running: u32,
    last_active: Instant,
    prompt_tokens: u64,
    completion_tokens: u64,
}

/// What a request is made with.
pub(super) struct ReadyModel {
    pub(super) info: Arc<ModelInfo>,
    pub(super) text: Arc<dyn Text>,
    /// Made at the first schema.
    pub(super) grammars: Arc<OnceLock<Result<Grammars, TextError>>>,
    /// Of the session, so far.
    pub(super) cancels: u64,
}

pub(super) struct Session {
    model: String,
    /// The running or waiting answer's cancel flag.
    answering: Option<Arc<AtomicBool>>,
    /// Counts cancels, so that what was begun before one is not queued behind it.
    cancels: u64,
}

pub(super) struct State {
    options: SchedulerOptions,
    models: BTreeMap<String, Model>,
    sessions: HashMap<u64, Session>,
    pub(super) commands: VecDeque<Command>,
    last_id: u64,
    stopping: bool,
    ended: bool,
}

pub(super) struct Shared {
    state: Mutex<State>,
    /// Commands came, or the loop ended.
    changed: Condvar,
}

impl Shared {
    pub(super) fn new(options: SchedulerOptions) -> Self {
        let state = State {
            options,
            models: BTreeMap::new(),
            sessions: HashMap::new(),
            commands: VecDeque::new(),
            last_id: 0,
            stopping: false,
            ended: false,
        };
        Self { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// Runs `work` on the state and wakes the loop for what it queued.
    pub(super) fn locked<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let result = work(&mut state);
        if !state.commands.is_empty() {
            self.changed.notify_all();
        }
        result
    }

    /// What came in; waits for something unless there is work to do meanwhile. `None` once the service stops.
    pub(super) fn next(&self, busy: bool) -> Option<VecDeque<Command>> {
        let mut state = self.lock();
        while !busy && !state.stopping && state.commands.is_empty() {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.stopping { None } else { Some(std::mem::take(&mut state.commands)) }
    }

    pub(super) fn stop(&self) {
        self.lock().stopping = true;
        self.changed.notify_all();
    }

    /// The loop is over: nothing is served any more. Returns what it never took.
    pub(super) fn end(&self) -> VecDeque<Command> {
        let mut state = self.lock();
        state.stopping = true;
        state.models.clear();
        state.sessions.clear();
        std::mem::take(&mut state.commands)
    }

    pub(super) fn ended(&self) {
        self.lock().ended = true;
        self.changed.notify_all();
    }

    pub(super) fn join(&self) {
        let mut state = self.lock();
        while !state.ended {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Nothing panics under the lock but by a bug of ours, and every change is whole before the next begins.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    pub(super) fn add_model(
        &mut self,
        name: &str,
        info: Arc<ModelInfo>,
        text: Arc<dyn Text>,
        engine: Box<dyn Engine>,
    ) -> Result<(), Refusal> {
        self.check_open()?;
        if self.models.contains_key(name) {
            return Ok(());
        }
        let key = self.fresh_id();
        let model = Model {
            key,
            info,
            text,
            grammars: Arc::default(),
            sessions: 0,
            waiting: 0,
            running: 0,
            last_active: Instant::now(),
            prompt_tokens: 0,
            completion_tokens: 0,
        };
        self.models.insert(name.to_owned(), model);
        self.commands.push_back(Command::Add { key, name: name.to_owned(), engine });
        Ok(())
    }

    /// Forgets a model and its sessions; returns its key.
    pub(super) fn forget_model(&mut self, name: &str) -> Option<u64> {
        let model = self.models.remove(name)?;
        self.sessions.retain(|_, session| session.model != name);
        Some(model.key)
    }

    /// [`forget_model`](Self::forget_model) by key; nothing where the name is another model's by now.
    pub(super) fn forget_key(&mut self, key: u64) {
        let name = self.models.iter().find(|(_, model)| model.key == key).map(|(name, _)| name.clone());
        if let Some(name) = name {
            self.forget_model(&name);
        }
    }

    pub(super) fn open_session(&mut self, model: &str) -> Result<u64, Refusal> {
        self.check_open()?;
        let open = self.sessions.len() as u32;
        let entry = self.models.get_mut(model).ok_or_else(|| Refusal::NoModel(model.to_owned()))?;
        if open >= self.options.sessions_max {
            return Err(Refusal::TooManySessions { open });
        }
        entry.sessions += 1;
        let id = self.fresh_id();
        self.sessions.insert(id, Session { model: model.to_owned(), answering: None, cancels: 0 });
        Ok(id)
    }

    pub(super) fn close_session(&mut self, id: u64) {
        let Some(session) = self.sessions.remove(&id) else { return };
        let model = self.models.get_mut(&session.model).expect("a session's model outlives it");
        model.sessions -= 1;
        if let Some(cancelled) = session.answering {
            cancelled.store(true, Ordering::Relaxed);
        }
        self.commands.push_back(Command::Close { key: model.key, session: id });
    }

    /// What a request to `session` needs, where it could be taken now.
    pub(super) fn ready(&self, session: u64) -> Result<ReadyModel, Refusal> {
        self.check_open()?;
        let found = self.sessions.get(&session).ok_or(Refusal::NoSession(session))?;
        if found.answering.is_some() {
            return Err(Refusal::Busy);
        }
        self.check_queue()?;
        let model = &self.models[&found.model];
        Ok(ReadyModel {
            info: Arc::clone(&model.info),
            text: Arc::clone(&model.text),
            grammars: Arc::clone(&model.grammars),
            cancels: found.cancels,
        })
    }

    /// Ends what a session has queued, and refuses what it has begun; true where something was queued.
    pub(super) fn cancel(&mut self, id: u64) -> bool {
        let Some(session) = self.sessions.get_mut(&id) else { return false };
        session.cancels += 1;
        let queued = session.answering.as_ref();
        queued.inspect(|cancelled| cancelled.store(true, Ordering::Relaxed)).is_some()
    }

    /// Queues what `command` makes of the model's key, as the one request of a session that `cancelled` ends. `cancels` are
    /// those of the session when it was begun.
    pub(super) fn queue(
        &mut self,
        id: u64,
        cancels: u64,
        cancelled: Arc<AtomicBool>,
        command: impl FnOnce(u64) -> Command,
    ) -> Result<(), Refusal> {
        self.check_open()?;
        self.check_queue()?;
        let session = self.sessions.get_mut(&id).ok_or(Refusal::NoSession(id))?;
        if session.cancels != cancels {
            return Err(Refusal::Cancelled);
        }
        if session.answering.is_some() {
            return Err(Refusal::Busy);
        }
        let model = self.models.get_mut(&session.model).expect("a session's model outlives it");
        session.answering = Some(cancelled);
        model.waiting += 1;
        self.commands.push_back(command(model.key));
        Ok(())
    }

    /// An answer of the model got a slot (`running`) or lost it.
    pub(super) fn note_slot(&mut self, key: u64, running: bool) {
        if let Some(model) = self.model(key) {
            let (from, to) = match running {
                true => (&mut model.waiting, &mut model.running),
                false => (&mut model.running, &mut model.waiting),
            };
            *from -= 1;
            *to += 1;
        }
    }

    /// An answer of `session` ended; `running` says whether it held a slot.
    pub(super) fn note_end(&mut self, key: u64, session: u64, running: bool, usage: Usage) {
        if let Some(session) = self.sessions.get_mut(&session) {
            session.answering = None;
        }
        if let Some(model) = self.model(key) {
            *(if running { &mut model.running } else { &mut model.waiting }) -= 1;
            model.last_active = Instant::now();
            model.prompt_tokens += u64::from(usage.prompt_tokens);
            model.completion_tokens += u64::from(usage.completion_tokens);
        }
    }

    pub(super) fn status(&self) -> Status {
        let models = self.models.iter().map(|(name, model)| ModelStatus {
            name: name.clone(),
            info: Arc::clone(&model.info),
            sessions: model.sessions,
            running: model.running,
            waiting: model.waiting,
            idle: (model.running + model.waiting == 0).then(|| model.last_active.elapsed()),
            prompt_tokens: model.prompt_tokens,
            completion_tokens: model.completion_tokens,
        });
        Status {
            models: models.collect(),
            sessions: self.sessions.len() as u32,
            sessions_max: self.options.sessions_max,
            queued: self.queued(),
            queue_max: self.options.queue_max,
        }
    }

    fn model(&mut self, key: u64) -> Option<&mut Model> {
        self.models.values_mut().find(|model| model.key == key)
    }

    fn queued(&self) -> u32 {
        self.models.values().map(|model| model.waiting).sum()
    }

    fn check_open(&self) -> Result<(), Refusal> {
        if self.stopping { Err(Refusal::ShuttingDown) } else { Ok(()) }
    }

    fn check_queue(&self) -> Result<(), Refusal> {
        let queued = self.queued();
        if queued >= self.options.queue_max { Err(Refusal::QueueFull { queued }) } else { Ok(()) }
    }

    fn fresh_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }
}
