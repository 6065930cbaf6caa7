//! Models that are shown images and sounds.

use muse_format::{Layout, Spec};
use muse_kernels::CacheDtype;
use muse_runtime::{BackendChoice, Engine, LoadOptions, Mapped, Medium, eval, load_mapped};

use super::{byte_text, difference, write};

pub fn engine_of(spec: &Spec, layout: Layout, backend: BackendChoice, batch_tokens: u32) -> Box<dyn Engine> {
    let file = write(spec, layout, 5);
    let mapped = Mapped::open(&file.path).unwrap();
    let options = LoadOptions {
        batch_tokens,
        backend,
        threads: Some(2),
        cache: Some(CacheDtype::F32),
        ..LoadOptions::default()
    };
    load_mapped(&mapped, &options, byte_text(70)).unwrap()
}

pub fn logits(engine: &mut dyn Engine, tokens: &[u32], media: &[Medium]) -> Vec<f32> {
    let mut rows = Vec::new();
    eval::every_position(engine, eval::Input { tokens, media }, |_, row| rows.extend_from_slice(row))
        .unwrap();
    rows
}

/// Asks that `others`, backends and rows a step, make of a prompt what the reference makes in one step.
pub fn perceive_the_same(
    spec: &Spec,
    tokens: &[u32],
    media: &[Medium],
    others: &[(BackendChoice, u32)],
    case: &str,
) {
    // Quantized activations may tip to the next integer, a 127th of the largest, here and there.
    for (layout, bound) in [(Layout::F32, 1e-4), (Layout::Bf16, 1e-4), (Layout::Q8 { group: 32 }, 0.1)] {
        let expected = logits(&mut *engine_of(spec, layout, BackendChoice::Reference, 64), tokens, media);
        for (backend, batch) in others.iter().copied() {
            let actual = logits(&mut *engine_of(spec, layout, backend, batch), tokens, media);
            let (error, deviation) = difference(&actual, &expected);
            assert!(
                error <= bound * deviation,
                "{layout} {backend:?} {batch}, {case}: {error} of {deviation}"
            );
        }
    }
}
