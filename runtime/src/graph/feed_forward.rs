//! What a token is turned into on its own.

use muse_format::Layer;
use muse_kernels::{Backend, BackendError, Linear, Mixture, Routing};

use super::product;
use crate::model::{LayerWeights, State};

/// `state.y = ffn(state.y) + experts(state.y)`, of which a layer has one or both.
pub(super) fn feed_forward<B: Backend>(
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
