//! Models whose steps are graphs of a GPU against the same models launch by launch, to the bit: each in a process of its
//! own, with `MUSE_EMULATOR` for the emulated driver of `scripts/cuda.sh`.
#![cfg(feature = "cuda")]

#[path = "../../kernels/tests/child/mod.rs"]
mod child;
mod support;

use std::thread;

use child::{child, outcomes};
use muse_format::{Layout, Spec};
use muse_kernels::{BackendError, Span};
use muse_runtime::{BackendChoice, Engine, LoadOptions, Mapped, load_mapped};
use support::{
    Rng, byte_text, chunked, everything, latent, mixture, plain, recurrent, shared, sparse, write,
};

/// Layers of each kind: attention with all of its options, experts, vectors of tokens for each layer, chunks, latents,
/// recurrent states, and positions that are chosen.
fn models() -> [(&'static str, Spec); 8] {
    [
        ("plain", plain()),
        ("everything", everything()),
        ("mixture", mixture()),
        ("shared", shared()),
        ("chunked", chunked()),
        ("latent", latent()),
        ("recurrent", recurrent()),
        ("sparse", sparse()),
    ]
}

fn engine(spec: &Spec, layout: Layout) -> Box<dyn Engine> {
    let options = LoadOptions {
        backend: BackendChoice::Cuda,
        slots: 3,
        batch_tokens: 24,
        context: Some(96),
        ..LoadOptions::default()
    };
    let file = write(spec, layout, 11);
    load_mapped(&Mapped::open(&file.path).unwrap(), &options, byte_text(spec.vocab)).unwrap()
}

/// Prompts of three sessions, then their answers: one at a time, two together, and several rows of one, as where
/// tokens are proposed. Returns a number for all bits of all logits.
fn talk(spec: &Spec, layout: Layout) -> Result<u64, BackendError> {
    let mut engine = engine(spec, layout);
    let (vocab, mut at) = (spec.vocab as usize, [0_u32; 3]);
    let mut random = Rng(5);
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    let mut step = |slots: &[(u32, u32)], all: bool| {
        let spans: Vec<Span> = slots
            .iter()
            .map(|(slot, len)| Span { slot: *slot, start: at[*slot as usize], len: *len })
            .collect();
        let rows: u32 = spans.iter().map(|span| span.len).sum();
        let tokens = random.tokens(rows as usize, spec.vocab);
        let ends = spans.iter().scan(0, |end, span| {
            *end += span.len;
            Some(*end - 1)
        });
        let wanted: Vec<u32> = if all { (0..rows).collect() } else { ends.collect() };
        let mut logits = vec![f32::NAN; wanted.len() * vocab];
        engine.step(&spans, &tokens, &wanted, &mut logits)?;
        assert!(logits.iter().all(|logit| logit.is_finite()));
        for logit in logits {
            hash = (hash ^ u64::from(logit.to_bits())).wrapping_mul(0x100_0000_01b3);
        }
        for span in &spans {
            at[span.slot as usize] += span.len;
        }
        Ok::<_, BackendError>(())
    };
    step(&[(0, 20)], false)?;
    step(&[(1, 3), (2, 17)], false)?;
    for _ in 0..3 {
        step(&[(0, 1)], false)?;
        step(&[(1, 1), (2, 1)], false)?;
        step(&[(1, 1)], false)?;
        step(&[(0, 4)], true)?;
        step(&[(0, 1), (2, 3)], true)?;
    }
    Ok(hash)
}

#[test]
#[ignore = "the process that the other tests start"]
fn alone() {
    for (name, spec) in models() {
        let layout = if name == "mixture" { Layout::Q4 { group: 32 } } else { Layout::F32 };
        match talk(&spec, layout) {
            Ok(hash) => println!("outcome: {name}: {hash:x}"),
            Err(error) => println!("outcome: {name}: {error}"),
        }
    }
}

#[test]
#[ignore = "the process that the other tests start"]
fn two_engines() {
    let spec = plain();
    let mut engines = [(); 2].map(|()| engine(&spec, Layout::F32));
    let mut alive = [true; 2];
    for at in 0..6 {
        for (i, (engine, alive)) in engines.iter_mut().zip(&mut alive).enumerate() {
            let mut logits = vec![f32::NAN; spec.vocab as usize];
            let span = Span { slot: 0, start: at, len: 1 };
            match engine.step(&[span], &[at], &[0], &mut logits) {
                Ok(()) => assert!(logits.iter().all(|logit| logit.is_finite())),
                Err(error) if *alive => {
                    *alive = false;
                    println!("outcome: {i} at {at}: {error}");
                }
                Err(_) => {}
            }
        }
    }
}

#[test]
fn cuda_graphs_say_what_launches_one_by_one_do() {
    let started = ["", "capture=0", "graphs=0"].map(|plan| thread::spawn(|| outcomes(child("alone", plan))));
    let [graphs, plain, refused] = started.map(|process| process.join().unwrap());
    assert_eq!(graphs, plain);
    // Which of them are graphs: recurrent layers, and those that choose positions, run launch by launch.
    for (refused, plain) in refused.iter().zip(&plain) {
        let name = plain.split(':').next().unwrap();
        let expected = match name {
            "recurrent" | "sparse" => plain.clone(),
            _ => format!("{name}: CUDA: cuGraphLaunch failed: CUDA_ERROR_OUT_OF_MEMORY"),
        };
        assert_eq!(*refused, expected);
    }
    assert_eq!([graphs.len(), refused.len()], [models().len(); 2]);
}

#[test]
fn a_cuda_graph_that_fails_is_the_error_of_its_engine_alone() {
    // Each engine's second step and those behind it are graphs.
    let expected = ["1 at 2: CUDA: cuGraphLaunch failed: CUDA_ERROR_OUT_OF_MEMORY"];
    assert_eq!(outcomes(child("two_engines", "graph_memory=4")), expected);
    assert!(outcomes(child("two_engines", "")).is_empty());
}
