//! Attention at 8192 positions beside what the arithmetic units of the same thread give.
//! `cargo bench -p muse-benches --bench attention [-- peaks prompt decode]`
//!
//! A prompt's step is 512 rows at the end of the context; a query and a position it sees are `4 * head_dim` operations.
//! Decoding is one row over the whole context, in bytes of keys and values a second.
#![forbid(unsafe_code)]

use std::time::Instant;

use muse_benches::probe::{Probe, dot_peaks};
use muse_kernels::{AttentionShape, Backend, CacheDtype, CacheShape, CpuBackend, Span};

const CONTEXT: u32 = 8192;
const BATCH: u32 = 512;
const ROUNDS: usize = 5;

struct Case {
    backend: CpuBackend,
    shape: AttentionShape,
    caches: Vec<<CpuBackend as Backend>::Cache>,
}

impl Case {
    /// `layers` caches of random keys and values, full but for `free` positions at the end.
    fn new(
        threads: usize,
        heads: u32,
        kv_heads: u32,
        head_dim: u32,
        dtype: CacheDtype,
        layers: usize,
    ) -> Self {
        let mut backend = CpuBackend::new(threads);
        backend.reserve(BATCH as usize, (heads * head_dim) as usize).expect("it fits in memory");
        let scale = 1.0 / (head_dim as f32).sqrt();
        let shape = AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale,
            window: None,
            chunk: None,
            softcap: None,
            bidirectional: false,
            until: None,
        };
        let stored = CacheShape { dtype, slots: 1, capacity: CONTEXT, kv_heads, head_dim, values: true };
        let k = noise(BATCH as usize * (kv_heads * head_dim) as usize);
        let v = k.iter().map(|x| 1.0 - x).collect();
        let mut cache = || {
            let mut cache = backend.cache(stored).expect("it fits in memory");
            for start in (0..CONTEXT).step_by(BATCH as usize) {
                let span = Span { slot: 0, start, len: BATCH };
                backend.store(&mut cache, &k, &v, &[span]).expect("a host backend does not fail");
            }
            cache
        };
        let caches = (0..layers).map(|_| cache()).collect();
        Self { backend, shape, caches }
    }

    /// Seconds of one pass over every layer for the last `rows` rows of the context, the best of the rounds.
    fn seconds(&mut self, rows: u32) -> f64 {
        let len = (rows * self.shape.heads * self.shape.head_dim) as usize;
        let (q, mut out) = (noise(len), vec![0.0; len]);
        let span = Span { slot: 0, start: CONTEXT - rows, len: rows };
        let mut round = || {
            let began = Instant::now();
            for cache in &self.caches {
                self.backend
                    .attention(&mut out, &q, cache, &[span], &self.shape)
                    .expect("a host backend does not fail");
            }
            began.elapsed().as_secs_f64()
        };
        (0..ROUNDS).map(|_| round()).fold(f64::INFINITY, f64::min)
    }
}

/// Numbers about 1 in size, different in every place.
fn noise(len: usize) -> Vec<f32> {
    let number = |i: usize| (i as u32).wrapping_mul(2_654_435_761) as f32 / (1_u64 << 31) as f32 - 1.0;
    (0..len).map(number).collect()
}

fn peaks() {
    println!("peaks of one thread, Gop/s");
    for (name, rate) in dot_peaks(3) {
        println!("  {name:<12}{:8.1}", rate / 1e9);
    }
}

fn prompt() {
    println!("prompt: {BATCH} rows at the end of {CONTEXT} positions, one thread, GFLOP/s");
    let pairs = f64::from(BATCH) * (f64::from(CONTEXT) - f64::from(BATCH - 1) / 2.0);
    for (heads, kv_heads, head_dim) in [(32, 8, 128), (9, 3, 64)] {
        for dtype in CacheDtype::ALL {
            let seconds = Case::new(1, heads, kv_heads, head_dim, dtype, 1).seconds(BATCH);
            let rate = 4.0 * f64::from(head_dim * heads) * pairs / seconds;
            println!("  {heads:>2}/{kv_heads} x {head_dim:<4}{dtype:<10}{:8.1}", rate / 1e9);
        }
    }
}

fn decode() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let probe = Probe::new().expect("512 MiB for the bandwidth probe");
    for threads in [1, cores] {
        let ceiling = (0..3).map(|_| probe.read(threads)).fold(0.0, f64::max) / 1e9;
        println!("decode: 1 row over {CONTEXT} positions, {threads} threads, GB/s; probe {ceiling:.1}");
        for (heads, kv_heads, head_dim) in [(32, 8, 128), (9, 3, 64), (32, 1, 128)] {
            for dtype in CacheDtype::ALL {
                let mut case = Case::new(threads, heads, kv_heads, head_dim, dtype, 6);
                let bytes: u64 = case.caches.iter().map(|cache| cache.shape().byte_len()).sum();
                let seconds = case.seconds(1);
                let (rate, each) = (bytes as f64 / seconds / 1e9, seconds / case.caches.len() as f64 * 1e6);
                println!(
                    "  {heads:>2}/{kv_heads} x {head_dim:<4}{dtype:<10}{rate:8.1}{each:10.1} us a layer"
                );
            }
        }
    }
}

/// With arguments, only the parts that they name.
fn main() {
    let named: Vec<String> =
        std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    let parts: [(&str, fn()); 3] = [("peaks", peaks), ("prompt", prompt), ("decode", decode)];
    for (name, run) in parts {
        if named.is_empty() || named.iter().any(|asked| asked == name) {
            run();
        }
    }
}
