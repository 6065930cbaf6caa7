//! A tile of packed weights as NEON vectors, and the sums of its rows: what the NEON variants share.
//!
//! A *quarter* is four of the 16 rows: one vector holds 4 rows x 4 columns of 8-bit values, which is what `sdot`
//! multiplies by four columns of activations.

use std::arch::aarch64::{
    float32x4_t, int8x16_t, int32x4_t, vandq_u8, vcvtq_f32_s32, vdupq_n_f32, vdupq_n_s8, vdupq_n_s32,
    vdupq_n_u8, veorq_u8, vfmaq_f32, vfmaq_laneq_f32, vfmaq_n_f32, vld1_u16, vld1q_f32, vld1q_s8, vld1q_u8,
    vld1q_u16, vmulq_laneq_f32, vmulq_n_f32, vqtbl1q_s8, vreinterpretq_s8_u8, vreinterpretq_u8_s8,
    vshlq_n_u8, vshrq_n_u8, vst1q_f32,
};
use std::marker::PhantomData;
use std::slice;

use muse_format::{CODEBOOK, TILE_ROWS};

use crate::cpu::neon::{widen, widen_four};
use crate::cpu::quantize::{Activations, GROUP};

/// How a quantized layout stores its integers.
pub(super) trait Weights {
    /// Whether f16 offsets follow the scales.
    const OFFSETS: bool;
    /// Whether the stored integers are 8 above those that multiply the scale.
    const BIASED: bool;
    /// Whether eight products with activations fit an i16: 8 * 15 * 127 < 2^15, but 8 * 127 * 127 do not.
    const NARROW: bool;
    /// Bytes before the integers of a block: 16 scales, and 16 offsets where the layout has them.
    const HEAD: usize = if Self::OFFSETS { 4 * TILE_ROWS } else { 2 * TILE_ROWS };
    /// Bytes of 16 rows x 8 columns.
    const STEP: usize;

    /// One quarter of 8 columns: columns 0 to 3, then 4 to 7.
    ///
    /// # Safety
    /// `step` is readable for [`STEP`](Self::STEP) bytes and `quarter < 4`.
    unsafe fn load(step: *const u8, quarter: usize) -> [int8x16_t; 2];

    /// What [`load_signed`](Self::load_signed) multiplies the integers by.
    const UNIT: f32 = 1.0;

    /// [`load`](Self::load) of [`UNIT`](Self::UNIT) times the integers that multiply the scale: nothing is to be taken off
    /// the products.
    ///
    /// # Safety
    /// As for `load`.
    #[inline(always)]
    unsafe fn load_signed(step: *const u8, quarter: usize) -> [int8x16_t; 2] {
        const { assert!(!Self::BIASED) };
        // SAFETY: the caller's promise is the one asked for.
        unsafe { Self::load(step, quarter) }
    }
}

pub(super) struct Q8;
pub(super) struct Q4;
pub(super) struct Q4Asym;
pub(super) struct Q4Codebook;

impl Weights for Q8 {
    const OFFSETS: bool = false;
    const BIASED: bool = false;
    const NARROW: bool = false;
    const STEP: usize = 128;

    #[inline(always)]
    unsafe fn load(step: *const u8, quarter: usize) -> [int8x16_t; 2] {
        // SAFETY: 16 * quarter + 64 + 16 <= 128, which the caller promises to be readable.
        unsafe {
            let first = step.add(16 * quarter).cast::<i8>();
            [vld1q_s8(first), vld1q_s8(first.add(64))]
        }
    }
}

/// Low and high nibbles of one quarter, 0 to 15.
///
/// # Safety
/// `step` is readable for 64 bytes and `quarter < 4`.
#[inline(always)]
unsafe fn nibbles(step: *const u8, quarter: usize) -> [int8x16_t; 2] {
    // SAFETY: 16 * quarter + 16 <= 64, which the caller promises to be readable.
    unsafe {
        let bytes = vld1q_u8(step.add(16 * quarter));
        let low = vandq_u8(bytes, vdupq_n_u8(15));
        [vreinterpretq_s8_u8(low), vreinterpretq_s8_u8(vshrq_n_u8::<4>(bytes))]
    }
}

