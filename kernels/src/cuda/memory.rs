//! Memory of the device, and how it is filled.
//!
//! Weights lie in chunks: few allocations, none larger than [`CHUNK_BYTES`] but of a single tensor that is, as a kernel
//! reads a tensor from one address on. They are made together, before the first is filled.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::{result, sys};
use zerocopy::IntoBytes;

use super::driver::{Context, failed};
use super::shared::Registered;
use crate::{BackendError, CudaError};

/// Bytes that weights pass through on their way to the device.
const BOUNCE_BYTES: usize = 4 << 20;
/// Most bytes that tensors share. Drivers of boards fail at larger ones where memory is in pieces.
pub(super) const CHUNK_BYTES: usize = 256 << 20;
/// Where a tensor may begin, as in memory of its own.
const ALIGNMENT: usize = 256;

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
            context.outside_graph("cuMemAlloc")?;
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

    /// Copies `from` to the first bytes and waits: of memory that is not pinned, CUDA promises no more than that a copy
    /// may have read it when the call returns.
    pub(super) fn write(&mut self, from: &[u8]) -> Result<(), CudaError> {
        self.write_at(0, from)?;
        self.context.synchronize()
    }

    /// The caller waits for the copy before `from` changes or ends.
    fn write_at(&self, offset: usize, from: &[u8]) -> Result<(), CudaError> {
        assert!(from.len() <= self.bytes && offset <= self.bytes - from.len());
        if from.is_empty() {
            return Ok(());
        }
        self.context.outside_graph("cuMemcpyHtoDAsync")?;
        self.context.bind()?;
        let to = self.at + offset as u64;
        // SAFETY: the range was checked above; `write` waits, and so does `Bounce` before it changes or frees its memory.
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
        self.context.outside_graph("cuMemcpyDtoDAsync")?;
        self.context.bind()?;
        let (to, from) = (self.at + at as u64, from.at + at as u64);
        // SAFETY: both ranges were checked above; the stream keeps the order of what uses them.
        let copied = unsafe { result::memcpy_dtod_async(to, from, bytes, self.context.stream) };
        copied.map_err(failed("cuMemcpyDtoDAsync"))
    }

    /// Copies the first bytes to `to` and waits for them.
    pub(super) fn read(&self, to: &mut [u8]) -> Result<(), CudaError> {
        assert!(to.len() <= self.bytes);
        self.context.outside_graph("cuMemcpyDtoHAsync")?;
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
            self.context.free();
            let _ = self.context.bind();
            // SAFETY: allocated by `new`. The driver waits for work that uses it.
            let _ = unsafe { result::free_sync(self.at) };
        }
    }
}

/// A tensor's bytes: in a chunk, or in place.
#[derive(Debug)]
pub(super) enum Part {
    Own { chunk: Arc<Memory>, offset: usize },
    Shared { piece: Arc<Registered>, offset: usize },
}

impl Part {
    /// The device's address of the first byte; 0 where there are none.
    pub(super) fn at(&self) -> u64 {
        match self {
            Self::Own { chunk, offset } => chunk.at() + *offset as u64,
            Self::Shared { piece, offset } => piece.at() + *offset as u64,
        }
    }
}

/// Room for tensors, by their bytes.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    free: HashMap<usize, Vec<(Arc<Memory>, usize)>>,
}

/// Which tensors of so many bytes share a chunk: where each begins and how long it is, chunk by chunk.
fn pack(bytes: &[usize], most: usize) -> Vec<Vec<(usize, usize)>> {
    let mut chunks: Vec<Vec<(usize, usize)>> = Vec::new();
    for bytes in bytes.iter().copied().filter(|bytes| *bytes > 0) {
        let last = chunks.last().and_then(|chunk| chunk.last());
        let next = last.and_then(|(at, len)| (at + len).checked_next_multiple_of(ALIGNMENT));
        match next.filter(|at| most.checked_sub(bytes).is_some_and(|room| *at <= room)) {
            Some(at) => chunks.last_mut().expect("it has a last tensor").push((at, bytes)),
            None => chunks.push(vec![(0, bytes)]),
        }
    }
    chunks
}

