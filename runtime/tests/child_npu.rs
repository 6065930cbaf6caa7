//! Models whose prompts the NPU multiplies, by the library of `kernels/examples/rknnrt.rs`. Each case is a process of its
//! own that finds that library by its name, as `mused` finds a board's, or does not.

#[path = "../../kernels/tests/fake_npu/mod.rs"]
mod fake_npu;
mod support;

use std::process::Command;

use fake_npu::library;
use muse_format::Layout;
use muse_kernels::Span;
use muse_runtime::{BackendChoice, Image, LoadOptions, Mapped, MediaRows, Placed, load_mapped, selftest};
use support::{Rng, byte_text, plain, seeing, write};

/// Runs the ignored test `test` with the library, or with none, and gives what it prints behind each `outcome: `.
fn outcomes(test: &str, with_library: bool) -> Vec<String> {
    // On a board there may be one in the system's folders, which come last.
    let none = tempfile::tempdir().unwrap();
    std::fs::write(none.path().join("librknnrt.so"), "no library").unwrap();
    let built = library();
    let folder = if with_library { built.parent().unwrap() } else { none.path() };
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", test, "--ignored", "--nocapture"]).env("LD_LIBRARY_PATH", folder);
    let output = child.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{test}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text.split("outcome: ").skip(1).map(|rest| rest.lines().next().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "the process that `the_selftest_passes` starts"]
fn tried() {
    let tried = selftest::selftest(BackendChoice::Rknn).unwrap();
    tried.iter().for_each(|tried| println!("outcome: {} {tried:?}", tried.passed()));
}

#[test]
fn the_selftest_passes() {
    let tried = outcomes("tried", true);
    assert_eq!(tried.len(), 22);
    tried.iter().for_each(|tried| assert!(tried.starts_with("true"), "{tried}"));
}

/// Logits of an answer's token that is computed beside a prompt of 40 tokens, an image's first where `seen`.
fn beside_a_prompt(backend: BackendChoice, seen: bool) -> Vec<f32> {
    let spec = seeing();
    let file = write(&spec, Layout::Q4 { group: 32 }, 3);
    let mapped = Mapped::open(&file.path).unwrap();
    let options = LoadOptions { backend, slots: 2, threads: Some(1), ..LoadOptions::default() };
    let mut engine = load_mapped(&mapped, &options, byte_text(spec.vocab)).unwrap();
    let mut rng = Rng(5);
    let first = rng.tokens(9, 8);
    let mut logits = vec![0.0; spec.vocab as usize];
    engine.step(&[Span { slot: 0, start: 0, len: 8 }], &first[..8], &[], &mut []).unwrap();
    let spans = [Span { slot: 1, start: 0, len: 40 }, Span { slot: 0, start: 8, len: 1 }];
    let tokens = [rng.tokens(40, 8), first[8..].to_vec()].concat();
    let placed = [Placed { row: 3, from: 0, len: 4, joint: false }];
    let media = MediaRows { placed: if seen { &placed } else { &[] }, turns: &[] };
    if seen {
        let vision = spec.vision.as_ref().unwrap();
        let values = Rng(7).signed_numbers(4 * 4 * vision.pixels.values() as usize);
        engine.perceive(&Image::from_patches(4, 4, values, vision, 12).unwrap().into()).unwrap();
    }
    engine.step_with_media(&spans, &tokens, media, &[40], &mut logits).unwrap();
    logits
}

#[test]
#[ignore = "the process that `an_answer_beside_a_prompt_is_the_cpus` starts"]
fn answered() {
    for seen in [false, true] {
        let [npu, cpu] =
            [BackendChoice::Rknn, BackendChoice::Cpu].map(|choice| beside_a_prompt(choice, seen));
        println!("outcome: {}", npu == cpu);
    }
}

#[test]
fn an_answer_beside_a_prompt_is_the_cpus() {
    assert_eq!(outcomes("answered", true), ["true", "true"]);
}

#[test]
#[ignore = "the process that `a_model_says_what_runs_it` starts"]
fn loaded() {
    let file = write(&plain(), Layout::Q4 { group: 32 }, 1);
    let mapped = Mapped::open(&file.path).unwrap();
    for cpu_fallback in [false, true] {
        let (backend, threads) = (BackendChoice::Rknn, Some(1));
        let options = LoadOptions { backend, cpu_fallback, threads, ..LoadOptions::default() };
        let engine = load_mapped(&mapped, &options, byte_text(plain().vocab));
        let said = engine.map_or_else(|error| error.to_string(), |engine| engine.info().backend.clone());
        println!("outcome: {said}");
    }
}

#[test]
fn a_model_says_what_runs_it() {
    let cpu = format!("{}, 1 thread", muse_kernels::Features::detect());
    let with = outcomes("loaded", true);
    assert_eq!(with, [format!("{cpu}, prompts on the NPU"), format!("{cpu}, prompts on the NPU")]);
    let [refused, allowed] = outcomes("loaded", false).try_into().unwrap();
    assert!(refused.starts_with("NPU: librknnrt.so cannot be opened ("), "{refused}");
    assert_eq!(allowed, format!("{cpu}, not on the NPU: {refused}"));
}