impl Weights for Q4 {
    const OFFSETS: bool = false;
    const BIASED: bool = true;
    const NARROW: bool = true;
    const STEP: usize = 64;
    const UNIT: f32 = 16.0;

    #[inline(always)]
    unsafe fn load(step: *const u8, quarter: usize) -> [int8x16_t; 2] {
        // SAFETY: the caller's promise is the one asked for.
        unsafe { nibbles(step, quarter) }
    }

    /// The first bit of a nibble that is 8 above its integer turns into a sign; the nibble stands in the upper half.
    #[inline(always)]
    unsafe fn load_signed(step: *const u8, quarter: usize) -> [int8x16_t; 2] {
        // SAFETY: 16 * quarter + 16 <= 64, which the caller promises to be readable.
        unsafe {
            let bytes = veorq_u8(vld1q_u8(step.add(16 * quarter)), vdupq_n_u8(0x88));
            let high = vandq_u8(bytes, vdupq_n_u8(0xf0));
            [vreinterpretq_s8_u8(vshlq_n_u8::<4>(bytes)), vreinterpretq_s8_u8(high)]
        }
    }
}

impl Weights for Q4Asym {
    const OFFSETS: bool = true;
    const BIASED: bool = false;
    const NARROW: bool = true;
    const STEP: usize = 64;

    #[inline(always)]
    unsafe fn load(step: *const u8, quarter: usize) -> [int8x16_t; 2] {
        // SAFETY: the caller's promise is the one asked for.
        unsafe { nibbles(step, quarter) }
    }
}

impl Weights for Q4Codebook {
    const OFFSETS: bool = false;
    const BIASED: bool = false;
    const NARROW: bool = false;
    const STEP: usize = 64;

    #[inline(always)]
    unsafe fn load(step: *const u8, quarter: usize) -> [int8x16_t; 2] {
        // SAFETY: the caller's promise is the one asked for, and 16 bytes are read from an array of 16.
        unsafe {
            let table = vld1q_s8(CODEBOOK.as_ptr());
            nibbles(step, quarter).map(|index| vqtbl1q_s8(table, vreinterpretq_u8_s8(index)))
        }
    }
}

/// Columns `32 * index..` of a tile.
#[derive(Clone, Copy)]
pub(super) struct Group<'a> {
    index: usize,
    /// Scales, then offsets where the layout has them.
    head: &'a [u8],
    /// `4 * STEP` bytes.
    quants: &'a [u8],
}

/// The groups of 32 columns of a tile. Slices would cost a group as many instructions as all of its scaling: their
/// lengths are checked once, in [`groups`].
pub(super) struct Groups<'a, W> {
    head: *const u8,
    at: *const u8,
    /// Groups a block.
    block: usize,
    left_in_block: usize,
    index: usize,
    count: usize,
    tile: PhantomData<(&'a [u8], W)>,
}

/// The groups of 32 columns of a tile that has `count` of them, in blocks of `group` columns.
///
/// # Panics
/// If the tile is too short.
#[inline(always)]
pub(super) fn groups<W: Weights>(tile: &[u8], group: usize, count: usize) -> Groups<'_, W> {
    let block = group / GROUP;
    assert!(block > 0 && tile.len() >= count.div_ceil(block) * (W::HEAD + block * 4 * W::STEP));
    Groups {
        head: tile.as_ptr(),
        at: tile.as_ptr(),
        block,
        left_in_block: 0,
        index: 0,
        count,
        tile: PhantomData,
    }
}

impl<'a, W: Weights> Iterator for Groups<'a, W> {
    type Item = Group<'a>;

    #[inline(always)]
    fn next(&mut self) -> Option<Group<'a>> {
        if self.index == self.count {
            return None;
        }
        // SAFETY: the tile has blocks of `HEAD` bytes and `block` times `4 * STEP` for `count` groups, as was asserted.
        let (head, quants) = unsafe {
            if self.left_in_block == 0 {
                (self.head, self.left_in_block) = (self.at, self.block);
                self.at = self.at.add(W::HEAD);
            }
            let quants = self.at;
            self.at = quants.add(4 * W::STEP);
            (slice::from_raw_parts(self.head, W::HEAD), slice::from_raw_parts(quants, 4 * W::STEP))
        };
        let index = self.index;
        self.left_in_block -= 1;
        self.index += 1;
        Some(Group { index, head, quants })
    }
}

