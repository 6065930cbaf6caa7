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
fn write_meta(meta: &Meta, router: Layout) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    for e in meta.spec.tensors() {
        let layout = match e.role {
            Role::Vector => Layout::F32,
            Role::Router => router,
            Role::Matrix | Role::Table => Layout::Q4 { group: 32 },
        };
        let cols = if e.cols == 0 { 4 } else { e.cols };
        let len = layout.byte_len(e.rows, cols).unwrap();
        writer.begin(&e.name, layout, e.rows, cols).unwrap();
        writer.write(&(0..len).map(|i| i as u8 | 1).collect::<Vec<u8>>()).unwrap();
        writer.end().unwrap();
    }
    writer.finish(meta).unwrap().into_inner()
}

/// Vectors in f32, matrices in Q4 of 32; the bytes are a counter.
fn write(skip: Option<&str>, extra: Option<&str>) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new())).unwrap();
    let extra = extra.map(|name| Expected { name: name.into(), rows: 1, cols: 3, role: Role::Vector });
    for e in spec().tensors().into_iter().filter(|e| Some(e.name.as_str()) != skip).chain(extra) {
        let layout = if e.role == Role::Vector { Layout::F32 } else { Layout::Q4 { group: 32 } };
        let cols = if e.cols == 0 { 4 } else { e.cols };
        let len = layout.byte_len(e.rows, cols).unwrap();
        writer.begin(&e.name, layout, e.rows, cols).unwrap();
        let bytes: Vec<u8> = (0..len).map(|i| i as u8 | 1).collect();
        bytes.chunks(100).for_each(|chunk| writer.write(chunk).unwrap());
        writer.end().unwrap();
    }
    writer.finish(&meta()).unwrap().into_inner()
}
