//! Packed weights as the right operand: 8 bits a number, each row with one scale for all columns.
//!
//! A row's step is its largest possible magnitude over 127, so a number in 4 bits of a group whose scale is the largest has
//! 16 to 18 of the new steps in one of its own: rounding it again adds 1/300 to the mean square of what 4 bits have
//! rounded away. A group with a quarter of that scale gets 1/20.

use half::f16;
use muse_format::{CODEBOOK, Layout, TILE_ROWS};

use crate::Tensor;

/// Rows whose columns lie beside each other, 32 a row.
pub(super) const STRIP: usize = 32;
/// Columns that lie beside each other.
pub(super) const PIECE: usize = 32;

/// Numbers that the packed layouts have beside each other: four columns of a tile.
const COLUMNS: usize = 4 * TILE_ROWS;

/// Parts of a new step in which factors are kept, so that a product is a shift of 16 bits.
const PARTS: f32 = 256.0;

/// The columns of one matrix that are multiplied together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Columns {
    /// A multiple of every group.
    pub(super) first: usize,
    pub(super) len: usize,
}

impl Columns {
    /// What a product has of them: zero from `len` on.
    pub(super) fn padded(self) -> usize {
        self.len.next_multiple_of(PIECE)
    }
}

/// Writes strip number `strip` of `weight` to `out`, `(columns / 32, 32, 32)`, and its rows' steps to `steps`. Rows past
/// the last have the step 0, and what is in `out` of them stays.
pub(super) fn write_strip(
    out: &mut [i8],
    steps: &mut [f32],
    weight: &Tensor,
    strip: usize,
    columns: Columns,
) {
    let layout = weight.layout();
    assert!(layout.is_quantized() && columns.first.is_multiple_of(layout.group()));
    assert!(out.len() == columns.padded() * STRIP && steps.len() == STRIP);
    let (group, block) = (layout.group(), layout.block_bytes());
    let groups = weight.cols().div_ceil(group);
    for (half, steps) in steps.chunks_exact_mut(TILE_ROWS).enumerate() {
        let tile = 2 * strip + half;
        let Some(tile) = weight.bytes().get(tile * groups * block..(tile + 1) * groups * block) else {
            steps.fill(0.0);
            continue;
        };
        let first = columns.first / group;
        let blocks = || tile[first * block..].chunks_exact(block).take(columns.padded().div_ceil(group));
        let largest = blocks().fold([0.0; TILE_ROWS], |largest, block| {
            let own = Scales::of(layout, block).largest(layout);
            std::array::from_fn(|row| larger(own[row], largest[row]))
        });
        let inverse = largest.map(|x: f32| if x > 0.0 { 127.0 * PARTS / x } else { 0.0 });
        steps.copy_from_slice(&largest.map(|x| x / 127.0));
        let (halves, _) = out.as_chunks_mut::<{ TILE_ROWS * PIECE }>();
        let mut pieces = halves.iter_mut().skip(half).step_by(STRIP / TILE_ROWS);
        for block in blocks() {
            let scales = Scales::of(layout, block);
            let factors = &scales.factors(inverse);
            let quants = &block[layout.block_head_bytes()..];
            for piece in quants.chunks_exact(quants.len() * PIECE / group) {
                // Columns past the last piece are of a group that ends behind the row.
                let Some(out) = pieces.next() else { break };
                match layout {
                    Layout::Q8 { .. } => eight_bits(out, piece, factors),
                    Layout::Q4 { .. } => four_bits(out, piece, factors, |q| q.map(|q| q as i8 - 8)),
                    Layout::Q4Codebook { .. } => four_bits(out, piece, factors, looked_up),
                    _ => four_bits(out, piece, factors, |q| q.map(|q| q as i8)),
                }
            }
        }
    }
}

/// The larger of two magnitudes, or NaN where the first is; a second that is stays.
fn larger(a: f32, b: f32) -> f32 {
    if a > b || a.is_nan() { a } else { b }
}

/// Of the rows of one block.
struct Scales {
    scales: [f32; TILE_ROWS],
    offsets: [f32; TILE_ROWS],
}

/// What a stored number is multiplied by, and what is added to that, in parts of a new step: four columns of each row.
struct Factors {
    multiply: [i16; COLUMNS],
    add: [i16; COLUMNS],
}

impl Scales {
    fn of(layout: Layout, block: &[u8]) -> Self {
        let rows = |head: &[u8]| -> [f32; TILE_ROWS] {
            let (halves, _) = head.as_chunks::<2>();
            std::array::from_fn(|row| f16::from_le_bytes(halves[row]).to_f32())
        };
        let offsets = match layout {
            Layout::Q4Asym { .. } => rows(&block[2 * TILE_ROWS..]),
            _ => [0.0; TILE_ROWS],
        };
        Self { scales: rows(block), offsets }
    }

