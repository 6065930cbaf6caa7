//! The one forward pass. It reads a [`Spec`], asks the backend for operations and never compares a model's name.

use muse_format::Spec;
use muse_kernels::{AttentionShape, Backend, BackendError, Linear, Span};

use crate::model::{Affine, State, Weights};

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
    let State { x, y, q, k, v, mix, gate, up, logits, caches } = state;
    let (rows, dim, eps) = (tokens.len(), spec.dim as usize, spec.norm_eps);
    backend.embed(x, &weights.embed, tokens, spec.embed_scale)?;
    for ((layer, w), cache) in spec.layers.iter().zip(&weights.layers).zip(caches) {
        let a = &layer.attention;
        backend.rms_norm(y, x, &w.attn_norm, rows, eps)?;
        backend.linear(y, rows, &mut [product(q, &w.q), product(k, &w.k), product(v, &w.v)])?;
        if let Some(norm) = &w.q_norm {
            backend.rms_norm_in_place(q, norm, rows * a.heads as usize, eps)?;
        }
        if let Some(norm) = &w.k_norm {
            backend.rms_norm_in_place(k, norm, rows * a.kv_heads as usize, eps)?;
        }
        if let Some(rope) = a.rope {
            let frequencies = &weights.ropes[rope as usize];
            backend.rope(q, frequencies, spans, a.heads, a.head_dim)?;
            backend.rope(k, frequencies, spans, a.kv_heads, a.head_dim)?;
        }
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
        backend.linear(mix, rows, &mut [product(y, &w.out)])?;
        if let Some(norm) = &w.attn_post_norm {
            backend.rms_norm_in_place(y, norm, rows, eps)?;
        }
        backend.add(x, y, rows * dim)?;

        backend.rms_norm(y, x, &w.ffn_norm, rows, eps)?;
        backend.linear(y, rows, &mut [product(gate, &w.gate), product(up, &w.up)])?;
        backend.glu(gate, up, rows * layer.ffn.dim as usize, layer.ffn.activation)?;
        backend.linear(gate, rows, &mut [product(y, &w.down)])?;
        if let Some(norm) = &w.ffn_post_norm {
            backend.rms_norm_in_place(y, norm, rows, eps)?;
        }
        backend.add(x, y, rows * dim)?;
    }
    if wanted.is_empty() {
        return Ok(());
    }
    backend.gather(y, x, wanted, dim)?;
    backend.rms_norm_in_place(y, &weights.norm, wanted.len(), eps)?;
    let head = weights.head.as_ref().unwrap_or(&weights.embed);
    backend.linear(y, wanted.len(), &mut [Linear { out: logits, weight: head, bias: None }])?;
    let len = wanted.len() * spec.vocab as usize;
    backend.scale_and_cap(logits, len, spec.logit_scale, spec.logit_softcap)
}

fn product<'a, B: Backend>(out: &'a mut B::Buffer, affine: &'a Affine<B::Weight>) -> Linear<'a, B> {
    Linear { out, weight: &affine.weight, bias: affine.bias.as_ref() }
}
