//! A GPU: what it is, what memory it finds free, and a model on it.

use std::path::Path;
use std::sync::Arc;

use muse_kernels::{BackendError, Npu};
#[cfg(feature = "cuda")]
use muse_kernels::{CudaBackend, CudaMemory, CudaSharing};

#[cfg(feature = "cuda")]
use crate::Placement;
use crate::{BackendChoice, Engine, LoadError, LoadOptions, Mapped, Text};

/// Opens the GPU that [`BackendChoice::Cuda`] takes and loads its kernels; returns what it is, for people: name, compute
/// capability, where its kernels come from, memory and driver.
///
/// # Errors
/// [`BackendError::Cuda`] says what is missing.
#[cfg(feature = "cuda")]
pub fn cuda_device() -> Result<String, BackendError> {
    CudaBackend::new()?.report()
}

/// The error of a build without the feature `cuda`.
///
/// # Errors
/// [`CudaError::NotBuilt`](muse_kernels::CudaError::NotBuilt).
#[cfg(not(feature = "cuda"))]
pub fn cuda_device() -> Result<String, BackendError> {
    Err(muse_kernels::CudaError::NotBuilt.into())
}

/// Opens the NPU that [`BackendChoice::Rknn`] takes and asks each of its cores for a product.
///
/// # Errors
/// [`BackendError::Rknn`] says what is missing.
pub fn npu_device() -> Result<String, BackendError> {
    Ok(Npu::open().map(|npu| npu.describe())?)
}

/// Bytes that models on `backend` find free: of a GPU with memory of its own that, else what the kernel of this machine
/// says it could give, [`muse_boards::available_bytes`]. `root` is `/`; a folder in tests.
pub fn available_bytes(backend: BackendChoice, root: &Path) -> Option<u64> {
    match backend {
        BackendChoice::Cuda => on_device(root),
        BackendChoice::Cpu | BackendChoice::Rknn | BackendChoice::Reference => {
            muse_boards::available_bytes(root)
        }
    }
}

#[cfg(not(feature = "cuda"))]
fn on_device(root: &Path) -> Option<u64> {
    muse_boards::available_bytes(root)
}

/// A GPU that cannot be opened refuses the model later, by its name.
#[cfg(feature = "cuda")]
fn on_device(root: &Path) -> Option<u64> {
    free_of(CudaMemory::of_device().unwrap_or(CudaMemory::Shared), root)
}

/// On a board with one memory for both, what the driver calls free leaves out all that the kernel keeps of files.
#[cfg(feature = "cuda")]
fn free_of(memory: CudaMemory, root: &Path) -> Option<u64> {
    match memory {
        CudaMemory::Shared => muse_boards::available_bytes(root),
        CudaMemory::Own { free, .. } => Some(free),
    }
}

/// [`load_mapped`](crate::load_mapped) on the GPU, within what it finds free.
#[cfg(feature = "cuda")]
pub(crate) fn load(
    mapped: &Mapped,
    options: &LoadOptions,
    text: Arc<dyn Text>,
) -> Result<Box<dyn Engine>, LoadError> {
    let mut backend = CudaBackend::new()?;
    let free = free_of(backend.memory()?, Path::new("/"));
    let memory_budget = options.memory_budget.into_iter().chain(free).min();
    let plan = crate::plan(mapped, &LoadOptions { memory_budget, ..options.clone() })?;
    if options.weights == Placement::Shared {
        mapped.read_ahead();
        for file in [Some(mapped), mapped.drafter()].into_iter().flatten() {
            let (bytes, tensors) = file.shared();
            let CudaSharing { in_place, copied } = backend.share(&bytes, &tensors)?;
            let path = file.path.display();
            tracing::info!("{path} is read in place, at {in_place:.1} GB/s; copied at {copied:.1} GB/s");
        }
    }
    let name = backend.describe();
    crate::load::model(mapped, backend, name, &plan, text)
}

#[cfg(not(feature = "cuda"))]
pub(crate) fn load(_: &Mapped, _: &LoadOptions, _: Arc<dyn Text>) -> Result<Box<dyn Engine>, LoadError> {
    cuda_device()?;
    unreachable!("a build without CUDA has no device")
}

#[cfg(all(test, feature = "cuda"))]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_shares_memory_finds_free_what_the_kernel_says() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("proc")).unwrap();
        let meminfo = "MemTotal: 8000 kB\nMemFree: 10 kB\nMemAvailable: 5000 kB\n";
        std::fs::write(root.path().join("proc/meminfo"), meminfo).unwrap();
        assert_eq!(free_of(CudaMemory::Shared, root.path()), Some(5000 << 10));
        let own = CudaMemory::Own { free: 77, total: 100 };
        assert_eq!(free_of(own, root.path()), Some(77));
    }
}
