use std::fmt::Write;

use muse_format::{File, Generation, Layer, Provenance, Spec, Text};
use muse_quantize::report::{LayoutRow, layouts};
use muse_runtime::Mapped;
use serde::Serialize;

use super::{Failure, at, print, print_json};
use crate::cli::Inspect;

#[derive(Serialize)]
struct Contents<'a> {
    file: String,
    bytes: usize,
    /// BLAKE3 of the file.
    hash: String,
    weights: u64,
    layouts: Vec<LayoutRow>,
    spec: &'a Spec,
    text: &'a Text,
    generation: &'a Generation,
    provenance: &'a Provenance,
    tokenizer_bytes: usize,
    chat_template_bytes: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tensors: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    name: String,
    layout: String,
    rows: u64,
    cols: u64,
    offset: u64,
    bytes: usize,
    hash: String,
}

fn hex(hash: &[u8]) -> String {
    hash.iter().map(|b| format!("{b:02x}")).collect()
}

pub fn run(args: &Inspect) -> Result<(), Failure> {
    let mapped = Mapped::open(&args.file)?;
    let bytes = mapped.bytes();
    let file = File::parse(bytes).map_err(|e| at(&args.file, &e))?;
    let weights = |t: &muse_format::TensorRef<'_>| t.rows * t.cols;
    let rows = file.tensors().iter().filter(|_| args.tensors).map(|t| Row {
        name: t.name.into(),
        layout: t.layout.to_string(),
        rows: t.rows,
        cols: t.cols,
        offset: t.offset,
        bytes: t.bytes.len(),
        hash: hex(&t.hash),
    });
    let contents = Contents {
        file: args.file.display().to_string(),
        bytes: bytes.len(),
        hash: hex(&file.hash),
        weights: file.tensors().iter().map(weights).sum(),
        layouts: layouts(file.tensors().iter().map(|t| (t.layout, weights(t), t.bytes.len() as u64))),
        spec: &file.spec,
        text: &file.text,
        generation: &file.generation,
        provenance: &file.provenance,
        tokenizer_bytes: file.tokenizer.len(),
        chat_template_bytes: file.chat_template.len(),
        tensors: rows.collect(),
    };
    if args.json { print_json(&contents) } else { print(&table(&contents)?) }
}

fn table(c: &Contents<'_>) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let (spec, p) = (c.spec, c.provenance);
    writeln!(out, "file        {}, {} bytes", c.file, c.bytes)?;
    writeln!(out, "blake3      {}", c.hash)?;
    writeln!(out, "source      {} ({}, {})", p.source, p.source_format, p.architecture)?;
    writeln!(
        out,
        "made by     {}, method {}, board {}, layouts for {}",
        p.tool, p.method, p.board, p.target
    )?;
    writeln!(out, "license     {}", p.license.as_deref().unwrap_or("not stated"))?;
    if !p.left_out.is_empty() {
        writeln!(out, "left out    {} of the source", p.left_out.join(", "))?;
    }
    writeln!(
        out,
        "model       {}: {} layers x {}, vocabulary {}, context {}",
        spec.family,
        spec.layers.len(),
        spec.dim,
        spec.vocab,
        spec.context
    )?;
    describe(&mut out, spec)?;
    writeln!(out, "stop ids    {:?}", c.generation.stop_ids)?;
    writeln!(out, "tokenizer   {} bytes; chat template {} bytes", c.tokenizer_bytes, c.chat_template_bytes)?;
    list_tensors(&mut out, c)?;
    Ok(out)
}

/// What layers are made of.
fn describe(out: &mut String, spec: &Spec) -> std::fmt::Result {
    if let Some(a) = spec.layers.iter().find_map(Layer::attention) {
        writeln!(
            out,
            "attention   {} heads, {} of keys and values, {} wide",
            a.heads, a.kv_heads, a.head_dim
        )?;
    }
    if let Some(d) = spec.layers.iter().find_map(Layer::delta_net) {
        let count = spec.layers.iter().filter(|l| l.delta_net().is_some()).count();
        let (heads, keys, layers) = (d.value_heads, d.key_heads, spec.layers.len());
        let (rows, columns) = (d.key_dim, d.value_dim);
        writeln!(
            out,
            "delta net   {heads} heads, {keys} of keys, {rows} x {columns}, on {count} of {layers} layers"
        )?;
    }
    if let Some(a) = spec.layers.iter().find_map(Layer::latent) {
        let (kept, values) = (a.kept(), a.value_dim);
        writeln!(out, "attention   {} heads over {kept} numbers a position, values {values} wide", a.heads)?;
    }
    let windows = || spec.layers.iter().filter_map(|l| l.attention()?.window);
    for window in windows().collect::<std::collections::BTreeSet<_>>() {
        let count = windows().filter(|w| *w == window).count();
        writeln!(out, "window      {window} on {count} of {} layers", spec.layers.len())?;
    }
    if let Some(experts) = spec.layers.iter().find_map(|l| l.experts.as_ref()) {
        let count = spec.layers.iter().filter(|l| l.experts.is_some()).count();
        let (used, all, layers) = (experts.used, experts.count, spec.layers.len());
        writeln!(out, "experts     {used} of {all}, {} wide, on {count} of {layers} layers", experts.dim)?;
    }
    if let Some(e) = &spec.embedding {
        let unit = if e.normalise { ", of length 1" } else { "" };
        writeln!(out, "embeds      {} numbers{unit}, pooling {:?}", e.width(spec.dim), e.pooling)?;
        let names: Vec<_> = e.prompts.keys().map(String::as_str).collect();
        writeln!(out, "prompts     {}", if names.is_empty() { "none".into() } else { names.join(", ") })?;
    }
    Ok(())
}

/// How much is stored in which layout, and each tensor where that was asked for.
fn list_tensors(out: &mut String, c: &Contents<'_>) -> std::fmt::Result {
    writeln!(
        out,
        "\n{:<8} {:>8} {:>14} {:>14} {:>12}",
        "layout", "tensors", "weights", "bytes", "bits/weight"
    )?;
    for r in &c.layouts {
        writeln!(
            out,
            "{:<8} {:>8} {:>14} {:>14} {:>12.3}",
            r.layout, r.tensors, r.weights, r.bytes, r.bits_per_weight
        )?;
    }
    if !c.tensors.is_empty() {
        writeln!(
            out,
            "\n{:<20} {:<8} {:>8} {:>8} {:>12} {:>12}",
            "tensor", "layout", "rows", "cols", "offset", "bytes"
        )?;
    }
    for t in &c.tensors {
        writeln!(
            out,
            "{:<20} {:<8} {:>8} {:>8} {:>12} {:>12}",
            t.name, t.layout, t.rows, t.cols, t.offset, t.bytes
        )?;
    }
    Ok(())
}
