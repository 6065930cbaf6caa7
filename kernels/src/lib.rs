//! The operations that a model is made of, and the backends that do them.
//!
//! [`Backend`] is the boundary: `graph/` in the runtime asks for operations, a backend does them. There is
//! [`ReferenceBackend`] (plain scalar loops, f64 sums, never tuned: the definition of every answer), [`CpuBackend`], which may
//! have an [`Npu`] multiply the rows of prompts, and, with the feature `cuda`, `CudaBackend`.
//!
//! ```
//! use muse_kernels::{Backend, CpuBackend, Linear, Tensor};
//!
//! let mut cpu = CpuBackend::new(1);
//! let weight = cpu.load(Tensor::from_f32(2, 3, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]))?;
//! let (x, mut out) = (vec![1.0, 0.0, -1.0], cpu.buffer(2)?);
//! cpu.linear(&x, 1, &mut [Linear { out: &mut out, weight: &weight, bias: None }])?;
//! assert_eq!(out, [-2.0, -2.0]);
//! # Ok::<(), muse_kernels::BackendError>(())
//! ```
//!
//! What a kernel may do: read its inputs, write its outputs. It does not allocate, spawn, lock, log or open a file;
//! the backend plans memory at load and splits rows over its pool.
//!
//! A kernel lives in `cpu/<operation>/<feature>.rs`, the file named for the CPU feature it needs; `mod.rs` holds the
//! best-first table, and tests walk that table. To add a variant, add a file and a line to the table: `cpu/mod.rs`
//! says how, step by step. To add an operation, add it to [`Backend`] and to [`ReferenceBackend`] first.
//!
//! It refuses to repack weights: a tensor arrives in a [`muse_format::Layout`] that a kernel reads as it is.

mod backend;
mod best;
mod cache;
mod cpu;
mod cuda;
mod delta;
mod error;
mod operands;
mod output;
mod reference;
mod rknn;
mod routing;
mod shape;
mod tensor;
#[cfg(test)]
mod test_data;

pub use backend::{Backend, Pass, PromptRows, Step};
pub use best::{Best, bits};
pub use cache::{HostCache, TILE_POSITIONS};
pub use cpu::{CpuBackend, Features, Peak};
#[cfg(feature = "cuda")]
pub use cuda::{
    CudaBackend, CudaBuffer, CudaCache, CudaDeltaState, CudaMemory, CudaPeak, CudaSharing, CudaWeight,
};
pub use cuda::{
    CudaError, cuda_attention_bytes, cuda_best_bytes, cuda_choose_bytes, cuda_experts_bytes,
    cuda_graphs_bytes, cuda_heads_bytes, cuda_reserved_bytes, cuda_table_bytes,
};
pub use delta::{DeltaShape, Held, HostDeltaState};
pub use error::{BackendError, Result};
pub use operands::{Expert, ExpertsShape, Linear, Mixture, Routing, ScaledNorm};
pub use reference::ReferenceBackend;
pub use rknn::{Npu, RknnError};
pub use routing::Chooser;
pub use shape::{AttentionShape, CacheDtype, CacheShape, HeadsShape, IndexShape, Span, UnknownCacheDtype};
pub use tensor::{Bytes, Tensor};
