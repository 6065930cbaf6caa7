//! Models in files, with random weights.

use std::fs::File;
use std::path::PathBuf;

use half::f16;
use muse_format::{
    BlockMut, Expected, Generation, Layout, Meta, Provenance, Role, Spec, TILE_ROWS, Text as TextMeta, Writer,
};
use tempfile::TempDir;

use super::Rng;

/// Random bytes of a tensor whose values have about the standard deviation `1 / sqrt(cols)`; vectors are near 1.
fn random_tensor(rng: &mut Rng, e: &Expected, layout: Layout, cols: usize) -> Vec<u8> {
    let rows = e.rows as usize;
    if e.role == Role::Vector {
        // Frequencies from 1 down; norms and biases around 0.8.
        let value = |i: usize, rng: &mut Rng| match e.name.contains("rope") {
            true => 0.3_f32.powf(i as f32 + if e.name == "rope.1" { 0.5 } else { 0.0 }),
            false if e.name.ends_with("bias") => 0.2 * rng.signed(),
            false if e.name.ends_with("_min") => -0.9 + 0.3 * rng.signed(),
            false => 0.8 + 0.3 * rng.signed(),
        };
        return (0..rows * cols).flat_map(|i| value(i, rng).to_le_bytes()).collect();
    }
    let spread = if e.role == Role::Table { 1.0 } else { 1.7 / (cols as f32).sqrt() };
    if !layout.is_quantized() {
        let values = (0..rows * cols).map(|_| spread * rng.signed());
        return match layout {
            Layout::F32 => values.flat_map(f32::to_le_bytes).collect(),
            Layout::F16 => values.flat_map(|x| f16::from_f32(x).to_bits().to_le_bytes()).collect(),
            _ => values.flat_map(|x| half::bf16::from_f32(x).to_bits().to_le_bytes()).collect(),
        };
    }
    let (group, per_row) = (layout.group(), cols.div_ceil(layout.group()));
    let mut bytes = vec![0; layout.byte_len(rows as u64, cols as u64).unwrap() as usize];
    for (i, block) in bytes.chunks_exact_mut(layout.block_bytes()).enumerate() {
        let (first_row, first_col) = (i / per_row * TILE_ROWS, i % per_row * group);
        let mut block = BlockMut::new(layout, block);
        for r in 0..TILE_ROWS.min(rows - first_row) {
            let levels = layout.levels();
            let span = f32::from(levels[levels.len() - 1]) - f32::from(levels[0]) + 1.0;
            let scale = spread * (1.0 + 0.2 * rng.signed()) * 2.0 / span;
            block.set_scale(r, f16::from_f32(scale).to_bits());
            if matches!(layout, Layout::Q4Asym { .. }) {
                block.set_offset(r, f16::from_f32(-spread * (1.0 + 0.1 * rng.signed())).to_bits());
            }
            for c in 0..group.min(cols - first_col) {
                block.set_quant(r, c, i32::from(levels[rng.next() as usize % levels.len()]));
            }
        }
    }
    bytes
}

/// A random model in a file that lives as long as this.
pub struct TinyFile {
    pub path: PathBuf,
    _dir: TempDir,
}

/// Writes a random model of `spec`, its matrices stored as `layout`.
pub fn write(spec: &Spec, layout: Layout, seed: u64) -> TinyFile {
    write_for(spec, layout, seed, "cpu")
}

/// [`write`], packed for `target`.
pub fn write_for(spec: &Spec, layout: Layout, seed: u64, target: &str) -> TinyFile {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("tiny.muse");
    let mut writer = Writer::new(File::create(&path).unwrap()).unwrap();
    let mut rng = Rng(seed);
    for e in spec.tensors() {
        let half = spec.layers.iter().filter_map(|l| Some(l.rotation()?.1 / 2)).min().unwrap_or(0);
        let cols = if e.cols == 0 { u64::from(half) } else { e.cols };
        let layout = match e.role {
            Role::Vector => Layout::F32,
            Role::Router if layout.is_quantized() => Layout::F16,
            _ => layout,
        };
        writer.begin(&e.name, layout, e.rows, cols).unwrap();
        writer.write(&random_tensor(&mut rng, &e, layout, cols as usize)).unwrap();
        writer.end().unwrap();
    }
    let provenance = Provenance { target: target.into(), board: "test".into(), ..Provenance::default() };
    let meta = Meta {
        spec: spec.clone(),
        text: TextMeta::default(),
        generation: Generation { stop_ids: vec![1], ..Generation::default() },
        provenance,
        tokenizer: b"{}".to_vec(),
        chat_template: String::new(),
    };
    writer.finish(&meta).unwrap();
    TinyFile { path, _dir: dir }
}
