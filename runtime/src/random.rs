//! Models with random weights, for what needs a shape and no checkpoint: measuring, and testing kernels where they run.

use std::fs::File;
use std::sync::Arc;

use half::{bf16, f16};
use muse_format::{
    BlockMut, Expected, Generation, Layer, Layout, Meta, Provenance, Role, Spec, TILE_ROWS, WriteError,
    Writer,
};

use crate::{ChatOptions, Message, Text, TextDecoder, TextError};

/// Values that a tensor's bytes repeat. Odd, so that neighbouring rows differ.
const BLOCKS: usize = 509;

/// A fixed sequence: two runs measure the same bytes.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }

    /// Uniform in `-1..1`.
    fn signed(&mut self) -> f32 {
        self.next() as f32 / (1_u32 << 30) as f32 - 1.0
    }
}

/// Bytes that random matrices in `layout` repeat, values within `-spread..spread`.
pub fn pattern(layout: Layout, spread: f32) -> Vec<u8> {
    pattern_of(&mut Rng(1), layout, spread)
}

/// Of [`BLOCKS`] units.
fn pattern_of(rng: &mut Rng, layout: Layout, spread: f32) -> Vec<u8> {
    match layout {
        Layout::F32 => (0..BLOCKS).flat_map(|_| (spread * rng.signed()).to_le_bytes()).collect(),
        Layout::F16 => (0..BLOCKS).flat_map(|_| f16::from_f32(spread * rng.signed()).to_le_bytes()).collect(),
        Layout::Bf16 => {
            (0..BLOCKS).flat_map(|_| bf16::from_f32(spread * rng.signed()).to_le_bytes()).collect()
        }
        _ => {
            let levels = balanced(layout.levels());
            let span = f32::from(levels[levels.len() - 1]) - f32::from(levels[0]) + 1.0;
            let mut bytes = vec![0; BLOCKS * layout.block_bytes()];
            for block in bytes.chunks_exact_mut(layout.block_bytes()) {
                let mut block = BlockMut::new(layout, block);
                for row in 0..TILE_ROWS {
                    let scale = spread * (1.0 + 0.2 * rng.signed()) * 2.0 / span;
                    block.set_scale(row, f16::from_f32(scale).to_bits());
                    if matches!(layout, Layout::Q4Asym { .. }) {
                        block.set_offset(row, f16::from_f32(-spread).to_bits());
                    }
                    for col in 0..layout.group() {
                        let level = levels[rng.next() as usize % levels.len()];
                        block.set_quant(row, col, i32::from(level));
                    }
                }
            }
            bytes
        }
    }
}

/// Levels whose mean is zero where that is possible: a mean would turn every input into much the same output, and every
/// token would choose the same experts.
fn balanced(levels: &[i8]) -> &[i8] {
    let (lowest, highest) = (levels[0], levels[levels.len() - 1]);
    if i16::from(lowest) == -i16::from(highest) - 1 { &levels[1..] } else { levels }
}

/// The layout of a tensor of a model whose matrices are stored as `matrices`.
pub fn layout_of(tensor: &Expected, matrices: Layout) -> Layout {
    match tensor.role {
        Role::Vector => Layout::F32,
        Role::Router if matrices.is_quantized() => Layout::Bf16,
        Role::Router | Role::Matrix | Role::Table => matrices,
    }
}

/// Writes a model of `spec` with random weights, its matrices stored as `layout`, to `file`. It has no tokenizer.
/// `tool` is who makes it, `seed` what else than 1 makes other weights.
///
/// # Errors
/// [`WriteError`], most likely a full disk.
pub fn write(file: File, spec: &Spec, layout: Layout, tool: &str, seed: u64) -> Result<(), WriteError> {
    let mut rng = Rng(seed);
    let mut writer = Writer::new(file)?;
    let narrowest =
        spec.layers.iter().filter_map(Layer::attention).map(|a| a.head_dim / 2).min().unwrap_or(1);
    for tensor in spec.tensors() {
        let cols = if tensor.cols == 0 { u64::from(narrowest) } else { tensor.cols };
        if tensor.role == Role::Vector {
            writer.begin(&tensor.name, Layout::F32, tensor.rows, cols)?;
            let rotation = tensor.name.starts_with("rope");
            // Not 1: a table of few levels, normed, would lie on the edges between activations' 8-bit steps.
            for i in 0..tensor.rows * cols {
                let value =
                    if rotation { 1e-5_f32.powf(i as f32 / cols as f32) } else { 1.0 + 0.1 * rng.signed() };
                writer.write(&value.to_le_bytes())?;
            }
        } else {
            let layout = layout_of(&tensor, layout);
            writer.begin(&tensor.name, layout, tensor.rows, cols)?;
            let spread = 1.7 / (cols as f32).sqrt();
            let mut pattern = pattern_of(&mut rng, layout, spread);
            let mut left = layout.byte_len(tensor.rows, cols).unwrap_or(u64::MAX);
            while left > 0 {
                let len = left.min(pattern.len() as u64);
                writer.write(&pattern[..len as usize])?;
                left -= len;
                if tensor.role == Role::Router {
                    // Rows that repeat each other would choose the same experts.
                    pattern = pattern_of(&mut rng, layout, spread);
                }
            }
        }
        writer.end()?;
    }
    let provenance = Provenance {
        tool: tool.into(),
        source: "random".into(),
        target: crate::TARGET.into(),
        ..Provenance::default()
    };
    writer.finish(&Meta {
        spec: spec.clone(),
        text: muse_format::Text::default(),
        generation: Generation::default(),
        provenance,
        tokenizer: Vec::new(),
        chat_template: String::new(),
    })?;
    Ok(())
}

/// Stands where a model's tokenizer would: of a checkpoint without one, and of what measures and tests itself.
struct NoText;

/// A [`Text`] that refuses everything.
pub fn no_text() -> Arc<dyn Text> {
    Arc::new(NoText)
}

impl Text for NoText {
    fn encode(&self, _: &str) -> Result<Vec<u32>, TextError> {
        Err(TextError::Encode("this model has no tokenizer: its file takes ids of tokens alone".into()))
    }

    fn encode_chat(&self, _: &[Message], _: &ChatOptions) -> Result<Vec<u32>, TextError> {
        Err(TextError::NoTemplate)
    }

    fn decoder(&self, _: bool) -> Box<dyn TextDecoder> {
        Box::new(NoText)
    }
}

impl TextDecoder for NoText {
    fn push(&mut self, _: u32) -> String {
        String::new()
    }

    fn finish(&mut self) -> String {
        String::new()
    }
}
