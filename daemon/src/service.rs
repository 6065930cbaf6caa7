//! What the daemon does, without the bus: sessions with their owners and limits, answers and their streams.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muse_runtime::{Begun, EmbedEnd, EmbedOptions, GenerateOptions, Prompt, Refusal, Scheduler};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, SemaphorePermit, oneshot};
use tokio::task::JoinSet;

use crate::config::Config;
use crate::models::{Lease, Models, Source};
use crate::stream::{self, Events};

/// Why a request is not served. `bus/error.rs` gives each a name on the wire.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no model {name:?}; there are: {known}")]
    UnknownModel { name: String, known: String },
    #[error("no model was named and the configuration has no default_model; there are: {known}")]
    NoDefaultModel { known: String },
    #[error("model {name} could not be loaded: {problem}")]
    Load { name: String, problem: String },
    #[error("model {name} does not fit: {problem}")]
    OverBudget { name: String, problem: String },
    #[error(
        "{answers} answers are running on model {name}; wait for them, or unload with force to end your own"
    )]
    ModelInUse { name: String, answers: usize },
    #[error(
        "{answers} answers of other users are running on model {name}; wait for them, or unload as root to end them"
    )]
    ModelInUseByOthers { name: String, answers: usize },
    #[error("{open} sessions of this client are open, the most one client may have; close one first")]
    TooManySessionsOfClient { open: usize },
    #[error("{open} sessions of this user are open, the most one user may have; close one first")]
    TooManySessionsOfUser { open: usize },
    #[error("{open} sessions are open, the most this service takes; try again later")]
    TooManySessions { open: usize },
    #[error("this session is closed")]
    Closed,
    #[error("the bus does not say whose call this is: {problem}")]
    UnknownUser { problem: String },
    #[error("a stream could not be made: {0}")]
    Stream(#[source] std::io::Error),
    #[error("the service is stopping")]
    Stopping,
    #[error(transparent)]
    Refused(Refusal),
}

/// Requests whose images, videos and sounds are in memory at once; the next wait, with descriptors alone. Their bytes are
/// `limits.images_mib` each, and a client may send as many calls as the bus takes.
const FILES_AT_ONCE: usize = 2;

/// A unique name of the bus; `None` on a connection that has but one client.
pub type Client = Option<String>;

/// Whose process a client is; `None` where the connection does not tell.
pub type User = Option<u32>;

/// The whole daemon but its connection.
pub struct Service {
    pub config: Config,
    pub models: Models,
    scheduler: Scheduler,
    sessions: Mutex<BTreeMap<u64, Arc<Session>>>,
    next_session: AtomicU64,
    stopping: AtomicBool,
    streams: Mutex<JoinSet<()>>,
    /// Of the requests whose files are in memory.
    files: Arc<Semaphore>,
    started: Instant,
}

/// One conversation of one client with one model. It outlives the model's being unloaded: the next answer loads it
/// again and reads the conversation anew.
pub struct Session {
    pub id: u64,
    pub client: Client,
    pub user: User,
    pub model: String,
    turn: tokio::sync::Mutex<Turn>,
    /// Held while a request is read and rendered, before the scheduler knows of it.
    asking: Semaphore,
    /// Told when nobody waits for that any more.
    given_up: Notify,
}

#[derive(Default)]
struct Turn {
    /// The load that the scheduler's session belongs to, and that session.
    engine: Option<(u64, u64)>,
    /// Counts answers, so that a late cancel of one cannot hit the next.
    answer: u64,
    closed: bool,
}

/// An answer under way.
pub struct Answer {
    pub events: Events,
    pub session: Arc<Session>,
    number: u64,
    /// Keeps the model loaded.
    _lease: Lease,
}

/// Room for the files of a request, and who reads it.
pub struct FileRoom {
    _reader: OwnedSemaphorePermit,
    _permit: OwnedSemaphorePermit,
    /// Keeps the model loaded.
    _lease: Lease,
}

/// Texts on their way to vectors.
pub struct Embedding {
    pub end: oneshot::Receiver<EmbedEnd>,
    /// Keeps the model loaded.
    _lease: Lease,
}

/// Numbers for `musectl status`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    pub sessions: u32,
    pub clients: u32,
    /// Answers under way, and those that wait for a place.
    pub running: u32,
    pub waiting: u32,
    /// Streams whose last frame is not written yet.
    pub streams: u32,
    /// Of all loaded models, weights and working memory.
    pub loaded_bytes: u64,
    pub uptime: Duration,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Session {
    /// Makes a request of this session the only one until what is returned is dropped.
    ///
    /// # Errors
    /// [`Refusal::Busy`] where one is being read or rendered already.
    pub fn ask(&self) -> Result<SemaphorePermit<'_>, Error> {
        self.asking.try_acquire().map_err(|_| Error::Refused(Refusal::Busy))
    }
}

