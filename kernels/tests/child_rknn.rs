//! What the NPU's library does wrong is an error that names it, and everything is given back: each case in a process of its
//! own, as what goes wrong is told to the library of `examples/rknnrt.rs` by a variable.

mod fake_npu;
#[path = "../src/test_data.rs"]
#[allow(dead_code)] // a part is used
mod test_data;

use std::process::Command;
use std::sync::Arc;

use fake_npu::library;
use muse_format::Layout;
use muse_kernels::{Backend, BackendError, CpuBackend, Linear, Npu, PromptRows, Tensor};
use test_data::{Random, quantized_bytes};

fn number(name: &[u8]) -> usize {
    // SAFETY: the library is the example, whose functions of these names have this type.
    unsafe {
        let library = libloading::Library::new(library()).unwrap();
        let number: libloading::Symbol<'_, extern "C" fn() -> usize> = library.get(name).unwrap();
        number()
    }
}

/// Contexts and memories that the library has not been given back.
fn live() -> usize {
    number(b"fake_rknn_live")
}

/// Bytes of those memories.
fn allocated() -> usize {
    number(b"fake_rknn_allocated")
}

fn packed(rows: usize, cols: usize, random: &mut Random) -> Tensor {
    let layout = Layout::Q4 { group: 32 };
    let bytes = quantized_bytes(layout, rows, cols, random);
    let len = bytes.len();
    Tensor::new(layout, rows, cols, Arc::new(bytes), 0..len).unwrap()
}

/// What a process of its own says that is told by `plan` what goes wrong, and then that nothing is left.
fn outcome(plan: &str) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "multiplied", "--ignored", "--nocapture"]).env("FAKE_RKNN", plan);
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{plan}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text.split("outcome: ").nth(1).unwrap().lines().next().unwrap().to_owned()
}

/// Two products of 64 rows.
fn multiply() -> Result<(), BackendError> {
    let mut random = Random::new(24);
    let weight = packed(2000, 64, &mut random);
    let mut backend = CpuBackend::new(2).with_npu(Npu::open_at(library().as_os_str())?);
    backend.load(weight.clone())?;
    backend.reserve(64, 64)?;
    let (x, mut out) = (random.normal(64 * 64), vec![0.0; 64 * 2000]);
    backend.prompt_rows(PromptRows::All);
    let mut once = || backend.linear(&x, 64, &mut [Linear { out: &mut out, weight: &weight, bias: None }]);
    let first = once();
    // What failed goes on failing.
    assert_eq!(once(), first);
    first
}

#[test]
#[ignore = "the process that `each_fault_has_its_error` starts"]
fn multiplied() {
    let outcome = multiply();
    // What an NPU may still write to is kept.
    let kept = outcome.as_ref().is_err_and(|error| {
        error.to_string().contains("set_io_mem") || error.to_string().contains("rknn_matmul_run")
    });
    assert_eq!(live() > 0, kept);
    match outcome {
        Ok(()) => println!("outcome: done"),
        Err(error) => println!("outcome: {error}, final {}", error.is_final()),
    }
}

#[test]
fn each_fault_has_its_error() {
    let cases = [
        ("", "done"),
        (
            "rknn_matmul_create:0:-3",
            "NPU: rknn_matmul_create of a product of 32 x 32 by 32 x 256 failed: no NPU is available, or its driver is not loaded (error -3), final true",
        ),
        (
            "rknn_matmul_create:5:-5",
            "NPU: rknn_matmul_create of a product of 32 x 64 by 64 x 256 failed: it takes no such parameter on this chip (error -5), final true",
        ),
        (
            "order:0:1",
            "NPU: the result of a product of 32 x 32 by 32 x 256 is [32, 32, 8] of 32768 bytes, not [64, 32, 4] of 32768 bytes, as librknnrt 2.3.2 has it on an RK3588, final true",
        ),
        (
            "rknn_matmul_set_core_mask:0:-5",
            "NPU: rknn_matmul_set_core_mask of mask 1 failed: it takes no such parameter on this chip (error -5), final true",
        ),
        (
            "rknn_create_mem:0:1",
            "NPU: the NPU gives no 2048 bytes of memory: what it reads must lie below 4 GiB, and nothing there is free, final true",
        ),
        (
            "rknn_create_mem:9:1",
            "NPU: the NPU gives no 16384 bytes of memory: what it reads must lie below 4 GiB, and nothing there is free, final true",
        ),
        ("rknn_mem_sync:34:-1", "NPU: rknn_mem_sync of 4096 bytes failed: it failed (error -1), final true"),
        (
            "rknn_matmul_set_io_mem:4:-6",
            "NPU: rknn_matmul_set_io_mem of a product of 64 x 64 by 64 x 256 failed: error -6, final true",
        ),
        (
            "rknn_matmul_run:0:-2",
            "NPU: rknn_matmul_run of a product of 64 x 64 by 64 x 256 failed: the NPU did not answer in time (error -2), final true",
        ),
        (
            "rknn_matmul_run:7:-2",
            "NPU: rknn_matmul_run of a product of 64 x 64 by 64 x 256 failed: the NPU did not answer in time (error -2), final true",
        ),
    ];
    for (plan, expected) in cases {
        assert_eq!(outcome(plan), expected, "{plan}");
    }
}

#[test]
fn memory_is_what_was_planned() {
    let mut random = Random::new(25);
    let mut backend = CpuBackend::new(1).with_npu(Npu::open_at(library().as_os_str()).unwrap());
    for cols in [96, 9000, 172] {
        backend.load(packed(16, cols, &mut random)).unwrap();
    }
    backend.load(Tensor::from_f32(3, 50, vec![0.0; 150])).unwrap();
    let before = allocated();
    backend.reserve(100, 9000).unwrap();
    // Weights that come later, as a tower's.
    backend.load(packed(16, 224, &mut random)).unwrap();
    assert_eq!((allocated() - before) as u64, Npu::bytes(100, [96, 9000, 172, 224]));
}
