use super::rowwise::soft_cap;
use crate::cache::{Head, HeadCache, HostCache, Number, rotated_len};
use crate::{AttentionShape, Span};

/// What a row sees beside what its shape says.
#[derive(Clone, Copy)]
pub(super) enum Seen<'a> {
    Plain,
    /// Of chosen positions, `top` a row, alone.
    Chosen(&'a [f32], u32),
    /// In some spans, one flag each, also the rows behind it.
    Joint(&'a [bool]),
}

/// `q` and `out` are `(tokens, heads * head_dim)`.
pub(super) fn run(
    out: &mut [f32],
    q: &[f32],
    cache: &HostCache,
    spans: &[Span],
    shape: &AttentionShape,
    seen: Seen<'_>,
) {
    let head_dim = shape.head_dim as usize;
    let width = shape.heads as usize * head_dim;
    let group = shape.heads / shape.kv_heads;
    let rows = spans
        .iter()
        .enumerate()
        .flat_map(|(index, span)| (0..span.len).map(move |i| (index, span, span.start + i)));
    for (row, (out, (q, (index, span, position)))) in
        out.chunks_exact_mut(width).zip(q.chunks_exact(width).zip(rows)).enumerate()
    {
        let sees: Vec<u32> = match seen {
            Seen::Plain => shape.sees(span, position).collect(),
            Seen::Joint(joint) => shape.sees_jointly(span, position, joint[index]).collect(),
            Seen::Chosen(chosen, top) => {
                let own = &chosen[row * top as usize..][..top as usize];
                own.iter().filter(|position| **position >= 0.0).map(|position| *position as u32).collect()
            }
        };
        for head in 0..shape.heads {
            let at = head as usize * head_dim;
            let (out, q) = (&mut out[at..at + head_dim], &q[at..at + head_dim]);
            match cache.head(span.slot, head / group) {
                HeadCache::F32(cache) => one_head(out, q, cache, &sees, shape),
                HeadCache::F16(cache) => one_head(out, q, cache, &sees, shape),
                HeadCache::Int8(cache) => one_head(out, q, cache, &sees, shape),
                HeadCache::Int8Int4(cache) => one_head(out, q, cache, &sees, shape),
                HeadCache::Int4(cache) => one_head(out, q, cache, &sees, shape),
            }
        }
    }
}

/// `softmax(scale * q . k) . v` over the positions that a query `sees`.
fn one_head<K: Number, V: Number>(
    out: &mut [f32],
    q: &[f32],
    cache: Head<'_, K, V>,
    sees: &[u32],
    shape: &AttentionShape,
) {
    let capacity = cache.capacity;
    assert!(sees.len() <= capacity, "a query sees {} positions of a cache of {capacity}", sees.len());
    let q: Vec<f64> = q.iter().map(|x| f64::from(*x)).collect();
    let q = if K::ROTATED { rotated(&q) } else { q };
    let mut weights: Vec<f64> = sees
        .iter()
        .map(|p| {
            let dot: f64 = q.iter().enumerate().map(|(i, x)| x * cache.key(*p, i)).sum();
            soft_cap(dot * f64::from(shape.scale), shape.softcap)
        })
        .collect();
    let max = weights.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    weights.iter_mut().for_each(|w| *w = (*w - max).exp());
    let total: f64 = weights.iter().sum();
    let element = |i| {
        let terms = sees.iter().zip(&weights).map(|(p, w)| w * cache.value(*p, i));
        terms.sum::<f64>() / total
    };
    let sums: Vec<f64> = (0..out.len()).map(element).collect();
    let sums = if V::ROTATED { rotated(&sums) } else { sums };
    out.iter_mut().zip(sums).for_each(|(out, sum)| *out = sum as f32);
}

/// A head's numbers by the Walsh-Hadamard matrix, as [`CacheDtype::Int4`](crate::CacheDtype::Int4) says.
fn rotated(x: &[f64]) -> Vec<f64> {
    let n = rotated_len(x.len());
    let element = |i: usize| {
        let block = &x[i / n * n..][..n];
        let sign = |j: usize| if ((i % n) & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
        block.iter().enumerate().map(|(j, x)| sign(j) * x).sum::<f64>() / (n as f64).sqrt()
    };
    (0..x.len()).map(element).collect()
}
