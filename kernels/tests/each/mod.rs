//! Every backend but the reference: the CPU's with every set of features that this machine has, with one and several
//! threads; with the feature `cuda` also that of a device, which `scripts/cuda.sh` emulates.

#[cfg(feature = "cuda")]
#[allow(dead_code)] // each test uses a part
#[path = "../hosted/mod.rs"]
pub mod hosted;
#[path = "../sweep/mod.rs"]
mod sweep;

use muse_kernels::Features;

/// The sets of features that a CPU backend is tested with: all that this machine has, and its own alone where every other is
/// the own one of another emulated CPU. What needs no feature has run on x86-64, and does in unit tests.
pub fn sets() -> impl Iterator<Item = Features> {
    let most = if sweep::each_cpu_is_emulated() { 1 } else { usize::MAX };
    Features::detect().and_weaker().take(most)
}

/// What rounding the factors of a prompt's attention may do to an output, in the mean of squares, where the backend that
/// describes itself so rounds them: to bf16's 8 bits, or to f16's 11.
///
/// That is an error of `e / sqrt(3)` at most in each factor, `e` being `2^-8` or `2^-11`, each for itself, of terms that are
/// 1 in the mean of squares, as a score then is. A score errs by `e`, a weight by as much of itself twice, a value once; that
/// is less than `4 e`, even if none of it evens out.
#[allow(dead_code)] // some tests use it
pub fn coarseness(name: &str) -> Option<f64> {
    match () {
        () if name.contains("avx512-bf16") => Some(1.0 / 64.0),
        () if name.starts_with("cuda") => Some(1.0 / 512.0),
        () => None,
    }
}

/// Runs the block for each backend, called `$backend` in it.
macro_rules! each_backend {
    (|$backend:ident| $test:block) => {
        for features in each::sets() {
            for threads in [1, 3] {
                let $backend = &mut muse_kernels::CpuBackend::with_features(threads, features);
                $test
            }
        }
        #[cfg(feature = "cuda")]
        {
            let $backend =
                &mut each::hosted::Hosted::new().expect("a test with the feature `cuda` needs a device");
            $test
        }
    };
}
