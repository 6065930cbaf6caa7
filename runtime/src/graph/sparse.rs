//! Which positions queries meet: small heads score all of them, and the best are chosen.

use muse_format::{Indexer, LatentAttention};
use muse_kernels::{Backend, BackendError, IndexShape, Linear, Span};

use super::row_count;
use crate::model::{IndexWeights, State};

/// The keys by which the positions of `state.y` are found go to the cache of layer `index`.
#[allow(clippy::too_many_arguments)] // one call
pub(super) fn keep<B: Backend>(
    backend: &mut B,
    a: &LatentAttention,
    indexer: &Indexer,
    w: &IndexWeights<B::Weight>,
    ropes: &[B::Weight],
    state: &mut State<B>,
    index: usize,
    spans: &[Span],
) -> Result<(), BackendError> {
    let State { y, index_k, index_caches, .. } = state;
    let cache = index_caches[index].as_mut().expect("the plan has a cache for each such layer");
    let rows = row_count(spans);
    backend.linear(y, rows, &mut [Linear { out: index_k, weight: &w.k, bias: None }])?;
    let [weight, bias] = &w.k_norm;
    backend.layer_norm_in_place(index_k, weight, bias, rows, indexer.norm_eps)?;
    backend.rope(index_k, &ropes[a.rope as usize], spans, 1, indexer.head_dim)?;
    backend.store(cache, index_k, index_k, spans)
}

/// Leaves in `state.chosen` what the rows of `state.y` choose, whose queries are made of `state.gate`.
#[allow(clippy::too_many_arguments)] // one call
pub(super) fn choose<B: Backend>(
    backend: &mut B,
    a: &LatentAttention,
    indexer: &Indexer,
    w: &IndexWeights<B::Weight>,
    ropes: &[B::Weight],
    state: &mut State<B>,
    index: usize,
    spans: &[Span],
) -> Result<(), BackendError> {
    let State { y, gate, index_q, index_weight, chosen, index_caches, .. } = state;
    let cache = index_caches[index].as_ref().expect("the plan has a cache for each such layer");
    let Indexer { heads, head_dim, top, .. } = *indexer;
    let rows = row_count(spans);
    backend.linear(gate, rows, &mut [Linear { out: index_q, weight: &w.q, bias: None }])?;
    backend.rope(index_q, &ropes[a.rope as usize], spans, heads, head_dim)?;
    backend.linear(y, rows, &mut [Linear { out: index_weight, weight: &w.weight, bias: None }])?;
    backend.choose(chosen, index_q, index_weight, cache, spans, &IndexShape { heads, head_dim, top })
}
