//! The one forward pass. It reads a [`Spec`], asks the backend for operations and never compares a model's name.

mod attention;
mod chain;
mod delta_net;
mod drafter;
mod encoder;
mod feed_forward;
mod latent;
mod per_layer;
mod sparse;

pub(crate) use self::feed_forward::routing;

use muse_format::{Mixer, Spec};
use muse_kernels::{Backend, BackendError, Linear, Span};

pub use self::chain::{ChainRows, propose_chain, take_in_chain};
pub use self::drafter::{propose, take_in};
pub use self::encoder::encode;
use crate::engine::Placed;
use crate::model::{Affine, MixerWeights, State, Weights};

/// Runs `tokens`, the rows of `spans`, through the model and leaves the logits of the rows in `wanted` in
/// `state.logits`. Rows that are `placed` are not embeddings but rows of the vectors beside them. A
/// model that embeds has no head: its vectors of these rows are left in `state.x`.
///
/// A block is `x += post_norm(attention(norm(x)))`, then `x += post_norm(ffn(norm(x)))`, the post norms optional; where
/// a layer has gates, `x` is multiplied by a vector before it is added to. After the last layer's attention every row
/// goes its own way, and only those of `wanted` go on, unless a drafter reads what the last norm gives of all.
#[allow(clippy::too_many_arguments)] // one call
pub fn forward<B: Backend>(
    backend: &mut B,
    spec: &Spec,
    weights: &Weights<B::Weight>,
    state: &mut State<B>,
    spans: &[Span],
    tokens: &[u32],
    (vectors, placed): (Option<&B::Buffer>, &[Placed]),
    wanted: &[u32],
) -> Result<(), BackendError> {
    let (mut rows, dim, eps) = (tokens.len(), spec.dim as usize, spec.norm_eps);
    backend.embed(&mut state.x, &weights.embed, tokens, spec.embed_scale)?;
    if let Some(norm) = &weights.embed_norm {
        backend.rms_norm_in_place(&mut state.x, norm, rows, eps)?;
    }
    if let Some(vectors) = vectors {
        place(backend, state, vectors, placed, dim)?;
    }
    if let Some((spec, w)) = spec.per_layer.as_ref().zip(weights.per_layer.as_ref()) {
        per_layer::vectors(backend, spec, w, state, tokens, weights.layers.len(), eps)?;
    }
    let all = state.hidden.as_ref().is_some_and(|hidden| hidden.last);
    // Of the last layer that chose positions.
    let mut top = None;
    for (i, (layer, w)) in spec.layers.iter().zip(&weights.layers).enumerate() {
        let post_eps = layer.post_norm_eps.unwrap_or(eps);
        let last = i + 1 == weights.layers.len();
        backend.rms_norm(&mut state.y, &state.x, &w.attn_norm, rows, eps)?;
        match (&layer.mixer, &w.mixer) {
            (Mixer::Attention(a), MixerWeights::Attention(w)) => {
                if last && wanted.is_empty() && !all {
                    return attention::keep(backend, a, w, &weights.ropes, state, i, spans, eps);
                }
                attention::attention(backend, a, w, &weights.ropes, state, i, spans, eps)?;
            }
            (Mixer::DeltaNet(d), MixerWeights::DeltaNet(w)) => {
                delta_net::delta_net(backend, d, w, state, i, spans, eps)?;
            }
            (Mixer::Latent(a), MixerWeights::Latent(w)) => {
                if last && wanted.is_empty() && !all {
                    return latent::keep(backend, a, w, &weights.ropes, state, i, spans);
                }
                top = layer.indexer().map_or(top, |indexer| Some(indexer.top));
                let top = top.filter(|_| a.sparse.is_some());
                latent::latent(backend, a, w, &weights.ropes, state, i, spans, top)?;
            }
            (Mixer::Attention(_) | Mixer::DeltaNet(_) | Mixer::Latent(_), _) => {
                unreachable!("weights are loaded by the spec")
            }
        }
        if let Some(norm) = &w.attn_post_norm {
            backend.rms_norm_in_place(&mut state.y, norm, rows, post_eps)?;
        }
        if let Some(keep) = &w.attn_keep {
            backend.multiply(&mut state.x, keep, rows)?;
        }
        backend.add(&mut state.x, &state.y, rows * dim)?;
        if last && !all {
            rows = wanted.len();
            if rows == 0 {
                return Ok(());
            }
            pick(backend, state, wanted, dim)?;
        }

        feed_forward::feed_forward(backend, layer, w, state, i, rows, dim, eps)?;
        if let Some(scale) = &w.ffn_post_scale {
            backend.multiply(&mut state.y, scale, rows)?;
        }
        if let Some(norm) = &w.ffn_post_norm {
            backend.rms_norm_in_place(&mut state.y, norm, rows, post_eps)?;
        }
        if let Some(keep) = &w.ffn_keep {
            backend.multiply(&mut state.x, keep, rows)?;
        }
        backend.add(&mut state.x, &state.y, rows * dim)?;
        if let Some((spec, w)) = spec.per_layer.as_ref().zip(w.per_layer.as_ref()) {
            let of = if last && !all { Some(wanted) } else { None };
            per_layer::add_vector(backend, spec, w, state, i, weights.layers.len(), of, rows, eps)?;
            backend.add(&mut state.x, &state.y, rows * dim)?;
        }
        if let Some(scale) = w.scale {
            backend.scale_and_cap(&mut state.x, rows * dim, scale, None)?;
        }
        drafter::keep_output(backend, state, i, rows, dim)?;
    }
    backend.rms_norm_in_place(&mut state.x, &weights.norm, rows, eps)?;
    if all {
        drafter::keep_last(backend, state, rows, dim)?;
        rows = wanted.len();
        if rows == 0 {
            return Ok(());
        }
        pick(backend, state, wanted, dim)?;
    }
    if spec.embedding.is_some() {
        return Ok(());
    }
    let State { x, logits, .. } = state;
    backend.linear(x, rows, &mut [Linear { out: logits, weight: weights.output(), bias: None }])?;
    let len = rows * spec.vocab as usize;
    backend.scale_and_cap(logits, len, spec.logit_scale, spec.logit_softcap)
}

/// Only the rows of `wanted` stay in `state.x`.
fn pick<B: Backend>(
    backend: &mut B,
    state: &mut State<B>,
    wanted: &[u32],
    dim: usize,
) -> Result<(), BackendError> {
    backend.gather(&mut state.y, &state.x, wanted, dim)?;
    std::mem::swap(&mut state.x, &mut state.y);
    Ok(())
}

/// Puts rows of `vectors` in the place of embeddings.
fn place<B: Backend>(
    backend: &mut B,
    state: &mut State<B>,
    vectors: &B::Buffer,
    placed: &[Placed],
    dim: usize,
) -> Result<(), BackendError> {
    let State { x, y, picked, .. } = state;
    for Placed { row, from, len, .. } in placed {
        picked.clear();
        picked.extend(*from..from + len);
        backend.gather(y, vectors, picked, dim)?;
        picked.clear();
        picked.extend(*row..row + len);
        backend.scatter(x, y, picked, dim)?;
    }
    Ok(())
}

fn product<'a, B: Backend>(out: &'a mut B::Buffer, affine: &'a Affine<B::Weight>) -> Linear<'a, B> {
    Linear { out, weight: &affine.weight, bias: affine.bias.as_ref() }
}

fn row_count(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.len as usize).sum()
}
