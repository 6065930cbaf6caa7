//! A model and the memory of a GPU: each case in a process of its own, with `MUSE_EMULATOR` for the emulated driver of
//! `scripts/cuda.sh`.
#![cfg(feature = "cuda")]

#[path = "../../kernels/tests/child/mod.rs"]
mod child;
mod support;

use child::{child, outcomes};
use muse_format::Layout;
use muse_kernels::CudaMemory;
use muse_runtime::{BackendChoice, LoadOptions, Mapped, load_mapped};
use support::{byte_text, plain, write};

fn free() -> u64 {
    match CudaMemory::of_device().unwrap() {
        CudaMemory::Own { free, .. } => free,
        CudaMemory::Shared => u64::MAX,
    }
}

/// What was read from is given back, and holds what it held: pages of the file, and memory that is none.
fn bytes_stay(mapped: Mapped, options: &LoadOptions) {
    let whole = |mapped: &Mapped| {
        load_mapped(mapped, options, byte_text(plain().vocab)).unwrap();
        muse_format::File::parse(mapped.bytes()).unwrap().verify(|_| ()).unwrap();
    };
    whole(&mapped);
    whole(&mapped.into_memory().unwrap());
}

#[test]
#[ignore = "the process that the other tests start"]
fn alone() {
    let file = write(&plain(), Layout::Q8 { group: 32 }, 11);
    let mapped = Mapped::open(&file.path).unwrap();
    let options = LoadOptions { backend: BackendChoice::Cuda, batch_tokens: 16, ..LoadOptions::default() };
    let before = free();
    match load_mapped(&mapped, &options, byte_text(plain().vocab)) {
        Err(error) => println!("outcome: {error}"),
        Ok(mut engine) => {
            let info = engine.info();
            let (planned, vocab) = (info.weight_bytes + info.working_bytes, info.vocab as usize);
            let taken = before - free();
            // Tensors begin at multiples of 256 bytes, and those that the host reads have their place too.
            let most = planned + 256 * 64;
            assert!((planned..most).contains(&taken), "{taken} taken of {planned} planned");
            let mut logits = vec![f32::NAN; vocab];
            let span = muse_kernels::Span { slot: 0, start: 0, len: 1 };
            engine.step(&[span], &[1], &[0], &mut logits).unwrap();
            assert!(logits.iter().all(|logit| logit.is_finite()));
            assert_eq!(before - free(), taken, "a step takes nothing");
            drop(engine);
            if !std::env::var("MUSE_EMULATOR").is_ok_and(|plan| plan.contains("allocation")) {
                bytes_stay(mapped, &options);
            }
            println!("outcome: right");
        }
    }
    assert_eq!(free(), before, "nothing is left behind");
}

fn outcome(plan: &str) -> String {
    outcomes(child("alone", plan)).remove(0)
}

#[test]
fn cuda_models_within_the_devices_memory_load_and_others_are_refused_with_numbers() {
    assert_eq!(outcome("integrated=0"), "right");
    let refused = outcome("integrated=0 memory=100000");
    for part in ["the model does not fit: it takes", "and the budget is 0 MiB", "no context fits"] {
        assert!(refused.contains(part), "{refused}");
    }
    // A board's own memory is what the kernel says, not what the driver does.
    assert!(outcome("integrated=1 memory=100000").contains("bytes could not be allocated"));
}

#[test]
fn cuda_memory_that_ends_in_the_middle_is_given_back() {
    let failing = (1..500).map(|nth| outcome(&format!("integrated=0 allocation={nth}")));
    let refused = failing.take_while(|outcome| outcome != "right").collect::<Vec<_>>();
    assert!((10..499).contains(&refused.len()), "{} allocations", refused.len());
    for outcome in refused {
        assert!(outcome.contains("bytes could not be allocated"), "{outcome}");
    }
}
