//! Every operation with every set of instructions that this CPU has, the weakest last. `cargo bench -p muse-benches`
//!
//! What reads more than it computes is in bytes a second, to be held against the
//! bandwidth probe that is printed first; products of many tokens are in operations, a multiplication and an addition
//! counted as two. A filter picks an operation, a layout or a variant: `cargo bench -p muse-benches -- 'gemv/.*avx2'`;
//! `-- --quick` takes the fewest samples.

use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{
    BatchSize, BenchmarkGroup, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main,
};
use muse_benches::{probe::Probe, synthetic::matrix};
use muse_format::{Activation, Layout};
use muse_kernels::{
    AttentionShape, Backend, CacheDtype, CacheShape, CpuBackend, DeltaShape, Features, Linear, Span, Tensor,
};

const LAYOUTS: [Layout; 10] = [
    Layout::F32,
    Layout::F16,
    Layout::Bf16,
    Layout::Q8 { group: 32 },
    Layout::Q4 { group: 32 },
    Layout::Q4 { group: 128 },
    Layout::Q4Asym { group: 32 },
    Layout::Q4Asym { group: 128 },
    Layout::Q4Codebook { group: 32 },
    Layout::Q4Codebook { group: 128 },
];

/// Columns of every matrix, and the width of every row of activations.
const COLS: usize = 4096;
/// Bytes that no cache holds.
const UNCACHED: usize = 192 << 20;
/// Rows that a recurrent state can take back.
const PROPOSED: u32 = 12;

/// One thread and all of them.
fn threads() -> Vec<usize> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    if cores > 1 { vec![1, cores] } else { vec![1] }
}

/// A backend of `threads` for each set of features, best first, and its name.
fn variants(threads: usize) -> impl Iterator<Item = (CpuBackend, String)> {
    Features::detect().and_weaker().map(move |features| {
        let plural = if threads == 1 { "" } else { "s" };
        (CpuBackend::with_features(threads, features), format!("{features}, {threads} thread{plural}"))
    })
}

fn group<'a>(criterion: &'a mut Criterion, operation: &str) -> BenchmarkGroup<'a, WallTime> {
    let mut group = criterion.benchmark_group(operation);
    group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_secs(1));
    group
}

fn noise(len: usize) -> Vec<f32> {
    (0..len).map(|i| (i as f32).sin()).collect()
}

/// What the memory gives, before the operations that it bounds.
fn ceiling(_: &mut Criterion) {
    let probe = Probe::new().expect("512 MiB for the bandwidth probe");
    for threads in threads() {
        let best = (0..5).map(|_| probe.read(threads)).fold(0.0, f64::max);
        println!("bandwidth probe, {threads} thread(s): {:.2} GiB/s", best / f64::from(1 << 30));
    }
}

/// Runs the product of `tokens` rows with each of `weights` in turn.
fn bench_linear(
    group: &mut BenchmarkGroup<'_, WallTime>,
    id: BenchmarkId,
    backend: &mut CpuBackend,
    weights: &[Tensor],
    tokens: usize,
) {
    backend.reserve(tokens, COLS).expect("it fits in memory");
    let (x, mut out) = (noise(tokens * COLS), vec![0.0; tokens * weights[0].rows()]);
    let mut next = weights.iter().cycle();
    group.bench_function(id, |bencher| {
        bencher.iter(|| {
            let weight = next.next().expect("a cycle does not end");
            let product = Linear { out: &mut out, weight, bias: None };
            backend.linear(&x, tokens, &mut [product]).expect("a host backend does not fail");
        });
    });
}

/// Decoding: one token, weights from memory.
fn gemv(criterion: &mut Criterion) {
    let mut group = group(criterion, "gemv");
    for layout in LAYOUTS {
        let weight = || matrix(layout, 2048, COLS).expect("it fits in memory");
        let bytes = weight().bytes().len();
        let weights: Vec<_> = (0..UNCACHED.div_ceil(bytes)).map(|_| weight()).collect();
        group.throughput(Throughput::Bytes(bytes as u64));
        for threads in threads() {
            for (mut backend, name) in variants(threads) {
                let id = BenchmarkId::new(layout.to_string(), name);
                bench_linear(&mut group, id, &mut backend, &weights, 1);
            }
        }
    }
}

