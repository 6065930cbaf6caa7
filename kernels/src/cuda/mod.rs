//! The operations on an NVIDIA GPU, by the kernels of `kernels/cuda/*.cu`.
//!
//! Building this takes no toolkit and no GPU: the driver's library is opened at run time, and the kernels are embedded as
//! `scripts/cubins.sh` compiled them. [`CudaBackend::new`] says what is missing where it cannot run. All work goes
//! through one stream in order; the host waits for [`Backend::read`] alone. Steps of a few rows are graphs (`step.rs`).
//!
//! A weight is copied to the device once, as the bytes that the file holds, or read in place where the device shares the
//! machine's memory (`shared.rs`): the packed `cpu` layouts suit a warp as they suit a vector register. `scripts/cuda.sh` runs this on an emulator; `kernels/cuda/NOTES.md` says what ran where.

#[cfg(feature = "cuda")]
mod attention;
#[cfg(feature = "cuda")]
mod backend;
#[cfg(feature = "cuda")]
mod best;
#[cfg(feature = "cuda")]
mod cache;
#[cfg(feature = "cuda")]
mod delta;
#[cfg(feature = "cuda")]
mod driver;
mod error;
#[cfg(feature = "cuda")]
mod experts;
#[cfg(feature = "cuda")]
mod heads;
#[cfg(feature = "cuda")]
mod images;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
mod memory;
#[cfg(feature = "cuda")]
mod moves;
#[cfg(feature = "cuda")]
mod operations;
#[cfg(feature = "cuda")]
mod products;
#[cfg(feature = "cuda")]
mod recording;
#[cfg(feature = "cuda")]
mod rotations;
#[cfg(feature = "cuda")]
mod rows;
mod scratch;
#[cfg(feature = "cuda")]
mod shared;
#[cfg(feature = "cuda")]
mod sounds;
#[cfg(feature = "cuda")]
mod step;
#[cfg(feature = "cuda")]
mod timing;

pub use error::CudaError;
pub use scratch::{
    cuda_attention_bytes, cuda_best_bytes, cuda_choose_bytes, cuda_experts_bytes, cuda_graphs_bytes,
    cuda_heads_bytes, cuda_reserved_bytes, cuda_table_bytes,
};

#[cfg(feature = "cuda")]
pub use self::{
    backend::{CudaBackend, CudaBuffer, CudaWeight},
    cache::CudaCache,
    delta::CudaDeltaState,
    driver::CudaMemory,
    shared::CudaSharing,
    timing::CudaPeak,
};

use crate::BackendError;

impl From<CudaError> for BackendError {
    fn from(error: CudaError) -> Self {
        Self::Cuda(error)
    }
}
