//! What a device does wrong is an error that names it, never a panic: each case in a process of its own, since a driver
//! is found once. `scripts/cuda.sh` runs this on the emulated driver, which reads `MUSE_EMULATOR`.

mod child;

use child::{child, outcomes};
use muse_kernels::{Backend, BackendError, CudaBackend, Linear, Tensor};

/// Opens a device, multiplies on it and reads the product.
fn multiply() -> Result<Vec<f32>, BackendError> {
    let mut cuda = CudaBackend::new()?;
    let weight = cuda.load(Tensor::from_f32(3, 64, vec![0.5; 3 * 64]))?;
    let (mut x, mut y, mut out) = (cuda.buffer(64)?, cuda.buffer(64)?, cuda.buffer(3)?);
    cuda.write(&mut x, &[2.0; 64])?;
    cuda.write(&mut y, &[1.0; 64])?;
    cuda.add(&mut x, &y, 64)?;
    cuda.linear(&x, 1, &mut [Linear { out: &mut out, weight: &weight, bias: None }])?;
    let mut product = vec![0.0; 3];
    cuda.read(&out, &mut product)?;
    Ok(product)
}

#[test]
#[ignore = "the process that `each_fault_has_its_error` starts"]
fn multiplied() {
    match multiply() {
        Ok(product) => println!("outcome: {product:?}"),
        Err(error) => println!("outcome: {error}"),
    }
}

#[test]
#[ignore = "the process that `a_device_is_reported` starts"]
fn report() {
    println!("outcome: {}", CudaBackend::new().unwrap().report().unwrap());
}

#[test]
#[ignore = "the process that `a_backend_may_be_dropped_while_it_works` starts"]
fn dropped() {
    let mut cuda = CudaBackend::new().unwrap();
    let (mut x, y) = (cuda.buffer(64).unwrap(), cuda.buffer(64).unwrap());
    cuda.add(&mut x, &y, 64).unwrap();
    // Each in a thread that has called nothing yet.
    std::thread::spawn(move || drop(y)).join().unwrap();
    std::thread::spawn(move || drop(cuda)).join().unwrap();
    println!("outcome: dropped");
}

fn outcome(faults: &str, with_driver: bool) -> String {
    outcome_of("multiplied", faults, with_driver)
}

fn outcome_of(test: &str, faults: &str, with_driver: bool) -> String {
    let mut child = child(test, faults);
    if !with_driver {
        child.env("LD_LIBRARY_PATH", "");
    }
    outcomes(child).remove(0)
}

#[test]
fn each_fault_has_its_error() {
    let right = "[96.0, 96.0, 96.0]";
    let cases = [
        ("", right),
        ("sm=90", right),
        ("sm=86", right),  // by the PTX
        ("sm=110", right), // the same: a driver of 12.6 does not take a cubin of 13.0
        ("sm=86 ptx=0", "kernels for sm_86: CUDA_ERROR_INVALID_PTX: ptxas error : no"),
        (
            "sm=110 ptx=0",
            "kernels for sm_110: CUDA_ERROR_INVALID_IMAGE; compiling them: CUDA_ERROR_INVALID_PTX: ptxas error : no",
        ),
        ("devices=0", "CUDA: the driver finds no GPU (CUDA_ERROR_NO_DEVICE)"),
        ("driver=11040", "CUDA: the driver is for CUDA 11.4 and 12.6 is needed"),
        ("sm=75", "CUDA: emulated is sm_75; kernels are for sm_80 and newer"),
        ("missing=rms_norm", "kernels lack `rms_norm`: CUDA_ERROR_NOT_FOUND"),
        ("memory=1000", "256 bytes could not be allocated"),
        ("memory=100", "768 bytes could not be allocated"),
        (
            "launch=1",
            "CUDA: cuLaunchKernel failed: CUDA_ERROR_LAUNCH_FAILED, after which the GPU does nothing more",
        ),
        (
            "launch=2",
            "CUDA: cuLaunchKernel failed: CUDA_ERROR_LAUNCH_FAILED, after which the GPU does nothing more",
        ),
    ];
    for (faults, expected) in cases {
        let found = outcome(faults, true);
        assert!(found.contains(expected), "{faults}: {found}, not {expected}");
    }
    let found = outcome("", false);
    assert!(found.contains("CUDA: there is no libcuda.so.1"), "no driver: {found}");
}

/// The emulated driver ends a process that unloads kernels which may run, or leaves a context with anything in it.
#[test]
fn a_backend_may_be_dropped_while_it_works() {
    assert_eq!(outcome_of("dropped", "", true), "dropped");
}

#[test]
fn a_device_is_reported() {
    let ended = |text: &str| {
        format!("{text}; memory shared with the system, files can be read in place; driver for CUDA ")
    };
    for (plan, expected) in [
        ("", ended("emulated, compute capability 8.7, kernels compiled for it") + "12.6"),
        ("sm=90", ended("emulated, compute capability 9.0, kernels compiled for it") + "12.6"),
        ("sm=110 driver=13000", ended("emulated, compute capability 11.0, kernels compiled for it") + "13.0"),
        ("sm=121 driver=13000", ended("emulated, compute capability 12.1, kernels compiled for it") + "13.0"),
        (
            "sm=120",
            ended(
                "emulated, compute capability 12.0, kernels that its driver compiles, as it refused those compiled for it \
                 (CUDA_ERROR_INVALID_IMAGE)",
            ) + "12.6",
        ),
        (
            "sm=86 driver=13020 integrated=0 memory=104857600",
            "emulated, compute capability 8.6, kernels that its driver compiles; 100 of 100 MiB free, weights are copied; \
             driver for CUDA 13.2"
                .to_owned(),
        ),
    ] {
        assert_eq!(outcome_of("report", plan, true), expected);
    }
}

/// NVIDIA's variable has a driver take no cubin, so that a device can try what the PTX computes.
#[test]
fn the_ptx_can_be_asked_for() {
    let mut child = child("report", "");
    child.env("CUDA_FORCE_PTX_JIT", "1");
    let found = outcomes(child).remove(0);
    assert!(found.contains("as it refused those compiled for it (CUDA_ERROR_NO_BINARY_FOR_GPU)"), "{found}");
}
