use half::f16;

use super::rowwise::soft_cap;
use crate::cache::{HeadCache, HostCache, rows};
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
            let cache = cache.head(slot, head / group);
            one_head(&mut out[at..at + head_dim], &q[at..at + head_dim], cache, position, shape);
        }
    }
}

/// `softmax(scale * q . k) . v` over the positions that a query at `position` sees.
fn one_head(out: &mut [f32], q: &[f32], cache: HeadCache<'_>, position: u32, shape: &AttentionShape) {
    let seen = position.saturating_add(1).min(shape.window.unwrap_or(u32::MAX));
    let first = position + 1 - seen;
    let width = q.len();
    let capacity = match cache {
        HeadCache::F16 { keys, .. } => keys.len(),
        HeadCache::F32 { keys, .. } => keys.len(),
    } / width;
    assert!(seen as usize <= capacity, "a query sees {seen} positions of a cache of {capacity}");
    let place = |p: u32| p as usize % capacity * width;
    let key = |p: u32, i: usize| match cache {
        HeadCache::F16 { keys, .. } => f16::from_bits(keys[place(p) + i]).to_f64(),
        HeadCache::F32 { keys, .. } => f64::from(keys[place(p) + i]),
    };
    let value = |p: u32, i: usize| match cache {
        HeadCache::F16 { values, .. } => f16::from_bits(values[place(p) + i]).to_f64(),
        HeadCache::F32 { values, .. } => f64::from(values[place(p) + i]),
    };
    let mut weights: Vec<f64> = (first..=position)
        .map(|p| {
            let dot: f64 = q.iter().enumerate().map(|(i, q)| f64::from(*q) * key(p, i)).sum();
            soft_cap(dot * f64::from(shape.scale), shape.softcap)
        })
        .collect();
    let max = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    weights.iter_mut().for_each(|w| *w = (*w - max).exp());
    let total: f64 = weights.iter().sum();
    for (i, out) in out.iter_mut().enumerate() {
        let sum: f64 = (first..=position).zip(&weights).map(|(p, w)| w * value(p, i)).sum();
        *out = (sum / total) as f32;
    }
}
