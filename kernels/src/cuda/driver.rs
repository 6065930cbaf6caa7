//! The driver's calls, as values that free themselves. Nothing here panics without libcuda: [`Context::open`] looks for
//! it first, and calls only what drivers have had since CUDA 4.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cudarc::driver::result::{self, DriverError};
use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};

use crate::CudaError;

/// The oldest driver that takes the embedded PTX: CUDA 12.6, JetPack 6.
const DRIVER_MIN: i32 = 12060;

/// Most bytes of what the driver's compiler says of an error.
const LOG_BYTES: usize = 2048;

/// `: ` and what a driver wrote to `log`, in one line; nothing where it wrote nothing.
fn said(log: &[u8]) -> String {
    let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.is_empty() { String::new() } else { format!(": {}", words.join(" ")) }
}

/// The name of an error, and what to do where only another process can go on.
fn name_of(error: DriverError) -> String {
    let name = error.error_name();
    let name = name.map_or_else(|_| format!("{error:?}"), |name| name.to_string_lossy().into_owned());
    if needs_another_process(error.0) {
        name + ", after which the GPU does nothing more for this process: start it again"
    } else {
        name
    }
}

/// Whether NVIDIA's documentation of `CUresult` says of an error that the process must be terminated and relaunched.
fn needs_another_process(error: sys::CUresult) -> bool {
    use sys::CUresult as Error;
    matches!(
        error,
        Error::CUDA_ERROR_ILLEGAL_ADDRESS
            | Error::CUDA_ERROR_LAUNCH_TIMEOUT
            | Error::CUDA_ERROR_ASSERT
            | Error::CUDA_ERROR_HARDWARE_STACK_ERROR
            | Error::CUDA_ERROR_ILLEGAL_INSTRUCTION
            | Error::CUDA_ERROR_MISALIGNED_ADDRESS
            | Error::CUDA_ERROR_INVALID_ADDRESS_SPACE
            | Error::CUDA_ERROR_INVALID_PC
            | Error::CUDA_ERROR_LAUNCH_FAILED
    )
}

pub(super) fn failed(call: &'static str) -> impl FnOnce(DriverError) -> CudaError {
    move |error| CudaError::Call { call, problem: name_of(error) }
}

/// The memory that a GPU's allocations come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CudaMemory {
    /// The machine's own: what is free of it the kernel says, which can take back what it keeps of files.
    Shared,
    /// The GPU's.
    Own {
        /// Bytes.
        free: u64,
        total: u64,
    },
}

impl CudaMemory {
    /// That of the GPU that [`CudaBackend::new`](crate::CudaBackend::new) takes.
    ///
    /// # Errors
    /// [`CudaError`] says what is missing: the driver, a newer one, or a GPU.
    pub fn of_device() -> Result<Self, CudaError> {
        Context::open()?.memory()
    }
}

/// `12.6`
fn cuda_version(version: i32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// One device, with one stream that all its work goes through in order.
#[derive(Debug)]
pub(super) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub(super) stream: sys::CUstream,
    pub(super) name: String,
    /// Compute capability, `10 * major + minor`.
    pub(super) sm: u32,
    /// Blocks run on so many at once.
    pub(super) processors: u32,
    /// What the driver is for: `1000 * major + 10 * minor`.
    driver: i32,
    /// Whether the device shares the machine's memory.
    integrated: bool,
    freed: AtomicU64,
    capturing: AtomicBool,
}

// SAFETY: handles of the driver may be used from any thread; every use binds the context to its thread first (`bind`).
unsafe impl Send for Context {}
// SAFETY: as above; the driver locks what calls share.
unsafe impl Sync for Context {}

