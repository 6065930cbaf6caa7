//! Random weights, for measuring a shape without its checkpoint.

use std::fs::File;
use std::path::Path;

use muse_format::{Layout, Spec, WriteError};
use muse_kernels::{BackendError, Tensor};
use muse_runtime::random;

/// A random matrix whose products keep the size of their input.
///
/// # Errors
/// [`BackendError`] where the shape is not one a tensor can have.
pub fn matrix(layout: Layout, rows: usize, cols: usize) -> Result<Tensor, BackendError> {
    let too_large = BackendError::OutOfMemory { wanted: u64::MAX };
    let len = layout.byte_len(rows as u64, cols as u64).and_then(|len| usize::try_from(len).ok());
    let len = len.ok_or(too_large)?;
    let pattern = random::pattern(layout, 1.7 / (cols as f32).sqrt());
    let bytes: Vec<u8> = pattern.iter().copied().cycle().take(len).collect();
    Tensor::new(layout, rows, cols, std::sync::Arc::new(bytes), 0..len)
}

/// Writes a model of `spec` with random weights, its matrices stored as `layout`, to `path`. It has no tokenizer.
///
/// # Errors
/// [`WriteError`], most likely a full disk.
pub fn write(path: &Path, spec: &Spec, layout: Layout) -> Result<(), WriteError> {
    let tool = concat!("muse-bench ", env!("CARGO_PKG_VERSION"));
    random::write(File::create(path)?, spec, layout, tool, 1)
}
