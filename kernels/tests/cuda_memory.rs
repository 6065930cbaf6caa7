//! Where weights lie on a device: few allocations, all of them or none. In a process of its own, with `MUSE_EMULATOR` for
//! the emulated driver of `scripts/cuda.sh`.

mod child;

use child::{child, outcomes};
use muse_kernels::{Backend, BackendError, CudaBackend, CudaMemory, Linear, Tensor};

fn free() -> u64 {
    match CudaMemory::of_device().unwrap() {
        CudaMemory::Own { free, .. } => free,
        CudaMemory::Shared => panic!("the driver was asked for memory of its own"),
    }
}

#[test]
#[ignore = "the process that `weights_share_memory_that_is_taken_whole_or_not_at_all` starts"]
fn alone() {
    let before = free();
    let mut cuda = CudaBackend::new().unwrap();
    // The last is longer than the emulated device has.
    let refused = cuda.reserve_weights(&[768, 900 << 20]).unwrap_err();
    assert_eq!(refused, BackendError::OutOfMemory { wanted: 900 << 20 });
    assert_eq!(free(), before, "what was taken before the refusal is given back");

    cuda.reserve_weights(&[768, 0, 1024, 768]).unwrap();
    let reserved = free();
    assert_eq!(before - reserved, 768 + 1024 + 768, "all begin at a multiple of 256 bytes already");
    let numbers = |value: f32, rows: usize| Tensor::from_f32(rows, 64, vec![value; rows * 64]);
    let weights = [(1.0, 3), (2.0, 4), (3.0, 3)]
        .map(|(value, rows)| (value, rows, cuda.load(numbers(value, rows)).unwrap()));
    assert_eq!(free(), reserved, "loading what was reserved allocates nothing");
    let more = cuda.load(numbers(4.0, 3)).unwrap();
    assert_eq!(reserved - free(), 768, "what was not takes memory of its own");

    let (mut x, mut out) = (cuda.buffer(64).unwrap(), cuda.buffer(4).unwrap());
    cuda.write(&mut x, &[1.0; 64]).unwrap();
    for (value, rows, weight) in &weights {
        cuda.linear(&x, 1, &mut [Linear { out: &mut out, weight, bias: None }]).unwrap();
        let mut product = vec![0.0; *rows];
        cuda.read(&out, &mut product).unwrap();
        assert_eq!(product, vec![64.0 * value; *rows]);
    }
    drop((x, out, weights, more, cuda));
    assert_eq!(free(), before, "nothing is left behind");
    println!("outcome: as expected");
}

#[test]
fn weights_share_memory_that_is_taken_whole_or_not_at_all() {
    assert_eq!(outcomes(child("alone", "integrated=0 memory=8000000")), ["as expected"]);
}
