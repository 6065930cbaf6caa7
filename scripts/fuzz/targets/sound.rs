//! Any bytes: a typed error, or a sound of as many tokens as are allowed, of finite samples.
#![no_main]

use muse_format::{Activation, Audio, AudioStage};
use muse_runtime::Sound;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let audio = Audio {
        token: 0,
        blank_tokens: Vec::new(),
        rate: 24_000,
        taps: 3,
        activation: Activation::Gelu,
        norm_eps: 1e-5,
        vector_norm: true,
        stages: vec![AudioStage { patch: 24, dim: 8, ffn_dim: 8, blocks: 1 }],
    };
    let Ok(sound) = Sound::decode(bytes, &audio, 3000) else { return };
    assert!((1..=3000).contains(&sound.tokens(&audio)));
    assert!(sound.samples().iter().all(|sample| sample.is_finite()));
});
