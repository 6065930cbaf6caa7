//! What a drafter makes of its target's layers, and the blocks that it proposes.

use muse_format::{Mixer, Spec};
use muse_kernels::{Backend, BackendError, Linear, Span};

use super::{attention, feed_forward, latent, product, row_count};
use crate::model::{DrafterWeights, Hidden, MixerWeights, State, Weights};

/// Keeps what layer `index` of the target gave, `state.x`, where its drafter reads that. Not the last layer's, which has
/// only the rows whose logits are wanted.
pub(super) fn keep_output<B: Backend>(
    backend: &mut B,
    state: &mut State<B>,
    index: usize,
    rows: usize,
    dim: usize,
) -> Result<(), BackendError> {
    let State { x, picked, hidden, .. } = state;
    let Some(Hidden { layers, values, .. }) = hidden else { return Ok(()) };
    let read = layers.iter().enumerate().filter(|(_, layer)| **layer as usize == index);
    for (place, _) in read {
        picked.clear();
        picked.extend((0..rows).map(|row| (row * layers.len() + place) as u32));
        backend.scatter(values, x, picked, dim)?;
    }
    Ok(())
}

/// Keeps what the last norm gave of all rows, `state.x`, where a drafter reads that.
pub(super) fn keep_last<B: Backend>(
    backend: &mut B,
    state: &mut State<B>,
    rows: usize,
    dim: usize,
) -> Result<(), BackendError> {
    let State { x, picked, hidden, .. } = state;
    let Some(Hidden { last: true, values, .. }) = hidden else { return Ok(()) };
    picked.clear();
    picked.extend(0..rows as u32);
    backend.scatter(values, x, picked, dim)
}

/// Stores keys and values of the rows of `spans` in the drafter's caches, made of `read`, what the target's layers gave of
/// them, `(rows, layers read * dim)`.
pub fn take_in<B: Backend>(
    backend: &mut B,
    spec: &Spec,
    w: &DrafterWeights<B::Weight>,
    state: &mut State<B>,
    read: &B::Buffer,
    spans: &[Span],
) -> Result<(), BackendError> {
    let (rows, eps) = (row_count(spans), spec.norm_eps);
    backend.linear(read, rows, &mut [product(&mut state.y, &w.into)])?;
    backend.rms_norm_in_place(&mut state.y, &w.read_norm, rows, eps)?;
    for (i, (layer, lw)) in spec.layers.iter().zip(&w.layers).enumerate() {
        let (Some(a), MixerWeights::Attention(lw)) = (layer.attention(), &lw.mixer) else {
            unreachable!("`Drafter::validate` asks for attention");
        };
        attention::keep(backend, a, lw, &w.ropes, state, i, spans, eps)?;
    }
    Ok(())
}

/// Runs `tokens`, blocks whose rows are those of `spans`, through the drafter and leaves what the target's head makes of
/// the rows in `wanted` in `logits`. Their keys and values stay behind those of the target's positions until the next step
/// or block.
#[allow(clippy::too_many_arguments)] // one call
pub fn propose<B: Backend>(
    backend: &mut B,
    (target, of_target): (&Spec, &Weights<B::Weight>),
    spec: &Spec,
    w: &DrafterWeights<B::Weight>,
    state: &mut State<B>,
    spans: &[Span],
    tokens: &[u32],
    wanted: &[u32],
    logits: &mut B::Buffer,
) -> Result<(), BackendError> {
    let (rows, dim, eps) = (tokens.len(), spec.dim as usize, spec.norm_eps);
    // Without the norm that some targets have on it.
    backend.embed(&mut state.x, &of_target.embed, tokens, target.embed_scale)?;
    layers(backend, spec, w, state, spans, rows)?;
    let State { x, y, .. } = state;
    backend.gather(y, x, wanted, dim)?;
    backend.rms_norm_in_place(y, &w.norm, wanted.len(), eps)?;
    backend.linear(y, wanted.len(), &mut [Linear { out: logits, weight: of_target.output(), bias: None }])
}

/// Takes `state.x`, `rows` rows that are those of `spans`, through all layers.
pub(super) fn layers<B: Backend>(
    backend: &mut B,
    spec: &Spec,
    w: &DrafterWeights<B::Weight>,
    state: &mut State<B>,
    spans: &[Span],
    rows: usize,
) -> Result<(), BackendError> {
    let (dim, eps) = (spec.dim as usize, spec.norm_eps);
    for (i, (layer, lw)) in spec.layers.iter().zip(&w.layers).enumerate() {
        backend.rms_norm(&mut state.y, &state.x, &lw.attn_norm, rows, eps)?;
        match (&layer.mixer, &lw.mixer) {
            (Mixer::Attention(a), MixerWeights::Attention(mixer)) => {
                attention::attention(backend, a, mixer, &w.ropes, state, i, spans, eps)?;
            }
            (Mixer::Latent(a), MixerWeights::Latent(mixer)) => {
                latent::latent(backend, a, mixer, &w.ropes, state, i, spans, None)?;
            }
            _ => unreachable!("`Drafter::validate` asks for attention"),
        }
        backend.add(&mut state.x, &state.y, rows * dim)?;
        feed_forward::feed_forward(backend, layer, lw, state, i, rows, dim, eps)?;
        backend.add(&mut state.x, &state.y, rows * dim)?;
    }
    Ok(())
}
