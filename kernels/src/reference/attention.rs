use std::ops::RangeInclusive;

use super::rowwise::soft_cap;
use crate::cache::{Head, HeadCache, HostCache};
use crate::{AttentionShape, Span};

/// `q` and `out` are `(tokens, heads * head_dim)`.
pub(super) fn run(out: &mut [f32], q: &[f32], cache: &HostCache, spans: &[Span], shape: &AttentionShape) {
    let head_dim = shape.head_dim as usize;
    let width = shape.heads as usize * head_dim;
    let group = shape.heads / shape.kv_heads;
    let rows = spans.iter().flat_map(|span| (0..span.len).map(move |i| (span, span.start + i)));
    for (out, (q, (span, position))) in out.chunks_exact_mut(width).zip(q.chunks_exact(width).zip(rows)) {
        for head in 0..shape.heads {
            let at = head as usize * head_dim;
            let (out, q) = (&mut out[at..at + head_dim], &q[at..at + head_dim]);
            match cache.head(span.slot, head / group) {
                HeadCache::F16(cache) => one_head(out, q, cache, shape.sees(span, position), shape),
                HeadCache::F32(cache) => one_head(out, q, cache, shape.sees(span, position), shape),
                HeadCache::Int8(cache) => one_head(out, q, cache, shape.sees(span, position), shape),
            }
        }
    }
}

/// `softmax(scale * q . k) . v` over the positions that a query `sees`.
fn one_head<E: Copy + Into<f64>>(
    out: &mut [f32],
    q: &[f32],
    cache: Head<'_, E>,
    sees: RangeInclusive<u32>,
    shape: &AttentionShape,
) {
    let capacity = cache.values.len() / q.len();
    assert!(sees.clone().count() <= capacity, "a query sees {sees:?} of a cache of {capacity}");
    let mut weights: Vec<f64> = sees
        .clone()
        .map(|p| {
            let terms = q.iter().enumerate().map(|(i, x)| f64::from(*x) * cache.key(p, i, q.len()));
            let dot: f64 = terms.sum();
            soft_cap(dot * f64::from(shape.scale), shape.softcap)
        })
        .collect();
    let max = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    weights.iter_mut().for_each(|w| *w = (*w - max).exp());
    let total: f64 = weights.iter().sum();
    for (i, out) in out.iter_mut().enumerate() {
        let terms = sees.clone().zip(&weights).map(|(p, w)| w * cache.value(p, i, q.len()));
        let sum: f64 = terms.sum();
        *out = (sum / total) as f32;
    }
}
