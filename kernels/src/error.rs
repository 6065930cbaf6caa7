use crate::{CudaError, RknnError};

/// What an operation gives, or why it could not be done.
pub type Result<T = (), E = BackendError> = std::result::Result<T, E>;

/// Why a backend could not do what was asked. A backend without a device fails only while loading.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    #[error("tensor {problem}")]
    Tensor { problem: String },
    #[error("this backend has no kernel for {0}")]
    Unsupported(String),
    #[error("{wanted} bytes could not be allocated")]
    OutOfMemory { wanted: u64 },
    #[error("CUDA: {0}")]
    Cuda(CudaError),
    #[error("NPU: {0}")]
    Rknn(#[from] RknnError),
}

impl BackendError {
    /// Whether everything after it will fail too: a GPU's context is of no more use once a call has failed in it, and
    /// an NPU's memory is lost with it.
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Cuda(_) | Self::Rknn(_))
    }
}