/// What multiplies the integer products of each of the 16 rows, and what multiplies the sum of the activations.
pub(super) struct RowValues {
    pub(super) scales: [float32x4_t; 4],
    pub(super) offsets: Option<[float32x4_t; 4]>,
}

/// The same of four rows.
pub(super) struct QuarterValues {
    scales: float32x4_t,
    offsets: Option<float32x4_t>,
}

/// What multiplies the products with four rows of activations, and their offsets.
pub(super) struct FourTokens {
    scales: float32x4_t,
    totals: float32x4_t,
}

impl QuarterValues {
    /// `sum` and integer products with the columns of row `LANE` of four, scaled.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn add<const LANE: i32>(
        &self,
        sum: float32x4_t,
        dots: int32x4_t,
        x: &FourTokens,
    ) -> float32x4_t {
        let sum = vfmaq_f32(sum, vcvtq_f32_s32(dots), vmulq_laneq_f32::<LANE>(self.scales, x.scales));
        self.offsets.map_or(sum, |offsets| vfmaq_laneq_f32::<LANE>(sum, offsets, x.totals))
    }
}

impl Group<'_> {
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn row_values<W: Weights>(&self) -> RowValues {
        let offsets = if W::OFFSETS { Some(widen_rows(&self.head[2 * TILE_ROWS..])) } else { None };
        RowValues { scales: widen_rows(self.head), offsets }
    }

    /// What multiplies the products of one quarter's [`signed_weights`](Self::signed_weights).
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn quarter_values<W: Weights>(&self, quarter: usize) -> QuarterValues {
        let of = |head: &[u8]| {
            let halves: &[u8; 8] = head[8 * quarter..].first_chunk().expect("a block starts with 16 f16");
            // SAFETY: 8 bytes are read from an array of 8.
            widen_four(unsafe { vld1_u16(halves.as_ptr().cast()) })
        };
        let offsets = if W::OFFSETS { Some(of(&self.head[2 * TILE_ROWS..])) } else { None };
        QuarterValues { scales: vmulq_n_f32(of(self.head), 1.0 / W::UNIT), offsets }
    }

    /// One quarter of columns `8 * step..`: four columns, then four more.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn weights<W: Weights>(&self, step: usize, quarter: usize) -> [int8x16_t; 2] {
        assert!(quarter < 4);
        // SAFETY: the slice is one step long and the quarter was checked.
        unsafe { W::load(self.quants[step * W::STEP..][..W::STEP].as_ptr(), quarter) }
    }

    /// One quarter of the group's columns by [`Weights::load_signed`].
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn signed_weights<W: Weights>(&self, quarter: usize) -> [[int8x16_t; 2]; 4] {
        assert!(quarter < 4);
        // SAFETY: a group has 4 steps, and the quarter was checked.
        [0, 1, 2, 3].map(|step| unsafe { W::load_signed(self.quants.as_ptr().add(step * W::STEP), quarter) })
    }

    /// What scales the products with rows `t` to `t + 3` of the activations.
    ///
    /// # Safety
    /// `x` has these rows, each with this group.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn four_tokens<W: Weights>(&self, x: Activations<'_>, t: usize) -> FourTokens {
        let at = x.at(t, self.index);
        debug_assert!(self.index < x.groups && at + 4 <= x.scales.len());
        // SAFETY: the caller promises four rows, whose numbers of one group stand side by side.
        unsafe {
            let scales = vld1q_f32(x.scales.as_ptr().add(at));
            let totals = if W::OFFSETS { vld1q_f32(x.totals.as_ptr().add(at)) } else { scales };
            FourTokens { scales, totals }
        }
    }

    /// The group's columns of row `t` of the activations, 16 and 16.
    ///
    /// # Safety
    /// `x` has more than `t` rows, each with this group.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn quants(&self, x: Activations<'_>, t: usize) -> [int8x16_t; 2] {
        let at = x.at(t, self.index);
        debug_assert!(self.index < x.groups && at < x.scales.len());
        // SAFETY: the caller promises a row and a group that `x` has.
        unsafe {
            let quants = x.quants.as_ptr().add(at * GROUP);
            [vld1q_s8(quants), vld1q_s8(quants.add(16))]
        }
    }

    /// The group's columns of row `t` of the activations.
    ///
    /// # Safety
    /// `x` has more than `t` rows, each with this group.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) unsafe fn columns<W: Weights>(&self, x: Activations<'_>, t: usize) -> Columns {
        let at = x.at(t, self.index);
        // SAFETY: the caller promises a row and a group that `x` has, and three numbers of it.
        unsafe {
            let (scale, correction) = (*x.scales.get_unchecked(at), *x.corrections.get_unchecked(at));
            let total = *x.totals.get_unchecked(at);
            Columns {
                quants: self.quants(x, t),
                start: vdupq_n_s32(if W::BIASED { correction } else { 0 }),
                scale,
                total: if W::OFFSETS { total } else { 0.0 },
            }
        }
    }
}

