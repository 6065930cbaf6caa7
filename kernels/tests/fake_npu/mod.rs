//! The library of `examples/rknnrt.rs`.

use std::path::PathBuf;

/// Of `cargo test` without a filter; else `cargo build -p muse-kernels --example rknnrt`.
pub fn library() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let built = program.parent().unwrap().parent().unwrap().join("examples/librknnrt.so");
    assert!(built.exists(), "cargo build -p muse-kernels --example rknnrt makes {}", built.display());
    built
}

fn number(name: &[u8]) -> usize {
    // SAFETY: the library is the example, whose functions of these names have this type.
    unsafe {
        let library = libloading::Library::new(library()).unwrap();
        let number: libloading::Symbol<'_, extern "C" fn() -> usize> = library.get(name).unwrap();
        number()
    }
}

/// Contexts and memories that the library has not been given back.
#[allow(dead_code)] // one test uses it
pub fn live() -> usize {
    number(b"fake_rknn_live")
}

/// Bytes of those memories.
#[allow(dead_code)] // one test uses it
pub fn allocated() -> usize {
    number(b"fake_rknn_allocated")
}
