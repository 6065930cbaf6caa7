//! Rows and groups -> the bytes of a [`Layout`], one tile of 16 rows at a time.
//!
//! What pads a tile is fixed, so that equal weights give equal bytes: a missing row has scale and offset 0, a missing
//! column the integer 0, or a codebook's 1, which is the nearest that it has.

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
            _ => panic!("{layout} has groups"),
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
    if matches!(layout, Layout::Q4 { .. } | Layout::Q4Codebook { .. }) {
        // The integer 0 is stored as 8; level 8 of the codebook is 1.
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
                return Err(TooLarge { row, value: largest(weights) });
            };
            put(&mut BlockMut::new(layout, block), layout, row, scale, quants);
            loss.add(scale.loss(weights, quants));
        }
    }
    Ok((tile, loss))
}

/// The weight of the largest magnitude.
fn largest(weights: &[f32]) -> f32 {
    weights.iter().copied().max_by(|a, b| a.abs().total_cmp(&b.abs())).unwrap_or_default()
}

impl Scale {
    /// What storing `weights` as `quants` loses.
    fn loss(self, weights: &[f32], quants: &[i8]) -> Loss {
        let (s, o) = (f16::from_bits(self.scale).to_f32(), f16::from_bits(self.offset).to_f32());
        let mut loss = Loss::default();
        for (w, q) in weights.iter().zip(quants) {
            loss.add(Loss::of(*w, f32::from(*q) * s + o));
        }
        loss
    }
}

