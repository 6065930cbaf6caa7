//! Rows of f32 activations to 8 bits in groups of 32, as [`crate::Backend`] defines it.
//!
//! | variant | needs | method |
//! |---------|-------|--------|
//! | `avx512` | avx512-vnni | a group is two vectors |
//! | `avx2` | avx2 | a group is four vectors |
//! | `neon` | neon | one group in eight vectors |
//! | `generic` | - | the reference's own loop |

use super::features::Features;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::features::Level;
use super::output::Output;
use super::pool::Pool;
use super::variant::{Supported, Variant};
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

/// Rows of quantized activations, zero-padded to whole groups.
#[derive(Debug, Clone, Copy)]
pub(super) struct Activations<'a> {
    /// Groups a row.
    pub(super) groups: usize,
    /// `(tokens, groups * 32)`, each in `-127..=127`
    pub(super) quants: &'a [i8],
    /// `(tokens, groups)`
    pub(super) scales: &'a [f32],
    /// `-8` times the sum of each group's quants, `(tokens, groups)`: what takes the 8 off unsigned nibbles.
    pub(super) corrections: &'a [i32],
}

impl<'a> Activations<'a> {
    /// Row `t` alone.
    pub(super) fn row(self, t: usize) -> Activations<'a> {
        self.rows(t, 1)
    }

    /// `len` rows from `first`.
    pub(super) fn rows(self, first: usize, len: usize) -> Activations<'a> {
        let groups = self.groups;
        Activations {
            groups,
            quants: &self.quants[first * groups * GROUP..][..len * groups * GROUP],
            scales: &self.scales[first * groups..][..len * groups],
            corrections: &self.corrections[first * groups..][..len * groups],
        }
    }

    /// What the pointers of every matmul variant rely on.
    ///
    /// # Panics
    /// Unless there are exactly `tokens` rows of at least one group.
    pub(super) fn assert_rows(&self, tokens: usize) {
        assert!(self.groups > 0);
        assert_eq!(self.quants.len(), tokens * self.groups * GROUP);
        assert_eq!(self.scales.len(), tokens * self.groups);
        assert_eq!(self.corrections.len(), tokens * self.groups);
    }
}

/// Bytes of [`Scratch`] for `tokens` rows of `cols`: of each group 32 quants, a scale and a correction.
pub(super) fn scratch_bytes(tokens: u64, cols: u64) -> u64 {
    tokens * cols.div_ceil(GROUP as u64) * (GROUP as u64 + 4 + 4)
}

/// Memory that activations are quantized into.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    quants: Vec<i8>,
    scales: Vec<f32>,
    corrections: Vec<i32>,
}

impl Scratch {
    /// Room for `tokens` rows of `cols`. Grows to the largest batch and stays there.
    pub(super) fn reserve(&mut self, tokens: usize, cols: usize) {
        let groups = tokens * cols.div_ceil(GROUP);
        if self.scales.len() < groups {
            self.quants.resize(groups * GROUP, 0);
            self.scales.resize(groups, 0.0);
            self.corrections.resize(groups, 0);
        }
    }

    /// The first `tokens` rows of `cols`.
    pub(super) fn view(&self, tokens: usize, cols: usize) -> Activations<'_> {
        let groups = cols.div_ceil(GROUP);
        Activations {
            groups,
            quants: &self.quants[..tokens * groups * GROUP],
            scales: &self.scales[..tokens * groups],
            corrections: &self.corrections[..tokens * groups],
        }
    }
}

/// Quantizes one row `x` of any length; the outputs have its groups, the last zero-padded.
///
/// # Safety
/// The variant's `supported` returned true for the features of this CPU.
type Run = unsafe fn(quants: &mut [i8], scales: &mut [f32], corrections: &mut [i32], x: &[f32]);

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
        let quants = Output::new(&mut scratch.quants);
        let scales = Output::new(&mut scratch.scales);
        let corrections = Output::new(&mut scratch.corrections);
        let per_chunk = (WORTH_A_CHUNK / cols).max(1);
        pool.run(tokens.div_ceil(per_chunk), &|chunk| {
            for t in chunk * per_chunk..tokens.min((chunk + 1) * per_chunk) {
                // SAFETY: token `t` is in one chunk, and only its chunk touches its groups.
                let (quants, scales, corrections) = unsafe {
                    (
                        quants.slice(t * groups * GROUP, groups * GROUP),
                        scales.slice(t * groups, groups),
                        corrections.slice(t * groups, groups),
                    )
                };
                self.row(quants, scales, corrections, &x[t * cols..][..cols]);
            }
        });
    }

    fn row(self, quants: &mut [i8], scales: &mut [f32], corrections: &mut [i32], x: &[f32]) {
        let groups = x.len().div_ceil(GROUP);
        assert!(quants.len() == groups * GROUP && scales.len() == groups && corrections.len() == groups);
        // SAFETY: a `Supported` exists only for a variant that this CPU can run.
        unsafe { self.0.get()(quants, scales, corrections, x) }
    }
}
