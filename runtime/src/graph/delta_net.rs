//! Gated DeltaNet over a recurrent state.

use muse_format::{Activation, DeltaNet};
use muse_kernels::{Backend, BackendError, Linear, Span};

use super::{product, row_count};
use crate::model::{DeltaNetWeights, State};

/// `state.y = delta_net(state.y)`, over the recurrent state of layer `index`.
pub(super) fn delta_net<B: Backend>(
    backend: &mut B,
    d: &DeltaNet,
    w: &DeltaNetWeights<B::Weight>,
    state: &mut State<B>,
    index: usize,
    spans: &[Span],
    eps: f32,
) -> Result<(), BackendError> {
    let State { y, q: qkv, k: decay, v: beta, mix, gate, delta_states, .. } = state;
    let delta_state = delta_states[index].as_mut().expect("the plan has a state for each such layer");
    let rows = row_count(spans);
    let mut products = [
        Linear { out: &mut *qkv, weight: &w.qkv, bias: None },
        Linear { out: &mut *gate, weight: &w.gate, bias: None },
        product(decay, &w.decay),
        Linear { out: &mut *beta, weight: &w.beta, bias: None },
    ];
    backend.linear(y, rows, &mut products)?;
    backend.convolve(qkv, &w.taps, delta_state, spans)?;
    backend.delta_rule(mix, qkv, decay, beta, &w.rate, delta_state, spans)?;
    backend.rms_norm_in_place(mix, &w.norm, rows * d.value_heads as usize, eps)?;
    backend.glu(gate, mix, rows * d.values() as usize, Activation::Silu)?;
    backend.linear(gate, rows, &mut [Linear { out: y, weight: &w.out, bias: None }])
}
