//! Models whose prompts the NPU multiplies, by the library of `kernels/examples/rknnrt.rs`. Each case is a process of its
//! own that finds that library by its name, as `mused` finds a board's, or does not.

mod support;

use std::path::PathBuf;
use std::process::Command;

use muse_format::Layout;
use muse_runtime::{BackendChoice, LoadOptions, Mapped, load_mapped, selftest};
use support::{byte_text, plain, write};

/// Runs the ignored test `test` with the library, or with none, and gives what it prints behind each `outcome: `.
fn outcomes(test: &str, with_library: bool) -> Vec<String> {
    let program = std::env::current_exe().unwrap();
    let folder = program.parent().unwrap().parent().unwrap().join("examples");
    let built = folder.join("librknnrt.so");
    assert!(built.exists(), "cargo build -p muse-kernels --example rknnrt makes {}", built.display());
    let folder = if with_library { folder } else { PathBuf::new() };
    let mut child = Command::new(program);
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
