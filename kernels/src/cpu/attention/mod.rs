//! Causal grouped-query attention over tiles of the cache, with an online softmax (Milakov and Gimelshein 2018,
//! <https://arxiv.org/abs/1805.02867>): each block of positions is read once for all queries that share a head of
//! keys, and memory does not grow with the context.
//!
//! | variant | needs | method |
//! |---------|-------|--------|
//! | `avx512` | avx512-vnni | vectors of 16, up to 8 queries share a load |
//! | `avx2` | avx2 | vectors of 8, up to 4 queries share a load of keys |
//! | `neon` | neon | 16 positions of 4 queries, or 32 elements of 2 queries, in 16 vectors |
//! | `generic` | - | loops over 16 positions, or 16 elements, side by side |
//!
//! To add a variant, add a file with `scores` and `mix` for each element type and a line to `VARIANTS`. The tests walk
//! the table.

use half::f16;

use super::elementwise::Elementwise;
use super::features::Features;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::features::Level;
use super::output::Output;
use super::pool::Pool;
use super::variant::{Supported, Variant};
use crate::cache::{Head, HeadCache, HostCache, TILE_POSITIONS};
use crate::{AttentionShape, Span};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod generic;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;

/// Positions whose scores are held at once.
const BLOCK: usize = 128;
/// Most queries of one kernel call.
const QUERIES: usize = 8;
/// Rows of a span that one chunk of work covers at most.
const ROWS: usize = 16;

/// The scores of one query over a block.
type Scores = [f32; BLOCK];

/// `scores[n][p] = q[n] . k[p]` for the positions of `keys`, `(tiles, head_dim, 16)` with 1 to 8 tiles. There are 1 to
/// [`QUERIES`] queries, each of `head_dim`.
///
/// # Safety
/// The variant's `supported` returned true for the features of this CPU.
type ScoresOf<E> = unsafe fn(scores: &mut [Scores], q: &[&[f32]], keys: &[E]);

/// `out[n] = decay[n] * out[n] + sum over p of weights[n][p] * values[p]`; `values` is `(positions, head_dim)` with 1 to
/// [`BLOCK`] positions, and `out`, `weights` and `decay` have 1 to [`QUERIES`] elements.
///
/// # Safety
/// The variant's `supported` returned true for the features of this CPU.
type Mix<E> = unsafe fn(out: &mut [&mut [f32]], weights: &[Scores], decay: &[f32], values: &[E]);

/// A variant's entries for each element type.
struct Kernel {
    scores_f32: ScoresOf<f32>,
    scores_f16: ScoresOf<f16>,
    mix_f32: Mix<f32>,
    mix_f16: Mix<f16>,
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
            mix_f32: avx512::mix::<f32>,
            mix_f16: avx512::mix::<f16>,
        },
    },
    #[cfg(target_arch = "x86_64")]
    Variant {
        name: "avx2",
        supported: |f| f.has(Level::Avx2),
        run: Kernel {
            scores_f32: avx2::scores::<f32>,
            scores_f16: avx2::scores::<f16>,
            mix_f32: avx2::mix::<f32>,
            mix_f16: avx2::mix::<f16>,
        },
    },
    #[cfg(target_arch = "aarch64")]
    Variant {
        name: "neon",
        supported: |f| f.has(Level::Neon),
        run: Kernel {
            scores_f32: neon::scores::<f32>,
            scores_f16: neon::scores::<f16>,
            mix_f32: neon::mix::<f32>,
            mix_f16: neon::mix::<f16>,
        },
    },
    Variant {
        name: "generic",
        supported: |_| true,
        run: Kernel {
            scores_f32: generic::scores::<f32>,
            scores_f16: generic::scores::<f16>,
            mix_f32: generic::mix::<f32>,
            mix_f16: generic::mix::<f16>,
        },
    },
];

/// An element type that a cache may have.
trait Element: Copy + Into<f32> + Sync {
    fn scores(kernel: &Kernel) -> ScoresOf<Self>;
    fn mix(kernel: &Kernel) -> Mix<Self>;
}

impl Element for f32 {
    fn scores(kernel: &Kernel) -> ScoresOf<Self> {
        kernel.scores_f32
    }
    fn mix(kernel: &Kernel) -> Mix<Self> {
        kernel.mix_f32
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

/// Kernels that this CPU can run.
#[derive(Clone, Copy)]
pub(super) struct Attend {
    kernel: Supported<Kernel>,
    elementwise: Elementwise,
}

/// One query: a row and a head.
struct Query<'a> {
    q: &'a [f32],
    /// Its sum of weighted values, and in the end its answer.
    out: &'a mut [f32],
    /// The positions it sees.
    first: usize,
    last: usize,
    /// Largest score so far.
    max: f32,
    /// Sum of `exp(score - max)` so far.
    total: f32,
}

impl Attend {
    #[cfg(test)]
    fn all(features: Features) -> impl Iterator<Item = Self> {
        let elementwise = Elementwise::best(features);
        Supported::all(VARIANTS, features).map(move |kernel| Self { kernel, elementwise })
    }

    pub(super) fn best(features: Features) -> Self {
        Self { kernel: Supported::best(VARIANTS, features), elementwise: Elementwise::best(features) }
    }

    pub(super) fn name(self) -> &'static str {
        self.kernel.name()
    }

