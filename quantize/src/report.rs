//! What a conversion did: bytes and bits a layout, error a class of tensors, the worst tensors.

use std::collections::BTreeMap;
use std::fmt;

use muse_format::Layout;
use serde::Serialize;

use crate::convert::Done;
use crate::families::LeftOut;
use crate::pack::Loss;

/// Tensors named in [`Report::worst`].
const WORST: usize = 5;

#[derive(Debug, Serialize)]
pub struct Report {
    pub file: String,
    /// Of the whole file.
    pub bytes: u64,
    pub weights: u64,
    /// Bits of tensor data a weight, padding and scales included.
    pub bits_per_weight: f64,
    pub layouts: Vec<LayoutRow>,
    pub classes: Vec<ClassRow>,
    /// Matrices of largest relative error, worst first; empty where nothing was lost.
    pub worst: Vec<TensorRow>,
    /// Parts of the source that the file does not hold.
    pub left_out: Vec<LeftOut>,
}

#[derive(Debug, Serialize)]
pub struct LayoutRow {
    pub layout: String,
    pub tensors: usize,
    pub weights: u64,
    pub bytes: u64,
    pub bits_per_weight: f64,
}

/// Tensors of one use in every layer: `attn.q`, `ffn.down`, `embed`.
#[derive(Debug, Serialize)]
pub struct ClassRow {
    pub class: String,
    pub tensors: usize,
    /// Root of the summed squared error over root of the summed squares.
    pub relative_error: f64,
    /// True where the source's groups were copied.
    pub kept: bool,
}

#[derive(Debug, Serialize)]
pub struct TensorRow {
    pub tensor: String,
    pub layout: String,
    pub relative_error: f64,
}

fn bits(bytes: u64, weights: u64) -> f64 {
    bytes as f64 * 8.0 / weights as f64
}

/// Sums over tensors, each its layout, weights and bytes.
pub fn layouts(tensors: impl Iterator<Item = (Layout, u64, u64)>) -> Vec<LayoutRow> {
    let mut sums: BTreeMap<Layout, (usize, u64, u64)> = BTreeMap::new();
    for (layout, weights, bytes) in tensors {
        let sum = sums.entry(layout).or_default();
        *sum = (sum.0 + 1, sum.1 + weights, sum.2 + bytes);
    }
    let row = |(layout, (tensors, weights, bytes)): (Layout, _)| LayoutRow {
        layout: layout.to_string(),
        tensors,
        weights,
        bytes,
        bits_per_weight: bits(bytes, weights),
    };
    sums.into_iter().map(row).collect()
}

impl Report {
    pub fn new(file: String, bytes: u64, done: &[Done], left_out: &[LeftOut]) -> Self {
        let mut classes: BTreeMap<String, (usize, Loss, bool)> = BTreeMap::new();
        for tensor in done {
            let row = classes.entry(class(&tensor.name)).or_default();
            row.0 += 1;
            row.1.add(tensor.loss);
            row.2 |= tensor.kept;
        }
        let mut worst: Vec<&Done> = done.iter().filter(|t| t.loss.error > 0.0).collect();
        worst.sort_by(|a, b| b.loss.relative().total_cmp(&a.loss.relative()));
        let (weights, data) = done.iter().fold((0, 0), |sum, t| (sum.0 + t.weights, sum.1 + t.bytes));
        Self {
            file,
            bytes,
            weights,
            bits_per_weight: bits(data, weights),
            layouts: layouts(done.iter().map(|t| (t.layout, t.weights, t.bytes))),
            classes: classes
                .into_iter()
                .map(|(class, (tensors, loss, kept))| ClassRow {
                    class,
                    tensors,
                    relative_error: loss.relative(),
                    kept,
                })
                .collect(),
            worst: worst
                .into_iter()
                .take(WORST)
                .map(|t| TensorRow {
                    tensor: t.name.clone(),
                    layout: t.layout.to_string(),
                    relative_error: t.loss.relative(),
                })
                .collect(),
            left_out: left_out.to_vec(),
        }
    }
}

/// `l12.attn.q` -> `attn.q`; `l3.experts.17.up` -> `experts.up`; `rope.0` -> `rope`;
/// `vision.l3.attn.q` -> `vision.attn.q`; others as they are.
fn class(name: &str) -> String {
    match name.split('.').collect::<Vec<_>>()[..] {
        ["rope", _] => "rope".into(),
        ["vision", layer, ref part @ ..] if layer.starts_with('l') && !part.is_empty() => {
            format!("vision.{}", part.join("."))
        }
        ["vision", ..] => name.into(),
        [_, "experts", _, part] => format!("experts.{part}"),
        [_, ref part @ ..] if !part.is_empty() => part.join("."),
        _ => name.into(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, bytes, weights, bits_per_weight, .. } = self;
        writeln!(f, "{file}: {bytes} bytes, {weights} weights, {bits_per_weight:.3} bits a weight\n")?;
        writeln!(
            f,
            "{:<8} {:>8} {:>14} {:>14} {:>12}",
            "layout", "tensors", "weights", "bytes", "bits/weight"
        )?;
        for r in &self.layouts {
            let (name, bpw) = (&r.layout, r.bits_per_weight);
            writeln!(f, "{name:<8} {:>8} {:>14} {:>14} {bpw:>12.3}", r.tensors, r.weights, r.bytes)?;
        }
        writeln!(f, "\n{:<16} {:>8} {:>14}", "class", "tensors", "relative error")?;
        for r in &self.classes {
            let note = if r.kept { "  kept" } else { "" };
            writeln!(f, "{:<16} {:>8} {:>14.6}{note}", r.class, r.tensors, r.relative_error)?;
        }
        for (i, r) in self.worst.iter().enumerate() {
            let head = if i == 0 { "\nworst" } else { "" };
            writeln!(f, "{head:<6} {} {} {:.6}", r.tensor, r.layout, r.relative_error)?;
        }
        for LeftOut { part, tensors, weights } in &self.left_out {
            writeln!(
                f,
                "\nleft out: {part}, {tensors} tensors of {weights} weights; the file works without it"
            )?;
        }
        Ok(())
    }
}
