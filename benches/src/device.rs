//! What a GPU's memory gives: reads of a buffer that no cache holds, by a kernel that does nothing else.

use std::cell::RefCell;

use muse_kernels::{Backend, BackendError, CudaBackend, CudaBuffer};

use crate::products::noise;

/// Reads that are launched behind one another.
const TIMES: usize = 8;

/// A buffer of the first GPU, and where its words are summed.
pub struct DeviceProbe(RefCell<(CudaBackend, CudaBuffer, CudaBuffer)>);

impl DeviceProbe {
    /// Numbers that are large against any second cache: 256 MiB.
    pub const LEN: usize = 64 << 20;

    /// Of `len` numbers, a multiple of 4.
    ///
    /// # Errors
    /// [`BackendError`] where there is no GPU that can be used, or no memory.
    pub fn new(len: usize) -> Result<Self, BackendError> {
        let mut cuda = CudaBackend::new()?;
        let (mut x, out) = (cuda.buffer(len)?, cuda.buffer(1)?);
        cuda.write(&mut x, &noise(len))?;
        Ok(Self(RefCell::new((cuda, x, out))))
    }

    /// Bytes a second that are read, by the device's own clock. A ceiling is the best of many.
    ///
    /// # Errors
    /// What the device gives.
    pub fn read(&self) -> Result<f64, BackendError> {
        let (cuda, x, out) = &mut *self.0.borrow_mut();
        cuda.probe_read(out, x)?;
        let seconds = cuda.time(|cuda| (0..TIMES).try_for_each(|_| cuda.probe_read(out, x)))?;
        Ok((TIMES * size_of::<f32>() * x.len()) as f64 / seconds)
    }
}
