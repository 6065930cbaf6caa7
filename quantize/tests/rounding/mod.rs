//! What rounding may cost, from the size of a step: of weights when they are stored, of activations when they are
//! multiplied.

#[path = "../../../kernels/tests/sweep/mod.rs"]
pub mod sweep;

use std::path::Path;

use half::f16;
use muse_format::{Block, File, Layout, Meta, TILE_ROWS, TensorRef, Writer};
use muse_runtime::{BackendChoice, Mapped};
use tempfile::NamedTempFile;

use crate::compared::{mean_error, median_error};
use sweep::sweep;

/// Values of a group of activations, and the largest integer that one becomes.
const GROUP: f64 = 32.0;
const LEVELS: f64 = 127.0;

/// What a file's bytes stand for, row by row.
fn values(tensor: &TensorRef<'_>) -> Vec<f32> {
    let (rows, cols) = (tensor.rows as usize, tensor.cols as usize);
    if !tensor.layout.is_quantized() {
        assert_eq!(tensor.layout, Layout::F32);
        let (values, _) = tensor.bytes.as_chunks::<4>();
        return values.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    }
    let (group, size) = (tensor.layout.group(), tensor.layout.block_bytes());
    let of = |row: usize, col: usize| {
        let at = (row / TILE_ROWS * cols.div_ceil(group) + col / group) * size;
        let block = Block::new(tensor.layout, &tensor.bytes[at..at + size]);
        let (scale, offset) = (block.scale(row % TILE_ROWS), block.offset(row % TILE_ROWS));
        let quant = f64::from(block.quant(row % TILE_ROWS, col % group));
        (quant * f16::from_bits(scale).to_f64() + f16::from_bits(offset).to_f64()) as f32
    };
    (0..rows * cols).map(|i| of(i / cols, i % cols)).collect()
}

/// Groups of `file` that are further from those of `exact`, the same model in f32, than steps around zero to the largest
/// weight on either side would put them: half a step each. The search for scales may only come nearer.
pub fn beyond_half_a_step(file: &Path, exact: &Path) -> Vec<String> {
    let (file, exact) = (Mapped::open(file).unwrap(), Mapped::open(exact).unwrap());
    let (file, exact) = (File::parse(file.bytes()).unwrap(), File::parse(exact.bytes()).unwrap());
    let mut wrong = Vec::new();
    for tensor in file.tensors().iter().filter(|tensor| tensor.layout.is_quantized()) {
        let steps = if matches!(tensor.layout, Layout::Q8 { .. }) { 127.0 } else { 7.0 };
        let (ours, theirs) = (values(tensor), values(exact.tensor(tensor.name).unwrap()));
        assert_eq!(ours.len(), theirs.len());
        let rows = ours.chunks(tensor.cols as usize).zip(theirs.chunks(tensor.cols as usize));
        for (row, (ours, theirs)) in rows.enumerate() {
            let group = tensor.layout.group();
            for (index, (ours, theirs)) in ours.chunks(group).zip(theirs.chunks(group)).enumerate() {
                let largest = theirs.iter().fold(0.0_f64, |max, w| max.max(f64::from(w.abs())));
                let error: f64 = ours.iter().zip(theirs).map(|(a, b)| f64::from(a - b).powi(2)).sum();
                // A scale in f16 may be 2^-11 longer.
                let half = largest / steps / 2.0 * (1.0 + 1.0 / 2048.0);
                let fits = error <= half * half * theirs.len() as f64;
                if !fits {
                    wrong.push(format!("{} row {row} group {index}: {error:.2e}", tensor.name));
                }
            }
        }
    }
    wrong
}

/// A copy of `path` whose quantized tensors are f32: what they stand for, changed.
fn with_floats(path: &Path, mut change: impl FnMut(f32) -> f32) -> NamedTempFile {
    let mapped = Mapped::open(path).unwrap();
    let file = File::parse(mapped.bytes()).unwrap();
    let copy = NamedTempFile::with_suffix(".muse").unwrap();
    let mut writer = Writer::new(copy.reopen().unwrap()).unwrap();
    for tensor in file.tensors() {
        let quantized = tensor.layout.is_quantized();
        let layout = if quantized { Layout::F32 } else { tensor.layout };
        writer.begin(tensor.name, layout, tensor.rows, tensor.cols).unwrap();
        if quantized {
            values(tensor).into_iter().for_each(|w| writer.write(&change(w).to_le_bytes()).unwrap());
        } else {
            writer.write(tensor.bytes).unwrap();
        }
        writer.end().unwrap();
    }
    let meta = Meta {
        spec: file.spec.clone(),
        text: file.text.clone(),
        generation: file.generation.clone(),
        provenance: file.provenance.clone(),
        tokenizer: file.tokenizer.to_vec(),
        chat_template: file.chat_template.into(),
    };
    writer.finish(&meta).unwrap();
    copy
}

/// How far the CPU backend and the reference are from the same weights in f32, and what that may be: root mean squares, in
/// standard deviations of each row of what `answer` gives of a file. Of a model that chooses, experts or positions, those of
/// the middle row: a choice that falls otherwise changes a row by more than what was rounded.
///
/// All that a backend rounds is activations, in groups of 32 to whole numbers up to 127 of the largest. The error of one is
/// spread evenly over a step of `largest / 127`, and the largest is at most `sqrt(32)` times the group's root mean square:
/// a noise of at most `sqrt(32) / 127 / sqrt(12)` of it, 1.3 %. A product's error has the variance of one whose weights
/// have that relative noise, so a model of noisy weights shows what any answer of this model makes of it. Of Gaussian
/// numbers the largest is 2.1 times the root mean square: 2.7 times less noise is to be expected, and a term that is wrong
/// or lost is 100 % of it.
pub fn rounding_of_activations(
    file: &Path,
    answer: impl Fn(&Path, BackendChoice) -> Vec<Vec<f32>>,
) -> (Vec<f64>, f64) {
    let layers = Mapped::open(file).unwrap().spec.layers;
    let chooses = layers.iter().any(|layer| layer.experts.is_some() || layer.indexer().is_some());
    let error = if chooses { median_error } else { mean_error };
    let plain = answer(with_floats(file, |w| w).path(), BackendChoice::Reference);
    let noise = (GROUP / 12.0).sqrt() / LEVELS;
    let noisy = |seed: u64| {
        let mut state = seed;
        // Even over a range whose deviation is `noise`.
        let mut relative = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f64 / (1_u64 << 23) as f64 - 1.0) * noise * 3.0_f64.sqrt()
        };
        let copy = with_floats(file, |w| (f64::from(w) * (1.0 + relative())) as f32);
        error(&plain, &answer(copy.path(), BackendChoice::Reference))
    };
    let seeds = sweep(&[1, 2, 3]);
    let squares: f64 = seeds.iter().map(|seed| noisy(*seed).powi(2)).sum();
    let actual = sweep(&[BackendChoice::Cpu, BackendChoice::Reference]);
    let actual = actual.iter().map(|backend| error(&plain, &answer(file, *backend)));
    (actual.collect(), (squares / seeds.len() as f64).sqrt())
}