    /// `q` and `out` are `(tokens, heads * head_dim)`; each chunk of work is up to 16 rows of one span and the heads
    /// that share one head of keys.
    ///
    /// # Panics
    /// If the cache does not have the shape's heads, or is too short for what a query sees.
    pub(super) fn run(
        self,
        pool: &mut Pool,
        out: &mut [f32],
        q: &[f32],
        cache: &HostCache,
        spans: &[Span],
        shape: &AttentionShape,
    ) {
        let stored = cache.shape();
        assert!(stored.kv_heads == shape.kv_heads && stored.head_dim == shape.head_dim);
        assert!(shape.heads > 0 && shape.heads.is_multiple_of(shape.kv_heads) && q.len() == out.len());
        let head_dim = shape.head_dim as usize;
        let shared = (shape.heads / shape.kv_heads) as usize * head_dim;
        let width = shared * shape.kv_heads as usize;
        let out = Output::new(out);
        let pieces_of = |span: &Span| (span.len as usize).div_ceil(ROWS);
        let pieces: usize = spans.iter().map(pieces_of).sum();
        pool.run(pieces * shape.kv_heads as usize, &|chunk| {
            let kv_head = chunk % shape.kv_heads as usize;
            let (mut piece, mut row) = (chunk / shape.kv_heads as usize, 0);
            let mut spans = spans.iter();
            let mut span = spans.next().expect("a chunk has a span");
            while piece >= pieces_of(span) {
                piece -= pieces_of(span);
                row += span.len as usize;
                span = spans.next().expect("a chunk has a span");
            }
            let rows = piece * ROWS..(span.len as usize).min((piece + 1) * ROWS);
            let mut queries: Vec<Query<'_>> = Vec::with_capacity(rows.len() * shared / head_dim);
            for i in rows {
                let at = (row + i) * width + kv_head * shared;
                let position = span.start + i as u32;
                // SAFETY: a row and a head of keys are in one chunk, and each row is visited once.
                let out = unsafe { out.slice(at, shared) };
                let heads = out.chunks_exact_mut(head_dim).zip(q[at..at + shared].chunks_exact(head_dim));
                queries.extend(heads.map(|(out, q)| {
                    out.fill(0.0);
                    let last = position as usize;
                    let first = last + 1 - shape.seen(position) as usize;
                    Query { q, out, first, last, max: f32::NEG_INFINITY, total: 0.0 }
                }));
            }
            match cache.head(span.slot, kv_head as u32) {
                HeadCache::F16(head) => self.attend(&mut queries, head, head_dim, shape),
                HeadCache::F32(head) => self.attend(&mut queries, head, head_dim, shape),
            }
        });
    }

    /// Answers queries of one sequence that share a head of keys, in order of position.
    fn attend<E: Element>(
        self,
        queries: &mut [Query<'_>],
        head: Head<'_, E>,
        head_dim: usize,
        shape: &AttentionShape,
    ) {
        let capacity = head.values.len() / head_dim;
        let (first, last) = (queries[0].first, queries[queries.len() - 1].last);
        assert!(last - first < capacity, "positions {first} to {last} of a cache of {capacity}");
        let mut begin = first / TILE_POSITIONS * TILE_POSITIONS;
        while begin <= last {
            let place = begin % capacity;
            let end =
                (last + 1).next_multiple_of(TILE_POSITIONS).min(begin + BLOCK).min(begin + capacity - place);
            let keys = &head.keys[place * head_dim..][..(end - begin) * head_dim];
            let used = begin.max(first)..end.min(last + 1);
            let values = &head.values[(place + used.start - begin) * head_dim..][..used.len() * head_dim];
            for queries in queries.chunks_mut(QUERIES) {
                self.block(queries, begin, used.clone(), keys, values, shape);
            }
            begin = end;
        }
        for query in queries {
            let inverse = 1.0 / query.total;
            query.out.iter_mut().for_each(|x| *x *= inverse);
        }
    }

    /// Takes one block of positions, of which `keys` holds those from `begin` and `values` those of `used`, into the
    /// answers of up to [`QUERIES`] queries.
    fn block<E: Element>(
        self,
        queries: &mut [Query<'_>],
        begin: usize,
        used: std::ops::Range<usize>,
        keys: &[E],
        values: &[E],
        shape: &AttentionShape,
    ) {
        let count = queries.len();
        let mut scores = [[0.0; BLOCK]; QUERIES];
        let mut decay = [1.0; QUERIES];
        let mut q: [&[f32]; QUERIES] = [&[]; QUERIES];
        q.iter_mut().zip(queries.iter()).for_each(|(q, query)| *q = query.q);
        // SAFETY: a `Supported` exists only for a variant that this CPU can run.
        unsafe { E::scores(self.kernel.get())(&mut scores[..count], &q[..count], keys) };
        for (n, query) in queries.iter_mut().enumerate() {
            let seen = query.first.max(used.start)..(query.last + 1).min(used.end);
            // From here on an element is a position of `used`, and what the query does not see weighs nothing.
            let scores = &mut scores[n];
            if seen.is_empty() {
                scores[..used.len()].fill(0.0);
                continue;
            }
            let at = seen.start - used.start..seen.end - used.start;
            scores.copy_within(seen.start - begin..seen.end - begin, at.start);
            scores[..at.start].fill(0.0);
            scores[at.end..used.len()].fill(0.0);
            let weights = &mut scores[at];
            self.elementwise.scale_and_cap(weights, shape.scale, shape.softcap);
            let max = self.elementwise.max(weights).max(query.max);
            decay[n] = if query.max == f32::NEG_INFINITY { 0.0 } else { (query.max - max).exp() };
            query.total = query.total * decay[n] + self.elementwise.exp_and_sum(weights, max);
            query.max = max;
        }
        let mut outs = queries.iter_mut().map(|query| &mut *query.out);
        let mut out: [&mut [f32]; QUERIES] = std::array::from_fn(|_| outs.next().unwrap_or_default());
        // SAFETY: as above.
        unsafe { E::mix(self.kernel.get())(&mut out[..count], &scores[..count], &decay[..count], values) };
    }
}
