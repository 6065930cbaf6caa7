//! Does with a file everything that a conversion does; shared with the fuzz target.

use muse_quantize::checkpoint::{Native, gguf};
use muse_quantize::{families, text};

/// True where the file opens, every tensor can be read, and model and tokenizer are understood.
pub fn exercise(bytes: Vec<u8>) -> bool {
    let Ok(checkpoint) = gguf::from_bytes("fuzzed.gguf", bytes) else { return false };
    let read = checkpoint.tensors.values().all(|tensor| {
        let (rows, cols) = tensor.shape();
        let mut out = vec![0.0; cols];
        (0..rows).all(|row| {
            let groups = !matches!(tensor.native(), Native::Groups(_)) || tensor.groups(row).is_ok();
            groups && tensor.read(row..row + 1, &mut out).is_ok()
        })
    });
    let import = families::import(&checkpoint);
    read && import.is_ok_and(|import| text::import(&checkpoint, &import.spec).is_ok())
}
