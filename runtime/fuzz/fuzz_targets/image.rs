//! Any bytes: a typed error, or an image of as many tokens as are allowed, whose every patch can be read.
//! `cargo fuzz run image` in `runtime`; seed with `tests/pictures`.
#![no_main]

use muse_format::{Activation, Pixels, Vision, VisionLayer};
use muse_runtime::Image;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let vision = Vision {
        token: 0,
        blank_tokens: Vec::new(),
        pixels: Pixels { patch: 4, frames: 2, tokens_max: 30, mean: [0.5; 3], deviation: [0.5; 3] },
        dim: 8,
        heads: 1,
        ffn_dim: 8,
        activation: Activation::Gelu,
        outer_norm_eps: 1e-5,
        norm_eps: 1e-5,
        positions: 2,
        frequencies: 2,
        merge: 2,
        adapter_dim: 8,
        adapter_activation: Activation::Gelu,
        layers: vec![VisionLayer { window: None }],
    };
    let Ok(image) = Image::decode(bytes, &vision, 30) else { return };
    let tokens = image.tokens(&vision);
    assert!((1..=30).contains(&tokens));
    let mut values = Vec::new();
    (0..4 * tokens).for_each(|patch| image.patch(patch, &vision.pixels, &mut values));
    assert!(values.len() == 4 * tokens as usize * 96 && values.iter().all(|value| value.is_finite()));
});
