//! The library of `examples/rknnrt.rs`.

use std::path::PathBuf;

/// Of `cargo test` without a filter; else `cargo build -p muse-kernels --example rknnrt`.
pub fn library() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let built = program.parent().unwrap().parent().unwrap().join("examples/librknnrt.so");
    assert!(built.exists(), "cargo build -p muse-kernels --example rknnrt makes {}", built.display());
    built
}
