//! Chooses the positions that rows read, by the scores of small heads: blocks of positions side by side, then the best.

use std::cmp::Ordering;

use super::attend::Attend;
use super::{BLOCK, Element, FEW_QUERIES};
use crate::cache::{Head, HeadCache, HostCache, Number, TILE_POSITIONS, rows, zeroed};
use crate::cpu::pool::Pool;
use crate::output::Output;
use crate::{BackendError, IndexShape, Span};

/// Working memory, made at load for the longest sequence.
#[derive(Default)]
pub(in crate::cpu) struct Ranking {
    scores: Vec<f32>, // (positions, whole blocks)
    order: Vec<u32>,  // (positions)
}

impl Ranking {
    pub(in crate::cpu) fn new(positions: usize) -> Result<Self, BackendError> {
        Ok(Self { scores: zeroed(positions.next_multiple_of(BLOCK))?, order: zeroed(positions)? })
    }

    /// Bytes that [`new`](Self::new) allocates.
    pub(in crate::cpu) fn bytes(positions: u64) -> u64 {
        4 * (positions.next_multiple_of(BLOCK as u64) + positions)
    }

    /// Writes the `chosen.len()` best of the first `count` positions, ascending.
    fn best(&mut self, chosen: &mut [f32], count: usize) {
        let Self { scores, order } = self;
        let order = &mut order[..count];
        order.iter_mut().zip(0..).for_each(|(place, p)| *place = p);
        let better = |a: &u32, b: &u32| -> Ordering {
            let [a_score, b_score] = [a, b].map(|p| scores[*p as usize]);
            b_score.total_cmp(&a_score).then(a.cmp(b))
        };
        let last = chosen.len() - 1;
        order.select_nth_unstable_by(last, better);
        let own = &mut order[..=last];
        own.sort_unstable();
        chosen.iter_mut().zip(own).for_each(|(chosen, p)| *chosen = *p as f32);
    }
}

impl Attend {
    /// See [`crate::Backend::choose`].
    ///
    /// # Panics
    /// If the cache has other heads than one of the shape's, is a ring, or holds rotated keys.
    #[allow(clippy::too_many_arguments)] // one call
    pub(in crate::cpu) fn choose(
        self,
        pool: &mut Pool,
        chosen: &mut [f32],
        ranking: &mut Ranking,
        q: &[f32],
        weights: &[f32],
        cache: &HostCache,
        spans: &[Span],
        shape: &IndexShape,
    ) {
        let [heads, head_dim, top] = [shape.heads, shape.head_dim, shape.top].map(|n| n as usize);
        let stored = cache.shape();
        assert!(stored.kv_heads == 1 && stored.head_dim == shape.head_dim);
        let inputs = q.chunks_exact(heads * head_dim).zip(weights.chunks_exact(heads));
        for ((chosen, input), (slot, position)) in chosen.chunks_exact_mut(top).zip(inputs).zip(rows(spans)) {
            let count = position as usize + 1;
            assert!(count <= stored.capacity as usize, "position {position} of {}", stored.capacity);
            if count <= top {
                let all = (0..top).map(|p| if p < count { p as f32 } else { -1.0 });
                chosen.iter_mut().zip(all).for_each(|(chosen, p)| *chosen = p);
                continue;
            }
            match cache.head(slot, 0) {
                HeadCache::F32(head) => self.score(pool, ranking, count, input, head),
                HeadCache::F16(head) => self.score(pool, ranking, count, input, head),
                HeadCache::Int8(head) => self.score(pool, ranking, count, input, head),
                HeadCache::Int8Int4(_) | HeadCache::Int4(_) => unimplemented!("plans refuse rotated keys"),
            }
            ranking.best(chosen, count);
        }
    }

    /// Scores the first `count` positions.
    fn score<K: Element, V: Number>(
        self,
        pool: &mut Pool,
        ranking: &mut Ranking,
        count: usize,
        (q, weights): (&[f32], &[f32]),
        head: Head<'_, K, V>,
    ) {
        let tile = K::elements(head.head_dim * TILE_POSITIONS);
        let out = Output::new(&mut ranking.scores);
        pool.run(count.div_ceil(BLOCK), &|block| {
            let first = block * BLOCK;
            let len = BLOCK.min(count.next_multiple_of(TILE_POSITIONS) - first);
            // SAFETY: blocks do not meet, and each comes once; the scores are whole blocks.
            let sums = unsafe { out.slice(first, len) };
            sums.fill(0.0);
            let keys = &head.keys[first / TILE_POSITIONS * tile..][..len / TILE_POSITIONS * tile];
            let mut scores = [[0.0; BLOCK]; FEW_QUERIES];
            let few = FEW_QUERIES * head.head_dim;
            for (q, weights) in q.chunks(few).zip(weights.chunks(FEW_QUERIES)) {
                let mut queries: [&[f32]; FEW_QUERIES] = [&[]; FEW_QUERIES];
                queries.iter_mut().zip(q.chunks_exact(head.head_dim)).for_each(|(query, q)| *query = q);
                let scores = &mut scores[..weights.len()];
                // SAFETY: a `Supported` exists only for a variant that this CPU can run.
                unsafe { K::scores(self.kernel.get())(scores, &queries[..weights.len()], keys) };
                for (scores, weight) in scores.iter().zip(weights) {
                    sums.iter_mut().zip(scores).for_each(|(sum, score)| *sum += weight * score.max(0.0));
                }
            }
            // No scale is below 0.
            if let Some(scales) = head.scales {
                sums.iter_mut().zip(&scales.keys[first..]).for_each(|(sum, scale)| *sum *= scale);
            }
        });
    }
}
