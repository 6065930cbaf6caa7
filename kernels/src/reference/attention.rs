use super::rowwise::soft_cap;
use crate::cache::{Head, HeadCache, HostCache, rows};
use crate::{AttentionShape, Span};

/// `q` and `out` are `(tokens, heads * head_dim)`.
pub(super) fn run(out: &mut [f32], q: &[f32], cache: &HostCache, spans: &[Span], shape: &AttentionShape) {
    let head_dim = shape.head_dim as usize;
    let width = shape.heads as usize * head_dim;
    let group = shape.heads / shape.kv_heads;
    let inputs = q.chunks_exact(width).zip(rows(spans));
    for (out, (q, (slot, position))) in out.chunks_exact_mut(width).zip(inputs) {
        for head in 0..shape.heads {
            let at = head as usize * head_dim;
            let (out, q) = (&mut out[at..at + head_dim], &q[at..at + head_dim]);
            match cache.head(slot, head / group) {
                HeadCache::F16(cache) => one_head(out, q, cache, position, shape),
                HeadCache::F32(cache) => one_head(out, q, cache, position, shape),
                HeadCache::Int8(cache) => one_head(out, q, cache, position, shape),
            }
        }
    }
}

/// `softmax(scale * q . k) . v` over the positions that a query at `position` sees.
fn one_head<E: Copy + Into<f64>>(
    out: &mut [f32],
    q: &[f32],
    cache: Head<'_, E>,
    position: u32,
    shape: &AttentionShape,
) {
    let seen = shape.seen(position);
    let first = position + 1 - seen;
    let capacity = cache.values.len() / q.len();
    assert!(seen as usize <= capacity, "a query sees {seen} positions of a cache of {capacity}");
    let mut weights: Vec<f64> = (first..=position)
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
        let terms = (first..=position).zip(&weights).map(|(p, w)| w * cache.value(p, i, q.len()));
        let sum: f64 = terms.sum();
        *out = (sum / total) as f32;
    }
}
