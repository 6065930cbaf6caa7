//! Random weights in a real file, for measuring a shape without its checkpoint.

use std::fs::File;
use std::path::Path;

use half::{bf16, f16};
use muse_format::{
    BlockMut, Expected, Generation, Layer, Layout, Meta, Provenance, Role, Spec, TILE_ROWS, Text, WriteError,
    Writer,
};
use muse_kernels::{BackendError, Tensor};

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

/// Bytes of [`BLOCKS`] units of `layout`, values within `-spread..spread`.
fn pattern(rng: &mut Rng, layout: Layout, spread: f32) -> Vec<u8> {
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

/// A random matrix whose products keep the size of their input.
///
/// # Errors
/// [`BackendError`] where the shape is not one a tensor can have.
pub fn matrix(layout: Layout, rows: usize, cols: usize) -> Result<Tensor, BackendError> {
    let too_large = BackendError::OutOfMemory { wanted: u64::MAX };
    let len = layout.byte_len(rows as u64, cols as u64).and_then(|len| usize::try_from(len).ok());
    let len = len.ok_or(too_large)?;
    let pattern = pattern(&mut Rng(1), layout, 1.7 / (cols as f32).sqrt());
    let bytes: Vec<u8> = pattern.iter().copied().cycle().take(len).collect();
    Tensor::new(layout, rows, cols, std::sync::Arc::new(bytes), 0..len)
}

/// The layout of a tensor of a model whose matrices are stored as `matrices`.
pub fn layout_of(tensor: &Expected, matrices: Layout) -> Layout {
    match tensor.role {
        Role::Vector => Layout::F32,
        Role::Router if matrices.is_quantized() => Layout::Bf16,
        Role::Router | Role::Matrix | Role::Table => matrices,
    }
}

/// Writes a model of `spec` with random weights, its matrices stored as `layout`, to `path`. It has no tokenizer.
///
/// # Errors
/// [`WriteError`], most likely a full disk.
pub fn write(path: &Path, spec: &Spec, layout: Layout) -> Result<(), WriteError> {
    let mut rng = Rng(1);
    let mut writer = Writer::new(File::create(path)?)?;
    let narrowest =
        spec.layers.iter().filter_map(Layer::attention).map(|a| a.head_dim / 2).min().unwrap_or(1);
    for tensor in spec.tensors() {
        let cols = if tensor.cols == 0 { u64::from(narrowest) } else { tensor.cols };
        if tensor.role == Role::Vector {
            writer.begin(&tensor.name, Layout::F32, tensor.rows, cols)?;
            let rotation = tensor.name.starts_with("rope");
            for i in 0..tensor.rows * cols {
                let value = if rotation { 1e-5_f32.powf(i as f32 / cols as f32) } else { 1.0 };
                writer.write(&value.to_le_bytes())?;
            }
        } else {
            let layout = layout_of(&tensor, layout);
            writer.begin(&tensor.name, layout, tensor.rows, cols)?;
            let spread = 1.7 / (cols as f32).sqrt();
            let mut pattern = pattern(&mut rng, layout, spread);
            let mut left = layout.byte_len(tensor.rows, cols).unwrap_or(u64::MAX);
            while left > 0 {
                let len = left.min(pattern.len() as u64);
                writer.write(&pattern[..len as usize])?;
                left -= len;
                if tensor.role == Role::Router {
                    // Rows that repeat each other would choose the same experts.
                    pattern = self::pattern(&mut rng, layout, spread);
                }
            }
        }
        writer.end()?;
    }
    let provenance = Provenance {
        tool: concat!("muse-bench ", env!("CARGO_PKG_VERSION")).into(),
        source: "random".into(),
        target: muse_runtime::TARGET.into(),
        ..Provenance::default()
    };
    writer.finish(&Meta {
        spec: spec.clone(),
        text: Text::default(),
        generation: Generation::default(),
        provenance,
        tokenizer: Vec::new(),
        chat_template: String::new(),
    })?;
    Ok(())
}
