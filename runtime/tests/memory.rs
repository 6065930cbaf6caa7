//! What the plan says against what the allocator counts. The counter sees every thread of the process, so that this is a
//! program without libtest: that one's own thread still allocates while the test runs.

mod support;

use std::alloc::System;

use cap::Cap;
use muse_format::{Layout, Spec};
use muse_kernels::Span;
use muse_runtime::{BackendChoice, Draft, Image, LoadOptions, Mapped, Medium, Sound, load_mapped, plan};
use support::sweep::sweep;
use support::{
    Rng, byte_text, chain, drafter, embedding_decoder, encoder, everything, gated, hearing, latent,
    latent_chain, mixture, seeing, seeing_jointly, seeing_jointly_everywhere, seeing_with_a_class, shared,
    sparse, steps, write,
};

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

fn main() {
    the_plan_is_what_is_allocated_and_steps_add_nothing();
    println!("test result: ok. 1 passed; 0 failed");
}

fn the_plan_is_what_is_allocated_and_steps_add_nothing() {
    // The reference is the same code on every CPU.
    for &backend in sweep(&[BackendChoice::Cpu, BackendChoice::Reference]) {
        for spec in [
            everything(),
            mixture(),
            gated(),
            shared(),
            seeing(),
            seeing_jointly(),
            seeing_jointly_everywhere(),
            seeing_with_a_class(),
            hearing(),
            latent(),
            sparse(),
        ] {
            check(spec, backend, None, None);
        }
        // With experts left in the file.
        check(mixture(), backend, Some(1), None);
        check(everything(), backend, None, Some(drafter()));
        let mut experts = chain();
        experts.layers[0].experts = mixture().layers[0].experts.clone();
        for chain in [chain(), experts, latent_chain()] {
            check(everything(), backend, None, Some(chain));
        }
        for spec in [encoder(), embedding_decoder()] {
            check_embedding(spec, backend);
        }
    }
}

