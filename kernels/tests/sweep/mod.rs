//! How much of a sweep is run where a CPU is emulated, which makes each case a hundred times as long.

/// All of `cases`; the first alone where `scripts/test.sh` emulates aarch64 CPUs, as it has run all of them on x86-64. For
/// what is the same plain code on every CPU, such as settings of the scheduler: never for kernels, layouts, types of caches
/// or shapes.
#[allow(dead_code)] // some tests have no such cases
pub fn sweep<T>(cases: &[T]) -> &[T] {
    if each_cpu_is_emulated() { &cases[..1] } else { cases }
}

/// Whether `scripts/test.sh` runs these tests once on an emulated CPU for each set of features.
pub fn each_cpu_is_emulated() -> bool {
    std::env::var_os("MUSE_EMULATES_EACH_CPU").is_some()
}
