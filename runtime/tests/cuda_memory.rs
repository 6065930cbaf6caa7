//! A model and the memory of a GPU: each case in a process of its own, with `MUSE_EMULATOR` for the emulated driver of
//! `scripts/cuda.sh`.

#[path = "../../kernels/tests/child/mod.rs"]
mod child;
mod support;

use child::{child, outcomes};
use muse_format::Layout;
use muse_kernels::{CudaMemory, cuda_graphs_bytes};
use muse_runtime::{BackendChoice, Draft, LoadOptions, Mapped, Placement, load_mapped, open, plan};
use support::{byte_text, drafter, everything, plain, write};

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
            // What is left to the driver for graphs is not taken before there are any.
            let planned = info.weight_bytes + info.working_bytes - cuda_graphs_bytes();
            let vocab = info.vocab as usize;
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

/// Where the child's weights lie, and whether it may take the CPU.
const WEIGHTS: &str = "MUSE_WEIGHTS";
const FALLBACK: &str = "MUSE_FALLBACK";

#[test]
#[ignore = "the process that the other tests start"]
fn placed() {
    let weights = match std::env::var(WEIGHTS).unwrap().as_str() {
        "shared" => Placement::Shared,
        _ => Placement::Mapped,
    };
    let (target, drafter) = (write(&everything(), Layout::F32, 3), write(&drafter(), Layout::F32, 4));
    let options = LoadOptions {
        backend: BackendChoice::Cuda,
        drafter: Some(drafter.path.clone()),
        batch_tokens: 16,
        weights,
        cpu_fallback: std::env::var(FALLBACK).is_ok(),
        ..LoadOptions::default()
    };
    let mapped = open(&target.path, &options).unwrap();
    let planned = plan(&mapped, &options).unwrap();
    let shapes: Vec<_> =
        planned.items.iter().filter(|item| item.what == "weights").map(|item| &item.shape).collect();
    println!("outcome: {} bytes of {shapes:?}", planned.weight_bytes);
    match load_mapped(&mapped, &options, byte_text(70)) {
        Err(error) => println!("outcome: {error}"),
        Ok(engine) if !engine.info().backend.starts_with("cuda") => {
            println!("outcome: {}", engine.info().backend)
        }
        Ok(mut engine) => {
            let mut logits = vec![f32::NAN; 3 * 70];
            let span = muse_kernels::Span { slot: 0, start: 0, len: 3 };
            engine.step(&[span], &[1, 2, 3], &[0, 1, 2], &mut logits).unwrap();
            let mut drafted = vec![f32::NAN; 2 * 70];
            engine.draft(&[Draft { slot: 0, start: 3, token: 7, count: 2 }], &mut drafted).unwrap();
            assert!(logits.iter().chain(&drafted).all(|logit| logit.is_finite()));
            let bits: Vec<u32> = logits.iter().chain(&drafted).map(|logit| logit.to_bits()).collect();
            println!("outcome: {bits:?}");
        }
    }
}

/// What the weights are called, what came of them, the most bytes that were taken of the device, and what stayed registered.
fn placed_as(weights: &str, plan: &str) -> (String, String, u64, u64) {
    let mut child = child("placed", &format!("count=1 {plan}"));
    child.env(WEIGHTS, weights);
    let outcomes = outcomes(child);
    let [shapes, result, counts] = outcomes.as_slice() else { panic!("{outcomes:?}") };
    let number = |what: &str| {
        let count = counts.split(", ").find_map(|count| count.strip_prefix(what));
        count.unwrap().trim().parse().unwrap()
    };
    (shapes.clone(), result.clone(), number("peak"), number("registered"))
}

#[test]
fn cuda_weights_that_are_shared_are_the_same_and_take_no_memory() {
    let (copied, shared) = (placed_as("mapped", ""), placed_as("shared", ""));
    assert!(copied.1.starts_with('[') && copied.1 == shared.1, "{} {}", copied.1, shared.1);
    let (bytes, places) = shared.0.split_once(" bytes of ").unwrap();
    assert_eq!(places, r#"["mapped file, read in place", "drafter, mapped file, read in place"]"#);
    assert!(copied.0.ends_with(r#"["copied to the GPU", "drafter, copied to the GPU"]"#), "{}", copied.0);
    assert!(copied.2 - shared.2 >= bytes.parse().unwrap(), "{bytes}: {} {}", copied.2, shared.2);
    assert_eq!([copied.3, shared.3], [0, 0], "nothing stays registered");
}

#[test]
fn cuda_weights_that_cannot_be_shared_are_refused_by_what_is_missing() {
    for (plan, expected) in [
        ("integrated=0", "CU_DEVICE_ATTRIBUTE_INTEGRATED: it shares no memory"),
        ("register=0", "CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED: "),
        ("read_only=0", "CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED: "),
        // The target's, and the drafter's when the target's is registered.
        ("registration=1", "bytes could not be allocated"),
        ("registration=2", "bytes could not be allocated"),
        ("shared_bytes=0", "reads other bytes in place than the file holds"),
        // Memory ends while it is looked at, and later.
        ("allocation=2", "bytes could not be allocated"),
        ("allocation=20", "bytes could not be allocated"),
    ] {
        let (_, outcome, _, registered) = placed_as("shared", plan);
        assert!(outcome.contains(expected), "{plan}: {outcome}");
        assert_eq!(registered, 0, "{plan}: what was registered stays so");
    }
}

#[test]
fn cuda_models_run_on_the_cpu_where_that_is_allowed_and_say_why() {
    for (plan, reason) in [
        ("sm=75", "not on the GPU: CUDA: emulated is sm_75; kernels are for sm_80 and newer"),
        ("read_only=0", "not on the GPU: CUDA: emulated cannot read a file in place"),
        ("allocation=20", "bytes could not be allocated"),
    ] {
        let mut child = child("placed", plan);
        child.env(WEIGHTS, "shared").env(FALLBACK, "");
        let outcome = outcomes(child).remove(1);
        assert!(
            outcome.contains(" threads, not on the GPU: ") && outcome.contains(reason),
            "{plan}: {outcome}"
        );
    }
}
