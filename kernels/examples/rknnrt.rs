//! `librknnrt.so` without an NPU, for tests: the calls of `kernels/rknn/rknn_matmul.h`, done by the CPU.
//!
//! A memory has two copies of its bytes, the host's and the device's, and `rknn_mem_sync` alone makes them alike, as caches
//! may keep them apart on a board. It is stricter than documented: memory has exactly the bytes that an attribute asks for.
//!
//! Variables say what fails: `FAKE_RKNN=rknn_matmul_run:2:-2` has the call behind the next two of that name give -2.

use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicUsize, Ordering};

// The same declarations that the crate has.
#[allow(dead_code, non_camel_case_types, non_snake_case, non_upper_case_globals, unused, clippy::all)]
#[allow(unsafe_op_in_unsafe_fn, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]
#[rustfmt::skip]
#[path = "../src/rknn/sys.rs"]
mod sys;

use sys::{rknn_matmul_info, rknn_matmul_io_attr, rknn_matmul_tensor_attr, rknn_tensor_mem};

const BAD_PARAMETER: c_int = -5;
const BAD_CONTEXT: c_int = -7;

static LIVE: AtomicUsize = AtomicUsize::new(0);

/// Contexts and memories that are not freed.
#[unsafe(no_mangle)]
pub extern "C" fn fake_rknn_live() -> usize {
    LIVE.load(Ordering::SeqCst)
}

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

/// Bytes of memories that are not freed.
#[unsafe(no_mangle)]
pub extern "C" fn fake_rknn_allocated() -> usize {
    ALLOCATED.load(Ordering::SeqCst)
}

/// The error that the variable asks of this call, 0 for none.
fn asked(call: &str) -> c_int {
    static PASSED: AtomicI32 = AtomicI32::new(0);
    let Ok(wanted) = std::env::var("FAKE_RKNN") else { return 0 };
    let mut words = wanted.split(':');
    if words.next() != Some(call) {
        return 0;
    }
    let mut number = || words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
    let (passed, error) = (number(), number());
    if PASSED.fetch_add(1, Ordering::SeqCst) < passed { 0 } else { error }
}

struct Context {
    m: usize,
    k: usize,
    n: usize,
    core: u32,
    /// While a product runs, when no other thread may call it.
    busy: AtomicBool,
    /// The bytes that the device sees of A, B and C.
    memories: [Option<*mut Memory>; 3],
}

/// What `priv_data` of a memory points to.
struct Memory {
    shared: rknn_tensor_mem,
    host: Vec<u128>,
    device: Vec<u128>,
    size: usize,
}

impl Memory {
    fn device<T>(&mut self) -> &mut [T] {
        let len = self.size / size_of::<T>();
        // SAFETY: as many integers as the bytes hold, aligned to 16.
        unsafe { std::slice::from_raw_parts_mut(self.device.as_mut_ptr().cast(), len) }
    }
}

fn describe(attr: &mut rknn_matmul_tensor_attr, name: u8, kind: u32, bytes: usize, dims: &[usize]) {
    attr.name[0] = name as c_char;
    attr.type_ = kind;
    attr.n_dims = dims.len() as u32;
    attr.dims.iter_mut().zip(dims).for_each(|(own, dim)| *own = *dim as u32);
    attr.size = (bytes * dims.iter().product::<usize>()) as u32;
}

/// # Safety
/// As the library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_matmul_create(
    context: *mut u64,
    info: *mut rknn_matmul_info,
    io: *mut rknn_matmul_io_attr,
) -> c_int {
    // SAFETY: the caller's, which live while this runs.
    let (context, info, io) = unsafe { (&mut *context, &*info, &mut *io) };
    let error = asked("rknn_matmul_create");
    if error != 0 {
        return error;
    }
    let (m, k, n) = (info.M as usize, info.K as usize, info.N as usize);
    let native = info.B_layout == 1 && info.AC_layout == 1;
    let fits = m > 0 && k.is_multiple_of(32) && n.is_multiple_of(32) && k > 0 && k <= 8192;
    let kind = sys::_rknn_matmul_type::RKNN_INT8_MM_INT8_TO_INT32;
    if info.type_ != kind || !native || !fits || info.iommu_domain_id != 0 || info.B_quant_type != 0 {
        return BAD_PARAMETER;
    }
    use sys::_rknn_tensor_type::{RKNN_TENSOR_INT8, RKNN_TENSOR_INT32};
    // An order of its own, as of a later version.
    let four = if asked("order") == 0 { 4 } else { 8 };
    describe(&mut io.A, b'A', RKNN_TENSOR_INT8, 1, &[k / 16, m, 16]);
    describe(&mut io.B, b'B', RKNN_TENSOR_INT8, 1, &[n / 32, k / 32, 32, 32]);
    describe(&mut io.C, b'C', RKNN_TENSOR_INT32, 4, &[n / four, m, four]);
    LIVE.fetch_add(1, Ordering::SeqCst);
    *context = Box::into_raw(Box::new(Context {
        m,
        k,
        n,
        core: 0,
        busy: AtomicBool::new(false),
        memories: [None; 3],
    })) as u64;
    0
}

/// # Safety
/// As the library's: a context that lives, in one thread at a time.
unsafe fn context<'a>(handle: u64) -> &'a mut Context {
    // SAFETY: the caller's promise.
    unsafe { &mut *(handle as *mut Context) }
}

/// # Safety
/// As the library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_matmul_set_core_mask(handle: u64, mask: u32) -> c_int {
    if !matches!(mask, 1 | 2 | 4) {
        return BAD_PARAMETER;
    }
    // SAFETY: the caller's promise.
    unsafe { context(handle) }.core = mask;
    asked("rknn_matmul_set_core_mask")
}