/// A prompt's step: many tokens, weights from the cache.
fn gemm(criterion: &mut Criterion) {
    let (rows, tokens) = (1024, 64);
    let mut group = group(criterion, "gemm");
    for layout in LAYOUTS {
        let weights = [matrix(layout, rows, COLS).expect("it fits in memory")];
        group.throughput(Throughput::Elements((2 * rows * COLS * tokens) as u64));
        for (mut backend, name) in variants(1) {
            let id = BenchmarkId::new(layout.to_string(), name);
            bench_linear(&mut group, id, &mut backend, &weights, tokens);
        }
    }
}

/// A row of 32 query and 8 key heads of 128 over 4096 positions in bytes, and 64 such rows in operations.
fn attention(criterion: &mut Criterion) {
    let (positions, heads, kv_heads, head_dim) = (4096, 32, 8, 128);
    let shape = AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale: 0.1,
        window: None,
        chunk: None,
        softcap: None,
        bidirectional: false,
        until: None,
    };
    for (operation, rows) in [("attention of one token", 1), ("attention of 64 tokens", 64)] {
        let mut group = group(criterion, operation);
        for dtype in [CacheDtype::F16, CacheDtype::F32] {
            let stored =
                CacheShape { dtype, slots: 1, capacity: positions, kv_heads, head_dim, values: true };
            let seen: u64 = (positions - rows + 1..=positions).map(u64::from).sum();
            group.throughput(match rows {
                1 => Throughput::Bytes(stored.byte_len()),
                _ => Throughput::Elements(4 * seen * u64::from(heads * head_dim)),
            });
            for (mut backend, name) in variants(1) {
                let mut cache = backend.cache(stored).expect("it fits in memory");
                let k = noise((positions * kv_heads * head_dim) as usize);
                let all = Span { slot: 0, start: 0, len: positions };
                backend.store(&mut cache, &k, &k, &[all]).expect("a host backend does not fail");
                let q = noise((rows * heads * head_dim) as usize);
                let mut out = vec![0.0; q.len()];
                let span = Span { slot: 0, start: positions - rows, len: rows };
                group.bench_function(BenchmarkId::new(format!("{dtype:?}"), name), |bencher| {
                    bencher.iter(|| {
                        let done = backend.attention(&mut out, &q, &cache, &[span], &shape);
                        done.expect("a host backend does not fail");
                    });
                });
            }
        }
    }
}

/// What memory gives to a pass over `count` buffers of `len` numbers that changes them: the ceiling of a state's row.
fn read_and_write(group: &mut BenchmarkGroup<'_, WallTime>, len: usize, count: usize) {
    group.throughput(Throughput::Bytes(8 * len as u64));
    for threads in threads() {
        let mut backend = CpuBackend::new(threads);
        let mut buffers: Vec<_> = (0..count).map(|_| vec![1.0; len]).collect();
        let mut next = 0;
        group.bench_function(BenchmarkId::new("ceiling", format!("{threads} threads")), |bencher| {
            bencher.iter(|| {
                next += 1;
                backend.scale_and_cap(&mut buffers[next % count], len, -1.0, None).expect("it does not fail");
            });
        });
    }
}

/// 32 heads of 128 x 128: the states of one row, from memory and back, in bytes; 64 rows in operations, seven for each
/// number of a state; and the convolution before them in bytes of inputs and outputs.
fn delta_net(criterion: &mut Criterion) {
    let shape = DeltaShape {
        slots: 1,
        key_heads: 16,
        value_heads: 32,
        key_dim: 128,
        value_dim: 128,
        taps: 4,
        undo: PROPOSED,
    };
    let (channels, heads) = (shape.channels() as usize, shape.value_heads as usize);
    let taps = Tensor::from_f32(4, channels, noise(4 * channels));
    let rate = Tensor::from_f32(1, heads, vec![0.5; heads]);
    for (operation, rows) in [("delta rule of one token", 1), ("delta rule of 64 tokens", 64)] {
        let mut group = group(criterion, operation);
        let layers = if rows == 1 { UNCACHED.div_ceil(shape.slot_bytes() as usize) } else { 1 };
        if rows == 1 {
            read_and_write(&mut group, shape.slot_bytes() as usize / 4, layers);
        }
        group.throughput(match rows {
            1 => Throughput::Bytes(2 * shape.slot_bytes()),
            _ => Throughput::Elements(u64::from(rows) * 7 * shape.slot_bytes() / 4),
        });
        for threads in if rows == 1 { threads() } else { vec![1] } {
            for (mut backend, name) in variants(threads) {
                let new = |_| backend.delta_state(shape).expect("it fits in memory");
                let mut states: Vec<_> = (0..layers).map(new).collect();
                let mut x = noise(rows as usize * channels);
                let (mut decay, mut beta) = (noise(rows as usize * heads), noise(rows as usize * heads));
                let mut out = noise(rows as usize * heads * 128);
                let mut step = 0;
                group.bench_function(name, |bencher| {
                    bencher.iter(|| {
                        let start = step / layers as u32 * rows;
                        let state = &mut states[step as usize % layers];
                        let span = Span { slot: 0, start, len: rows };
                        let done = backend.delta_rule(
                            &mut out,
                            &mut x,
                            &mut decay,
                            &mut beta,
                            &rate,
                            state,
                            &[span],
                        );
                        done.expect("a host backend does not fail");
                        step += 1;
                    });
                });
            }
        }
    }
    for (operation, rows) in [("convolution of one token", 1), ("convolution of 64 tokens", 64)] {
        let mut group = group(criterion, operation);
        group.throughput(Throughput::Bytes(8 * u64::from(rows * shape.channels())));
        for (mut backend, name) in variants(1) {
            let mut state = backend.delta_state(shape).expect("it fits in memory");
            let input = noise(rows as usize * channels);
            let span = Span { slot: 0, start: 100, len: rows };
            group.bench_function(name, |bencher| {
                bencher.iter_batched_ref(
                    || input.clone(),
                    |x| {
                        backend.convolve(x, &taps, &mut state, &[span]).expect("a host backend does not fail")
                    },
                    BatchSize::LargeInput,
                );
            });
        }
    }
}

