//! The one forward pass. It reads a [`Spec`], asks the backend for operations and never compares a model's name.

use muse_format::{Activation, Attention, Layer, PerLayer, Spec};
use muse_kernels::{AttentionShape, Backend, BackendError, Linear, Mixture, Routing, Span};

use crate::model::{Affine, LayerWeights, PerLayerHalf, PerLayerWeights, State, Weights};

/// Runs `tokens`, the rows of `spans`, through the model and leaves the logits of the rows in `wanted` in
/// `state.logits`.
///
/// A block is `x += post_norm(attention(norm(x)))`, then `x += post_norm(ffn(norm(x)))`, the post norms optional.
pub fn forward<B: Backend>(
    backend: &mut B,
    spec: &Spec,
    weights: &Weights<B::Weight>,
    state: &mut State<B>,
    spans: &[Span],
    tokens: &[u32],
    wanted: &[u32],
) -> Result<(), BackendError> {
    let (rows, dim, eps) = (tokens.len(), spec.dim as usize, spec.norm_eps);
    backend.embed(&mut state.x, &weights.embed, tokens, spec.embed_scale)?;
    if let Some(norm) = &weights.embed_norm {
        backend.rms_norm_in_place(&mut state.x, norm, rows, eps)?;
    }
    if let Some((spec, w)) = spec.per_layer.as_ref().zip(weights.per_layer.as_ref()) {
        vectors_of_layers(backend, spec, w, state, tokens, weights.layers.len(), eps)?;
    }
    for (i, (layer, w)) in spec.layers.iter().zip(&weights.layers).enumerate() {
        let post_eps = layer.post_norm_eps.unwrap_or(eps);
        backend.rms_norm(&mut state.y, &state.x, &w.attn_norm, rows, eps)?;
        attention(backend, &layer.attention, w, &weights.ropes, state, i, spans, eps)?;
        if let Some(norm) = &w.attn_post_norm {
            backend.rms_norm_in_place(&mut state.y, norm, rows, post_eps)?;
        }
        backend.add(&mut state.x, &state.y, rows * dim)?;

        backend.rms_norm(&mut state.y, &state.x, &w.ffn_norm, rows, eps)?;
        feed_forward(backend, layer, w, state, rows, dim)?;
        if let Some(norm) = &w.ffn_post_norm {
            backend.rms_norm_in_place(&mut state.y, norm, rows, post_eps)?;
        }
        backend.add(&mut state.x, &state.y, rows * dim)?;
        if let Some((spec, w)) = spec.per_layer.as_ref().zip(w.per_layer.as_ref()) {
            add_vector_of_layer(backend, spec, w, state, i, weights.layers.len(), rows, eps)?;
            backend.add(&mut state.x, &state.y, rows * dim)?;
        }
        if let Some(scale) = w.scale {
            backend.scale_and_cap(&mut state.x, rows * dim, scale, None)?;
        }
    }
    if wanted.is_empty() {
        return Ok(());
    }
    let State { x, y, logits, .. } = state;
    backend.gather(y, x, wanted, dim)?;
    backend.rms_norm_in_place(y, &weights.norm, wanted.len(), eps)?;
    let head = weights.head.as_ref().unwrap_or(&weights.embed);
    backend.linear(y, wanted.len(), &mut [Linear { out: logits, weight: head, bias: None }])?;
    let len = wanted.len() * spec.vocab as usize;
    backend.scale_and_cap(logits, len, spec.logit_scale, spec.logit_softcap)
}

/// Fills `state.extra` with each layer's vector of each token, from their ids and embeddings.
fn vectors_of_layers<B: Backend>(
    backend: &mut B,
    spec: &PerLayer,
    w: &PerLayerWeights<B::Weight>,
    state: &mut State<B>,
    tokens: &[u32],
    layers: usize,
    eps: f32,
) -> Result<(), BackendError> {
    let State { x, extra, projected, .. } = state;
    let (rows, vectors) = (tokens.len(), tokens.len() * layers);
    let len = vectors * spec.dim as usize;
    backend.linear(x, rows, &mut [Linear { out: projected, weight: &w.projection, bias: None }])?;
    backend.scale_and_cap(projected, len, spec.projection_scale, None)?;
    backend.rms_norm_in_place(projected, &w.norm, vectors, eps)?;
    backend.embed(extra, &w.table, tokens, spec.table_scale)?;
    backend.add(extra, projected, len)?;
    backend.scale_and_cap(extra, len, spec.scale, None)
}

