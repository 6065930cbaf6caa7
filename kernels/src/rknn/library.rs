//! The library's calls, as values that free themselves.

use std::error::Error as _;
use std::ffi::{OsStr, c_int};
use std::fmt;
use std::ptr::NonNull;
use std::slice;
use std::sync::Arc;

use super::error::name_of;
use super::sys::{
    self, Rknn, rknn_core_mask, rknn_matmul_ctx, rknn_matmul_info, rknn_matmul_io_attr,
    rknn_matmul_tensor_attr, rknn_tensor_mem,
};
use crate::RknnError;

/// Native layouts, for operands and for results.
const NATIVE: i16 = 1;

/// `librknnrt.so`, opened.
pub(super) struct Library(Rknn);

impl Library {
    /// Opens the library of that name or path.
    pub(super) fn open(path: &OsStr) -> Result<Arc<Self>, RknnError> {
        // SAFETY: this runs the library's initialisers, which are the vendor's own, as any program that links it does.
        let library = unsafe { libloading::Library::new(path) }
            .map_err(|error| RknnError::NoLibrary { problem: cause(&error) })?;
        // SAFETY: functions of these names have these types in every librknnrt of version 2.
        let functions = unsafe { Rknn::from_library(library) }
            .map_err(|error| RknnError::OldLibrary { problem: cause(&error) })?;
        let library = Arc::new(Self(functions));
        // It stays for the life of the process: nothing says that what it leaves behind survives that it is closed.
        std::mem::forget(Arc::clone(&library));
        Ok(library)
    }
}

