//! Worker threads that share one job at a time.
//!
//! A job is `chunks` calls of a closure. Every thread, the caller included, claims one chunk after another until none is
//! left, those of its own share first, in order, then the last of others'; the caller then waits for the chunks that others
//! still run, never for a thread that has not claimed one. So a worker that lost its core to a neighbour costs at most the
//! chunk it holds. Shares are runs of chunks: operations whose chunks follow the rows of a batch find them in the cache of
//! the core that wrote them. Workers spin for a moment after a job, as the next operation of a step is microseconds away,
//! and then sleep.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a thread looks for news before it sleeps.
const SPIN: Duration = Duration::from_micros(30);

/// Threads of one backend.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

struct Shared {
    /// One a thread, the caller's first.
    shares: Vec<Share>,
    /// Chunks not finished.
    unfinished: AtomicUsize,
    /// Written by the caller while `unfinished` is 0, read by whoever holds a chunk.
    job: UnsafeCell<Option<Job>>,
    /// One a worker: true while it is about to sleep or asleep.
    asleep: Vec<AtomicBool>,
    stop: AtomicBool,
    /// The first panic of a chunk.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Chunks of a share that nobody has claimed, the first and the end in a half each. Taking one by compare-and-swap gives
/// the right to read `job`. In a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Share(AtomicU64);

impl Share {
    fn fill(&self, chunks: Range<u32>) {
        self.0.store(u64::from(chunks.start) << 32 | u64::from(chunks.end), Ordering::SeqCst);
    }

    fn chunks(packed: u64) -> Range<u32> {
        (packed >> 32) as u32..packed as u32
    }

    fn is_claimed(&self) -> bool {
        Self::chunks(self.0.load(Ordering::SeqCst)).is_empty()
    }

