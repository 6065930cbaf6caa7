//! Grouped-query attention over tiles of the cache, with an online softmax (Milakov and Gimelshein 2018,
//! <https://arxiv.org/abs/1805.02867>): each block of positions is read once for up to 96 queries that share a head of
//! keys, and memory does not grow with the context. Kernels multiply the numbers of an 8-bit cache, and the
//! levels of a 4-bit one, as they are; their scales go onto the scores, and onto the weights of the values.
//!
//! | variant | needs | method |
//! |---------|-------|--------|
//! | `avx512-bf16` | avx512-bf16 | prompts over a cache of 16 bits or fewer: pairs of bf16, 6 queries share 4 loads |
//! | `avx512` | avx512-vnni | vectors of 16, 6 queries share 4 loads |
//! | `avx2` | avx2 | vectors of 8, up to 6 queries share a load |
//! | `neon` | neon | 16 positions of 4 queries, or 32 elements of 2 queries, in 16 vectors |
//! | `generic` | - | loops over 16 positions, or 16 elements, side by side |
//!
//! To add a variant, add a file with `scores` and `mix` for each element type and a line to `VARIANTS`. The tests walk
//! the table.

use half::f16;

pub(super) use self::attend::Attend;
pub(super) use self::choose::Ranking;
pub(super) use self::rotated::Rotated;
pub(super) use self::work::{Work, partial_bytes, partial_len};
use super::elementwise::SCORES;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::features::Level;
use super::variant::Variant;
use crate::cache::{Nibbles, Number};

mod attend;
#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod avx512_bf16;
mod choose;
mod generic;
#[cfg(target_arch = "aarch64")]
mod neon;
mod rotated;
#[cfg(test)]
mod tests;
mod work;

/// Positions whose scores are held at once.
const BLOCK: usize = SCORES;
/// Most queries of one unit of work, and of one kernel call, where rounding a block for all of them is worth much.
const QUERIES: usize = 96;
/// Most where it is not, or units would be too few: what 6, 4, 3 and 2 divide, and whose scores fit the first cache.
const FEW_QUERIES: usize = 24;
/// Units a thread that are enough for all to end at about the same time.
const UNITS_A_THREAD: usize = 4;

/// The scores of one query over a block.
type Scores = [f32; BLOCK];

/// `scores[n][p] = q[n] . k[p]` for the positions of `keys`, `(tiles, head_dim, 16)` with 1 to 8 tiles, each a run of
/// [`Number`]s. There are 1 to [`QUERIES`] queries, each of `head_dim`.
///
/// # Safety
/// The variant's `supported` returned true for the features of this CPU.
type ScoresOf<E> = unsafe fn(scores: &mut [Scores], q: &[&[f32]], keys: &[E]);

/// `out[n] = decay[n] * out[n] + sum over p of weights[n][p] * values[p]`; `values` is `(positions, head_dim)` with 1 to
/// [`BLOCK`] positions, each a run, and `out`, `weights` and `decay` have 1 to [`QUERIES`] elements.
///
/// # Safety
/// The variant's `supported` returned true for the features of this CPU.
type Mix<E> = unsafe fn(out: &mut [&mut [f32]], weights: &[Scores], decay: &[f32], values: &[E]);

/// A variant's entries for each element type.
struct Kernel {
    scores_f32: ScoresOf<f32>,
    scores_f16: ScoresOf<f16>,
    scores_i8: ScoresOf<i8>,
    scores_i4: ScoresOf<Nibbles>,
    mix_f32: Mix<f32>,
    mix_f16: Mix<f16>,
    mix_i8: Mix<i8>,
    mix_i4: Mix<Nibbles>,
}

