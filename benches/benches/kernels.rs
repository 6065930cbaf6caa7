//! Matrix products over every layout, in bytes of weights a second. `cargo bench -p muse-benches`

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use muse_benches::synthetic::matrix;
use muse_format::Layout;
use muse_kernels::{Backend, CpuBackend, Linear};

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

/// Decoding (1 row of activations) and a prompt's step (64), on one thread and on all.
fn linear(criterion: &mut Criterion) {
    let (rows, cols) = (8192, 4096);
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    for threads in if cores > 1 { vec![1, cores] } else { vec![1] } {
        for tokens in [1, 64] {
            let name = format!("linear, {rows} x {cols}, {tokens} tokens, {threads} threads");
            let mut group = criterion.benchmark_group(name);
            group.sample_size(20);
            for layout in LAYOUTS {
                let mut backend = CpuBackend::new(threads);
                let weight = matrix(layout, rows, cols).expect("it fits in memory");
                group.throughput(Throughput::Bytes(weight.bytes().len() as u64));
                let weight = backend.load(weight).expect("the layout has a kernel");
                let mut out = backend.buffer(tokens * rows).expect("it fits in memory");
                let mut x = backend.buffer(tokens * cols).expect("it fits in memory");
                x.iter_mut().enumerate().for_each(|(i, x)| *x = (i as f32).sin());
                group.bench_function(BenchmarkId::from_parameter(layout), |bencher| {
                    bencher.iter(|| {
                        let product = Linear { out: &mut out, weight: &weight, bias: None };
                        backend.linear(&x, tokens, &mut [product]).expect("a host backend does not fail");
                    });
                });
            }
        }
    }
}

criterion_group!(benches, linear);
criterion_main!(benches);
