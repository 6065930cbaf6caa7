//! The program as people and scripts run it: what it writes, what it leaves behind, and how it ends.

mod conversions;
mod drafters;
mod embeddings;
mod interruption;
mod llama;
mod mistakes;
mod pictures;
mod tokens;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_muse-quantize"))
}

fn run(args: &[&str]) -> Output {
    program().args(args).output().expect("the program starts")
}

/// Standard output of a run that must succeed.
fn succeed(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is text")
}

/// Standard error of a run that must end with `code`.
fn fail(args: &[&str], code: i32) -> String {
    let output = run(args);
    let message = String::from_utf8(output.stderr).expect("messages are text");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?} wrote results");
    message
}

fn json_of(args: &[&str]) -> Value {
    serde_json::from_str(&succeed(args)).expect("--json is JSON")
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}/checkpoint", env!("CARGO_MANIFEST_DIR"))
}

/// A folder for outputs, and a path in it as text.
fn output() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("model.muse").to_str().expect("the path is text").to_owned();
    (dir, path)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the folder is there");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

fn text_file(beside: &str) -> String {
    let path = format!("{beside}.txt");
    fs::write(&path, "A page of text that a model can be asked about, long enough for a window.")
        .expect("a text");
    path
}
