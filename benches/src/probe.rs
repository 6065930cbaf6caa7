//! Ceilings. What the memory can give: every thread reads its part of a buffer that no cache holds. What the
//! arithmetic units can give: loops over registers.

use std::io;
use std::thread;
use std::time::Instant;

use memmap2::{Advice, MmapMut};
use muse_kernels::Peak;

/// Large against any last-level cache, small against any board's memory.
const BYTES: usize = 512 << 20;
/// Independent sums, so that no addition waits for the one before it.
const LANES: usize = 64;

/// A buffer to read.
pub struct Probe {
    bytes: MmapMut,
}

impl Probe {
    /// Fills a buffer of 512 MiB, in huge pages where the system gives them.
    ///
    /// # Errors
    /// Where the system has no such memory.
    pub fn new() -> io::Result<Self> {
        let mut bytes = MmapMut::map_anon(BYTES)?;
        let _ = bytes.advise(Advice::HugePage);
        // Equal pages would be shared by the host of a virtual machine.
        let mut word = 1_u64;
        for chunk in bytes.chunks_exact_mut(8) {
            word = word.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            chunk.copy_from_slice(&word.to_le_bytes());
        }
        Ok(Self { bytes })
    }

    /// Bytes a second that `threads` threads read together. A ceiling is the best of many.
    pub fn read(&self, threads: usize) -> f64 {
        let part = self.bytes.len() / threads / LANES * LANES;
        let began = Instant::now();
        thread::scope(|scope| {
            let parts = self.bytes.chunks_exact(part).take(threads);
            let readers: Vec<_> = parts.map(|part| scope.spawn(move || sum(part))).collect();
            readers.into_iter().for_each(|reader| {
                std::hint::black_box(reader.join().expect("a sum does not panic"));
            });
        });
        (part * threads) as f64 / began.elapsed().as_secs_f64()
    }
}

/// Names and operations a second of the loops that only multiply and add, on this thread, the best of `rounds`.
pub fn dot_peaks(rounds: usize) -> Vec<(&'static str, f64)> {
    const LOOPS: u64 = 20_000_000;
    let once = |peak: &Peak| {
        let began = Instant::now();
        peak.run(LOOPS);
        (LOOPS * peak.ops_per_round) as f64 / began.elapsed().as_secs_f64()
    };
    let best = |peak: &Peak| (0..rounds.max(1)).map(|_| once(peak)).fold(0.0, f64::max);
    Peak::all().map(|peak| (peak.name, best(peak))).collect()
}

/// A wrapping sum that needs every byte, lane by lane, which compilers turn into vector additions.
fn sum(bytes: &[u8]) -> u8 {
    let mut lanes = [0_u8; LANES];
    for chunk in bytes.chunks_exact(LANES) {
        for (lane, byte) in lanes.iter_mut().zip(chunk) {
            *lane = lane.wrapping_add(*byte);
        }
    }
    lanes.into_iter().fold(0, u8::wrapping_add)
}