fn check(mut spec: Spec, backend: BackendChoice, expert_memory: Option<u64>, drafter: Option<Spec>) {
    spec.vocab = 500;
    spec.context = 2000;
    let file = write(&spec, Layout::Q4 { group: 32 }, 1);
    let mut mapped = Mapped::open(&file.path).unwrap();
    let drafter = drafter.map(|spec| write(&spec, Layout::Q4 { group: 32 }, 1));
    if let Some(drafter) = &drafter {
        mapped = mapped.with_drafter(Mapped::open(&drafter.path).unwrap()).unwrap();
    }
    let options = LoadOptions {
        slots: 4,
        batch_tokens: 64,
        logit_rows: Some(16),
        threads: Some(1),
        backend,
        expert_memory,
        ..LoadOptions::default()
    };
    let plan = plan(&mapped, &options).unwrap();
    assert_eq!(plan.experts_on_flash.is_some(), expert_memory.is_some());
    let text = byte_text(spec.vocab);
    let tokens = Rng(3).tokens(100, spec.vocab);

    let before = ALLOCATOR.allocated();
    let mut engine = load_mapped(&mapped, &options, text).unwrap();
    let loaded = ALLOCATOR.allocated();
    // Beside what is planned: views of at most 65 tensors of about 100 bytes, names, the copy of the spec; of each file.
    let (beside, files) = ((loaded - before) as u64 - plan.working_bytes, 1 + u64::from(drafter.is_some()));
    assert!(
        plan.working_bytes > 800_000 && beside < files * 32_000,
        "{beside} beside {}",
        plan.working_bytes
    );
    assert_eq!(engine.info().working_bytes, plan.working_bytes);

    if let Some(vision) = &engine.info().vision {
        let vision = vision.spec.clone();
        // One of 6 x 8 patches, which is as many as planned, and a small one.
        let image = |rows, cols| {
            let values = Rng(rows).signed_numbers((rows * cols) as usize * vision.pixels.values() as usize);
            Medium::from(Image::from_patches(rows, cols, values, &vision, 12).unwrap())
        };
        let images = [image(6, 8), image(2, 2)];
        for image in images.iter().cycle().take(3) {
            let before = ALLOCATOR.allocated();
            engine.perceive(image).unwrap();
            assert_eq!(ALLOCATOR.allocated(), before, "looking kept memory");
        }
    }
    if let Some(audio) = &engine.info().audio {
        let (audio, most) = (audio.spec.clone(), audio.audio_tokens);
        let sound = |samples: usize| {
            Medium::from(Sound::from_samples(Rng(5).signed_numbers(samples), &audio, most).unwrap())
        };
        // Of as many vectors as planned, and of a part of one.
        let sounds = [sound((most * audio.samples()) as usize), sound(1)];
        for sound in sounds.iter().cycle().take(3) {
            let before = ALLOCATOR.allocated();
            engine.perceive(sound).unwrap();
            assert_eq!(ALLOCATOR.allocated(), before, "listening kept memory");
        }
    }
    let loaded = ALLOCATOR.allocated();
    // A full batch first: the table of rotations of its positions is made then.
    let mut logits = vec![0.0; spec.vocab as usize];
    let span = Span { slot: 0, start: 0, len: 64 };
    engine.step(&[span], &tokens[..64], &[63], &mut logits).unwrap();
    let settled = ALLOCATOR.allocated();
    assert!(settled - loaded <= 64 * 1024, "{} for rotations", settled - loaded);
    for slot in 0..4 {
        steps(&mut *engine, slot, &tokens, 16);
        assert_eq!(ALLOCATOR.allocated(), settled, "a step kept memory");
    }
    if drafter.is_some() {
        let mut logits = vec![0.0; 4 * 3 * spec.vocab as usize];
        let drafts = [0, 1, 2, 3].map(|slot| Draft { slot, start: 100, token: 7, count: 3 });
        let before = ALLOCATOR.allocated();
        engine.draft(&drafts, &mut logits).unwrap();
        assert_eq!(ALLOCATOR.allocated(), before, "a block kept memory");
    }
}

fn check_embedding(mut spec: Spec, backend: BackendChoice) {
    spec.vocab = 500;
    spec.context = 1000;
    if let Some(encoder) = &mut spec.encoder {
        encoder.positions = 1000;
    }
    let file = write(&spec, Layout::Q4 { group: 32 }, 1);
    let mapped = Mapped::open(&file.path).unwrap();
    let options =
        LoadOptions { slots: 4, batch_tokens: 64, threads: Some(1), backend, ..LoadOptions::default() };
    let plan = plan(&mapped, &options).unwrap();
    assert_eq!((plan.batch_tokens, plan.logit_rows), (1000, 0), "a text is read in one step");
    let text = byte_text(spec.vocab);
    let tokens = Rng(3).tokens(1000, spec.vocab);

    let before = ALLOCATOR.allocated();
    let mut engine = load_mapped(&mapped, &options, text).unwrap();
    let loaded = ALLOCATOR.allocated();
    let beside = (loaded - before) as u64 - plan.working_bytes;
    assert!(plan.working_bytes > 800_000 && beside < 32_000, "{beside} beside {}", plan.working_bytes);

    let mut out = vec![0.0; 4 * 90];
    engine.embed(&[&tokens], &mut out[..90]).unwrap();
    let settled = ALLOCATOR.allocated();
    // Sines and cosines of 5000 pairs in vectors that double, 32 KiB each, and a thousand positions.
    assert!(settled - loaded <= 72 * 1024, "{} for rotations", settled - loaded);
    for cut in [1, 300, 640] {
        let texts = [&tokens[..cut], &tokens[cut..cut + 9], &tokens[700..800], &tokens[999..]];
        engine.embed(&texts, &mut out).unwrap();
        assert_eq!(ALLOCATOR.allocated(), settled, "a step kept memory");
    }
}
