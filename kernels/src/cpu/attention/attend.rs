//! Takes the queries of a unit of work over blocks of positions.

use std::ops::Range;

use super::work::{Part, Work, merge};
use super::{
    BLOCK, Element, FEW_QUERIES, Kernel, PROMPT_VARIANTS, QUERIES, Scores, UNITS_A_THREAD, VARIANTS,
};
use crate::AttentionShape;
use crate::cache::{Head, HeadCache, Scales, TILE_POSITIONS};
use crate::cpu::elementwise::Elementwise;
use crate::cpu::features::Features;
use crate::cpu::pool::Pool;
use crate::cpu::variant::Supported;
use crate::output::Output;

/// Kernels that this CPU can run.
#[derive(Clone, Copy)]
pub(in crate::cpu) struct Attend {
    pub(super) kernel: Supported<Kernel>,
    /// For the rows of prompts, where there is one.
    prompt: Option<Supported<Kernel>>,
    elementwise: Elementwise,
}

/// Queries of one sequence that share a head of keys, in order of position.
pub(super) struct Queries<'a> {
    pub(super) count: usize,
    /// Whether they are rows of a prompt.
    pub(super) prompt: bool,
    /// `(count, head_dim)`
    q: [&'a [f32]; QUERIES],
    /// Sums of weighted values, `(count, head_dim)`.
    out: [&'a mut [f32]; QUERIES],
    /// The first and the last position that each sees.
    seen: [(usize, usize); QUERIES],
    /// Those between them that each sees, ascending, where it does not see all.
    pub(super) chosen: [Option<&'a [f32]>; QUERIES],
    /// Largest score so far.
    max: [f32; QUERIES],
    /// Sum of `exp(score - max)` so far.
    total: [f32; QUERIES],
}

impl Default for Queries<'_> {
    fn default() -> Self {
        Self {
            count: 0,
            prompt: false,
            q: [&[]; QUERIES],
            out: std::array::from_fn(|_| &mut [][..]),
            seen: [(0, 0); QUERIES],
            chosen: [None; QUERIES],
            max: [0.0; QUERIES],
            total: [0.0; QUERIES],
        }
    }
}

impl<'a> Queries<'a> {
    pub(super) fn push(&mut self, q: &'a [f32], out: &'a mut [f32], seen: (usize, usize)) {
        out.fill(0.0);
        let n = self.count;
        (self.q[n], self.out[n], self.seen[n]) = (q, out, seen);
        (self.max[n], self.total[n]) = (f32::NEG_INFINITY, 0.0);
        self.count += 1;
    }
}

impl Attend {
    #[cfg(test)]
    pub(super) fn all(features: Features) -> impl Iterator<Item = Self> {
        let elementwise = Elementwise::best(features);
        let prompts = Supported::all(PROMPT_VARIANTS, features);
        let kernels = prompts.chain(Supported::all(VARIANTS, features));
        kernels.map(move |kernel| Self { kernel, prompt: None, elementwise })
    }

    pub(in crate::cpu) fn best(features: Features) -> Self {
        Self {
            kernel: Supported::best(VARIANTS, features),
            prompt: Supported::all(PROMPT_VARIANTS, features).next(),
            elementwise: Elementwise::best(features),
        }
    }

    pub(in crate::cpu) fn name(self) -> &'static str {
        self.kernel.name()
    }

    /// `q` and `out` are `(tokens, heads * head_dim)`. Where there is less work than threads, positions are split into
    /// parts as far as `partial` has room for their sums, and the parts are put together at the end.
    ///
    /// # Panics
    /// If the cache does not have the shape's heads, or is too short for what a query sees.
    pub(in crate::cpu) fn run(self, pool: &mut Pool, out: &mut [f32], partial: &mut [f32], work: &Work<'_>) {
        let enough = UNITS_A_THREAD * pool.threads();
        let most = if self.prompt.is_some() && work.units(QUERIES) >= enough { QUERIES } else { FEW_QUERIES };
        let (units, parts) = (work.units(most), work.parts(most, pool.threads(), partial.len()));
        if parts == 1 {
            let out = Output::new(out);
            pool.run(units, &|unit| {
                let mut queries = Queries::default();
                // SAFETY: a query is in one unit, and each unit comes once.
                let out =
                    |query: usize, _: usize| unsafe { out.slice(query * work.head_dim(), work.head_dim()) };
                let source = work.unit(unit, most, &mut queries, out);
                self.attend(&mut queries, source, Part { index: 0, of: 1 }, work);
                for n in 0..queries.count {
                    let inverse = 1.0 / queries.total[n];
                    queries.out[n].iter_mut().for_each(|x| *x *= inverse);
                }
            });
            return;
        }
        let row = work.head_dim() + 2;
        let rows = out.len() / work.head_dim();
        let sums = Output::new(&mut partial[..parts * rows * row]);
        pool.run(units * parts, &|chunk| {
            let part = Part { index: chunk % parts, of: parts };
            let mut queries = Queries::default();
            let mut tails: [&mut [f32]; QUERIES] = std::array::from_fn(|_| &mut [][..]);
            let out = |query: usize, n: usize| {
                // SAFETY: a query is in one unit, and each part of a unit comes once.
                let slice = unsafe { sums.slice((query * parts + part.index) * row, row) };
                let (out, tail) = slice.split_at_mut(row - 2);
                tails[n] = tail;
                out
            };
            let source = work.unit(chunk / parts, most, &mut queries, out);
            self.attend(&mut queries, source, part, work);
            for (n, tail) in tails.into_iter().enumerate().take(queries.count) {
                tail.copy_from_slice(&[queries.max[n], queries.total[n]]);
            }
        });
        let sums = partial[..parts * rows * row].chunks_exact(parts * row);
        for (out, sums) in out.chunks_exact_mut(work.head_dim()).zip(sums) {
            merge(out, sums);
        }
    }

    /// Takes one part of the positions that `queries` see into their sums.
    fn attend(self, queries: &mut Queries<'_>, source: HeadCache<'_>, part: Part, work: &Work<'_>) {
        match source {
            HeadCache::F32(head) => self.elements(queries, head, part, work),
            HeadCache::F16(head) => self.elements(queries, head, part, work),
            HeadCache::Int8(head) => self.elements(queries, head, part, work),
            HeadCache::Int8Int4(head) => self.elements(queries, head, part, work),
            HeadCache::Int4(head) => self.elements(queries, head, part, work),
        }
    }

    /// With no more memory for scores than the queries need: clearing it takes time.
    fn elements<K: Element, V: Element>(
        self,
        queries: &mut Queries<'_>,
        head: Head<'_, K, V>,
        part: Part,
        work: &Work<'_>,
    ) {
        match queries.count {
            ..9 => self.blocks::<K, V, 8>(queries, head, part, work),
            9..=FEW_QUERIES => self.blocks::<K, V, FEW_QUERIES>(queries, head, part, work),
            _ => self.blocks::<K, V, QUERIES>(queries, head, part, work),
        }
    }

    fn blocks<K: Element, V: Element, const Q: usize>(
        self,
        queries: &mut Queries<'_>,
        head: Head<'_, K, V>,
        part: Part,
        work: &Work<'_>,
    ) {
        let (tile, row) = (K::elements(head.head_dim * TILE_POSITIONS), V::elements(head.head_dim));
        let capacity = head.capacity;
        let (first, last) = (queries.seen[0].0, queries.seen[queries.count - 1].1);
        assert!(last - first < capacity, "positions {first} to {last} of a cache of {capacity}");
        let mut scores = [[0.0; BLOCK]; Q];
        let tiles = part.of(first / TILE_POSITIONS..last / TILE_POSITIONS + 1);
        let (mut begin, stop) = (tiles.start * TILE_POSITIONS, tiles.end * TILE_POSITIONS);
        while begin < stop {
            let place = begin % capacity;
            let end = stop.min(begin + BLOCK).min(begin + capacity - place);
            let used = begin.max(first)..end.min(last + 1);
            let value = place + used.start - begin;
            let block = Block {
                begin,
                keys: &head.keys[place / TILE_POSITIONS * tile..][..(end - begin) / TILE_POSITIONS * tile],
                values: &head.values[value * row..][..used.len() * row],
                scales: head.scales.map(|scales| Scales {
                    keys: &scales.keys[place..][..end - begin],
                    values: &scales.values[value..][..used.len()],
                }),
                used,
            };
            self.block(queries, &mut scores, &block, work.shape);
            begin = end;
        }
    }

    /// Takes one block of positions into the sums.
    fn block<K: Element, V: Element>(
        self,
        queries: &mut Queries<'_>,
        scores: &mut [Scores],
        block: &Block<'_, K, V>,
        shape: &AttentionShape,
    ) {
        let (count, used, begin) = (queries.count, &block.used, block.begin);
        let mut decay = [1.0; QUERIES];
        let prompt = self.prompt.filter(|_| queries.prompt && K::COARSE);
        let kernel = prompt.unwrap_or(self.kernel).get();
        let weigh = if prompt.is_some() { Elementwise::weigh_coarsely } else { Elementwise::weigh };
        // SAFETY: a `Supported` exists only for a variant that this CPU can run.
        unsafe { K::scores(kernel)(&mut scores[..count], &queries.q[..count], block.keys) };
        for (n, scores) in scores.iter_mut().enumerate().take(count) {
            let (first, last) = queries.seen[n];
            let seen = first.max(used.start)..(last + 1).min(used.end);
            // From here on an element is a position of `used`, and what the query does not see weighs nothing.
            let chosen = queries.chosen[n].map(|chosen| within(chosen, &seen));
            if seen.is_empty() || chosen.is_some_and(<[f32]>::is_empty) {
                scores[..used.len()].fill(0.0);
                continue;
            }
            let at = seen.start - used.start..seen.end - used.start;
            if used.start != begin {
                scores.copy_within(seen.start - begin..seen.end - begin, at.start);
            }
            scores[..at.start].fill(0.0);
            scores[at.end..used.len()].fill(0.0);
            let weights = &mut scores[at.clone()];
            let scales = block
                .scales
                .map(|scales| [&scales.keys[seen.start - begin..seen.end - begin], &scales.values[at]]);
            let before = queries.max[n];
            let max = &mut queries.max[n];
            // The order of scores is that of products, unless something comes between.
            let sum = if shape.softcap.is_none() && chosen.is_none() && shape.scale > 0.0 {
                weigh(self.elementwise, weights, scales, shape.scale, max)
            } else {
                if let Some([keys, _]) = scales {
                    self.elementwise.multiply(weights, keys);
                }
                self.elementwise.scale_and_cap(weights, shape.scale, shape.softcap);
                if let Some(chosen) = chosen {
                    hide_others(weights, chosen, seen.start);
                }
                let sum = weigh(self.elementwise, weights, None, 1.0, max);
                if let Some([_, values]) = scales {
                    self.elementwise.multiply(weights, values);
                }
                sum
            };
            decay[n] = if before == *max { 1.0 } else { (before - *max).exp() };
            queries.total[n] = queries.total[n] * decay[n] + sum;
        }
        let (out, scores) = (&mut queries.out[..count], &scores[..count]);
        // SAFETY: as above.
        unsafe { V::mix(kernel)(out, scores, &decay[..count], block.values) };
    }
}

/// Those of `chosen`, ascending, that are in `seen`.
fn within<'a>(chosen: &'a [f32], seen: &Range<usize>) -> &'a [f32] {
    let first = chosen.partition_point(|p| (*p as usize) < seen.start);
    let end = chosen.partition_point(|p| (*p as usize) < seen.end);
    &chosen[first..end.max(first)]
}

/// Leaves the scores of the positions `chosen` alone; `scores` begin with that of `first`.
fn hide_others(scores: &mut [f32], chosen: &[f32], first: usize) {
    let mut next = 0;
    for at in chosen.iter().map(|p| *p as usize - first) {
        scores[next..at].fill(f32::NEG_INFINITY);
        next = at + 1;
    }
    scores[next..].fill(f32::NEG_INFINITY);
}

/// Up to [`BLOCK`] positions in a row.
struct Block<'a, K, V> {
    /// The position of the first key.
    begin: usize,
    /// Positions that some query may see: those of `values`.
    used: Range<usize>,
    /// `(tiles, head_dim, 16)`
    keys: &'a [K],
    /// `(used, head_dim)`
    values: &'a [V],
    /// Of the keys from `begin` and of the values of `used`.
    scales: Option<Scales<'a>>,
}
