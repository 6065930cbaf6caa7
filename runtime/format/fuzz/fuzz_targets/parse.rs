//! Any bytes: a typed error, or a file whose every tensor can be read and verified.
//! `cargo fuzz run parse` in `runtime/format`; seed with `tests/v1.muse`.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = muse_format::File::parse(bytes) {
        assert!(file.tensors().iter().all(|t| t.offset as usize + t.bytes.len() <= bytes.len()));
        let _ = file.verify(|_| ());
    }
});