    /// What no magnitude of a row exceeds.
    fn largest(&self, layout: Layout) -> [f32; TILE_ROWS] {
        let Self { scales, offsets } = self;
        std::array::from_fn(|row| match layout {
            Layout::Q8 { .. } => 128.0 * scales[row].abs(),
            Layout::Q4 { .. } => 8.0 * scales[row].abs(),
            Layout::Q4Codebook { .. } => 127.0 * scales[row].abs(),
            _ => larger((offsets[row] + 15.0 * scales[row]).abs(), offsets[row].abs()),
        })
    }

    /// `inverse` is of each row the parts of a new step in 1.
    fn factors(&self, inverse: [f32; TILE_ROWS]) -> Factors {
        let parts = |x: &[f32; TILE_ROWS]| {
            let rows: [i16; TILE_ROWS] = std::array::from_fn(|row| (x[row] * inverse[row]).round() as i16);
            std::array::from_fn(|i| rows[i / 4])
        };
        Factors { multiply: parts(&self.scales), add: parts(&self.offsets) }
    }
}

impl Factors {
    /// Numbers of four columns of each row, `(16, 4)`, in new steps. They fit by the choice of the step, which also bounds the
    /// parts; what passes 16 bits on the way comes back in the sum.
    #[inline(always)]
    fn of(&self, quants: [i16; COLUMNS]) -> [i8; COLUMNS] {
        let mut out = [0; COLUMNS];
        for (i, q) in quants.into_iter().enumerate() {
            let parts = q.wrapping_mul(self.multiply[i]).wrapping_add(self.add[i]);
            out[i] = (parts.wrapping_add(PARTS as i16 / 2) >> 8) as i8;
        }
        out
    }
}

/// Stores four columns from `at` of 16 rows of 32.
#[inline(always)]
fn store(out: &mut [i8; TILE_ROWS * PIECE], at: usize, columns: [i8; COLUMNS]) {
    for (row, columns) in out.as_chunks_mut::<PIECE>().0.iter_mut().zip(columns.as_chunks::<4>().0) {
        row[at..at + 4].copy_from_slice(columns);
    }
}

/// 32 columns of 16 rows, `(8, 16, 4)`, to `(16, 32)`.
fn eight_bits(out: &mut [i8; TILE_ROWS * PIECE], piece: &[u8], factors: &Factors) {
    for (at, stored) in piece.as_chunks::<COLUMNS>().0.iter().enumerate() {
        let mut quants = [0; COLUMNS];
        quants.iter_mut().zip(stored).for_each(|(q, stored)| *q = i16::from(*stored as i8));
        store(out, 4 * at, factors.of(quants));
    }
}

/// 32 columns of 16 rows, `(4, 16, 4)` pairs of which the second stands 4 columns behind the first, to `(16, 32)`.
#[inline(always)]
fn four_bits(
    out: &mut [i8; TILE_ROWS * PIECE],
    piece: &[u8],
    factors: &Factors,
    levels: impl Fn([u8; 16]) -> [i8; 16],
) {
    for (at, pairs) in piece.as_chunks::<COLUMNS>().0.iter().enumerate() {
        let (mut first, mut second) = ([0; COLUMNS], [0; COLUMNS]);
        let outs = first.as_chunks_mut::<16>().0.iter_mut().zip(second.as_chunks_mut::<16>().0);
        for (pairs, (first, second)) in pairs.as_chunks::<16>().0.iter().zip(outs) {
            *first = levels(pairs.map(|pair| pair & 15)).map(i16::from);
            *second = levels(pairs.map(|pair| pair >> 4)).map(i16::from);
        }
        store(out, 8 * at, factors.of(first));
        store(out, 8 * at + 4, factors.of(second));
    }
}

/// Levels of the codebook; indices are below 16.
#[cfg(not(target_arch = "aarch64"))]
fn looked_up(indices: [u8; 16]) -> [i8; 16] {
    indices.map(|index| CODEBOOK[usize::from(index)])
}

/// The same by one instruction, which a compiler does not find.
#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn looked_up(indices: [u8; 16]) -> [i8; 16] {
    use std::arch::aarch64::{vld1q_s8, vld1q_u8, vqtbl1q_s8, vst1q_s8};
    let mut levels = [0; 16];
    // SAFETY: every aarch64 Linux has these instructions; each pointer is to 16 bytes.
    unsafe {
        let found = vqtbl1q_s8(vld1q_s8(CODEBOOK.as_ptr()), vld1q_u8(indices.as_ptr()));
        vst1q_s8(levels.as_mut_ptr(), found);
    }
    levels
}
