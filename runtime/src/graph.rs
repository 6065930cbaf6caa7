//! The one forward pass. It reads a [`Spec`], asks the backend for operations and never compares a model's name.

use muse_format::{Activation, Attention, Layer, Spec};
use muse_kernels::{AttentionShape, Backend, BackendError, Linear, Mixture, Routing, Span};

use crate::model::{Affine, LayerWeights, State, Weights};

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
    let [on_q, on_k, on_v] = [product(q, &w.q), product(k, &w.k), product(v, &w.v)];
    match &w.attn_gate {
        None => backend.linear(y, rows, &mut [on_q, on_k, on_v])?,
        Some(weight) => {
            let on_gate = Linear { out: gate, weight, bias: None };
            backend.linear(y, rows, &mut [on_q, on_k, on_v, on_gate])?;
        }
    }
    if let Some(norm) = &w.q_norm {
        backend.rms_norm_in_place(q, norm, rows * a.heads as usize, eps)?;
    }
    if let Some(norm) = &w.k_norm {
        backend.rms_norm_in_place(k, norm, rows * a.kv_heads as usize, eps)?;
    }
    if let Some(rope) = a.rope {
        let frequencies = &ropes[rope as usize];
        backend.rope(q, frequencies, spans, a.heads, a.head_dim)?;
        backend.rope(k, frequencies, spans, a.kv_heads, a.head_dim)?;
    }
    let cache = &mut caches[index];
    backend.store(cache, k, v, spans)?;
    let shape = AttentionShape {
        heads: a.heads,
        kv_heads: a.kv_heads,
        head_dim: a.head_dim,
        scale: a.scale,
        window: a.window,
        softcap: a.softcap,
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
