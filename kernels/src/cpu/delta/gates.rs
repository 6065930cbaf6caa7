//! What the delta rule is given: lengths of queries and keys, and how much each row keeps and changes.

use crate::cpu::elementwise::Elementwise;
use crate::delta::HostDeltaState;

/// Added to a head's sum of squares.
const EPS: f32 = 1e-6;

/// Normalises the queries and keys of rows of `x`, `(any, channels)`: an RMS norm of `n` elements with weights `n^-0.5`
/// and `EPS / n` is one by the length.
pub(super) fn normalise(elementwise: Elementwise, x: &mut [f32], state: &HostDeltaState) {
    let shape = state.shape();
    let (n, keys) = (shape.key_dim as usize, (shape.key_heads * shape.key_dim) as usize);
    let eps = EPS / n as f32;
    for x in x.chunks_exact_mut(shape.channels() as usize) {
        let (queries, rest) = x.split_at_mut(keys);
        let [of_queries, of_keys] = &state.norms;
        queries.chunks_exact_mut(n).for_each(|head| elementwise.rms_norm(head, of_queries, eps));
        rest[..keys].chunks_exact_mut(n).for_each(|head| elementwise.rms_norm(head, of_keys, eps));
    }
}

/// `decay = exp(-rate * softplus(decay))`, `beta = sigmoid(beta)`; both are `(rows, rate.len())`.
pub(super) fn gates(decay: &mut [f32], beta: &mut [f32], rate: &[f32]) {
    let rows = decay.chunks_exact_mut(rate.len()).zip(beta.chunks_exact_mut(rate.len()));
    for (decay, beta) in rows {
        for ((decay, beta), rate) in decay.iter_mut().zip(beta).zip(rate) {
            let softplus = decay.max(0.0) + (-decay.abs()).exp().ln_1p();
            *decay = (-rate * softplus).exp();
            *beta = sigmoid(*beta);
        }
    }
}

/// `1 / (1 + exp(-x))`
pub(in crate::cpu) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}