/// Fastest first; `generic` is last and runs everywhere.
const VARIANTS: &[Variant<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Variant {
        name: "avx512",
        supported: |f| f.has(Level::Avx512Vnni),
        run: Kernel {
            scores_f32: avx512::scores::<f32>,
            scores_f16: avx512::scores::<f16>,
            scores_i8: avx512::scores::<i8>,
            scores_i4: avx512::scores::<Nibbles>,
            mix_f32: avx512::mix::<f32>,
            mix_f16: avx512::mix::<f16>,
            mix_i8: avx512::mix::<i8>,
            mix_i4: avx512::mix::<Nibbles>,
        },
    },
    #[cfg(target_arch = "x86_64")]
    Variant {
        name: "avx2",
        supported: |f| f.has(Level::Avx2),
        run: Kernel {
            scores_f32: avx2::scores::<f32>,
            scores_f16: avx2::scores::<f16>,
            scores_i8: avx2::scores::<i8>,
            scores_i4: avx2::scores::<Nibbles>,
            mix_f32: avx2::mix::<f32>,
            mix_f16: avx2::mix::<f16>,
            mix_i8: avx2::mix::<i8>,
            mix_i4: avx2::mix::<Nibbles>,
        },
    },
    #[cfg(target_arch = "aarch64")]
    Variant {
        name: "neon",
        supported: |f| f.has(Level::Neon),
        run: Kernel {
            scores_f32: neon::scores::<f32>,
            scores_f16: neon::scores::<f16>,
            scores_i8: neon::scores::<i8>,
            scores_i4: neon::scores::<Nibbles>,
            mix_f32: neon::mix::<f32>,
            mix_f16: neon::mix::<f16>,
            mix_i8: neon::mix::<i8>,
            mix_i4: neon::mix::<Nibbles>,
        },
    },
    Variant {
        name: "generic",
        supported: |_| true,
        run: Kernel {
            scores_f32: generic::scores::<f32>,
            scores_f16: generic::scores::<f16>,
            scores_i8: generic::scores::<i8>,
            scores_i4: generic::scores::<Nibbles>,
            mix_f32: generic::mix::<f32>,
            mix_f16: generic::mix::<f16>,
            mix_i8: generic::mix::<i8>,
            mix_i4: generic::mix::<Nibbles>,
        },
    },
];

/// Faster and coarser, for the rows of prompts.
const PROMPT_VARIANTS: &[Variant<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Variant {
        name: "avx512-bf16",
        supported: |f| f.has(Level::Avx512Bf16),
        run: Kernel {
            scores_f32: avx512::scores::<f32>,
            scores_f16: avx512_bf16::scores::<f16>,
            scores_i8: avx512_bf16::scores::<i8>,
            scores_i4: avx512_bf16::scores::<Nibbles>,
            mix_f32: avx512::mix::<f32>,
            mix_f16: avx512_bf16::mix::<f16>,
            mix_i8: avx512_bf16::mix::<i8>,
            mix_i4: avx512_bf16::mix::<Nibbles>,
        },
    },
];

/// A form of numbers that a cache may have.
trait Element: Number {
    /// Whether the rows of prompts may be rounded.
    const COARSE: bool = true;
    fn scores(kernel: &Kernel) -> ScoresOf<Self>;
    fn mix(kernel: &Kernel) -> Mix<Self>;
}

impl Element for f32 {
    const COARSE: bool = false;
    fn scores(kernel: &Kernel) -> ScoresOf<Self> {
        kernel.scores_f32
    }
    fn mix(kernel: &Kernel) -> Mix<Self> {
        kernel.mix_f32
    }
}

impl Element for i8 {
    fn scores(kernel: &Kernel) -> ScoresOf<Self> {
        kernel.scores_i8
    }
    fn mix(kernel: &Kernel) -> Mix<Self> {
        kernel.mix_i8
    }
}

impl Element for Nibbles {
    fn scores(kernel: &Kernel) -> ScoresOf<Self> {
        kernel.scores_i4
    }
    fn mix(kernel: &Kernel) -> Mix<Self> {
        kernel.mix_i4
    }
}

impl Element for f16 {
    fn scores(kernel: &Kernel) -> ScoresOf<Self> {
        kernel.scores_f16
    }
    fn mix(kernel: &Kernel) -> Mix<Self> {
        kernel.mix_f16
    }
}