/// # Safety
/// As the library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_matmul_set_io_mem(
    handle: u64,
    memory: *mut rknn_tensor_mem,
    attr: *mut rknn_matmul_tensor_attr,
) -> c_int {
    // SAFETY: the caller's promise.
    let (context, memory, attr) = unsafe { (context(handle), &*memory, &*attr) };
    let Some(place) = b"ABC".iter().position(|name| attr.name[0] == *name as c_char) else {
        return BAD_PARAMETER;
    };
    if memory.size != attr.size {
        return BAD_PARAMETER;
    }
    context.memories[place] = Some(memory.priv_data.cast());
    asked("rknn_matmul_set_io_mem")
}

/// # Safety
/// As the library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_matmul_run(handle: u64) -> c_int {
    // SAFETY: the caller's promise.
    let context = unsafe { context(handle) };
    let Context { m, k, n, core, .. } = *context;
    let [Some(a), Some(b), Some(c)] = context.memories else { return BAD_CONTEXT };
    if core == 0 {
        return BAD_CONTEXT;
    }
    let error = asked("rknn_matmul_run");
    if error != 0 {
        return error;
    }
    context.busy.store(true, Ordering::SeqCst);
    // Its memories of this run alone.
    context.memories = [None; 3];
    // SAFETY: memories live while a product runs. Two cores may read one `a` at a time, and each has a `b` and `c` alone.
    let (a, b, c) = unsafe {
        let a = std::slice::from_raw_parts((*a).device.as_ptr().cast::<i8>(), m * k);
        (a, (*b).device::<i8>(), (*c).device::<i32>())
    };
    let mut row = vec![0i8; k];
    for y in 0..m {
        for (piece, own) in row.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            own.copy_from_slice(&a[(piece * m + y) * 16..][..16]);
        }
        // Of rows that are not there.
        if row.iter().all(|a| *a == 0) {
            (0..n).for_each(|x| c[(x / 4 * m + y) * 4 + x % 4] = 0);
            continue;
        }
        for x in 0..n {
            let column = &b[x / 32 * 32 * k + x % 32 * 32..];
            let pieces = row.as_chunks::<32>().0.iter().zip(column.chunks(32 * 32));
            let sum: i32 = pieces.map(|(a, b)| dot(a, b.first_chunk().expect("32 columns"))).sum();
            c[(x / 4 * m + y) * 4 + x % 4] = sum;
        }
    }
    context.busy.store(false, Ordering::SeqCst);
    0
}

/// Whether a product of the context runs, in another thread then.
///
/// # Safety
/// As the library's: a context that lives.
unsafe fn is_busy(handle: u64) -> bool {
    // SAFETY: the caller's promise; other fields are not looked at.
    unsafe { (*(handle as *const Context)).busy.load(Ordering::SeqCst) }
}

fn dot(a: &[i8; 32], b: &[i8; 32]) -> i32 {
    a.iter().zip(b).map(|(a, b)| i32::from(*a) * i32::from(*b)).sum()
}

/// # Safety
/// As the library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_matmul_destroy(handle: u64) -> c_int {
    // SAFETY: the caller's promise: it made it here, and destroys it once.
    drop(unsafe { Box::from_raw(handle as *mut Context) });
    LIVE.fetch_sub(1, Ordering::SeqCst);
    0
}

/// # Safety
/// As the library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_create_mem(handle: u64, size: u32) -> *mut rknn_tensor_mem {
    // SAFETY: the caller's promise.
    if asked("rknn_create_mem") != 0 || unsafe { is_busy(handle) } {
        return std::ptr::null_mut();
    }
    let bytes = (size as usize).div_ceil(16);
    // What neither has written differs.
    let (host, device) = (vec![u128::MAX / 3; bytes], vec![u128::MAX / 5; bytes]);
    // SAFETY: a struct of integers and pointers, of which all zeros is one.
    let shared = unsafe { std::mem::zeroed() };
    let mut memory = Box::new(Memory { shared, host, device, size: size as usize });
    memory.shared.virt_addr = memory.host.as_mut_ptr().cast();
    memory.shared.size = size;
    let made = Box::into_raw(memory);
    LIVE.fetch_add(1, Ordering::SeqCst);
    ALLOCATED.fetch_add(size as usize, Ordering::SeqCst);
    // SAFETY: it was made above.
    unsafe {
        (*made).shared.priv_data = made.cast::<c_void>();
        &raw mut (*made).shared
    }
}

/// # Safety
/// As the library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_destroy_mem(_: u64, memory: *mut rknn_tensor_mem) -> c_int {
    // SAFETY: the caller's promise: it was made here, and is freed once.
    let memory = unsafe { Box::from_raw((*memory).priv_data.cast::<Memory>()) };
    ALLOCATED.fetch_sub(memory.size, Ordering::SeqCst);
    LIVE.fetch_sub(1, Ordering::SeqCst);
    0
}

/// # Safety
/// As the library's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn rknn_mem_sync(handle: u64, memory: *mut rknn_tensor_mem, mode: u32) -> c_int {
    // SAFETY: the caller's promise.
    if unsafe { is_busy(handle) } {
        return BAD_CONTEXT;
    }
    // SAFETY: the caller's promise; the two copies do not meet.
    let memory = unsafe { &mut *(*memory).priv_data.cast::<Memory>() };
    match mode {
        sys::_rknn_mem_sync_mode::RKNN_MEMORY_SYNC_TO_DEVICE => memory.device.copy_from_slice(&memory.host),
        sys::_rknn_mem_sync_mode::RKNN_MEMORY_SYNC_FROM_DEVICE => memory.host.copy_from_slice(&memory.device),
        _ => return BAD_PARAMETER,
    }
    asked("rknn_mem_sync")
}
