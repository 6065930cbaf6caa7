//! Any bytes: a typed error, or an image of as many tokens as are allowed, whose every patch can be read.
//! `cargo fuzz run image` in `runtime`; seed with `tests/pictures`.
#![no_main]

use muse_format::{Pixels, Vision};
use muse_runtime::Image;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let pixels = Pixels { patch: 4, frames: 2, tokens_max: 30, ..Pixels::default() };
    let vision = Vision { pixels, merge: 2, ..Vision::default() };
    let Ok(image) = Image::decode(bytes, &vision, 30) else { return };
    let tokens = image.tokens(&vision);
    assert!((1..=30).contains(&tokens));
    let mut values = Vec::new();
    (0..4 * tokens).for_each(|patch| image.patch(patch, &vision.pixels, &mut values));
    assert!(values.len() == 4 * tokens as usize * 96 && values.iter().all(|value| value.is_finite()));
});