impl Chunks {
    /// Allocates room for tensors of so many bytes, all of it or none.
    pub(super) fn reserve(&mut self, context: &Arc<Context>, bytes: &[u64]) -> Result<(), BackendError> {
        let wanted = bytes.iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        let too_large = |_| BackendError::OutOfMemory { wanted };
        let bytes: Vec<usize> =
            bytes.iter().map(|bytes| usize::try_from(*bytes)).collect::<Result<_, _>>().map_err(too_large)?;
        let mut made = Vec::new();
        for tensors in pack(&bytes, CHUNK_BYTES) {
            let end = tensors.last().map_or(0, |(at, bytes)| at + bytes);
            made.push((Arc::new(Memory::new(context, end)?), tensors));
        }
        for (chunk, tensors) in made {
            for (offset, bytes) in tensors {
                self.free.entry(bytes).or_default().push((chunk.clone(), offset));
            }
        }
        Ok(())
    }

    /// Copies a tensor to the room that was reserved for it, or to memory of its own where there is none.
    pub(super) fn upload(&mut self, bounce: &mut Bounce, from: &[u8]) -> Result<Part, BackendError> {
        match self.free.get_mut(&from.len()).and_then(Vec::pop) {
            None => Ok(Part::Own { chunk: Arc::new(bounce.upload(from)?), offset: 0 }),
            Some((chunk, offset)) => {
                bounce.fill(&chunk, offset, from)?;
                Ok(Part::Own { chunk, offset })
            }
        }
    }
}

/// Pinned memory that weights pass through, so that a file's pages are read once and need not stay; and what graphs read of
/// the host.
#[derive(Debug)]
pub(super) struct Bounce {
    context: Arc<Context>,
    at: *mut c_void,
    /// Whether a copy from it may not have ended.
    in_flight: bool,
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
        Ok(Self { context: Arc::clone(context), at, in_flight: false })
    }

    /// Copies `from` to memory of its own on the device.
    pub(super) fn upload(&mut self, from: &[u8]) -> Result<Memory, BackendError> {
        let memory = Memory::new(&self.context, from.len())?;
        self.fill(&memory, 0, from)?;
        Ok(memory)
    }

    fn fill(&mut self, memory: &Memory, offset: usize, from: &[u8]) -> Result<(), CudaError> {
        for (i, part) in from.chunks(BOUNCE_BYTES).enumerate() {
            self.copy(memory, offset + i * BOUNCE_BYTES, part)?;
            self.wait()?;
        }
        Ok(())
    }

    /// Copies `numbers` to the first bytes of `memory`, in the order of the stream's work, and waits for none of it where
    /// what was sent before was waited for.
    pub(super) fn send(&mut self, memory: &Memory, numbers: &[u32]) -> Result<(), CudaError> {
        self.copy(memory, 0, numbers.as_bytes())
    }

    /// Copies no more than BOUNCE_BYTES.
    fn copy(&mut self, memory: &Memory, offset: usize, from: &[u8]) -> Result<(), CudaError> {
        assert!(from.len() <= BOUNCE_BYTES);
        if self.in_flight {
            self.wait()?;
        }
        // SAFETY: `at` holds BOUNCE_BYTES, of which `from` is no more, no copy reads it any more and nothing else points
        // into it.
        let bounce = unsafe {
            ptr::copy_nonoverlapping(from.as_ptr(), self.at.cast::<u8>(), from.len());
            std::slice::from_raw_parts(self.at.cast::<u8>(), from.len())
        };
        self.in_flight = true;
        memory.write_at(offset, bounce)
    }

    fn wait(&mut self) -> Result<(), CudaError> {
        self.context.synchronize()?;
        self.in_flight = false;
        Ok(())
    }

    /// Notes that the stream's work was waited for.
    pub(super) fn waited(&mut self) {
        self.in_flight = false;
    }
}

impl Drop for Bounce {
    fn drop(&mut self) {
        let _ = self.context.bind();
        let _ = self.wait();
        // SAFETY: allocated by `new`; every copy from it has been waited for, or the device is lost.
        let _ = unsafe { result::free_host(self.at) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_share_chunks_and_none_is_cut() {
        for (case, bytes, expected) in [
            ("none", &[][..], vec![]),
            ("nothing", &[0, 0], vec![]),
            ("one byte", &[1], vec![vec![(0, 1)]]),
            ("aligned", &[1, 300, 4], vec![vec![(0, 1), (256, 300), (768, 4)]]),
            ("to the last byte", &[512, 512], vec![vec![(0, 512), (512, 512)]]),
            ("one byte more", &[512, 513], vec![vec![(0, 512)], vec![(0, 513)]]),
            ("larger than a chunk", &[8, 5000, 8], vec![vec![(0, 8)], vec![(0, 5000)], vec![(0, 8)]]),
            ("as large as can be", &[usize::MAX, 8], vec![vec![(0, usize::MAX)], vec![(0, 8)]]),
        ] {
            assert_eq!(pack(bytes, 1024), expected, "{case}");
        }
    }
}
