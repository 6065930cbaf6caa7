//! Which positions a row chooses.

use crate::cache::{HeadCache, HostCache, rows};
use crate::{IndexShape, Span};

/// See [`crate::Backend::choose`].
pub(super) fn run(
    chosen: &mut [f32],
    q: &[f32],
    weights: &[f32],
    cache: &HostCache,
    spans: &[Span],
    shape: &IndexShape,
) {
    let [heads, head_dim, top] = [shape.heads, shape.head_dim, shape.top].map(|n| n as usize);
    let inputs = q.chunks_exact(heads * head_dim).zip(weights.chunks_exact(heads));
    for ((chosen, (q, weights)), (slot, position)) in
        chosen.chunks_exact_mut(top).zip(inputs).zip(rows(spans))
    {
        let key = |p: u32, i: usize| match cache.head(slot, 0) {
            HeadCache::F32(head) => head.key(p, i),
            HeadCache::F16(head) => head.key(p, i),
            HeadCache::Int8(head) => head.key(p, i),
            HeadCache::Int8Int4(_) | HeadCache::Int4(_) => unimplemented!("plans refuse rotated keys"),
        };
        let score = |p: u32| -> f64 {
            let dot = |q: &[f32]| q.iter().enumerate().map(|(i, q)| f64::from(*q) * key(p, i)).sum::<f64>();
            q.chunks_exact(head_dim).zip(weights).map(|(q, w)| f64::from(*w) * dot(q).max(0.0)).sum()
        };
        let mut order: Vec<(f64, u32)> = (0..=position).map(|p| (score(p), p)).collect();
        order.sort_by(|(a, p), (b, q)| b.total_cmp(a).then(p.cmp(q)));
        let mut own: Vec<u32> = order.into_iter().take(top).map(|(_, p)| p).collect();
        own.sort_unstable();
        chosen.fill(-1.0);
        chosen.iter_mut().zip(own).for_each(|(chosen, p)| *chosen = p as f32);
    }
}