impl Service {
    pub fn new(
        config: Config,
        source: Arc<dyn Source>,
        scheduler: Scheduler,
        budget: Option<u64>,
    ) -> Arc<Self> {
        let models = Models::new(&config, source, scheduler.clone(), budget);
        Arc::new(Self {
            config,
            models,
            scheduler,
            sessions: Mutex::default(),
            next_session: AtomicU64::new(1),
            stopping: AtomicBool::new(false),
            streams: Mutex::default(),
            files: Arc::new(Semaphore::new(FILES_AT_ONCE)),
            started: Instant::now(),
        })
    }

    /// Opens a session with `model` (a name, an alias, or empty), loading the model.
    ///
    /// # Errors
    /// Limits, unknown models and failed loads.
    pub async fn open(&self, client: Client, user: User, model: &str) -> Result<Arc<Session>, Error> {
        self.refuse_when_stopping()?;
        let model = self.models.resolve(model).await?;
        let session = self.admit(client, user, model)?;
        if let Err(problem) = self.models.lease(&session.model, session.user).await {
            self.close(&session).await;
            return Err(problem);
        }
        Ok(session)
    }

    /// Counts a session against the limits before anything is loaded for it.
    fn admit(&self, client: Client, user: User, model: String) -> Result<Arc<Session>, Error> {
        let mut sessions = lock(&self.sessions);
        let open = sessions.len();
        if open as u64 >= self.config.limits.sessions {
            return Err(Error::TooManySessions { open });
        }
        let open = sessions.values().filter(|s| s.client == client).count();
        if open as u64 >= self.config.limits.sessions_per_client {
            return Err(Error::TooManySessionsOfClient { open });
        }
        let open = sessions.values().filter(|s| s.user == user).count();
        if open as u64 >= self.config.limits.sessions_per_user {
            return Err(Error::TooManySessionsOfUser { open });
        }
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session {
            id,
            client,
            user,
            model,
            turn: tokio::sync::Mutex::default(),
            asking: Semaphore::new(1),
            given_up: Notify::new(),
        });
        sessions.insert(id, session.clone());
        Ok(session)
    }

    /// Loads the session's model, then waits until there is room for the files of a request; they may be in memory while
    /// this is held. The model stays loaded, so that nobody waits with files in memory for a load.
    ///
    /// # Errors
    /// Those of loading the model.
    pub async fn room_for_files(&self, session: &Session) -> Result<FileRoom, Error> {
        self.refuse_when_stopping()?;
        let lease = self.models.lease(&session.model, session.user).await?;
        // The reader first: who waits for a model's has no room that another's could use.
        let reader = lease.readers.files.clone().acquire_owned().await.expect("it is never closed");
        let permit = self.files.clone().acquire_owned().await.expect("it is never closed");
        Ok(FileRoom { _reader: reader, _permit: permit, _lease: lease })
    }

    /// Starts an answer to the whole conversation so far, whose files have `room`.
    ///
    /// # Errors
    /// The scheduler's refusals, those of loading the model, and those of who gives up.
    pub async fn respond(
        &self,
        session: &Arc<Session>,
        prompt: Prompt,
        options: GenerateOptions,
        room: Option<FileRoom>,
    ) -> Result<Answer, Error> {
        self.refuse_when_stopping()?;
        let lease = self.models.lease(&session.model, session.user).await?;
        let frames = usize::try_from(self.config.limits.stream_frames).unwrap_or(usize::MAX);
        let (sink, events) = stream::channel(frames);
        let read = move |begun: Begun| begun.respond(prompt, options, sink);
        let number = self.read(session, &lease, room, read).await?;
        Ok(Answer { events, session: session.clone(), number, _lease: lease })
    }

    /// Starts to embed texts. The receiver gets their end, and an error where the model crashed.
    ///
    /// # Errors
    /// As [`respond`](Self::respond).
    pub async fn embed(
        &self,
        session: &Arc<Session>,
        texts: Vec<String>,
        options: EmbedOptions,
    ) -> Result<Embedding, Error> {
        self.refuse_when_stopping()?;
        let lease = self.models.lease(&session.model, session.user).await?;
        let (sender, end) = oneshot::channel();
        // Nobody may be waiting any more.
        let sink = Box::new(move |end| drop(sender.send(end)));
        let read = move |begun: Begun| begun.embed(&texts, &options, sink);
        self.read(session, &lease, None, read).await?;
        Ok(Embedding { end, _lease: lease })
    }

    /// Reads a text on a thread, which takes a while and on a hostile model seconds, and queues what is asked of it. Who
    /// cancels or closes `session` waits for neither, and it is not queued any more. Returns the answer's number.
    async fn read(
        &self,
        session: &Session,
        lease: &Lease,
        room: Option<FileRoom>,
        read: impl FnOnce(Begun) -> Result<(), Refusal> + Send + 'static,
    ) -> Result<u64, Error> {
        let given_up = session.given_up.notified();
        let (begun, number) = {
            let mut turn = session.turn.lock().await;
            if turn.closed {
                return Err(Error::Closed);
            }
            let engine = self.engine_of(session, &mut turn, lease)?;
            let begun = self.scheduler.begin(engine)?;
            // The answer before has ended, and a late cancel of it does not end this one.
            turn.answer += 1;
            (begun, turn.answer)
        };
        let readers = lease.readers.texts.clone();
        let taken = async {
            let reader = match &room {
                Some(_) => None,
                None => Some(readers.acquire_owned().await.expect("it is never closed")),
            };
            let work = move || {
                let taken = read(begun);
                drop((room, reader));
                taken
            };
            match tokio::task::spawn_blocking(work).await {
                Ok(taken) => taken,
                Err(panic) => std::panic::resume_unwind(panic.into_panic()),
            }
        };
        let taken = tokio::select! {
            biased;
            () = given_up => Err(Refusal::Cancelled),
            taken = taken => taken,
        };
        if session.turn.lock().await.closed {
            return Err(Error::Closed);
        }
        taken?;
        Ok(number)
    }

    /// The scheduler's session of a session; a new one where the model was loaded again.
    fn engine_of(&self, session: &Session, turn: &mut Turn, lease: &Lease) -> Result<u64, Error> {
        match turn.engine {
            Some((generation, id)) if generation == lease.generation => Ok(id),
            _ => {
                let id = self.scheduler.open_session(&session.model)?;
                turn.engine = Some((lease.generation, id));
                Ok(id)
            }
        }
    }

    /// Ends the answer under way, if any, with `finish_reason` cancelled, or the reading of the text for it.
    pub async fn cancel(&self, session: &Session) {
        let turn = session.turn.lock().await;
        if !self.cancel_turn(&turn) {
            session.given_up.notify_waiters();
        }
    }

    /// Ends `answer` unless it has ended; never the one after it.
    pub async fn cancel_answer(&self, answer: &Answer) {
        let turn = answer.session.turn.lock().await;
        if turn.answer == answer.number {
            self.cancel_turn(&turn);
        }
    }

    /// False where no answer was under way.
    fn cancel_turn(&self, turn: &Turn) -> bool {
        turn.engine.is_some_and(|(_, engine)| self.scheduler.cancel(engine))
    }

    /// Ends a session and its answer. Closing twice is success.
    pub async fn close(&self, session: &Session) {
        lock(&self.sessions).remove(&session.id);
        let mut turn = session.turn.lock().await;
        turn.closed = true;
        if let Some((_, engine)) = turn.engine.take() {
            self.scheduler.close_session(engine);
        }
        session.given_up.notify_waiters();
    }

    pub fn session(&self, id: u64) -> Option<Arc<Session>> {
        lock(&self.sessions).get(&id).cloned()
    }

    /// The open sessions of a client.
    pub fn sessions_of(&self, client: &Client) -> Vec<Arc<Session>> {
        lock(&self.sessions).values().filter(|s| s.client == *client).cloned().collect()
    }

    /// Runs `stream` to its end beside the caller; [`Service::stop`] waits for it.
    pub fn spawn_stream(&self, stream: impl Future<Output = ()> + Send + 'static) {
        self.streams().spawn(stream);
    }

    /// The streams, those that have ended forgotten.
    fn streams(&self) -> MutexGuard<'_, JoinSet<()>> {
        let mut streams = lock(&self.streams);
        while streams.try_join_next().is_some() {}
        streams
    }

    pub fn status(&self) -> Status {
        let engine = self.scheduler.status();
        let infos = engine.models.iter().map(|m| &m.info);
        let sessions = lock(&self.sessions);
        let clients: BTreeSet<_> = sessions.values().map(|s| &s.client).collect();
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Status {
            sessions: count(sessions.len()),
            clients: count(clients.len()),
            running: engine.models.iter().map(|m| m.running).sum(),
            waiting: engine.queued,
            streams: count(self.streams().len()),
            loaded_bytes: infos.map(|i| i.weight_bytes.saturating_add(i.working_bytes)).sum(),
            uptime: self.started.elapsed(),
        }
    }

    /// Takes no more work, ends every answer and waits up to `grace` for their last frames to be read.
    pub async fn stop(&self, grace: Duration) {
        self.stopping.store(true, Ordering::SeqCst);
        self.scheduler.stop();
        let mut streams = std::mem::take(&mut *lock(&self.streams));
        let ended = tokio::time::timeout(grace, async { while streams.join_next().await.is_some() {} }).await;
        if ended.is_err() {
            tracing::warn!(streams = streams.len(), "streams were still open after the grace time");
        }
    }

    fn refuse_when_stopping(&self) -> Result<(), Error> {
        if self.stopping.load(Ordering::SeqCst) { Err(Error::Stopping) } else { Ok(()) }
    }
}