    /// The first chunk for the thread whose share it is, so that it reads on where it was; for others the last.
    fn claim(&self, own: bool) -> Option<usize> {
        let take = |packed| {
            (!Self::chunks(packed).is_empty()).then(|| if own { packed + (1 << 32) } else { packed - 1 })
        };
        let before = Self::chunks(self.0.fetch_update(Ordering::Acquire, Ordering::Relaxed, take).ok()?);
        Some(if own { before.start } else { before.end - 1 } as usize)
    }
}

#[derive(Clone)]
struct Job {
    run: *const (dyn Fn(usize) + Sync),
    caller: Thread,
}

// SAFETY: `job` is only accessed under the protocol that its field comment states; `Job::run` points to a `Sync`
// closure that outlives the job, as `Pool::run` returns only when `unfinished` is 0.
unsafe impl Sync for Shared {}
// SAFETY: as for `Sync`; nothing in it belongs to the thread that made it.
unsafe impl Send for Shared {}

impl Pool {
    /// A pool of `threads` in all: the caller and `threads - 1` workers.
    ///
    /// # Panics
    /// If `threads` is 0 or the system cannot start a thread.
    pub(crate) fn new(threads: usize) -> Self {
        assert!(threads > 0);
        let shared = Arc::new(Shared {
            shares: (0..threads).map(|_| Share::default()).collect(),
            unfinished: AtomicUsize::new(0),
            job: UnsafeCell::new(None),
            asleep: (1..threads).map(|_| AtomicBool::new(false)).collect(),
            stop: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            let worker = move || shared.work(index);
            thread::Builder::new().name(format!("muse-{}", index + 1)).spawn(worker).expect("a thread starts")
        };
        let workers = (0..threads - 1).map(start).collect();
        Self { shared, workers }
    }

    /// The caller and its workers.
    pub(super) fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `run(0)` to `run(chunks - 1)`, each once, in any order and on any thread, and returns when all are done.
    ///
    /// # Panics
    /// With the first panic of a chunk, after the others are done.
    pub(crate) fn run(&mut self, chunks: usize, run: &(dyn Fn(usize) + Sync)) {
        if chunks <= 1 || self.workers.is_empty() {
            (0..chunks).for_each(run);
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. The pointer is read by holders of a chunk, and this function does not
        // return before every chunk is finished.
        let run = unsafe {
            std::mem::transmute::<*const (dyn Fn(usize) + Sync + '_), *const (dyn Fn(usize) + Sync + 'static)>(
                run,
            )
        };
        // SAFETY: `unfinished` is 0 between jobs and `&mut self` admits one caller, so nobody holds a chunk.
        unsafe { *shared.job.get() = Some(Job { run, caller: thread::current() }) };
        shared.unfinished.store(chunks, Ordering::Relaxed);
        // Orders the job before the claims, and, against `asleep`, these stores before the loads below.
        let count = u32::try_from(chunks).expect("chunks are few");
        let (threads, mut start) = (shared.shares.len() as u32, 0);
        for (index, share) in (1..).zip(&shared.shares) {
            let end = (u64::from(count) * index / u64::from(threads)) as u32;
            share.fill(start..end);
            start = end;
        }
        for (asleep, worker) in shared.asleep.iter().zip(&self.workers) {
            if asleep.load(Ordering::SeqCst) && asleep.swap(false, Ordering::SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.claim_all(0);
        let finished = || shared.unfinished.load(Ordering::Acquire) == 0;
        while !spin_until(finished) {
            thread::park_timeout(Duration::from_millis(1));
        }
        let panic = shared.panic.lock().unwrap_or_else(|poison| poison.into_inner()).take();
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // A worker cannot panic: it catches what its chunks throw.
            let _ = worker.join();
        }
    }
}

impl Shared {
    /// Takes a chunk of thread `own`'s share or of the next that has one.
    fn claim(&self, own: usize) -> Option<usize> {
        let order = (own..self.shares.len()).chain(0..own);
        order.into_iter().find_map(|index| self.shares[index].claim(index == own))
    }

    /// Runs chunks until none is unclaimed; `own` is the thread's share.
    fn claim_all(&self, own: usize) {
        while let Some(chunk) = self.claim(own) {
            // SAFETY: this thread holds a chunk, so `unfinished` is not 0 and the caller does not write.
            let job = unsafe { (*self.job.get()).clone().expect("a chunk has a job") };
            // SAFETY: as above, the caller is still inside `run`, which borrows the closure.
            let run = unsafe { &*job.run };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(chunk))) {
                self.panic.lock().unwrap_or_else(|poison| poison.into_inner()).get_or_insert(panic);
            }
            if self.unfinished.fetch_sub(1, Ordering::AcqRel) == 1 {
                job.caller.unpark();
            }
        }
    }

    fn work(&self, index: usize) {
        let unclaimed = || !self.shares.iter().all(Share::is_claimed);
        let news = || unclaimed() || self.stop.load(Ordering::SeqCst);
        while !self.stop.load(Ordering::Relaxed) {
            if spin_until(news) {
                self.claim_all(index + 1);
                continue;
            }
            self.asleep[index].store(true, Ordering::SeqCst);
            while !news() && self.asleep[index].load(Ordering::SeqCst) {
                thread::park();
            }
            self.asleep[index].store(false, Ordering::SeqCst);
        }
    }
}

/// Waits up to [`SPIN`]; whether `ready` became true.
fn spin_until(ready: impl Fn() -> bool) -> bool {
    let mut began = None;
    loop {
        for _ in 0..64 {
            if ready() {
                return true;
            }
            std::hint::spin_loop();
        }
        if began.get_or_insert_with(Instant::now).elapsed() > SPIN {
            return false;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn assert_each_once(pool: &mut Pool, chunks: usize) {
        let counts: Vec<_> = (0..chunks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(chunks, &|i| {
            counts[i].fetch_add(1, Ordering::Relaxed);
        });
        assert!(counts.iter().all(|n| n.load(Ordering::Relaxed) == 1), "{chunks} chunks: {counts:?}");
    }

    #[test]
    fn many_tiny_jobs_run_every_chunk_once() {
        for threads in [1, 2, 3, 8] {
            let mut pool = Pool::new(threads);
            for job in 0..3000 {
                assert_each_once(&mut pool, job % 37);
            }
        }
    }

    #[test]
    fn a_share_is_taken_from_its_start_by_its_thread_and_from_its_end_by_others() {
        let share = Share::default();
        share.fill(4..9);
        assert_eq!([true, true, false, true].map(|own| share.claim(own)), [4, 5, 8, 6].map(Some));
        assert!(!share.is_claimed());
        assert_eq!([false, false, true].map(|own| share.claim(own)), [Some(7), None, None]);
        assert!(share.is_claimed());
    }

    #[test]
    fn workers_that_slept_are_woken() {
        let mut pool = Pool::new(3);
        for _ in 0..5 {
            thread::sleep(4 * SPIN);
            assert_each_once(&mut pool, 64);
        }
    }

    #[test]
    fn workers_share_the_chunks() {
        let mut pool = Pool::new(2);
        // Each chunk waits for the other: only two threads can finish both.
        let arrived = AtomicUsize::new(0);
        pool.run(2, &|_| {
            arrived.fetch_add(1, Ordering::SeqCst);
            while arrived.load(Ordering::SeqCst) < 2 {
                thread::yield_now();
            }
        });
    }

    #[test]
    fn a_thread_that_is_held_up_holds_up_only_its_chunk() {
        let mut pool = Pool::new(2);
        let (taken, done) = (AtomicBool::new(false), AtomicUsize::new(0));
        // The first chunk ends only after the other thread has done all others.
        pool.run(100, &|_| {
            if !taken.swap(true, Ordering::SeqCst) {
                while done.load(Ordering::SeqCst) < 99 {
                    thread::yield_now();
                }
            }
            done.fetch_add(1, Ordering::SeqCst);
        });
        assert_eq!(done.into_inner(), 100);
    }

    #[test]
    fn a_panic_reaches_the_caller_after_the_other_chunks_and_the_pool_lives_on() {
        let mut pool = Pool::new(3);
        let done = AtomicUsize::new(0);
        let run = |pool: &mut Pool| {
            pool.run(20, &|i| {
                assert!(i != 7, "chunk seven");
                done.fetch_add(1, Ordering::Relaxed);
            });
        };
        let panic = catch_unwind(AssertUnwindSafe(|| run(&mut pool))).unwrap_err();
        assert_eq!(panic.downcast_ref::<&str>(), Some(&"chunk seven"));
        assert_eq!(done.load(Ordering::Relaxed), 19);
        assert_each_once(&mut pool, 100);
    }

    #[test]
    fn dropping_a_pool_ends_its_threads() {
        let pool = Pool::new(4);
        let shared = Arc::downgrade(&pool.shared);
        drop(pool);
        assert!(shared.upgrade().is_none());
    }
}
