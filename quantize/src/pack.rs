//! Rows and groups -> the bytes of a [`Layout`], one tile of 16 rows at a time.
//!
//! What pads a tile is fixed, so that equal weights give equal bytes: a missing row has scale and offset 0, a missing
//! column the integer 0.

use half::{bf16, f16};
use muse_format::{BlockMut, Layout, TILE_ROWS};

use crate::checkpoint::Group;
use crate::quant::{self, GROUP_MAX, Scale};

/// What quantizing lost: sums over the weights.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Loss {
    /// Of `(w - stored)^2`.
    pub error: f64,
    /// Of `w^2`.
    pub norm: f64,
}

impl Loss {
    pub fn add(&mut self, other: Loss) {
        self.error += other.error;
        self.norm += other.norm;
    }

    /// Root of the error over root of the norm; 0 for a tensor of zeros.
    pub fn relative(&self) -> f64 {
        if self.norm == 0.0 { 0.0 } else { (self.error / self.norm).sqrt() }
    }

    fn of(w: f32, stored: f32) -> Self {
        let error = f64::from(w) - f64::from(stored);
        Self { error: error * error, norm: f64::from(w) * f64::from(w) }
    }
}

/// The weight at `index` of a row of a tile does not fit the layout's f16 scale.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TooLarge {
    pub row: usize,
    pub value: f32,
}

/// Appends the bytes of up to 16 `rows` of `cols` weights in a float layout.
pub fn floats(layout: Layout, weights: &[f32], out: &mut Vec<u8>) -> Loss {
    let mut loss = Loss::default();
    for w in weights {
        let stored = match layout {
            Layout::F32 => {
                out.extend_from_slice(&w.to_le_bytes());
                *w
            }
            Layout::F16 => {
                let stored = f16::from_f32(*w);
                out.extend_from_slice(&stored.to_le_bytes());
                stored.to_f32()
            }
            Layout::Bf16 => {
                let stored = bf16::from_f32(*w);
                out.extend_from_slice(&stored.to_le_bytes());
                stored.to_f32()
            }
            Layout::Q8 { .. } | Layout::Q4 { .. } | Layout::Q4Asym { .. } => panic!("{layout} has groups"),
        };
        loss.add(Loss::of(*w, stored));
    }
    loss
}

/// The bytes of one tile of padding.
fn empty_tile(layout: Layout, cols: usize) -> Vec<u8> {
    let blocks = cols.div_ceil(layout.group());
    let (head, block) = (layout.block_head_bytes(), layout.block_bytes());
    let mut tile = vec![0; blocks * block];
    if matches!(layout, Layout::Q4 { .. }) {
        // The integer 0 is stored as 8.
        tile.chunks_exact_mut(block).for_each(|b| b[head..].fill(0x88));
    }
    tile
}

/// Quantizes up to 16 rows of `cols` finite weights into one tile.
pub fn quantize_tile(layout: Layout, weights: &[f32], cols: usize) -> Result<(Vec<u8>, Loss), TooLarge> {
    assert!(weights.len() <= TILE_ROWS * cols && weights.len().is_multiple_of(cols));
    let mut tile = empty_tile(layout, cols);
    let mut loss = Loss::default();
    let mut quants = [0i8; GROUP_MAX];
    for (row, weights) in weights.chunks_exact(cols).enumerate() {
        let blocks = tile.chunks_exact_mut(layout.block_bytes());
        for (block, weights) in blocks.zip(weights.chunks(layout.group())) {
            let quants = &mut quants[..weights.len()];
            let Some(scale) = quant::group(layout, weights, quants) else {
                let value = weights.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
                return Err(TooLarge { row, value: value.unwrap_or_default() });
            };
            put(&mut BlockMut::new(layout, block), layout, row, scale, quants);
            let (s, o) = (f16::from_bits(scale.scale).to_f32(), f16::from_bits(scale.offset).to_f32());
            for (w, q) in weights.iter().zip(quants) {
                loss.add(Loss::of(*w, f32::from(*q) * s + o));
            }
        }
    }
    Ok((tile, loss))
}

/// Stores the groups of up to 16 rows as they are; `layout` has their kind and a group of 32.
pub fn keep_tile(layout: Layout, rows: &[Vec<Group>], cols: usize) -> Vec<u8> {
    assert!(rows.len() <= TILE_ROWS && layout.group() == 32);
    let mut tile = empty_tile(layout, cols);
    for (row, groups) in rows.iter().enumerate() {
        let blocks = tile.chunks_exact_mut(layout.block_bytes());
        assert!(groups.len() == blocks.len(), "a row has cols / 32 groups");
        for (block, group) in blocks.zip(groups) {
            let scale = Scale { scale: group.scale, offset: group.offset };
            put(&mut BlockMut::new(layout, block), layout, row, scale, &group.quants);
        }
    }
    tile
}

fn put(block: &mut BlockMut<'_>, layout: Layout, row: usize, scale: Scale, quants: &[i8]) {
    block.set_scale(row, scale.scale);
    if matches!(layout, Layout::Q4Asym { .. }) {
        block.set_offset(row, scale.offset);
    }
    for (col, q) in quants.iter().enumerate() {
        block.set_quant(row, col, i32::from(*q));
    }
}
