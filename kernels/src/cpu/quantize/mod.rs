//! Rows of f32 activations to 8 bits in groups of 32, as [`crate::Backend`] defines it.
//!
//! | variant | needs | method |
//! |---------|-------|--------|
//! | `avx512` | avx512-vnni | a group is two vectors |
//! | `avx2` | avx2 | a group is four vectors |
//! | `neon` | neon | one group in eight vectors |
//! | `generic` | - | the reference's own loop |

use std::ops::Range;

use super::features::Features;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::features::Level;
use super::pool::Pool;
use super::variant::{Supported, Variant};
use crate::output::Output;
pub(super) use crate::reference::GROUP;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod generic;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;

/// Elements that make a chunk worth handing to another thread.
const WORTH_A_CHUNK: usize = 16 * 1024;

/// Rows whose groups stand side by side. Rows one after another would be powers of two apart, all in one set of the
/// first cache; this many are what every matmul variant takes in one go.
pub(super) const BLOCK: usize = 16;

/// Quantized activations of a batch, zero-padded to whole groups: blocks of [`BLOCK`] rows, the last of those left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Batch<'a> {
    tokens: usize,
    /// Of every block in turn; each is an [`Activations`].
    all: Activations<'a>,
}

impl<'a> Batch<'a> {
    /// The block of the rows from `first`, which is a multiple of [`BLOCK`].
    pub(super) fn block(self, first: usize) -> Activations<'a> {
        let rows = BLOCK.min(self.tokens - first);
        let groups = self.all.groups;
        self.all.slice(rows, first * groups..(first + rows) * groups)
    }
}

/// Some rows of one block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activations<'a> {
    /// Groups a row.
    pub(super) groups: usize,
    /// Rows of the block: group `g` of row `t` is number `g * stride + t`, see [`at`](Self::at).
    pub(super) stride: usize,
    /// `(groups, stride, 32)`, each in `-127..=127`
    pub(super) quants: &'a [i8],
    /// `(groups, stride)`
    pub(super) scales: &'a [f32],
    /// `-8` times the sum of each group's quants, `(groups, stride)`: what takes the 8 off unsigned nibbles.
    pub(super) corrections: &'a [i32],
    /// The sum of each group's quants by its scale, `(groups, stride)`: what multiplies an offset.
    pub(super) totals: &'a [f32],
}

impl<'a> Activations<'a> {
    /// The number of group `g` of row `t`, in groups.
    #[inline(always)]
    pub(super) fn at(&self, t: usize, g: usize) -> usize {
        g * self.stride + t
    }

    /// Row `t` alone.
    pub(super) fn row(self, t: usize) -> Activations<'a> {
        self.rows(t, 1)
    }

    /// `len` rows from `first`.
    pub(super) fn rows(self, first: usize, len: usize) -> Activations<'a> {
        self.slice(self.stride, first..first + (self.groups - 1) * self.stride + len)
    }

    fn slice(self, stride: usize, groups: Range<usize>) -> Activations<'a> {
        Activations {
            groups: self.groups,
            stride,
            quants: &self.quants[groups.start * GROUP..groups.end * GROUP],
            scales: &self.scales[groups.clone()],
            corrections: &self.corrections[groups.clone()],
            totals: &self.totals[groups],
        }
    }

    /// What the pointers of every matmul variant rely on.
    ///
    /// # Panics
    /// Unless there are exactly `tokens` rows of at least one group.
    pub(super) fn assert_rows(&self, tokens: usize) {
        assert!(self.groups > 0 && tokens <= self.stride);
        let len = (self.groups - 1) * self.stride + tokens;
        assert_eq!(self.quants.len(), len * GROUP);
        assert_eq!(self.scales.len(), len);
        assert_eq!(self.corrections.len(), len);
        assert_eq!(self.totals.len(), len);
    }
}

/// Bytes of [`Scratch`] for `tokens` rows of `cols`: of each group 32 quants and three numbers.
pub(super) fn scratch_bytes(tokens: u64, cols: u64) -> u64 {
    tokens * cols.div_ceil(GROUP as u64) * (GROUP as u64 + 3 * 4)
}

/// Memory that activations are quantized into.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    quants: Vec<i8>,
    scales: Vec<f32>,
    corrections: Vec<i32>,
    totals: Vec<f32>,
}

impl Scratch {
    /// Room for `tokens` rows of `cols`. Grows to the largest batch and stays there.
    pub(super) fn reserve(&mut self, tokens: usize, cols: usize) {
        let groups = tokens * cols.div_ceil(GROUP);
        if self.scales.len() < groups {
            self.quants.resize(groups * GROUP, 0);
            self.scales.resize(groups, 0.0);
            self.corrections.resize(groups, 0);
            self.totals.resize(groups, 0.0);
        }
    }

    /// The first `tokens` rows of `cols`.
    pub(super) fn view(&self, tokens: usize, cols: usize) -> Batch<'_> {
        let groups = cols.div_ceil(GROUP);
        let Self { quants, scales, corrections, totals } = self;
        let all = Activations { groups, stride: BLOCK, quants, scales, corrections, totals };
        Batch { tokens, all }
    }
}