/// `state.y` is what layer `index` adds for its vectors of the tokens.
#[allow(clippy::too_many_arguments)] // one call
fn add_vector_of_layer<B: Backend>(
    backend: &mut B,
    spec: &PerLayer,
    w: &PerLayerHalf<B::Weight>,
    state: &mut State<B>,
    index: usize,
    layers: usize,
    rows: usize,
    eps: f32,
) -> Result<(), BackendError> {
    let State { x, y, gate, up, extra, picked, .. } = state;
    let dim = spec.dim as usize;
    picked.clear();
    picked.extend((0..rows).map(|row| (row * layers + index) as u32));
    backend.gather(up, extra, picked, dim)?;
    backend.linear(x, rows, &mut [Linear { out: gate, weight: &w.gate, bias: None }])?;
    backend.glu(gate, up, rows * dim, spec.activation)?;
    backend.linear(gate, rows, &mut [Linear { out: y, weight: &w.out, bias: None }])?;
    backend.rms_norm_in_place(y, &w.norm, rows, eps)
}

/// `state.y = attention(state.y)`, over the cache of layer `index`.
#[allow(clippy::too_many_arguments)] // one call
fn attention<B: Backend>(
    backend: &mut B,
    a: &Attention,
    w: &LayerWeights<B::Weight>,
    ropes: &[B::Weight],
    state: &mut State<B>,
    index: usize,
    spans: &[Span],
    eps: f32,
) -> Result<(), BackendError> {
    let State { y, q, k, v, mix, gate, caches, .. } = state;
    let rows: usize = spans.iter().map(|span| span.len as usize).sum();
    let on_q = product(q, &w.q);
    let on_gate = w.attn_gate.as_ref().map(|weight| Linear { out: &mut *gate, weight, bias: None });
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
    if let Some(norm) = &w.k_norm {
        backend.rms_norm_in_place(k, norm, rows * a.kv_heads as usize, eps)?;
    }
    if let Some(norm) = &w.v_norm {
        backend.rms_norm_in_place(v, norm, rows * a.kv_heads as usize, eps)?;
    }
    if let Some(rope) = a.rope {
        let frequencies = &ropes[rope as usize];
        backend.rope(q, frequencies, spans, a.heads, a.head_dim)?;
        if w.kv.is_some() {
            backend.rope(k, frequencies, spans, a.kv_heads, a.head_dim)?;
        }
    }
    if w.kv.is_some() {
        backend.store(&mut caches[index], k, v, spans)?;
    }
    let cache = &caches[a.kv_from.map_or(index, |from| from as usize)];
    let shape = AttentionShape {
        heads: a.heads,
        kv_heads: a.kv_heads,
        head_dim: a.head_dim,
        scale: a.scale,
        window: a.window,
        softcap: a.softcap,
        bidirectional: false,
        until: None,
    };
    backend.attention(mix, q, cache, spans, &shape)?;
    if w.attn_gate.is_none() {
        return backend.linear(mix, rows, &mut [product(y, &w.out)]);
    }
    let len = rows * a.heads as usize * a.head_dim as usize;
    backend.glu(gate, mix, len, Activation::Sigmoid)?;
    backend.linear(gate, rows, &mut [product(y, &w.out)])
}

/// `state.y = ffn(state.y) + experts(state.y)`, of which a layer has one or both.
fn feed_forward<B: Backend>(
    backend: &mut B,
    layer: &Layer,
    w: &LayerWeights<B::Weight>,
    state: &mut State<B>,
    rows: usize,
    dim: usize,
) -> Result<(), BackendError> {
    let State { y, gate, up, scores, routed, .. } = state;
    if let Some((experts, w)) = layer.experts.as_ref().zip(w.experts.as_ref()) {
        backend.linear(y, rows, &mut [Linear { out: scores, weight: &w.router, bias: None }])?;
        let routing = Routing {
            score: experts.score,
            normalise: experts.normalise,
            scale: experts.scale,
            activation: experts.activation,
        };
        let mixture = Mixture {
            experts: &w.experts,
            choice_bias: w.choice_bias.as_ref(),
            used: experts.used as usize,
            routing,
        };
        backend.experts(routed, y, scores, rows, &mixture)?;
    }
    let Some((ffn, dense)) = layer.ffn.as_ref().zip(w.ffn.as_ref()) else {
        std::mem::swap(y, routed);
        return Ok(());
    };
    backend.linear(y, rows, &mut [product(gate, &dense.gate), product(up, &dense.up)])?;
    backend.glu(gate, up, rows * ffn.dim as usize, ffn.activation)?;
    backend.linear(gate, rows, &mut [product(y, &dense.down)])?;
    match &w.experts {
        None => Ok(()),
        Some(_) => backend.add(y, routed, rows * dim),
    }
}

fn product<'a, B: Backend>(out: &'a mut B::Buffer, affine: &'a Affine<B::Weight>) -> Linear<'a, B> {
    Linear { out, weight: &affine.weight, bias: affine.bias.as_ref() }
}
