//! What a GPU's memory gives: a sum of two buffers that no cache holds, two reads and a write of each number.

use std::cell::RefCell;
use std::time::Instant;

use muse_kernels::{Backend, BackendError, CudaBackend, CudaBuffer};

/// Numbers of a buffer: 128 MiB of each, large against any second cache.
const LEN: usize = 32 << 20;
/// Sums that are launched behind one another.
const TIMES: usize = 8;

/// Two buffers of the first GPU.
pub struct DeviceProbe(RefCell<(CudaBackend, CudaBuffer, CudaBuffer)>);

impl DeviceProbe {
    /// # Errors
    /// [`BackendError`] where there is no GPU that can be used, or no memory.
    pub fn new() -> Result<Self, BackendError> {
        let mut backend = CudaBackend::new()?;
        let (x, y) = (backend.buffer(LEN)?, backend.buffer(LEN)?);
        Ok(Self(RefCell::new((backend, x, y))))
    }

    /// Bytes a second that move. A ceiling is the best of many.
    ///
    /// # Errors
    /// What the device gives.
    pub fn read(&self) -> Result<f64, BackendError> {
        let (backend, x, y) = &mut *self.0.borrow_mut();
        let mut first = [0.0];
        backend.read(x, &mut first)?;
        let began = Instant::now();
        for _ in 0..TIMES {
            backend.add(x, y, LEN)?;
        }
        // Waits for all of them.
        backend.read(x, &mut first)?;
        Ok((TIMES * 3 * size_of::<f32>() * LEN) as f64 / began.elapsed().as_secs_f64())
    }
}
