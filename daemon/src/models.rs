//! Which models there are, which are loaded, and who uses them. Loads on demand, evicts the least recently used.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use muse_runtime::{Engine, ModelInfo, Refusal, Scheduler};
use tokio::sync::{Semaphore, watch};

use crate::config::Config;
use crate::service::{Error, User};

/// What [`valid_name`] asks for, in words.
pub const NAME_RULE: &str =
    "1 to 100 letters, digits, dots, dashes, underscores and plus signs, the first a letter or digit";

/// True for a name that may become a file name: it can leave no folder.
pub fn valid_name(name: &str) -> bool {
    name.len() <= 100
        && name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b))
}

/// Who reads the texts for a model. The others wait without a thread: the tokenizer, which came with the model, may keep one
/// for seconds, and other models' texts are to have theirs.
#[derive(Debug, Clone)]
pub struct Readers {
    /// Of requests without files, two at once.
    pub texts: Arc<Semaphore>,
    /// Of requests with files, one at once, so that no model takes all the room for files. Such a request waits for no
    /// other reader while it has room, and texts wait for nobody's files.
    pub files: Arc<Semaphore>,
}

impl Default for Readers {
    fn default() -> Self {
        Self { texts: Arc::new(Semaphore::new(2)), files: Arc::new(Semaphore::new(1)) }
    }
}

/// Who may end anybody's answers.
const ROOT: User = Some(0);

/// What is known of a model that is not loaded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Summary {
    pub family: String,
    /// Positions that the model was trained for.
    pub context: u32,
    /// Storage layouts of its matrices, most bytes first: `q4b32`.
    pub layouts: String,
    pub size_bytes: u64,
    /// BLAKE3 of the file, in hex.
    pub hash: String,
    pub license: String,
    /// Numbers of the vector that it makes of a text; 0 for a model that writes text.
    pub embedding_width: u32,
    /// Whether it proposes tokens of another model, and is none by itself.
    pub drafts: bool,
}

/// Identity of a file's content as far as a directory entry tells: changed means look again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    pub device: u64,
    pub inode: u64,
    pub size_bytes: u64,
    pub modified_ns: i128,
}

/// Where models come from: a folder for the daemon, simulated engines for tests.
pub trait Source: Send + Sync + 'static {
    /// Every model by name; names are valid.
    fn list(&self) -> std::io::Result<BTreeMap<String, Stamp>>;

    /// Reads what can be told without loading; the error is for the operator.
    fn describe(&self, name: &str) -> Result<Summary, String>;

    /// Loads within `budget` bytes.
    fn load(&self, name: &str, budget: Option<u64>) -> Result<Box<dyn Engine>, LoadProblem>;
}

#[derive(Debug)]
pub enum LoadProblem {
    /// Does not fit: unloading another model may help.
    OverBudget(String),
    Other(String),
}

/// One line of `musectl models`, one object of the bus.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    pub name: String,
    pub aliases: Vec<String>,
    /// What is wrong with the file, where something is.
    pub summary: Result<Summary, String>,
    pub loaded: Option<ModelInfo>,
}

struct Entry {
    stamp: Stamp,
    summary: Result<Summary, String>,
    /// False once the file is gone; the entry stays while it is loaded.
    present: bool,
    loaded: Option<Loaded>,
    /// Of every load: a text may be read longer than a load lasts.
    readers: Readers,
}

struct Loaded {
    info: ModelInfo,
    /// Counts loads, so that a session knows whether its cache is still there.
    generation: u64,
    /// Whose requests use it, one with files twice while they are read.
    leases: Vec<User>,
    used: Instant,
}

type Table = BTreeMap<String, Entry>;

/// The catalogue.
pub struct Models {
    source: Arc<dyn Source>,
    scheduler: Scheduler,
    aliases: BTreeMap<String, String>,
    default_model: Option<String>,
    budget: Option<u64>,
    table: Arc<Mutex<Table>>,
    /// Held over each load and unload, so that two never count the same memory.
    loading: tokio::sync::Mutex<u64>,
    changed: watch::Sender<()>,
}