/// Where the groups of some columns of a block go.
pub(super) struct Groups<'a> {
    /// `(groups, rows, 32)`
    quants: &'a mut [[i8; GROUP]],
    /// `(groups, rows)`
    scales: &'a mut [f32],
    /// `(groups, rows)`
    corrections: &'a mut [i32],
    /// `(groups, rows)`
    totals: &'a mut [f32],
}

impl Groups<'_> {
    /// Calls `quantize` with every group of the rows of `x`, `(rows, cols)`, from group `first` on, the last of a row
    /// zero-padded. It returns the scale and the sum of the quants.
    #[inline(always)]
    fn each(
        self,
        x: &[f32],
        cols: usize,
        first: usize,
        mut quantize: impl FnMut(&mut [i8; GROUP], &[f32; GROUP]) -> (f32, i32),
    ) {
        let rows = x.len() / cols;
        let outputs = self.quants.chunks_exact_mut(rows).zip(self.scales.chunks_exact_mut(rows));
        let sums = self.corrections.chunks_exact_mut(rows).zip(self.totals.chunks_exact_mut(rows));
        for (g, ((quants, scales), (corrections, totals))) in (first..).zip(outputs.zip(sums)) {
            let outputs = quants.iter_mut().zip(scales).zip(corrections.iter_mut().zip(totals));
            for (((quants, scale), (correction, total)), x) in outputs.zip(x.chunks_exact(cols)) {
                let rest = &x[g * GROUP..];
                let (own_scale, sum) = match rest.first_chunk() {
                    Some(x) => quantize(quants, x),
                    None => {
                        let mut padded = [0.0; GROUP];
                        padded[..rest.len()].copy_from_slice(rest);
                        quantize(quants, &padded)
                    }
                };
                (*scale, *correction, *total) = (own_scale, sum.wrapping_mul(-8), own_scale * sum as f32);
            }
        }
    }
}

/// Quantizes what `Groups::each` says.
///
/// # Safety
/// The variant's `supported` returned true for the features of this CPU.
type Run = unsafe fn(out: Groups<'_>, x: &[f32], cols: usize, first: usize);

/// Fastest first; `generic` is last and runs everywhere.
const VARIANTS: &[Variant<Run>] = &[
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx512", supported: |f| f.has(Level::Avx512Vnni), run: avx512::run },
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx2", supported: |f| f.has(Level::Avx2), run: avx2::run },
    #[cfg(target_arch = "aarch64")]
    Variant { name: "neon", supported: |f| f.has(Level::Neon), run: neon::run },
    Variant { name: "generic", supported: |_| true, run: generic::run },
];

/// A kernel that this CPU can run.
#[derive(Clone, Copy)]
pub(super) struct Quantize(Supported<Run>);

impl Quantize {
    #[cfg(test)]
    fn all(features: Features) -> impl Iterator<Item = Self> {
        Supported::all(VARIANTS, features).map(Self)
    }

    pub(super) fn best(features: Features) -> Self {
        Self(Supported::best(VARIANTS, features))
    }

    pub(super) fn name(self) -> &'static str {
        self.0.name()
    }

    /// Quantizes the rows of `x`, `(tokens, cols)`, into `scratch`, split over the pool where that pays.
    pub(super) fn run(self, pool: &mut Pool, scratch: &mut Scratch, x: &[f32], cols: usize) {
        let (tokens, groups) = (x.len() / cols, cols.div_ceil(GROUP));
        scratch.reserve(tokens, cols);
        let quants = Output::new(scratch.quants.as_chunks_mut().0);
        let scales = Output::new(&mut scratch.scales);
        let corrections = Output::new(&mut scratch.corrections);
        let totals = Output::new(&mut scratch.totals);
        // Chunks are groups of one block.
        let per_chunk = (WORTH_A_CHUNK / (GROUP * BLOCK.min(tokens.max(1)))).clamp(1, groups);
        let in_block = groups.div_ceil(per_chunk);
        pool.run(tokens.div_ceil(BLOCK) * in_block, &|chunk| {
            let token = chunk / in_block * BLOCK;
            let rows = BLOCK.min(tokens - token);
            let first = chunk % in_block * per_chunk;
            let (at, len) = (token * groups + first * rows, per_chunk.min(groups - first) * rows);
            // SAFETY: a group is in one chunk, and only its chunk touches it.
            let out = unsafe {
                Groups {
                    quants: quants.slice(at, len),
                    scales: scales.slice(at, len),
                    corrections: corrections.slice(at, len),
                    totals: totals.slice(at, len),
                }
            };
            self.groups(out, &x[token * cols..][..rows * cols], cols, first);
        });
    }

    fn groups(self, out: Groups<'_>, x: &[f32], cols: usize, first: usize) {
        // SAFETY: a `Supported` exists only for a variant that this CPU can run.
        unsafe { self.0.get()(out, x, cols, first) }
    }
}
