//! The forward pass of an encoder: whole sequences at once.

use muse_format::{Attention, Ffn, Spec};
use muse_kernels::{Backend, BackendError, Linear, Span};

use super::attention::shape;
use super::product;
use crate::model::{EncoderLayerWeights, EncoderWeights, Norm, State};

/// Runs `tokens`, the rows of `spans`, each a whole sequence, through the layers and leaves the last one's output in
/// `state.x`.
pub fn encode<B: Backend>(
    backend: &mut B,
    spec: &Spec,
    weights: &EncoderWeights<B::Weight>,
    state: &mut State<B>,
    spans: &[Span],
    tokens: &[u32],
) -> Result<(), BackendError> {
    let (rows, len, eps) = (tokens.len(), tokens.len() * spec.dim as usize, spec.norm_eps);
    let State { x, y, picked, .. } = state;
    backend.embed(x, &weights.embed, tokens, 1.0)?;
    picked.clear();
    picked.extend(spans.iter().flat_map(|span| span.start..span.start + span.len));
    backend.embed(y, &weights.positions, picked, 1.0)?;
    backend.add(x, y, len)?;
    picked.fill(0);
    backend.embed(y, &weights.types, picked, 1.0)?;
    backend.add(x, y, len)?;
    normalise(backend, x, &weights.embed_norm, rows, eps)?;
    for (layer, w) in spec.layers.iter().zip(&weights.layers) {
        let (Some(a), Some(ffn)) = (layer.attention(), &layer.ffn) else {
            unreachable!("`Encoder::validate` asks for both");
        };
        attention(backend, a, w, state, spans, rows)?;
        backend.add(&mut state.x, &state.y, len)?;
        normalise(backend, &mut state.x, &w.attention, rows, eps)?;
        feed_forward(backend, ffn, w, state, rows)?;
        backend.add(&mut state.x, &state.y, len)?;
        normalise(backend, &mut state.x, &w.feed_forward, rows, eps)?;
    }
    Ok(())
}

fn normalise<B: Backend>(
    backend: &mut B,
    x: &mut B::Buffer,
    norm: &Norm<B::Weight>,
    rows: usize,
    eps: f32,
) -> Result<(), BackendError> {
    backend.layer_norm_in_place(x, &norm.weight, &norm.bias, rows, eps)
}

/// `state.y = attention(state.x)`. The keys and values of a layer take the place of those of the one before.
fn attention<B: Backend>(
    backend: &mut B,
    a: &Attention,
    w: &EncoderLayerWeights<B::Weight>,
    state: &mut State<B>,
    spans: &[Span],
    rows: usize,
) -> Result<(), BackendError> {
    let State { x, y, q, k, v, mix, caches, .. } = state;
    let [on_q, on_k, on_v] = &w.qkv;
    backend.linear(x, rows, &mut [product(q, on_q), product(k, on_k), product(v, on_v)])?;
    backend.store(&mut caches[0], k, v, spans)?;
    backend.attention(mix, q, &caches[0], spans, &shape(a))?;
    backend.linear(mix, rows, &mut [product(y, &w.out)])
}

/// `state.y = down(activation(up(state.x)))`.
fn feed_forward<B: Backend>(
    backend: &mut B,
    ffn: &Ffn,
    w: &EncoderLayerWeights<B::Weight>,
    state: &mut State<B>,
    rows: usize,
) -> Result<(), BackendError> {
    let State { x, y, gate, .. } = state;
    backend.linear(x, rows, &mut [product(gate, &w.up)])?;
    backend.activate(gate, rows * ffn.dim as usize, ffn.activation)?;
    backend.linear(gate, rows, &mut [product(y, &w.down)] as &mut [Linear<'_, B>])
}
