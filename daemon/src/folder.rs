//! The models folder: `.muse` files directly inside it, and news of them from inotify.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use muse_runtime::{Engine, LoadError, LoadOptions, Mapped};
use rustix::fs::inotify;
use tokio::sync::Notify;

use crate::models::{LoadProblem, Source, Stamp, Summary, valid_name};
use crate::service::Service;

const EXTENSION: &str = "muse";

/// A [`Source`] that loads files of one folder.
pub struct Folder {
    pub path: PathBuf,
    /// For every model; the budget is set for each load, and the drafter.
    pub options: LoadOptions,
    /// What drafts for a model, both by name.
    pub drafters: BTreeMap<String, String>,
}

impl Folder {
    fn file(&self, name: &str) -> PathBuf {
        assert!(valid_name(name), "names are checked where they come in");
        self.path.join(format!("{name}.{EXTENSION}"))
    }

    /// An error without the folder's path, which is nobody's business on the bus.
    fn describe_error(&self, error: &LoadError) -> String {
        error.to_string().replace(&format!("{}/", self.path.display()), "")
    }
}

impl Source for Folder {
    fn list(&self) -> std::io::Result<BTreeMap<String, Stamp>> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.extension().is_none_or(|extension| extension != EXTENSION) {
                continue;
            }
            let name = path.file_stem().and_then(|stem| stem.to_str()).filter(|name| valid_name(name));
            let Some(name) = name else {
                tracing::warn!(file = %path.display(), rule = crate::models::NAME_RULE, "not a model name");
                continue;
            };
            // Follows links: an operator may keep weights on another disk. A file may vanish in between.
            let Ok(metadata) = std::fs::metadata(&path) else { continue };
            if metadata.is_file() {
                found.insert(name.to_owned(), stamp(&metadata));
            }
        }
        Ok(found)
    }

    fn describe(&self, name: &str) -> Result<Summary, String> {
        let mapped = Mapped::open(&self.file(name)).map_err(|e| self.describe_error(&e))?;
        Ok(summary(&mapped))
    }

    fn load(&self, name: &str, budget: Option<u64>) -> Result<Box<dyn Engine>, LoadProblem> {
        // Without speculation nobody would ask it.
        let speculates = self.options.logit_rows.is_none_or(|rows| rows > self.options.slots);
        let drafter = self.drafters.get(name).filter(|_| speculates).map(|drafter| self.file(drafter));
        let options = LoadOptions { memory_budget: budget, drafter, ..self.options.clone() };
        muse_runtime::load(&self.file(name), &options).map_err(|error| {
            let text = self.describe_error(&error);
            match error {
                LoadError::Budget(_) => LoadProblem::OverBudget(text),
                _ => LoadProblem::Other(text),
            }
        })
    }
}

fn stamp(metadata: &std::fs::Metadata) -> Stamp {
    Stamp {
        device: metadata.dev(),
        inode: metadata.ino(),
        size_bytes: metadata.len(),
        modified_ns: i128::from(metadata.mtime()) * 1_000_000_000 + i128::from(metadata.mtime_nsec()),
    }
}

fn summary(mapped: &Mapped) -> Summary {
    let mut by_layout = BTreeMap::<String, u64>::new();
    for expected in mapped.spec.tensors() {
        if let Some((layout, bytes)) = mapped.stored(&expected.name) {
            *by_layout.entry(layout.to_string()).or_default() += bytes;
        }
    }
    let mut layouts: Vec<_> = by_layout.into_iter().collect();
    layouts.sort_by_key(|(_, bytes)| std::cmp::Reverse(*bytes));
    let mut hash = String::with_capacity(64);
    for byte in mapped.hash {
        let _ = write!(hash, "{byte:02x}");
    }
    Summary {
        family: mapped.spec.family.clone(),
        context: mapped.spec.context,
        layouts: layouts.into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", "),
        size_bytes: mapped.bytes().len() as u64,
        hash,
        license: mapped.provenance.license.clone().unwrap_or_default(),
        drafts: mapped.spec.drafter.is_some(),
        embedding_width: mapped.spec.embedding.as_ref().map_or(0, |e| e.width(mapped.spec.dim)),
    }
}

/// Refreshes the catalogue whenever the folder changes. Never returns: where the kernel gives no watch, the folder is
/// read when a call names a model that is not known.
pub async fn watch(folder: &Path, service: &Arc<Service>) {
    if let Err(problem) = watch_changes(folder, service).await {
        tracing::warn!(%problem, folder = %folder.display(), "cannot watch the models folder; does it exist?");
    }
    std::future::pending().await
}

async fn watch_changes(folder: &Path, service: &Arc<Service>) -> std::io::Result<()> {
    use inotify::{CreateFlags, WatchFlags};
    let events = inotify::init(CreateFlags::CLOEXEC)?;
    let changes = WatchFlags::CLOSE_WRITE | WatchFlags::MOVE | WatchFlags::DELETE | WatchFlags::ONLYDIR;
    inotify::add_watch(&events, folder, changes)?;
    // Holds one wake-up at most: a hundred changes are one look at the folder.
    let changed = Arc::new(Notify::new());
    let waker = changed.clone();
    // Waits in the kernel, so it is a thread; it ends with the process.
    std::thread::Builder::new().name("muse-folder".into()).spawn(move || wait(&events, &waker))?;
    loop {
        // First for what changed before the watch was there.
        service.models.refresh().await;
        changed.notified().await;
    }
}

/// Wakes the other side for every batch of events; what they say does not matter.
fn wait(events: &OwnedFd, waker: &Notify) {
    let mut buffer = [0; 4096];
    loop {
        match rustix::io::read(events, &mut buffer) {
            Ok(_) => waker.notify_one(),
            Err(rustix::io::Errno::INTR) => {}
            Err(problem) => return tracing::warn!(%problem, "cannot watch the models folder any more"),
        }
    }
}