impl Context {
    /// Opens the first device.
    pub(super) fn open() -> Result<Arc<Self>, CudaError> {
        // SAFETY: this only opens the library, whose initialisers are the driver's own.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::NoDriver);
        }
        let mut version = 0;
        // SAFETY: the library is present (above) and `version` outlives the call.
        let asked = unsafe { sys::cuDriverGetVersion(&raw mut version) }.result();
        asked.map_err(failed("cuDriverGetVersion"))?;
        if version < DRIVER_MIN {
            return Err(CudaError::OldDriver {
                found: cuda_version(version),
                needed: cuda_version(DRIVER_MIN),
            });
        }
        let no_device = |error| CudaError::NoDevice { problem: name_of(error) };
        result::init().map_err(no_device)?;
        let device = result::device::get(0).map_err(no_device)?;
        let name = result::device::get_name(device).map_err(failed("cuDeviceGetName"))?;
        let attribute = |attribute| {
            // SAFETY: `device` is one that the driver gave.
            let value = unsafe { result::device::get_attribute(device, attribute) };
            value.map_err(failed("cuDeviceGetAttribute"))
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let sm = u32::try_from(10 * major + minor).unwrap_or(0);
        let processors = attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let processors = u32::try_from(processors).unwrap_or(1);
        let integrated = attribute(Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED)? != 0;
        // SAFETY: `device` is one that the driver gave; `drop` releases what is retained.
        let context = unsafe { result::primary_ctx::retain(device) };
        let context = context.map_err(failed("cuDevicePrimaryCtxRetain"))?;
        let mut opened = Self {
            device,
            context,
            stream: ptr::null_mut(),
            name,
            sm,
            processors,
            driver: version,
            integrated,
            freed: AtomicU64::new(0),
            capturing: AtomicBool::new(false),
        };
        opened.bind()?;
        let kind = result::stream::StreamKind::NonBlocking;
        opened.stream = result::stream::create(kind).map_err(failed("cuStreamCreate"))?;
        Ok(Arc::new(opened))
    }

    /// Makes this the calling thread's context.
    pub(super) fn bind(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained until `drop`.
        unsafe { result::ctx::set_current(self.context) }.map_err(failed("cuCtxSetCurrent"))
    }

    /// What the driver is for: `CUDA 12.6`.
    pub(super) fn driver(&self) -> String {
        format!("CUDA {}", cuda_version(self.driver))
    }

    /// How many times memory was given back.
    pub(super) fn freed(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }

    /// Notes that memory is given back.
    pub(super) fn free(&self) {
        self.freed.fetch_add(1, Ordering::Relaxed);
    }

