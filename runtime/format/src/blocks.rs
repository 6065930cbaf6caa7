//! The bytes inside one quantized block, in plain indexed code.
//!
//! Packers, the reference backend and tests go through this module; a tuned kernel reads the same bytes with
//! vector loads. With `r` the row in the tile and `c` the column in the group:
//!
//! ```text
//! scales   16 x f16 (little-endian), one a row
//! offsets  16 x f16, Q4Asym only
//! Q8       byte  (c / 4) * 64 + r * 4 + c % 4            two's complement
//! Q4*      byte  (c / 8) * 64 + r * 4 + c % 4            low nibble when c % 8 < 4, else high
//! ```

use crate::{CODEBOOK, Layout, TILE_ROWS};

/// One block, `16 rows x group` weights.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    layout: Layout,
    bytes: &'a [u8],
}

/// One block being written.
#[derive(Debug)]
pub struct BlockMut<'a> {
    layout: Layout,
    bytes: &'a mut [u8],
}

/// Byte of the quants and bit shift of element `(row, col)`.
fn place(layout: Layout, row: usize, col: usize) -> (usize, u32) {
    assert!(row < TILE_ROWS && col < layout.group(), "({row}, {col}) is outside a block of {layout}");
    match layout {
        Layout::Q8 { .. } => (layout.block_head_bytes() + (col / 4) * 64 + row * 4 + col % 4, 0),
        _ => {
            let shift = if col % 8 < 4 { 0 } else { 4 };
            (layout.block_head_bytes() + (col / 8) * 64 + row * 4 + col % 4, shift)
        }
    }
}

#[allow(clippy::indexing_slicing)] // `new` checks the length; `place` checks the coordinates
impl<'a> Block<'a> {
    /// Views `bytes` as one block.
    ///
    /// # Panics
    /// If `layout` is not quantized or `bytes` is not exactly one block: both are bugs of the caller.
    pub fn new(layout: Layout, bytes: &'a [u8]) -> Self {
        assert!(layout.is_quantized() && bytes.len() == layout.block_bytes());
        Self { layout, bytes }
    }

    /// The scale of `row` as f16 bits.
    pub fn scale(&self, row: usize) -> u16 {
        u16::from_le_bytes([self.bytes[2 * row], self.bytes[2 * row + 1]])
    }

    /// The offset of `row` as f16 bits; 0 where the layout has none.
    pub fn offset(&self, row: usize) -> u16 {
        if self.layout.block_head_bytes() < 4 * TILE_ROWS {
            return 0;
        }
        let at = 2 * (TILE_ROWS + row);
        u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// The integer that multiplies the scale: Q4's 8 is taken off, a codebook's index looked up.
    pub fn quant(&self, row: usize, col: usize) -> i32 {
        let (byte, shift) = place(self.layout, row, col);
        let stored = self.bytes[byte];
        match self.layout {
            Layout::Q8 { .. } => i32::from(i8::from_le_bytes([stored])),
            Layout::Q4 { .. } => i32::from(stored >> shift & 15) - 8,
            Layout::Q4Codebook { .. } => i32::from(CODEBOOK[usize::from(stored >> shift & 15)]),
            _ => i32::from(stored >> shift & 15),
        }
    }
}

#[allow(clippy::indexing_slicing)]
impl<'a> BlockMut<'a> {
    /// See [`Block::new`].
    pub fn new(layout: Layout, bytes: &'a mut [u8]) -> Self {
        assert!(layout.is_quantized() && bytes.len() == layout.block_bytes());
        Self { layout, bytes }
    }

    /// Stores the f16 bits of the scale of `row`.
    pub fn set_scale(&mut self, row: usize, bits: u16) {
        self.bytes[2 * row..2 * row + 2].copy_from_slice(&bits.to_le_bytes());
    }

    /// Stores the f16 bits of the offset of `row`; the layout must be asymmetric.
    pub fn set_offset(&mut self, row: usize, bits: u16) {
        assert!(matches!(self.layout, Layout::Q4Asym { .. }));
        let at = 2 * (TILE_ROWS + row);
        self.bytes[at..at + 2].copy_from_slice(&bits.to_le_bytes());
    }

    /// Stores the integer that [`Block::quant`] returns.
    ///
    /// # Panics
    /// If `q` is not one of the layout's integers.
    pub fn set_quant(&mut self, row: usize, col: usize, q: i32) {
        let (byte, shift) = place(self.layout, row, col);
        match self.layout {
            Layout::Q8 { .. } => {
                self.bytes[byte] = i8::try_from(q).expect("q8 quant is in -128..=127").to_le_bytes()[0];
            }
            _ => {
                let stored = match self.layout {
                    Layout::Q4 { .. } => usize::try_from(q + 8).ok(),
                    Layout::Q4Codebook { .. } => CODEBOOK.iter().position(|level| i32::from(*level) == q),
                    _ => usize::try_from(q).ok(),
                };
                let stored = stored.and_then(|s| u8::try_from(s).ok()).filter(|s| *s < 16);
                let stored = stored.expect("a 4-bit quant is one of the layout's integers");
                self.bytes[byte] = self.bytes[byte] & !(15 << shift) | stored << shift;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_read_and_every_element_has_its_own_bits() {
        for layout in [
            Layout::Q8 { group: 32 },
            Layout::Q4 { group: 64 },
            Layout::Q4Asym { group: 128 },
            Layout::Q4Codebook { group: 32 },
        ] {
            let mut bytes = vec![0xff; layout.block_bytes()];
            let levels = layout.levels();
            let value = |r: usize, c: usize| i32::from(levels[(r * 37 + c * 11) % levels.len()]);
            let mut block = BlockMut::new(layout, &mut bytes);
            for r in 0..TILE_ROWS {
                block.set_scale(r, 0x3c00 + r as u16);
                if matches!(layout, Layout::Q4Asym { .. }) {
                    block.set_offset(r, 0xbc00 + r as u16);
                }
                for c in 0..layout.group() {
                    block.set_quant(r, c, value(r, c));
                }
            }
            let block = Block::new(layout, &bytes);
            for r in 0..TILE_ROWS {
                assert_eq!(block.scale(r), 0x3c00 + r as u16);
                for c in 0..layout.group() {
                    assert_eq!(block.quant(r, c), value(r, c), "{layout} ({r}, {c})");
                }
            }
        }
    }
    #[test]
    fn a_nibble_is_an_index_into_the_codebook() {
        let layout = Layout::Q4Codebook { group: 32 };
        let mut bytes = vec![0; layout.block_bytes()];
        bytes[layout.block_head_bytes()] = 0xf8;
        let block = Block::new(layout, &bytes);
        assert_eq!([block.quant(0, 0), block.quant(0, 4), block.quant(0, 1)], [1, 113, -127]);
    }

    #[test]
    #[should_panic(expected = "one of the layout's integers")]
    fn what_is_not_in_the_codebook_cannot_be_set() {
        let layout = Layout::Q4Codebook { group: 32 };
        BlockMut::new(layout, &mut vec![0; layout.block_bytes()]).set_quant(0, 0, 0);
    }
}