/// An operation on the first argument, which it changes, and the second.
type Operation = fn(&mut CpuBackend, &mut Vec<f32>, &Vec<f32>, &Tensor);

/// The operations that read and write every activation once or twice, on 64 rows, in elements.
fn elementwise(criterion: &mut Criterion) {
    const ROWS: usize = 64;
    const LEN: usize = ROWS * COLS;
    let operations: [(&str, Operation); 7] = [
        ("rms_norm", |b, x, _, w| b.rms_norm_in_place(x, w, ROWS, 1e-6).expect("it does not fail")),
        ("rope", |b, x, _, w| {
            let spans = [Span { slot: 0, start: 1000, len: ROWS as u32 }];
            b.rope(x, w, &spans, 1, COLS as u32).expect("it does not fail");
        }),
        ("silu", |b, x, y, _| b.glu(x, y, LEN, Activation::Silu).expect("it does not fail")),
        ("sigmoid", |b, x, y, _| b.glu(x, y, LEN, Activation::Sigmoid).expect("it does not fail")),
        ("gelu", |b, x, y, _| b.glu(x, y, LEN, Activation::GeluTanh).expect("it does not fail")),
        ("add", |b, x, y, _| b.add(x, y, LEN).expect("it does not fail")),
        ("softcap", |b, x, _, _| b.scale_and_cap(x, LEN, 1.0, Some(30.0)).expect("it does not fail")),
    ];
    for (operation, run) in operations {
        let mut group = group(criterion, operation);
        group.throughput(Throughput::Elements(LEN as u64));
        let width = if operation == "rope" { COLS / 2 } else { COLS };
        let weight = Tensor::from_f32(1, width, vec![1.0; width]);
        for (mut backend, name) in variants(1) {
            let y = noise(LEN);
            group.bench_function(name, |bencher| {
                // Fresh values: an activation of its own results ends in subnormal numbers, which are slow.
                let fresh = || y.clone();
                bencher.iter_batched_ref(fresh, |x| run(&mut backend, x, &y, &weight), BatchSize::LargeInput);
            });
        }
    }
}

/// Rows of an embedding looked up, in bytes of the stored rows.
fn embed(criterion: &mut Criterion) {
    let tokens: Vec<u32> = (0..64).map(|i| i * 31 % 512).collect();
    let mut group = group(criterion, "embed");
    for layout in LAYOUTS {
        let table = matrix(layout, 512, COLS).expect("it fits in memory");
        group.throughput(Throughput::Bytes((table.bytes().len() / table.rows() * tokens.len()) as u64));
        let (mut backend, mut out) = (CpuBackend::new(1), vec![0.0; tokens.len() * COLS]);
        group.bench_function(layout.to_string(), |bencher| {
            bencher.iter(|| backend.embed(&mut out, &table, &tokens, 1.0).expect("it does not fail"));
        });
    }
}

criterion_group!(benches, ceiling, gemv, gemm, attention, delta_net, elementwise, embed);
criterion_main!(benches);
