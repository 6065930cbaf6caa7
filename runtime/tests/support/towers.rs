//! Models that see and hear.

use muse_format::{Activation, Audio, AudioStage, Join, Laid, Pixels, Spec, Vision, VisionLayer};

use super::{plain, shared};

/// [`plain`] with a tower of two blocks, one with windows of 3 patches, over images of at most 12 tokens of 4 patches.
pub fn seeing() -> Spec {
    let pixels = Pixels {
        patch: 2,
        frames: 2,
        tokens_max: 12,
        mean: [0.5, 0.4, 0.6],
        deviation: [0.5, 0.3, 0.25],
        ..Pixels::default()
    };
    let vision = Vision {
        token: 9,
        blank_tokens: vec![9, 11],
        pixels,
        dim: 36,
        heads: 3,
        ffn_dim: 50,
        norm_eps: 1e-4,
        positions: 3,
        frequencies: 3,
        merge: 2,
        adapter_dim: 44,
        layers: vec![VisionLayer { window: Some(3) }, VisionLayer { window: None }],
        ..Vision::default()
    };
    Spec { vision: Some(vision), ..plain() }
}

/// [`shared`] with a tower of other blocks, in which the tokens of an image see each other: in the layers with a window, of
/// 5.
pub fn seeing_jointly() -> Spec {
    let vision = Vision {
        blank: 3,
        joint: true,
        rms: true,
        post_norms: true,
        head_norms: true,
        gated: true,
        bias: false,
        clipped: true,
        scale: Some(0.9),
        pre_norm: false,
        post_norm: false,
        positions: 8,
        laid: Laid::Axes,
        join: Join::Mean { standardized: true, rooted: true },
        adapter_dim: 36,
        adapter_down: false,
        vector_norm: false,
        ..seeing().vision.unwrap()
    };
    Spec { vision: Some(vision), ..shared() }
}

/// [`shared`] with a tower that does not turn, in which patches become their plain mean and the tokens of an image see each
/// other in every layer.
pub fn seeing_jointly_everywhere() -> Spec {
    let vision = Vision {
        joint: true,
        joint_everywhere: true,
        patch_bias: true,
        pre_norm: false,
        frequencies: 0,
        join: Join::Mean { standardized: false, rooted: false },
        adapter_dim: 36,
        adapter_down: false,
        vector_norm: false,
        ..seeing().vision.unwrap()
    };
    Spec { vision: Some(vision), ..shared() }
}

/// [`seeing`] with a tower in which every patch sees all others and a class.
pub fn seeing_with_a_class() -> Spec {
    let layers = vec![VisionLayer { window: None }; 2];
    let vision = Vision { class: true, layers, ..seeing().vision.unwrap() };
    Spec { vision: Some(vision), ..plain() }
}

/// [`seeing`] with a tower of two stages over sounds, of 6 samples a vector.
pub fn hearing() -> Spec {
    let stages = vec![
        AudioStage { patch: 3, dim: 20, ffn_dim: 34, blocks: 2 },
        AudioStage { patch: 2, dim: 36, ffn_dim: 50, blocks: 1 },
    ];
    let audio = Audio {
        token: 13,
        blank_tokens: vec![9, 13],
        rate: 100,
        taps: 5,
        activation: Activation::Gelu,
        norm_eps: 1e-4,
        vector_norm: true,
        stages,
    };
    Spec { audio: Some(audio), ..seeing() }
}
