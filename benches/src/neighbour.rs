//! Another program that wants a core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use serde::Serialize;

/// Where the neighbour runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Neighbour {
    /// Where the system puts it.
    Free,
    /// On the last core that this process may use.
    Pinned,
}

impl Neighbour {
    pub const ALL: [Self; 2] = [Self::Free, Self::Pinned];

    /// Starts a thread that counts until the answer is dropped.
    ///
    /// # Errors
    /// Where the system does not start it or keep it on its core.
    pub fn start(self) -> std::io::Result<Busy> {
        let cpus = match self {
            Self::Free => None,
            Self::Pinned => Some(last_cpu()?),
        };
        let stop = Arc::new(AtomicBool::new(false));
        let seen = stop.clone();
        let count = move || {
            if let Some(cpus) = cpus {
                sched_setaffinity(None, &cpus)?;
            }
            while !seen.load(Ordering::Relaxed) {
                std::hint::black_box((0..4096_u32).fold(0, |sum, i| std::hint::black_box(sum ^ i)));
            }
            Ok(())
        };
        let thread = thread::Builder::new().name("neighbour".into()).spawn(count)?;
        Ok(Busy { stop, thread: Some(thread) })
    }
}

fn last_cpu() -> rustix::io::Result<CpuSet> {
    let ours = sched_getaffinity(None)?;
    let mut last = CpuSet::new();
    if let Some(cpu) = (0..CpuSet::MAX_CPU).rev().find(|cpu| ours.is_set(*cpu)) {
        last.set(cpu);
    }
    Ok(last)
}

/// A running neighbour.
pub struct Busy {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<rustix::io::Result<()>>>,
}

impl Busy {
    /// Ends it.
    ///
    /// # Errors
    /// Where the system did not let it stay on its core, so that nothing ran beside.
    pub fn stop(mut self) -> std::io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map_or(Ok(Ok(())), JoinHandle::join);
        ended.expect("counting does not panic").map_err(Into::into)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::read_to_string;
    use std::time::{Duration, Instant};

    /// The folder of the running neighbour under `/proc`.
    fn task() -> Option<std::path::PathBuf> {
        let tasks = std::fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
        let named = |task: &std::path::PathBuf| {
            read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "neighbour")
        };
        tasks.into_iter().find(named)
    }

    /// Looks until `ready`, for 10 s at most.
    fn wait_until(ready: impl Fn() -> bool) -> bool {
        let began = Instant::now();
        while !ready() && began.elapsed() < Duration::from_secs(10) {
            thread::sleep(Duration::from_millis(2));
        }
        ready()
    }

    #[test]
    fn a_neighbour_keeps_running_where_it_was_put_until_it_is_stopped() {
        for neighbour in Neighbour::ALL {
            let busy = neighbour.start().unwrap();
            // Nanoseconds on a core, the first word of `schedstat`.
            let ran = || {
                let stat = task().and_then(|task| read_to_string(task.join("schedstat")).ok());
                stat.and_then(|s| s.split(' ').next()?.parse::<u64>().ok()).is_some_and(|ns| ns > 5_000_000)
            };
            assert!(wait_until(ran), "{neighbour:?} does not run");
            if neighbour == Neighbour::Pinned {
                let status = read_to_string(task().unwrap().join("status")).unwrap();
                let cpus = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
                assert!(cpus.trim().parse::<usize>().is_ok(), "allowed on {cpus}");
            }
            busy.stop().unwrap();
            assert!(wait_until(|| task().is_none()), "{neighbour:?} goes on");
        }
    }
}
