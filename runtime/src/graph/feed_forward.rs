//! What a token is turned into on its own.

use muse_format::{Experts, Layer};
use muse_kernels::{Backend, BackendError, Linear, Mixture, Routing, ScaledNorm};

use super::product;
use crate::model::{ExpertsWeights, LayerWeights, State};

/// `state.y = ffn(norm(state.x)) + experts(norm(state.x))`, of which layer `index` has one or both.
#[allow(clippy::too_many_arguments)] // one call
pub(super) fn feed_forward<B: Backend>(
    backend: &mut B,
    layer: &Layer,
    w: &LayerWeights<B::Weight>,
    state: &mut State<B>,
    index: usize,
    rows: usize,
    dim: usize,
    eps: f32,
) -> Result<(), BackendError> {
    let own_norms = w.experts.as_ref().and_then(|w| w.own_norms.as_ref());
    if own_norms.is_none() {
        backend.rms_norm(&mut state.y, &state.x, &w.ffn_norm, rows, eps)?;
    }
    if let Some((experts, w)) = layer.experts.as_ref().zip(w.experts.as_ref()) {
        mixture(backend, experts, w, state, index, rows, eps)?;
    }
    if own_norms.is_some() {
        backend.rms_norm(&mut state.y, &state.x, &w.ffn_norm, rows, eps)?;
    }
    let State { y, gate, up, token_gate, routed, .. } = state;
    let Some((ffn, dense)) = layer.ffn.as_ref().zip(w.ffn.as_ref()) else {
        std::mem::swap(y, routed);
        return Ok(());
    };
    let (on_gate, on_up) = (product(gate, &dense.gate), product(up, &dense.up));
    let len = rows * ffn.dim as usize;
    match &dense.token_gate {
        None => backend.linear_glu(y, rows, [on_gate, on_up], len, ffn.activation)?,
        Some(weight) => {
            let on_token = Linear { out: &mut *token_gate, weight, bias: None };
            backend.linear(y, rows, &mut [on_gate, on_up, on_token])?;
            backend.glu(gate, up, len, ffn.activation)?;
        }
    }
    backend.linear(gate, rows, &mut [product(y, &dense.down)])?;
    if dense.token_gate.is_some() {
        backend.gate_rows(y, token_gate, rows, dim)?;
    }
    if let Some(norms) = own_norms {
        backend.rms_norm_in_place(y, &norms.beside, rows, eps)?;
    }
    match &w.experts {
        None => Ok(()),
        Some(_) => backend.add(y, routed, rows * dim),
    }
}

/// How rows choose and weight experts.
pub(crate) fn routing(experts: &Experts) -> Routing {
    Routing {
        score: experts.score,
        normalise: experts.normalise,
        scale: experts.scale,
        weigh_input: experts.weigh_input,
        activation: experts.activation,
    }
}

/// `state.routed = experts(state.y)`, of layer `index`; where they have norms of their own, they read `state.x` and what
/// is in `state.y` is lost.
fn mixture<B: Backend>(
    backend: &mut B,
    experts: &Experts,
    w: &ExpertsWeights<B::Weight>,
    state: &mut State<B>,
    index: usize,
    rows: usize,
    eps: f32,
) -> Result<(), BackendError> {
    let State { x, y, scores, routed, narrow, blended, flash, .. } = state;
    if let Some(norms) = &w.own_norms {
        backend.rms_norm(y, x, &norms.router, rows, eps)?;
    }
    backend.linear(y, rows, &mut [Linear { out: scores, weight: &w.router, bias: None }])?;
    if experts.logit_scale != 1.0 {
        backend.scale_and_cap(scores, rows * experts.count as usize, experts.logit_scale, None)?;
    }
    if let Some(flash) = flash {
        flash.ask(backend, index, scores, rows)?;
    }
    let norm = w.each_norm.as_ref().zip(experts.each_norm_eps);
    let mixture = Mixture {
        experts: &w.experts,
        choice_bias: w.choice_bias.as_ref(),
        scales: w.expert_scale.as_ref(),
        used: experts.used as usize,
        routing: routing(experts),
        norm: norm.map(|([scale, weight], eps)| ScaledNorm { scale, weight, eps }),
    };
    if let Some(norms) = &w.own_norms {
        backend.rms_norm(y, x, &norms.input, rows, eps)?;
    }
    match &w.latent {
        None => backend.experts(routed, y, scores, rows, &mixture)?,
        Some(latent) => {
            backend.linear(y, rows, &mut [Linear { out: narrow, weight: &latent.into, bias: None }])?;
            backend.rms_norm_in_place(narrow, &latent.norm, rows, eps)?;
            backend.experts(blended, narrow, scores, rows, &mixture)?;
            backend.linear(blended, rows, &mut [Linear { out: routed, weight: &latent.out, bias: None }])?;
        }
    }
    match &w.own_norms {
        None => Ok(()),
        Some(norms) => backend.rms_norm_in_place(routed, &norms.output, rows, eps),
    }
}
