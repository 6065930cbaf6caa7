//! Every backend but the reference: the CPU's with every set of features that this machine has, with one and several
//! threads; with the feature `cuda` also that of a device, which `scripts/cuda.sh` emulates.

#[cfg(feature = "cuda")]
#[allow(dead_code)] // each test uses a part
#[path = "../hosted/mod.rs"]
pub mod hosted;

/// Runs the block for each backend, called `$backend` in it.
macro_rules! each_backend {
    (|$backend:ident| $test:block) => {
        for features in muse_kernels::Features::detect().and_weaker() {
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