/// Stores the groups of up to 16 rows as they are; `layout` has their kind and a group of 32. `weights` are the same
/// rows in f32, which tell what is lost: nothing, unless the source's scales are finer than f16.
pub fn keep_tile(
    layout: Layout,
    rows: &[Vec<Group>],
    weights: &[f32],
    cols: usize,
) -> Result<(Vec<u8>, Loss), TooLarge> {
    assert!(rows.len() <= TILE_ROWS && layout.group() == 32 && weights.len() == rows.len() * cols);
    let mut tile = empty_tile(layout, cols);
    let mut loss = Loss::default();
    for (row, (groups, weights)) in rows.iter().zip(weights.chunks_exact(cols)).enumerate() {
        let blocks = tile.chunks_exact_mut(layout.block_bytes());
        assert!(groups.len() == blocks.len(), "a row has cols / 32 groups");
        for ((block, group), weights) in blocks.zip(groups).zip(weights.chunks(32)) {
            let scale = Scale { scale: group.scale, offset: group.offset };
            let lost = scale.loss(weights, &group.quants);
            if !lost.error.is_finite() {
                return Err(TooLarge { row, value: largest(weights) });
            }
            loss.add(lost);
            put(&mut BlockMut::new(layout, block), layout, row, scale, &group.quants);
        }
    }
    Ok((tile, loss))
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

#[cfg(test)]
mod tests {
    use muse_format::Block;

    use super::*;

    const LAYOUTS: [Layout; 8] = [
        Layout::Q8 { group: 32 },
        Layout::Q8 { group: 128 },
        Layout::Q4 { group: 32 },
        Layout::Q4 { group: 64 },
        Layout::Q4Asym { group: 32 },
        Layout::Q4Asym { group: 128 },
        Layout::Q4Codebook { group: 32 },
        Layout::Q4Codebook { group: 64 },
    ];

    fn weight(row: usize, col: usize) -> f32 {
        ((row * 131 + col * 71) % 257) as f32 / 128.0 - 1.0
    }

    #[test]
    fn a_block_reads_back_what_was_quantized_and_zero_where_there_is_nothing() {
        for layout in LAYOUTS {
            let missing = if matches!(layout, Layout::Q4Codebook { .. }) { 1 } else { 0 };
            for (rows, cols) in [(16, 128), (16, 172), (3, 33), (1, 1)] {
                let weights: Vec<f32> = (0..rows * cols).map(|i| weight(i / cols, i % cols)).collect();
                let (tile, loss) = quantize_tile(layout, &weights, cols).expect("weights fit");
                assert_eq!(Some(tile.len() as u64), layout.byte_len(rows as u64, cols as u64));
                let mut total = Loss::default();
                for (b, bytes) in tile.chunks_exact(layout.block_bytes()).enumerate() {
                    let block = Block::new(layout, bytes);
                    for row in 0..TILE_ROWS {
                        let start = b * layout.group();
                        let held = cols.min(start + layout.group()) - start;
                        let mut expected = vec![missing; held];
                        let mut scale = Scale { scale: 0, offset: 0 };
                        if row < rows {
                            let weights = &weights[row * cols + start..][..held];
                            scale = quant::group(layout, weights, &mut expected).expect("weights fit");
                        }
                        assert_eq!((block.scale(row), block.offset(row)), (scale.scale, scale.offset));
                        for col in 0..layout.group() {
                            let q = expected.get(col).copied().unwrap_or(missing);
                            assert_eq!(
                                block.quant(row, col),
                                i32::from(q),
                                "{layout} {rows}x{cols} ({row},{col})"
                            );
                        }
                        let value = |q: &i8| {
                            f32::from(*q) * f16::from_bits(scale.scale).to_f32()
                                + f16::from_bits(scale.offset).to_f32()
                        };
                        for (col, q) in expected.iter().enumerate().filter(|_| row < rows) {
                            total.add(Loss::of(weights[row * cols + start + col], value(q)));
                        }
                    }
                }
                // The same sums in another order: n terms, each to 2^-53 parts.
                assert!((loss.error - total.error).abs() <= 1e-12 * total.error, "{layout} {rows}x{cols}");
                assert!((loss.norm - total.norm).abs() <= 1e-12 * total.norm, "{layout} {rows}x{cols}");
            }
        }
    }

    #[test]
    fn kept_groups_are_stored_bit_for_bit() {
        for layout in [
            Layout::Q8 { group: 32 },
            Layout::Q4 { group: 32 },
            Layout::Q4Asym { group: 32 },
            Layout::Q4Codebook { group: 32 },
        ] {
            // -128 too, which an 8-bit source may hold.
            let mut levels = layout.levels().to_vec();
            levels.extend(matches!(layout, Layout::Q8 { .. }).then_some(-128));
            let group = |row: usize, g: usize| Group {
                // Any bits at all, subnormals and negative ones too.
                scale: (row * 4099 + g * 257) as u16,
                offset: if matches!(layout, Layout::Q4Asym { .. }) { (row * 523 + g) as u16 } else { 0 },
                quants: std::array::from_fn(|i| levels[(row * 7 + g * 3 + i * 11) % levels.len()]),
            };
            let rows: Vec<Vec<Group>> = (0..5).map(|r| (0..3).map(|g| group(r, g)).collect()).collect();
            let float = |bits| f16::from_bits(bits).to_f32();
            let values = |g: &Group| g.quants.map(|q| f32::from(q) * float(g.scale) + float(g.offset));
            let weights: Vec<f32> = rows.iter().flatten().flat_map(values).collect();
            let (tile, loss) = keep_tile(layout, &rows, &weights, 96).expect("the scales are finite");
            assert_eq!(loss.error, 0.0);
            assert!(loss.norm > 0.0);
            for (g, bytes) in tile.chunks_exact(layout.block_bytes()).enumerate() {
                let block = Block::new(layout, bytes);
                for (row, groups) in rows.iter().enumerate() {
                    let group = &groups[g];
                    assert_eq!(
                        (block.scale(row), block.offset(row)),
                        (group.scale, group.offset),
                        "{layout}"
                    );
                    for (col, q) in group.quants.iter().enumerate() {
                        assert_eq!(block.quant(row, col), i32::from(*q), "{layout} ({row}, {col})");
                    }
                }
            }
        }
    }

    #[test]
    fn a_kept_scale_beyond_f16_is_refused() {
        let group = Group { scale: f16::INFINITY.to_bits(), offset: 0, quants: [1; 32] };
        let kept = keep_tile(Layout::Q4Asym { group: 32 }, &[vec![group]], &[7e4; 32], 32);
        assert_eq!(kept.err(), Some(TooLarge { row: 0, value: 7e4 }));
    }

    #[test]
    fn a_weight_beyond_the_scale_is_named() {
        let mut weights = vec![0.5; 3 * 40];
        weights[2 * 40 + 35] = -1e9;
        let error = quantize_tile(Layout::Q4 { group: 32 }, &weights, 40).expect_err("1e9 / 8 exceeds f16");
        assert_eq!(error, TooLarge { row: 2, value: -1e9 });
    }
}
