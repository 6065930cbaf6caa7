//! A thread for each core of the NPU, as its library returns from a product when that is done.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::library::{Context, Memory};
use crate::RknnError;

/// Rows of activations and where their products go.
pub(super) struct Run {
    pub(super) context: Arc<Context>,
    pub(super) a: Arc<Memory>,
    pub(super) c: Memory,
}

/// A tile of weights, and what it is multiplied by.
pub(super) struct Job {
    pub(super) b: Memory,
    pub(super) runs: [Option<Run>; 2],
}

/// A core and what it has to do, one job at a time.
pub(super) struct Core {
    index: usize,
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Result<Job, RknnError>>,
    thread: Option<JoinHandle<()>>,
}

impl Core {
    /// # Panics
    /// If the system cannot start a thread.
    pub(super) fn new(index: usize) -> Self {
        let (jobs, incoming) = sync_channel::<Job>(1);
        // Of the job that ended and the one behind it, so that no thread waits for a caller that has given up.
        let (outgoing, done) = sync_channel(2);
        let work = move || {
            for mut job in incoming {
                let result = match job.multiply() {
                    Ok(()) => Ok(job),
                    Err(error) => {
                        // The NPU may still write to it.
                        std::mem::forget(job);
                        Err(error)
                    }
                };
                if outgoing.send(result).is_err() {
                    return;
                }
            }
        };
        let name = format!("muse-npu-{index}");
        let thread = thread::Builder::new().name(name).spawn(work).expect("a thread starts");
        Self { index, jobs: Some(jobs), done, thread: Some(thread) }
    }

    /// Begins a job, or has it wait for the one before, and for no other.
    pub(super) fn begin(&self, job: Job) -> Result<(), RknnError> {
        let jobs = self.jobs.as_ref().expect("jobs are taken until the core is dropped");
        jobs.send(job).map_err(|_| RknnError::Gone { core: self.index })
    }

    /// Waits for the job that was begun first, and gives it back.
    pub(super) fn end(&self) -> Result<Job, RknnError> {
        self.done.recv().map_err(|_| RknnError::Gone { core: self.index })?
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        self.jobs = None;
        // A thread that panicked has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

impl Job {
    fn multiply(&mut self) -> Result<(), RknnError> {
        self.b.flush()?;
        for Run { context, a, c } in self.runs.iter_mut().flatten() {
            context.run(a, &self.b, c)?;
            c.invalidate()?;
        }
        Ok(())
    }
}