/// Keeps a model loaded. Dropping it starts the model's idle time.
pub struct Lease {
    name: String,
    user: User,
    pub generation: u64,
    pub readers: Readers,
    table: Arc<Mutex<Table>>,
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut table = lock(&self.table);
        let loaded = table.get_mut(&self.name).and_then(|e| e.loaded.as_mut());
        if let Some(loaded) = loaded.filter(|l| l.generation == self.generation) {
            let mine = loaded.leases.iter().position(|user| *user == self.user);
            loaded.leases.swap_remove(mine.expect("it is held"));
            loaded.used = Instant::now();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Models {
    /// `budget`: bytes that all loaded models may take together; `None` is no bound.
    pub fn new(config: &Config, source: Arc<dyn Source>, scheduler: Scheduler, budget: Option<u64>) -> Self {
        Self {
            source,
            scheduler,
            aliases: config.aliases.clone(),
            default_model: config.default_model.clone(),
            budget,
            table: Arc::default(),
            loading: tokio::sync::Mutex::new(0),
            changed: watch::channel(()).0,
        }
    }

    pub fn budget(&self) -> Option<u64> {
        self.budget
    }

    /// Tells when a model appeared, vanished, was loaded or unloaded.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Looks at the source again. Unchanged files are not read.
    pub async fn refresh(&self) {
        let (source, table) = (self.source.clone(), self.table.clone());
        let work = tokio::task::spawn_blocking(move || refresh(&*source, &table));
        if work.await.unwrap_or(false) {
            self.changed.send_replace(());
        }
    }

    pub fn snapshot(&self) -> Vec<Snapshot> {
        lock(&self.table).iter().map(|(name, entry)| self.snapshot_of(name, entry)).collect()
    }

    pub fn get(&self, name: &str) -> Option<Snapshot> {
        lock(&self.table).get(name).map(|entry| self.snapshot_of(name, entry))
    }

    fn snapshot_of(&self, name: &str, entry: &Entry) -> Snapshot {
        let aliases = self.aliases.iter().filter(|(_, target)| *target == name);
        Snapshot {
            name: name.into(),
            aliases: aliases.map(|(alias, _)| alias.clone()).collect(),
            summary: entry.summary.clone(),
            loaded: entry.loaded.as_ref().map(|l| l.info.clone()),
        }
    }

    /// The model that `wanted` names: a model, an alias, or nothing for the default.
    ///
    /// # Errors
    /// [`Error::UnknownModel`], [`Error::NoDefaultModel`].
    pub async fn resolve(&self, wanted: &str) -> Result<String, Error> {
        if let Some(name) = self.lookup(wanted) {
            return Ok(name);
        }
        self.refresh().await;
        self.lookup(wanted).ok_or_else(|| {
            let known = self.names().join(", ");
            match wanted {
                "" if self.default_model.is_none() => Error::NoDefaultModel { known },
                "" => Error::UnknownModel { name: self.default_model.clone().unwrap_or_default(), known },
                _ => Error::UnknownModel { name: wanted.chars().take(100).collect(), known },
            }
        })
    }

    /// The name that an empty model name stands for; empty where there is none.
    pub fn default_name(&self) -> String {
        self.lookup("").unwrap_or_default()
    }

    fn names(&self) -> Vec<String> {
        let models = lock(&self.table).iter().filter(|(_, e)| e.present).map(|(n, _)| n.clone()).collect();
        let models: Vec<String> = models;
        models.into_iter().chain(self.aliases.keys().cloned()).collect()
    }

    fn lookup(&self, wanted: &str) -> Option<String> {
        let table = lock(&self.table);
        let wanted = match (wanted, &self.default_model) {
            ("", Some(default)) => default.as_str(),
            ("", None) => {
                let drafts = |e: &Entry| e.summary.as_ref().is_ok_and(|summary| summary.drafts);
                let mut present = table.iter().filter(|(_, e)| e.present && !drafts(e));
                return present.next().filter(|_| present.next().is_none()).map(|(name, _)| name.clone());
            }
            (name, _) => name,
        };
        let name = self.aliases.get(wanted).map_or(wanted, String::as_str);
        table.get(name).filter(|e| e.present || e.loaded.is_some()).map(|_| name.to_owned())
    }

    /// Loads the model unless it is loaded, and keeps it so for `user` until the lease is dropped.
    ///
    /// # Errors
    /// [`Error::Load`], [`Error::OverBudget`], or the scheduler's refusal.
    pub async fn lease(&self, name: &str, user: User) -> Result<Lease, Error> {
        if let Some(lease) = self.lease_loaded(name, user) {
            return Ok(lease);
        }
        let mut generation = self.loading.lock().await;
        if let Some(lease) = self.lease_loaded(name, user) {
            return Ok(lease);
        }
        let engine = self.load_evicting(name).await?;
        let info = engine.info().clone();
        *generation += 1;
        let loaded = Loaded { info, generation: *generation, leases: Vec::new(), used: Instant::now() };
        match lock(&self.table).get_mut(name) {
            // Both under the lock: what the table calls loaded, the scheduler serves.
            Some(entry) => {
                self.scheduler.add_model(name, engine)?;
                entry.loaded = Some(loaded);
            }
            // Its file vanished while it was read.
            None => drop(engine),
        }
        tracing::info!(model = name, "loaded");
        self.changed.send_replace(());
        self.lease_loaded(name, user)
            .ok_or_else(|| Error::UnknownModel { name: name.into(), known: self.names().join(", ") })
    }

    fn lease_loaded(&self, name: &str, user: User) -> Option<Lease> {
        let mut table = lock(&self.table);
        // The scheduler drops an engine that failed; then the model is loaded anew.
        if !self.scheduler.status().models.iter().any(|model| model.name == name) {
            if table.get_mut(name)?.loaded.take().is_some() {
                self.changed.send_replace(());
            }
            return None;
        }
        let entry = table.get_mut(name)?;
        let (loaded, readers) = (entry.loaded.as_mut()?, entry.readers.clone());
        loaded.leases.push(user);
        let (name, generation) = (name.into(), loaded.generation);
        Some(Lease { name, user, generation, readers, table: self.table.clone() })
    }

    /// Loads; while the model or its experts do not fit, unloads the least recently used one that nobody uses and tries again.
    async fn load_evicting(&self, name: &str) -> Result<Box<dyn Engine>, Error> {
        loop {
            let taken: u64 = {
                let table = lock(&self.table);
                let loaded = table.values().filter_map(|e| e.loaded.as_ref());
                loaded.map(|l| l.info.weight_bytes.saturating_add(l.info.working_bytes)).sum()
            };
            let budget = self.budget.map(|b| b.saturating_sub(taken));
            let (source, owned) = (self.source.clone(), name.to_owned());
            let load = tokio::task::spawn_blocking(move || source.load(&owned, budget)).await;
            let name = || name.to_owned();
            match load {
                // Loaded anew, so that what a model took that nobody uses holds experts.
                Ok(Ok(engine)) if engine.info().short_of_memory && self.evict() => drop(engine),
                Ok(Ok(engine)) => return Ok(engine),
                Ok(Err(LoadProblem::OverBudget(problem))) => {
                    if !self.evict() {
                        return Err(Error::OverBudget { name: name(), problem });
                    }
                }
                Ok(Err(LoadProblem::Other(problem))) => return Err(Error::Load { name: name(), problem }),
                Err(panic) => return Err(Error::Load { name: name(), problem: panic.to_string() }),
            }
        }
    }

    fn evict(&self) -> bool {
        let unused = |l: &&Loaded| l.leases.is_empty();
        let oldest = {
            let table = lock(&self.table);
            let loaded = table.iter().filter_map(|(n, e)| Some((n, e.loaded.as_ref().filter(unused)?)));
            loaded.min_by_key(|(_, l)| l.used).map(|(name, _)| name.clone())
        };
        oldest.is_some_and(|name| self.unload_where(&name, |l| l.leases.is_empty()))
    }

    /// Gives a model's memory back. A model that is not loaded is success.
    ///
    /// # Errors
    /// [`Error::ModelInUse`] where answers are running and `force` is not set; with it those of `user`, or of anybody where
    /// that is root, end with an error. [`Error::ModelInUseByOthers`] where somebody else's are running.
    pub async fn unload(&self, name: &str, user: User, force: bool) -> Result<(), Error> {
        let _loading = self.loading.lock().await;
        let theirs = |lease: &&User| **lease != user && user != ROOT;
        let mut refusal = None;
        self.unload_where(name, |loaded| {
            let (answers, others) = (loaded.leases.len(), loaded.leases.iter().filter(theirs).count());
            let name = name.to_owned();
            if others > 0 {
                refusal = Some(Error::ModelInUseByOthers { name, answers: others });
            } else if answers > 0 && !force {
                refusal = Some(Error::ModelInUse { name, answers });
            }
            refusal.is_none()
        });
        refusal.map_or(Ok(()), Err)
    }

    /// Unloads what nobody has used for `idle`. Returns when the next model would become idle.
    pub async fn unload_idle(&self, idle: Duration, now: Instant) -> Option<Instant> {
        let _loading = self.loading.lock().await;
        let is_idle = |l: &Loaded| l.leases.is_empty() && now.saturating_duration_since(l.used) >= idle;
        let names: Vec<String> = lock(&self.table).keys().cloned().collect();
        for name in names {
            self.unload_where(&name, is_idle);
        }
        let table = lock(&self.table);
        table.values().filter_map(|e| e.loaded.as_ref()).map(|l| l.used + idle).min()
    }

    fn unload_where(&self, name: &str, condition: impl FnOnce(&Loaded) -> bool) -> bool {
        {
            let mut table = lock(&self.table);
            let Some(entry) = table.get_mut(name) else { return false };
            if !entry.loaded.as_ref().is_some_and(condition) {
                return false;
            }
            entry.loaded = None;
            if !entry.present {
                table.remove(name);
            }
        }
        self.scheduler.remove_model(name);
        tracing::info!(model = name, "unloaded");
        self.changed.send_replace(());
        true
    }
}

/// Brings `table` up to date with `source`; true where something changed.
fn refresh(source: &dyn Source, table: &Mutex<Table>) -> bool {
    let found = source.list().unwrap_or_else(|problem| {
        tracing::warn!(%problem, "cannot list the models");
        BTreeMap::new()
    });
    let stale: Vec<String> = {
        let table = lock(table);
        let fresh = |name: &String, stamp| table.get(name).is_some_and(|e| e.present && e.stamp == stamp);
        found.iter().filter(|(name, stamp)| !fresh(name, **stamp)).map(|(name, _)| name.clone()).collect()
    };
    // Files are read outside the lock.
    let read: Vec<_> = stale.into_iter().map(|name| (source.describe(&name), name)).collect();
    let mut changed = !read.is_empty();
    let mut table = lock(table);
    for (summary, name) in read {
        if let Err(problem) = &summary {
            tracing::warn!(model = name, problem, "this model cannot be used");
        }
        let stamp = found[&name];
        let (loaded, readers) = match table.remove(&name) {
            Some(entry) => (entry.loaded, entry.readers),
            None => (None, Readers::default()),
        };
        table.insert(name, Entry { stamp, summary, present: true, loaded, readers });
    }
    for (name, entry) in table.iter_mut() {
        let present = found.contains_key(name);
        changed |= entry.present != present;
        entry.present = present;
    }
    table.retain(|_, entry| entry.present || entry.loaded.is_some());
    changed
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

#[cfg(test)]
mod tests {
    use super::valid_name;

    #[test]
    fn a_name_cannot_leave_its_folder() {
        for good in ["a", "SmolLM2-135M-Instruct.Q4_1", "qwen3-4b+draft", "7b"] {
            assert!(valid_name(good), "{good}");
        }
        let long = "a".repeat(101);
        for bad in ["", ".", "..", ".hidden", "../x", "a/b", "/etc/passwd", "a\0b", "a b", "é", "-rf", &long]
        {
            assert!(!valid_name(bad), "{bad}");
        }
    }
}