/// 32 columns of one row of activations.
#[derive(Clone, Copy)]
pub(super) struct Columns {
    pub(super) quants: [int8x16_t; 2],
    /// What integer products with these columns start from, where that is not 0.
    pub(super) start: int32x4_t,
    pub(super) scale: f32,
    /// What multiplies the offsets: the sum of the columns, scaled.
    pub(super) total: f32,
}

impl Columns {
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn zero() -> Self {
        Self { quants: [vdupq_n_s8(0); 2], start: vdupq_n_s32(0), scale: 0.0, total: 0.0 }
    }

    /// What integer products with these columns start from.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn start<W: Weights>(&self) -> int32x4_t {
        if W::BIASED { self.start } else { vdupq_n_s32(0) }
    }
}

/// The 16 f16 at the start of `head` as f32.
#[inline]
#[target_feature(enable = "neon")]
fn widen_rows(head: &[u8]) -> [float32x4_t; 4] {
    let head: &[u8; 2 * TILE_ROWS] = head.first_chunk().expect("a block starts with 16 f16");
    // SAFETY: 32 bytes are read from an array of 32.
    let halves = unsafe { [vld1q_u16(head.as_ptr().cast()), vld1q_u16(head.as_ptr().add(16).cast())] };
    let [[a, b], [c, d]] = halves.map(|halves| widen(halves));
    [a, b, c, d]
}

/// The 16 sums of each of `N` rows of activations.
pub(super) struct Sums<const N: usize>([[float32x4_t; 4]; N]);

impl<const N: usize> Sums<N> {
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn zero() -> Self {
        Self([[vdupq_n_f32(0.0); 4]; N])
    }

    /// Adds the integer products of one quarter with columns of row `t` of the activations, scaled.
    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn add(&mut self, quarter: usize, t: usize, dots: int32x4_t, rows: &RowValues, x: &Columns) {
        let sum = &mut self.0[t][quarter];
        *sum = vfmaq_f32(*sum, vcvtq_f32_s32(dots), vmulq_n_f32(rows.scales[quarter], x.scale));
        if let Some(offsets) = rows.offsets {
            *sum = vfmaq_n_f32(*sum, offsets[quarter], x.total);
        }
    }

    #[inline]
    #[target_feature(enable = "neon")]
    pub(super) fn store(&self, out: &mut [[f32; TILE_ROWS]; N]) {
        for (out, sums) in out.iter_mut().zip(&self.0) {
            for (rows, sum) in out.as_chunks_mut::<4>().0.iter_mut().zip(sums) {
                // SAFETY: 4 elements are written to an array of 4.
                unsafe { vst1q_f32(rows.as_mut_ptr(), *sum) };
            }
        }
    }
}

/// Stores the sums of one quarter, a row of activations in turn.
#[inline]
#[target_feature(enable = "neon")]
pub(super) fn store_quarter<const N: usize>(
    out: &mut [[f32; TILE_ROWS]; N],
    quarter: usize,
    sums: [float32x4_t; N],
) {
    for (out, sum) in out.iter_mut().zip(sums) {
        let rows = &mut out.as_chunks_mut::<4>().0[quarter];
        // SAFETY: 4 elements are written to an array of 4.
        unsafe { vst1q_f32(rows.as_mut_ptr(), sum) };
    }
}
