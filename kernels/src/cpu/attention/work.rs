//! How the queries of a batch, and the positions they see, are shared out to threads.

use std::ops::Range;

use super::attend::Queries;
use crate::cache::{HeadCache, HostCache};
use crate::shape::PROMPT_ROWS;
use crate::{AttentionShape, Span};

/// Most parts that the positions of a query are split into.
const PARTS: usize = 32;
/// Fewest positions that make a part worth handing to another thread.
const WORTH_A_PART: usize = 256;

/// Elements of the partial sums of all parts, where queries are at most `width` wide.
pub(in crate::cpu) fn partial_len(width: usize) -> usize {
    PARTS * width
}

/// Bytes of them.
pub(in crate::cpu) fn partial_bytes(width: u64) -> u64 {
    PARTS as u64 * width * size_of::<f32>() as u64
}

/// One call.
pub(in crate::cpu) struct Work<'a> {
    /// `(tokens, heads * head_dim)`
    q: &'a [f32],
    cache: &'a HostCache,
    spans: &'a [Span],
    pub(super) shape: &'a AttentionShape,
    /// Where rows see some positions alone: `(tokens, top)` of them, and `top`.
    chosen: Option<(&'a [f32], usize)>,
    /// Which spans' rows see each other; none where it is empty.
    joint: &'a [bool],
}

/// The `index`-th of `of` parts.
#[derive(Clone, Copy)]
pub(super) struct Part {
    pub(super) index: usize,
    pub(super) of: usize,
}

impl Part {
    /// This part of a range.
    pub(super) fn of(self, whole: Range<usize>) -> Range<usize> {
        let len = whole.len().div_ceil(self.of);
        let start = (whole.start + self.index * len).min(whole.end);
        start..(start + len).min(whole.end)
    }
}

impl<'a> Work<'a> {
    /// # Panics
    /// If the cache does not have the shape's heads.
    pub(in crate::cpu) fn new(
        q: &'a [f32],
        cache: &'a HostCache,
        spans: &'a [Span],
        shape: &'a AttentionShape,
    ) -> Self {
        let stored = cache.shape();
        assert!(stored.kv_heads == shape.kv_heads && stored.head_dim == shape.head_dim);
        assert!(shape.heads > 0 && shape.heads.is_multiple_of(shape.kv_heads));
        Self { q, cache, spans, shape, chosen: None, joint: &[] }
    }

    /// Of the positions `chosen` alone, `(tokens, top)`.
    pub(in crate::cpu) fn among(self, chosen: &'a [f32], top: usize) -> Self {
        Self { chosen: Some((chosen, top)), ..self }
    }

    /// With those spans `joint`, one flag each, whose rows see each other.
    pub(in crate::cpu) fn jointly(self, joint: &'a [bool]) -> Self {
        Self { joint, ..self }
    }

    /// What a row chose, where it did.
    fn chosen(&self, row: usize) -> Option<&'a [f32]> {
        let (chosen, top) = self.chosen?;
        let own = &chosen[row * top..][..top];
        Some(&own[..own.iter().rposition(|p| *p >= 0.0).map_or(0, |last| last + 1)])
    }

    pub(super) fn head_dim(&self) -> usize {
        self.shape.head_dim as usize
    }

    /// Queries of a span that share a head of keys.
    fn shared(&self, span: &Span) -> usize {
        span.len as usize * (self.shape.heads / self.shape.kv_heads) as usize
    }

    /// Units of [`unit`](Self::unit) of up to `most` queries. Later ones see more, and the pool hands out the last one first.
    pub(super) fn units(&self, most: usize) -> usize {
        let units: usize = self.spans.iter().map(|span| self.shared(span).div_ceil(most)).sum();
        units * self.shape.kv_heads as usize
    }

    /// How many parts to split positions into so that `threads` have work: 1 where a span is a prompt's, where there are
    /// units enough for two a thread, where no span's first row sees enough for two, and where `room` elements do not hold
    /// the sums.
    pub(super) fn parts(&self, most: usize, threads: usize, room: usize) -> usize {
        if threads == 1 || self.spans.iter().any(|span| span.len >= PROMPT_ROWS) {
            return 1;
        }
        let wanted = (2 * threads).div_ceil(self.units(most).max(1));
        let fit = room / (self.q.len() / self.head_dim() * (self.head_dim() + 2)).max(1);
        let seen = |span: &Span| self.shape.sees(span, span.start).count();
        let longest = self.spans.iter().map(seen).max().unwrap_or(0);
        wanted.min(fit).min(longest / WORTH_A_PART).max(1)
    }

    /// Fills `queries` with those of a unit: up to `most` rows and heads of one span that share a head of keys.
    /// `out` gives each query, counted over the rows and heads of `q`, what its sums go to. Returns the keys and values.
    pub(super) fn unit<'q>(
        &'q self,
        unit: usize,
        most: usize,
        queries: &mut Queries<'q>,
        mut out: impl FnMut(usize, usize) -> &'q mut [f32],
    ) -> HeadCache<'a> {
        let (heads, kv_heads) = (self.shape.heads as usize, self.shape.kv_heads as usize);
        let (group, kv_head) = (heads / kv_heads, unit % kv_heads);
        let (mut index, mut row) = (unit / kv_heads, 0);
        let mut spans = self.spans.iter().enumerate();
        let (mut which, mut span) = spans.next().expect("a unit has a span");
        while index >= self.shared(span).div_ceil(most) {
            index -= self.shared(span).div_ceil(most);
            row += span.len as usize;
            (which, span) = spans.next().expect("a unit has a span");
        }
        let joint = self.joint.get(which).is_some_and(|joint| *joint);
        queries.prompt = span.len >= PROMPT_ROWS;
        let shared = self.shared(span);
        let len = shared.div_ceil(shared.div_ceil(most));
        for i in index * len..((index + 1) * len).min(shared) {
            let query = (row + i / group) * heads + kv_head * group + i % group;
            let sees = self.shape.sees_jointly(span, span.start + (i / group) as u32, joint);
            queries.chosen[queries.count] = self.chosen(row + i / group);
            let (first, last) = (*sees.start() as usize, *sees.end() as usize);
            let out = out(query, queries.count);
            queries.push(&self.q[query * self.head_dim()..][..self.head_dim()], out, (first, last));
        }
        self.cache.head(span.slot, kv_head as u32)
    }
}

/// Puts the parts of one query together: `sums` is `(parts, head_dim + 2)`, each part's sum of weighted values, its
/// largest score and its sum of weights.
pub(super) fn merge(out: &mut [f32], sums: &[f32]) {
    let head_dim = out.len();
    let parts = || sums.chunks_exact(head_dim + 2).map(|part| part.split_at(head_dim));
    let max = parts().map(|(_, tail)| tail[0]).fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = parts().map(|(_, tail)| tail[1] * (tail[0] - max).exp()).sum();
    out.fill(0.0);
    for (values, tail) in parts() {
        let factor = (tail[0] - max).exp() / total;
        out.iter_mut().zip(values).for_each(|(out, v)| *out += factor * v);
    }
}
