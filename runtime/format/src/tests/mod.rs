//! What is written is read; every kind of damage is refused by name.

mod attention;
mod audio;
mod damage;
mod drafter;
mod embedding;
mod experts;
mod vision;
mod written;

use std::io::Cursor;

use crate::*;

fn spec() -> Spec {
    let attention =
        Attention { scale: 0.35, rope: Some(0), qk_norm: true, qkv_bias: true, ..Attention::new(2, 1, 8) };
    let ffn = Ffn { dim: 20, activation: Activation::Silu, bias: false };
    Spec {
        family: "test".into(),
        dim: 16,
        vocab: 40,
        context: 64,
        norm_eps: 1e-6,
        tied_head: true,
        ropes: 1,
        layers: vec![Layer { ffn: Some(ffn), ..Layer::new(attention) }],
        ..Spec::default()
    }
}

fn meta() -> Meta {
    Meta {
        spec: spec(),
        text: Text {
            bos_id: Some(1),
            add_bos: true,
            template_tokens: [("eos_token".into(), "</s>".into())].into(),
            image: None,
            video: None,
            audio: None,
        },
        generation: Generation { stop_ids: vec![2], temperature: Some(0.5), ..Generation::default() },
        provenance: Provenance { tool: "test".into(), target: "cpu".into(), ..Provenance::default() },
        tokenizer: b"{}".to_vec(),
        chat_template: "{{ messages }}".into(),
    }
}

/// A file of `meta`: vectors in f32, routers in `router`, matrices in Q4 of 32; the bytes are a counter.
fn write(meta: &Meta, router: Layout) -> Vec<u8> {
    write_tensors(meta, meta.spec.tensors(), router)
}

/// [`write`] of `tensors` in place of those that the spec has.
fn write_tensors(meta: &Meta, tensors: Vec<Expected>, router: Layout) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    for e in tensors {
        let layout = match e.role {
            Role::Vector => Layout::F32,
            Role::Router => router,
            Role::Matrix | Role::Table => Layout::Q4 { group: 32 },
        };
        let cols = if e.cols == 0 { 4 } else { e.cols };
        let len = layout.byte_len(e.rows, cols).unwrap();
        writer.begin(&e.name, layout, e.rows, cols).unwrap();
        let bytes: Vec<u8> = (0..len).map(|i| i as u8 | 1).collect();
        bytes.chunks(100).for_each(|chunk| writer.write(chunk).unwrap());
        writer.end().unwrap();
    }
    writer.finish(meta).unwrap().into_inner()
}

/// The file of [`meta`].
fn small() -> Vec<u8> {
    write(&meta(), Layout::F32)
}

/// # Panics
/// Where `spec` is not refused for `field`.
fn refuses_field(spec: &Spec, field: &str) {
    let error = spec.validate().expect_err(field);
    let named = matches!(&error, FormatError::Spec { field: named, .. } if named == field);
    assert!(named, "{field}: {error}");
}

/// # Panics
/// Where `spec` is not refused with a message that has `expected` in it.
fn refuses_with(spec: &Spec, expected: &str) {
    let error = spec.validate().expect_err(expected).to_string();
    assert!(error.contains(expected), "{expected}: {error}");
}
