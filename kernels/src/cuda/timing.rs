//! For measuring: how long work takes on the device, and what the device can do at most (probe.cu).

use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::backend::{CudaBackend, CudaBuffer};
use super::driver::{Context, failed};
use super::launch::{THREADS, launch};
use crate::{BackendError, CudaError};

/// Blocks of a probe for each processor, so that it is full.
const BLOCKS_PER_PROCESSOR: u32 = 16;
/// Products of tiles of a warp in a round of a peak: `PROBE_SUMS` of probe.cu.
const PROBE_SUMS: u64 = 8;

/// What tensor cores multiply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaPeak {
    /// f16, summed in f32.
    Half,
    /// Signed bytes.
    Bytes,
}

/// A moment in a stream.
struct Event {
    context: Arc<Context>,
    event: sys::CUevent,
}

impl Event {
    /// Behind all work so far.
    fn record(context: &Arc<Context>) -> Result<Self, CudaError> {
        context.outside_graph("cuEventRecord")?;
        context.bind()?;
        let event = result::event::create(sys::CUevent_flags_enum::CU_EVENT_DEFAULT);
        let event = Self { context: Arc::clone(context), event: event.map_err(failed("cuEventCreate"))? };
        // SAFETY: the event was made above, and the stream lives as long as the context.
        let recorded = unsafe { result::event::record(event.event, context.stream) };
        recorded.map_err(failed("cuEventRecord"))?;
        Ok(event)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: made by `record`; one that was not reached yet is freed when it is.
        let _ = unsafe { result::event::destroy(self.event) };
    }
}

impl CudaBackend {
    /// Seconds from when the device begins `work` to when it has ended, by its own clock.
    ///
    /// # Errors
    /// What `work` gives, and [`CudaError::Call`](crate::CudaError::Call) where the device is lost.
    pub fn time(
        &mut self,
        work: impl FnOnce(&mut Self) -> Result<(), BackendError>,
    ) -> Result<f64, BackendError> {
        let began = Event::record(&self.context)?;
        work(self)?;
        let ended = Event::record(&self.context)?;
        self.context.synchronize()?;
        // SAFETY: both events are of this context, and `synchronize` has waited for them.
        let milliseconds = unsafe { result::event::elapsed(began.event, ended.event) };
        Ok(f64::from(milliseconds.map_err(failed("cuEventElapsedTime"))?) / 1e3)
    }

    /// Steps that were captured so far and run as graphs.
    pub fn captures(&self) -> u64 {
        self.steps.captures
    }

    /// Reads the whole of `x` once and adds its words, as integers modulo 2^32, to those in the first number of `out`.
    ///
    /// # Errors
    /// [`CudaError::Call`](crate::CudaError::Call) where the device is lost.
    pub fn probe_read(&mut self, out: &mut CudaBuffer, x: &CudaBuffer) -> Result<(), BackendError> {
        assert!(x.len.is_multiple_of(4), "{} numbers are not whole 16 bytes", x.len);
        let (at, from, count) = (out.at(1), x.at(x.len), (x.len / 4) as u64);
        // SAFETY: `out` holds a number, and `x` 16 bytes `count` times.
        Ok(unsafe {
            launch!(self.kernels, "probe_read", (self.probe_blocks(), 1), THREADS, [at, from, count])
        }?)
    }

    /// Numbers that [`probe_peak`](Self::probe_peak) writes.
    pub fn probe_len(&self) -> usize {
        (self.probe_blocks() * THREADS) as usize
    }

    /// Multiplies tiles that are in registers, `rounds` times some in each warp; gives how many multiplications and additions
    /// those are. What they sum up to is in `out`: floats, or for bytes the bits of integers.
    ///
    /// # Errors
    /// [`CudaError::Call`](crate::CudaError::Call) where the device is lost.
    pub fn probe_peak(
        &mut self,
        out: &mut CudaBuffer,
        peak: CudaPeak,
        rounds: u32,
    ) -> Result<u64, BackendError> {
        let (at, blocks) = (out.at(self.probe_len()), self.probe_blocks());
        let (name, columns) = match peak {
            CudaPeak::Half => ("probe_half", 16),
            CudaPeak::Bytes => ("probe_bytes", 32),
        };
        // SAFETY: `out` holds a number of each thread.
        unsafe { launch!(self.kernels, name, (blocks, 1), THREADS, [at, rounds]) }?;
        let warps = u64::from(blocks * (THREADS / 32));
        Ok(warps * u64::from(rounds) * PROBE_SUMS * 2 * 16 * 8 * columns)
    }

    /// Multiprocessors of the device.
    #[must_use]
    pub fn processors(&self) -> u32 {
        self.context.processors
    }

    fn probe_blocks(&self) -> u32 {
        BLOCKS_PER_PROCESSOR * self.context.processors
    }
}
