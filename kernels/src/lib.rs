//! The operations that a model is made of, and the backends that do them.
//!
//! [`Backend`] is the boundary: `graph.rs` in the runtime asks for operations, a backend does them. There is
//! [`ReferenceBackend`] (plain scalar loops, f64 sums, never tuned: the definition of every answer) and
//! [`CpuBackend`].
//!
//! What a kernel may do: read its inputs, write its outputs. It does not allocate, spawn, lock, log or open a file;
//! the backend plans memory at load and splits rows over its pool.
//!
//! A kernel lives in `cpu/<operation>/<feature>.rs`, the file named for the CPU feature it needs and the function
//! always `run`; `mod.rs` holds the best-first table, and tests walk that table. To add a variant, add a file and a
//! line to the table: tests and benches find it there.
//!
//! It refuses to repack weights: a tensor arrives in a [`muse_format::Layout`] that a kernel reads as it is.

mod backend;
mod cache;
mod cpu;
mod reference;
mod tensor;
#[cfg(test)]
mod test_data;

pub use backend::{AttentionShape, Backend, BackendError, CacheDtype, CacheShape, Linear, Span};
pub use cache::{HostCache, TILE_POSITIONS};
pub use cpu::{CpuBackend, Features};
pub use reference::ReferenceBackend;
pub use tensor::{Bytes, Tensor};
