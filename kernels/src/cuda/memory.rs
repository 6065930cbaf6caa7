//! Memory of the device, and how it is filled.

use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::driver::{Context, failed};
use crate::{BackendError, CudaError};

/// Bytes that weights pass through on their way to the device.
const BOUNCE_BYTES: usize = 4 << 20;

/// Bytes on the device.
#[derive(Debug)]
pub(super) struct Memory {
    context: Arc<Context>,
    /// 0 where there are no bytes.
    at: sys::CUdeviceptr,
    bytes: usize,
}

impl Memory {
    /// Zeroed bytes.
    pub(super) fn zeroed(context: &Arc<Context>, bytes: usize) -> Result<Self, BackendError> {
        let memory = Self::new(context, bytes)?;
        if bytes > 0 {
            // SAFETY: `new` allocated exactly these bytes.
            let done = unsafe { result::memset_d8_async(memory.at, 0, bytes, context.stream) };
            done.map_err(failed("cuMemsetD8Async"))?;
        }
        Ok(memory)
    }

    fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, BackendError> {
        context.bind()?;
        let mut memory = Self { context: Arc::clone(context), at: 0, bytes };
        if bytes > 0 {
            // SAFETY: the context is bound; `drop` frees the memory.
            memory.at = unsafe { result::malloc_sync(bytes) }.map_err(|error| match error.0 {
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => BackendError::OutOfMemory { wanted: bytes as u64 },
                _ => failed("cuMemAlloc")(error).into(),
            })?;
        }
        Ok(memory)
    }

    /// The device's address of the first byte.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Copies `from` to the first bytes. The driver has read `from` when this returns.
    pub(super) fn write(&mut self, from: &[u8]) -> Result<(), CudaError> {
        self.write_at(0, from)
    }

    fn write_at(&mut self, offset: usize, from: &[u8]) -> Result<(), CudaError> {
        assert!(from.len() <= self.bytes && offset <= self.bytes - from.len());
        if from.is_empty() {
            return Ok(());
        }
        self.context.bind()?;
        let to = self.at + offset as u64;
        // SAFETY: the range was checked above. Memory that is not pinned is staged before the call returns; what is
        // pinned is `Bounce`'s, which waits.
        let copied = unsafe { result::memcpy_htod_async(to, from, self.context.stream) };
        copied.map_err(failed("cuMemcpyHtoDAsync"))
    }

    /// Copies `bytes` from byte `at` of `from` on to the same place.
    pub(super) fn copy(&mut self, from: &Self, at: usize, bytes: usize) -> Result<(), CudaError> {
        let len = self.bytes.min(from.bytes);
        assert!(bytes <= len && at <= len - bytes);
        if bytes == 0 {
            return Ok(());
        }
        self.context.bind()?;
        let (to, from) = (self.at + at as u64, from.at + at as u64);
        // SAFETY: both ranges were checked above; the stream keeps the order of what uses them.
        let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, self.context.stream) };
        copied.map_err(failed("cuMemcpyDtoDAsync"))
    }

    /// Copies the first bytes to `to` and waits for them.
    pub(super) fn read(&self, to: &mut [u8]) -> Result<(), CudaError> {
        assert!(to.len() <= self.bytes);
        self.context.bind()?;
        if !to.is_empty() {
            // SAFETY: the range was checked above, and `to` lives until `synchronize` has waited.
            let copied = unsafe { result::memcpy_dtoh_async(to, self.at, self.context.stream) };
            copied.map_err(failed("cuMemcpyDtoHAsync"))?;
        }
        self.context.synchronize()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        if self.at != 0 {
            let _ = self.context.bind();
            // SAFETY: allocated by `new`. The driver waits for work that uses it.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// Pinned memory that weights pass through, so that a file's pages are read once and need not stay.
#[derive(Debug)]
pub(super) struct Bounce {
    context: Arc<Context>,
    at: *mut c_void,
}

// SAFETY: the memory is this value's alone.
unsafe impl Send for Bounce {}

impl Bounce {
    pub(super) fn new(context: &Arc<Context>) -> Result<Self, BackendError> {
        context.bind()?;
        // SAFETY: the context is bound; `drop` frees the memory.
        let at = unsafe { result::malloc_host(BOUNCE_BYTES, 0) }.map_err(|error| match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => {
                BackendError::OutOfMemory { wanted: BOUNCE_BYTES as u64 }
            }
            _ => failed("cuMemHostAlloc")(error).into(),
        })?;
        Ok(Self { context: Arc::clone(context), at })
    }

    /// Copies `from` to memory of its own on the device.
    pub(super) fn upload(&mut self, from: &[u8]) -> Result<Memory, BackendError> {
        let mut memory = Memory::new(&self.context, from.len())?;
        for (i, part) in from.chunks(BOUNCE_BYTES).enumerate() {
            // SAFETY: `at` holds BOUNCE_BYTES, of which `part` is no more, and nothing else points into it.
            let bounce = unsafe {
                ptr::copy_nonoverlapping(part.as_ptr(), self.at.cast::<u8>(), part.len());
                std::slice::from_raw_parts(self.at.cast::<u8>(), part.len())
            };
            memory.write_at(i * BOUNCE_BYTES, bounce)?;
            self.context.synchronize()?;
        }
        Ok(memory)
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: allocated by `new`; every copy from it has been waited for.
        let _ = unsafe { result::free_host(self.at) };
    }
}
