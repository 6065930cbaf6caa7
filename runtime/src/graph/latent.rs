//! Multi-head latent attention. Keys and values of heads are never made: queries are brought to what positions keep, and
//! what they read of it to the values, each by a product for a head.

use muse_format::{LatentAttention, Sparse};
use muse_kernels::{AttentionShape, Backend, BackendError, HeadsShape, Linear, Span};

use super::{product, row_count, sparse};
use crate::model::{LatentAttentionWeights, State};

/// What attention over what positions keep needs to know of `a`: one head of keys, which are the values.
fn shape(a: &LatentAttention) -> AttentionShape {
    AttentionShape {
        heads: a.heads,
        kv_heads: 1,
        head_dim: a.kept(),
        scale: a.scale,
        window: None,
        chunk: None,
        softcap: None,
        bidirectional: false,
        until: None,
    }
}

/// `state.y = attention(state.y)`, over the cache of layer `index`; over `top` positions at most, which the layer or one
/// before it chooses, where it is sparse.
#[allow(clippy::too_many_arguments)] // one call
pub(super) fn latent<B: Backend>(
    backend: &mut B,
    a: &LatentAttention,
    w: &LatentAttentionWeights<B::Weight>,
    ropes: &[B::Weight],
    state: &mut State<B>,
    index: usize,
    spans: &[Span],
    top: Option<u32>,
) -> Result<(), BackendError> {
    keep(backend, a, w, ropes, state, index, spans)?;
    let own = state.own_cache(index);
    let (rows, heads) = (row_count(spans), a.heads as usize);
    if let Some(down) = &w.q_down {
        let State { y, gate, .. } = state;
        backend.linear(y, rows, &mut [product(gate, &down.product)])?;
        backend.rms_norm_in_place(gate, &down.norm, rows, a.norm_eps)?;
    }
    if let (Some(Sparse::Own(indexer)), Some(w)) = (&a.sparse, &w.index) {
        sparse::choose(backend, a, indexer, w, ropes, state, index, spans)?;
    }
    let State { y, q, mix, gate, up, q_rope, chosen, caches, .. } = state;
    let made_of = if w.q_down.is_some() { &*gate } else { &*y };
    let on_q = Linear { out: &mut *up, weight: &w.q, bias: None };
    let on_rope = Linear { out: &mut *q_rope, weight: &w.q_rope, bias: None };
    backend.linear(made_of, rows, &mut [on_q, on_rope])?;
    backend.rope(q_rope, &ropes[a.rope as usize], spans, a.heads, a.rope_dim)?;
    backend.linear_heads(mix, up, rows, &w.key_up, HeadsShape { heads, cols: a.key_dim as usize })?;
    backend.join(q, mix, q_rope, rows * heads, [a.rank as usize, a.rope_dim as usize])?;
    match top {
        None => backend.attention(mix, q, &caches[own], spans, &shape(a))?,
        Some(top) => backend.attention_chosen(mix, q, &caches[own], spans, &shape(a), chosen, top)?,
    }
    backend.linear_heads(gate, mix, rows, &w.value_up, HeadsShape { heads, cols: a.kept() as usize })?;
    backend.linear(gate, rows, &mut [product(y, &w.out)])
}

/// What the positions of `state.y` keep goes to the cache of layer `index`, and nothing reads it yet.
pub(super) fn keep<B: Backend>(
    backend: &mut B,
    a: &LatentAttention,
    w: &LatentAttentionWeights<B::Weight>,
    ropes: &[B::Weight],
    state: &mut State<B>,
    index: usize,
    spans: &[Span],
) -> Result<(), BackendError> {
    let own = state.own_cache(index);
    let State { y, k, v, k_rope, caches, .. } = state;
    let rows = row_count(spans);
    backend.linear(y, rows, &mut [product(v, &w.latent.product), product(k_rope, &w.k_rope)])?;
    backend.rms_norm_in_place(v, &w.latent.norm, rows, a.norm_eps)?;
    backend.rope(k_rope, &ropes[a.rope as usize], spans, 1, a.rope_dim)?;
    backend.join(k, v, k_rope, rows, [a.rank as usize, a.rope_dim as usize])?;
    backend.store(&mut caches[own], k, k, spans)?;
    match (&a.sparse, &w.index) {
        (Some(Sparse::Own(indexer)), Some(w)) => {
            sparse::keep(backend, a, indexer, w, ropes, state, index, spans)
        }
        _ => Ok(()),
    }
}