    /// From here on launches are not run but captured, until [`end_capture`](Self::end_capture); anything else is refused.
    pub(super) fn begin_capture(&self) -> Result<(), CudaError> {
        self.bind()?;
        // What other threads allocate meanwhile for models of their own is no concern of this one's.
        let mode = sys::CUstreamCaptureMode_enum::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream lives until `drop`.
        let begun = unsafe { result::stream::begin_capture(self.stream, mode) };
        begun.map_err(failed("cuStreamBeginCapture"))?;
        self.capturing.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// What was captured, ready to be launched.
    pub(super) fn end_capture(self: &Arc<Self>) -> Result<Graph, CudaError> {
        self.capturing.store(false, Ordering::Relaxed);
        // SAFETY: as above.
        let graph = unsafe { result::stream::end_capture(self.stream) };
        let graph = graph.map_err(failed("cuStreamEndCapture"))?;
        let no_flags = sys::CUgraphInstantiate_flags(0);
        // SAFETY: the driver gave the graph, and what is made of it does without it afterwards.
        let exec = unsafe { result::graph::instantiate(graph, no_flags) };
        // SAFETY: as above; nothing else has it.
        let _ = unsafe { result::graph::destroy(graph) };
        let exec = exec.map_err(failed("cuGraphInstantiate"))?;
        let graph = Graph { context: Arc::clone(self), exec };
        // A driver takes memory for it here, where the step can still run without it.
        // SAFETY: made above, for this stream's device.
        let uploaded = unsafe { result::graph::upload(graph.exec, self.stream) };
        uploaded.map_err(failed("cuGraphUpload"))?;
        Ok(graph)
    }

    /// Refuses `call`, which no graph holds, where one is being captured.
    pub(super) fn outside_graph(&self, call: &'static str) -> Result<(), CudaError> {
        match self.capturing.load(Ordering::Relaxed) {
            true => Err(CudaError::Call { call, problem: "a graph is being captured".into() }),
            false => Ok(()),
        }
    }

    /// What the driver says of the device; 0 of what it knows nothing of.
    pub(super) fn attribute(&self, attribute: Attribute) -> i32 {
        // SAFETY: `device` is one that the driver gave.
        unsafe { result::device::get_attribute(self.device, attribute) }.unwrap_or(0)
    }

    /// What memory there is.
    pub(super) fn memory(&self) -> Result<CudaMemory, CudaError> {
        if self.integrated {
            return Ok(CudaMemory::Shared);
        }
        let (free, total) = self.free_and_total()?;
        Ok(CudaMemory::Own { free, total })
    }

    /// Bytes as the driver counts them: where memory is shared, without what the kernel could give back.
    pub(super) fn free_and_total(&self) -> Result<(u64, u64), CudaError> {
        self.bind()?;
        let (free, total) = result::mem_get_info().map_err(failed("cuMemGetInfo"))?;
        Ok((free as u64, total as u64))
    }

    /// Waits for all work so far; an error of any of it is told here.
    pub(super) fn synchronize(&self) -> Result<(), CudaError> {
        self.outside_graph("cuStreamSynchronize")?;
        self.bind()?;
        // SAFETY: the stream lives until `drop`.
        unsafe { result::stream::synchronize(self.stream) }.map_err(failed("cuStreamSynchronize"))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // After an error of the device nothing more can be done about one of these.
        let _ = self.bind();
        if !self.stream.is_null() {
            // SAFETY: made by `open`, and whatever used it holds an `Arc` of this.
            let _ = unsafe { result::stream::destroy(self.stream) };
        }
        // SAFETY: retained by `open`.
        let _ = unsafe { result::primary_ctx::release(self.device) };
    }
}

/// Captured launches, which run together.
#[derive(Debug)]
pub(super) struct Graph {
    context: Arc<Context>,
    exec: sys::CUgraphExec,
}

// SAFETY: as for `Context`.
unsafe impl Send for Graph {}

impl Graph {
    /// Runs the launches, in the order in which they were captured, behind what is in the stream.
    ///
    /// # Safety
    /// What [`Module::launch`] asks holds of each of them now: memory that they name is there, and holds what they read.
    pub(super) unsafe fn launch(&self) -> Result<(), CudaError> {
        self.context.bind()?;
        // SAFETY: `end_capture` made it, for this stream's device; the caller's promise.
        let launched = unsafe { result::graph::launch(self.exec, self.context.stream) };
        launched.map_err(failed("cuGraphLaunch"))
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // SAFETY: made by `end_capture`; where it still runs, the driver frees it when it has ended.
        let _ = unsafe { result::graph::exec_destroy(self.exec) };
    }
}

/// Loaded kernels, in the order of the names they were asked for by.
#[derive(Debug)]
pub(super) struct Module {
    context: Arc<Context>,
    module: sys::CUmodule,
    functions: Vec<sys::CUfunction>,
}

// SAFETY: as for `Context`.
unsafe impl Send for Module {}

impl Module {
    /// Loads a cubin or a PTX text, and finds `names` in it. An image that is PTX ends with a zero byte. What the driver's
    /// compiler says is in the error.
    pub(super) fn load(
        context: &Arc<Context>,
        image: &[u8],
        names: &[&'static str],
    ) -> Result<Self, CudaError> {
        context.bind()?;
        let (mut module, mut log) = (ptr::null_mut(), [0_u8; LOG_BYTES]);
        let mut options = [
            sys::CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option_enum::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        // Numbers are passed as if they were addresses.
        let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(LOG_BYTES)];
        let count = options.len() as u32;
        let (options, values) = (options.as_mut_ptr(), values.as_mut_ptr());
        // SAFETY: the image is a whole cubin, which says its own length, or text that ends with a zero byte; there are `count`
        // options and values, of which the first is as long as the second says.
        let status = unsafe {
            sys::cuModuleLoadDataEx(&raw mut module, image.as_ptr().cast(), count, options, values)
        };
        let refused = |error| CudaError::Image { sm: context.sm, problem: name_of(error) + &said(&log) };
        status.result().map_err(refused)?;
        let mut loaded = Self { context: Arc::clone(context), module, functions: Vec::new() };
        for kernel in names {
            let name = CString::new(*kernel).expect("a kernel's name has no zero byte");
            // SAFETY: the module was loaded above and lives as long as `loaded`.
            let function = unsafe { result::module::get_function(loaded.module, name) };
            let missing = |error| CudaError::MissingKernel { kernel, problem: name_of(error) };
            loaded.functions.push(function.map_err(missing)?);
        }
        Ok(loaded)
    }

    /// Starts the kernel of the `index`-th name; its arguments are where `arguments` point.
    ///
    /// # Safety
    /// The arguments are those of the kernel, in number and type, and every address in them is of memory that holds what
    /// the kernel reads and writes for this grid.
    pub(super) unsafe fn launch(
        &self,
        index: usize,
        grid: (u32, u32),
        threads: u32,
        arguments: &mut [*mut c_void],
    ) -> Result<(), CudaError> {
        self.context.bind()?;
        let (grid, block, stream) = ((grid.0, grid.1, 1), (threads, 1, 1), self.context.stream);
        // SAFETY: the caller's promise; the function is this module's.
        let started =
            unsafe { result::launch_kernel(self.functions[index], grid, block, 0, stream, arguments) };
        started.map_err(failed("cuLaunchKernel"))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        let _ = self.context.bind();
        // What an unloaded kernel does that still runs is not said.
        let _ = self.context.synchronize();
        // SAFETY: loaded by `load`; what ran of it was waited for, or the device is lost.
        let _ = unsafe { result::module::unload(self.module) };
    }
}
