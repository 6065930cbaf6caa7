//! The tiny checkpoints of the quantizer's tests.

use std::path::Path;

use muse_quantize::checkpoint::{self, Checkpoint};

/// All of them, by name.
pub fn all() -> Vec<(String, Checkpoint)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../quantize/tests/fixtures");
    let entries =
        folder.read_dir().expect("the quantizer has fixtures").map(|entry| entry.expect("it is there"));
    let mut found: Vec<_> = entries.filter(|entry| entry.path().join("checkpoint").is_dir()).collect();
    found.sort_by_key(std::fs::DirEntry::file_name);
    let open = |entry: std::fs::DirEntry| {
        let checkpoint = checkpoint::open(&entry.path().join("checkpoint")).expect("a sound checkpoint");
        (entry.file_name().to_string_lossy().into_owned(), checkpoint)
    };
    found.into_iter().map(open).collect()
}