/// What the system's loader says.
fn cause(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The shape of a product: `C`, `(m, n)`, is `A`, `(m, k)`, by `B`, `(k, n)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) m: usize,
    pub(super) k: usize,
    pub(super) n: usize,
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { m, k, n } = self;
        write!(f, "a product of {m} x {k} by {k} x {n}")
    }
}

/// The library's context of 8-bit products of one shape on one core. Calls of it and of memory that it owns come from one thread
/// at a time: the core's while that has a job, its caller's while not.
pub(super) struct Context {
    library: Arc<Library>,
    handle: rknn_matmul_ctx,
    io: Box<rknn_matmul_io_attr>,
    shape: Shape,
}

impl Context {
    /// Operands and results lie as [`super::weights`], [`super::rows`] and [`super::products`] write and read them, which is
    /// checked here.
    pub(super) fn new(
        library: &Arc<Library>,
        shape: Shape,
        core: rknn_core_mask,
    ) -> Result<Arc<Self>, RknnError> {
        let Shape { m, k, n } = shape;
        // SAFETY: structs of integers, of which all zeros is one.
        let (mut info, mut io): (rknn_matmul_info, Box<rknn_matmul_io_attr>) =
            unsafe { (std::mem::zeroed(), Box::new(std::mem::zeroed())) };
        (info.M, info.K, info.N) = (m as i32, k as i32, n as i32);
        info.type_ = sys::_rknn_matmul_type::RKNN_INT8_MM_INT8_TO_INT32;
        (info.B_layout, info.AC_layout) = (NATIVE, NATIVE);
        let mut handle = 0;
        // SAFETY: all three outlive the call.
        let code = unsafe { library.0.rknn_matmul_create(&raw mut handle, &raw mut info, &raw mut *io) };
        check("rknn_matmul_create", code, || shape.to_string())?;
        let context = Self { library: Arc::clone(library), handle, io, shape };
        context.has(&context.io.A, "the left operand", &[k / 16, m, 16], m * k)?;
        context.has(&context.io.B, "the right operand", &[n / 32, k / 32, 32, 32], k * n)?;
        context.has(&context.io.C, "the result", &[n / 4, m, 4], 4 * m * n)?;
        // SAFETY: the context lives.
        let code = unsafe { library.0.rknn_matmul_set_core_mask(handle, core) };
        check("rknn_matmul_set_core_mask", code, || format!("mask {core}"))?;
        Ok(Arc::new(context))
    }

    fn has(
        &self,
        attr: &rknn_matmul_tensor_attr,
        what: &'static str,
        dims: &[usize],
        bytes: usize,
    ) -> Result<(), RknnError> {
        let said = attr.dims.iter().take(attr.n_dims as usize).map(|dim| *dim as usize);
        if said.eq(dims.iter().copied()) && attr.size as usize == bytes {
            return Ok(());
        }
        let said = &attr.dims[..attr.dims.len().min(attr.n_dims as usize)];
        Err(RknnError::Layout {
            what,
            shape: self.shape.to_string(),
            expected: format!("{dims:?} of {bytes} bytes"),
            found: format!("{said:?} of {} bytes", attr.size),
        })
    }

    pub(super) fn shape(&self) -> Shape {
        self.shape
    }

    /// Multiplies what the device sees of `a` and `b` into `c`.
    pub(super) fn run(&self, a: &Memory, b: &Memory, c: &mut Memory) -> Result<(), RknnError> {
        let operands = [(a, &self.io.A), (b, &self.io.B), (&*c, &self.io.C)];
        for (memory, attr) in operands {
            assert!(memory.len >= attr.size as usize, "{} bytes for {}", memory.len, attr.size);
            let mut attr = *attr;
            // SAFETY: context, memory and attribute live.
            let code = unsafe {
                self.library.0.rknn_matmul_set_io_mem(self.handle, memory.memory.as_ptr(), &raw mut attr)
            };
            check("rknn_matmul_set_io_mem", code, || self.shape.to_string())?;
        }
        // SAFETY: the context lives, and so do the three memories until this returns, which is when the NPU is done; where it
        // fails, and may not be, the caller keeps them.
        let code = unsafe { self.library.0.rknn_matmul_run(self.handle) };
        check("rknn_matmul_run", code, || self.shape.to_string())
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nothing uses it after this; memories of it hold the `Arc` that is gone.
        unsafe { self.library.0.rknn_matmul_destroy(self.handle) };
    }
}

/// Memory that the host and the NPU see, each through its own caches: [`Memory::flush`] and
/// [`Memory::invalidate`] make them see the same.
pub(super) struct Memory {
    /// It was allocated in this context and is freed in it; contexts of all cores use it.
    owner: Arc<Context>,
    memory: NonNull<rknn_tensor_mem>,
    first: NonNull<u8>,
    len: usize,
}

// SAFETY: bytes and a handle that belong to no thread; who may touch the bytes follows from `&` and `&mut` alone.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    pub(super) fn new(owner: &Arc<Context>, len: usize) -> Result<Self, RknnError> {
        let wanted = u32::try_from(len).map_err(|_| RknnError::Memory { wanted: len })?;
        // SAFETY: the context lives.
        let memory = unsafe { owner.library.0.rknn_create_mem(owner.handle, wanted) };
        let memory = NonNull::new(memory).ok_or(RknnError::Memory { wanted: len })?;
        // SAFETY: the library gave a valid one.
        let (first, size) = unsafe { ((*memory.as_ptr()).virt_addr, (*memory.as_ptr()).size) };
        let first = NonNull::new(first.cast()).filter(|_| size >= wanted);
        let Some(first) = first else {
            // SAFETY: it is freed once, in its context.
            unsafe { owner.library.0.rknn_destroy_mem(owner.handle, memory.as_ptr()) };
            return Err(RknnError::Memory { wanted: len });
        };
        let mut made = Self { owner: Arc::clone(owner), memory, first, len };
        // The NPU reads of rows that are not there too. What is written here must not reach memory after its results.
        made.bytes_mut().fill(0);
        made.flush()?;
        Ok(made)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        // SAFETY: `len` bytes that live as long as the memory and are written through `&mut` alone, by the NPU too.
        unsafe { slice::from_raw_parts(self.first.as_ptr(), self.len) }
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`.
        unsafe { slice::from_raw_parts_mut(self.first.as_ptr(), self.len) }
    }

    /// Lets the NPU see what the host wrote.
    pub(super) fn flush(&self) -> Result<(), RknnError> {
        self.sync(sys::_rknn_mem_sync_mode::RKNN_MEMORY_SYNC_TO_DEVICE)
    }

    /// Lets the host see what the NPU wrote.
    pub(super) fn invalidate(&mut self) -> Result<(), RknnError> {
        self.sync(sys::_rknn_mem_sync_mode::RKNN_MEMORY_SYNC_FROM_DEVICE)
    }

    fn sync(&self, mode: sys::rknn_mem_sync_mode) -> Result<(), RknnError> {
        // SAFETY: context and memory live.
        let code =
            unsafe { self.owner.library.0.rknn_mem_sync(self.owner.handle, self.memory.as_ptr(), mode) };
        check("rknn_mem_sync", code, || format!("{} bytes", self.len))
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it is freed once, in the context that it was allocated in, which the `Arc` keeps.
        unsafe { self.owner.library.0.rknn_destroy_mem(self.owner.handle, self.memory.as_ptr()) };
    }
}

fn check(call: &'static str, code: c_int, what: impl FnOnce() -> String) -> Result<(), RknnError> {
    if code == 0 { Ok(()) } else { Err(RknnError::Call { call, what: what(), problem: name_of(code) }) }
}
