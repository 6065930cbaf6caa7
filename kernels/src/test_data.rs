//! Deterministic inputs for tests, so that a failure names its case and nothing else is needed to repeat it.

use half::f16;
use muse_format::{BlockMut, Layout, TILE_ROWS};

/// Knuth's MMIX linear congruential generator.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    /// An integer in `low..=high`.
    pub(crate) fn int(&mut self, low: i32, high: i32) -> i32 {
        low + (self.next() % (high - low + 1) as u64) as i32
    }

    /// Numbers of mean 0 and variance 1: the sum of 12 uniform ones.
    pub(crate) fn normal(&mut self, len: usize) -> Vec<f32> {
        let mut uniform = || self.next() as f32 / (1_u64 << 31) as f32 - 0.5;
        (0..len).map(|_| (0..12).map(|_| uniform()).sum()).collect()
    }
}

/// The bytes of a random `rows x cols` tensor, padding rows and columns included, in a quantized layout.
pub(crate) fn quantized_bytes(layout: Layout, rows: usize, cols: usize, random: &mut Random) -> Vec<u8> {
    let len = layout.byte_len(rows as u64, cols as u64).expect("a test's shape is small");
    let mut bytes = vec![0; len as usize];
    let levels = layout.levels();
    // The same sizes of values, however far the integers reach.
    let unit = if matches!(layout, Layout::Q4Codebook { .. }) { 16_000.0 } else { 1000.0 };
    for block in bytes.chunks_exact_mut(layout.block_bytes()) {
        let mut block = BlockMut::new(layout, block);
        for r in 0..TILE_ROWS {
            block.set_scale(r, f16::from_f32(random.int(1, 100) as f32 / unit).to_bits());
            if matches!(layout, Layout::Q4Asym { .. }) {
                block.set_offset(r, f16::from_f32(random.int(-100, 100) as f32 / 300.0).to_bits());
            }
            let mut level = || i32::from(levels[random.int(0, levels.len() as i32 - 1) as usize]);
            (0..layout.group()).for_each(|c| block.set_quant(r, c, level()));
        }
    }
    bytes
}
