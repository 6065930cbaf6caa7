//! Any bytes: a typed error, or a checkpoint whose every tensor can be read and imported.
#![no_main]

#[path = "../../../quantize/tests/gguf/exercise.rs"]
mod exercise;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    exercise::exercise(bytes.to_vec());
});
