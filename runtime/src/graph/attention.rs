//! Grouped-query attention over a cache.

use muse_format::{Activation, Attention};
use muse_kernels::{AttentionShape, Backend, BackendError, Linear, Span};

use super::{product, row_count};
use crate::model::{AttentionWeights, State};

/// What the operation needs to know of `a`.
pub(super) fn shape(a: &Attention) -> AttentionShape {
    AttentionShape {
        heads: a.heads,
        kv_heads: a.kv_heads,
        head_dim: a.head_dim,
        scale: a.scale,
        window: a.window,
        chunk: a.chunk,
        softcap: a.softcap,
        bidirectional: a.bidirectional,
        until: None,
    }
}

/// `state.y = attention(state.y)`, over the cache of layer `index`.
#[allow(clippy::too_many_arguments)] // one call
pub(super) fn attention<B: Backend>(
    backend: &mut B,
    a: &Attention,
    w: &AttentionWeights<B::Weight>,
    ropes: &[B::Weight],
    state: &mut State<B>,
    index: usize,
    spans: &[Span],
    eps: f32,
) -> Result<(), BackendError> {
    let own = state.own_cache(index);
    let State { y, q, k, v, mix, gate, caches, turns, axes, pieces, joint, joint_everywhere, .. } = state;
    let (rows, turns) = (row_count(spans), axes.map(|axes| (turns.as_slice(), axes)));
    let on_q = product(q, &w.q);
    let on_gate = w.gate.as_ref().map(|weight| Linear { out: &mut *gate, weight, bias: None });
    let on_kv = w.kv.as_ref().map(|[on_k, on_v]| [product(k, on_k), product(v, on_v)]);
    match (on_kv, on_gate) {
        (Some([on_k, on_v]), None) => backend.linear(y, rows, &mut [on_q, on_k, on_v])?,
        (Some([on_k, on_v]), Some(on_gate)) => backend.linear(y, rows, &mut [on_q, on_k, on_v, on_gate])?,
        (None, None) => backend.linear(y, rows, &mut [on_q])?,
        (None, Some(on_gate)) => backend.linear(y, rows, &mut [on_q, on_gate])?,
    }
    if let Some(norm) = &w.q_norm {
        backend.rms_norm_in_place(q, norm, rows * a.heads as usize, eps)?;
    }
    if let Some(rope) = a.rope {
        rotate(backend, q, &ropes[rope as usize], spans, turns, [a.heads, a.head_dim])?;
    }
    if let Some(temperature) = a.temperature {
        backend.temper(q, spans, (a.heads * a.head_dim) as usize, temperature)?;
    }
    if w.kv.is_some() {
        store(backend, a, w, ropes, k, v, &mut caches[own], spans, turns, eps)?;
    }
    let cache = &caches[a.kv_from.map_or(own, |from| from as usize)];
    if pieces.is_empty() || a.window.is_none() && !*joint_everywhere {
        backend.attention(mix, q, cache, spans, &shape(a))?;
    } else {
        backend.attention_joint(mix, q, cache, pieces, &shape(a), joint)?;
    }
    if let Some(norm) = &w.mix_norm {
        backend.rms_norm_in_place(mix, norm, rows * a.heads as usize, eps)?;
    }
    if w.gate.is_none() {
        return backend.linear(mix, rows, &mut [product(y, &w.out)]);
    }
    let len = rows * a.heads as usize * a.head_dim as usize;
    backend.glu(gate, mix, len, Activation::Sigmoid)?;
    backend.linear(gate, rows, &mut [product(y, &w.out)])
}

/// The keys and values of `state.y` go to the cache of layer `index`, and nothing reads them yet.
#[allow(clippy::too_many_arguments)] // one call
pub(super) fn keep<B: Backend>(
    backend: &mut B,
    a: &Attention,
    w: &AttentionWeights<B::Weight>,
    ropes: &[B::Weight],
    state: &mut State<B>,
    index: usize,
    spans: &[Span],
    eps: f32,
) -> Result<(), BackendError> {
    let own = state.own_cache(index);
    let State { y, k, v, caches, turns, axes, .. } = state;
    let turns = axes.map(|axes| (turns.as_slice(), axes));
    let Some([on_k, on_v]) = &w.kv else { return Ok(()) };
    backend.linear(y, row_count(spans), &mut [product(k, on_k), product(v, on_v)])?;
    store(backend, a, w, ropes, k, v, &mut caches[own], spans, turns, eps)
}

/// What each row turns by, and how many frequencies by its row and column; none in models without axes.
type Turns<'a> = Option<(&'a [[u32; 3]], [u32; 2])>;

/// Turns `x`, rows of so many heads, by the positions of `spans`, or by `turns` where there are any.
fn rotate<B: Backend>(
    backend: &mut B,
    x: &mut B::Buffer,
    rope: &B::Weight,
    spans: &[Span],
    turns: Turns<'_>,
    [heads, head_dim]: [u32; 2],
) -> Result<(), BackendError> {
    match turns {
        None | Some(([], _)) => backend.rope(x, rope, spans, heads, head_dim),
        Some((turns, axes)) => backend.rope_axes(x, rope, turns, axes, heads, head_dim),
    }
}

/// Norms, rotates and stores keys and values.
#[allow(clippy::too_many_arguments)] // one call
fn store<B: Backend>(
    backend: &mut B,
    a: &Attention,
    w: &AttentionWeights<B::Weight>,
    ropes: &[B::Weight],
    k: &mut B::Buffer,
    v: &mut B::Buffer,
    cache: &mut B::Cache,
    spans: &[Span],
    turns: Turns<'_>,
    eps: f32,
) -> Result<(), BackendError> {
    let heads = row_count(spans) * a.kv_heads as usize;
    if let Some(norm) = &w.k_norm {
        backend.rms_norm_in_place(k, norm, heads, eps)?;
    }
    if let Some(norm) = &w.v_norm {
        backend.rms_norm_in_place(v, norm, heads, eps)?;
    }
    if let Some(rope) = a.rope {
        rotate(backend, k, &ropes[rope as usize], spans, turns, [a.kv_heads, a.head_dim])?;
    }
    backend.store(cache, k, v, spans)
}
