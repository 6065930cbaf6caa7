//! Vectors of tokens for each layer, beside the residual stream.

use muse_format::PerLayer;
use muse_kernels::{Backend, BackendError, Linear};

use crate::model::{PerLayerHalf, PerLayerWeights, State};

/// Fills `state.extra` with each layer's vector of each token, from their ids and embeddings.
pub(super) fn vectors<B: Backend>(
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

/// `state.y` is what layer `index` adds for its vectors of the tokens: those of `wanted`, where only they are left.
#[allow(clippy::too_many_arguments)] // one call
pub(super) fn add_vector<B: Backend>(
    backend: &mut B,
    spec: &PerLayer,
    w: &PerLayerHalf<B::Weight>,
    state: &mut State<B>,
    index: usize,
    layers: usize,
    wanted: Option<&[u32]>,
    rows: usize,
    eps: f32,
) -> Result<(), BackendError> {
    let State { x, y, gate, up, extra, picked, .. } = state;
    let dim = spec.dim as usize;
    picked.clear();
    picked.extend((0..rows).map(|row| {
        let row = wanted.map_or(row, |wanted| wanted[row] as usize);
        (row * layers + index) as u32
    }));
    backend.gather(up, extra, picked, dim)?;
    backend.linear(x, rows, &mut [Linear { out: gate, weight: &w.gate, bias: None }])?;
    backend.glu(gate, up, rows * dim, spec.activation)?;
    backend.linear(gate, rows, &mut [Linear { out: y, weight: &w.out, bias: None }])?;
    backend.rms_norm_in_place(y, &w.norm, rows, eps)
}
