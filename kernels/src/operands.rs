//! What operations take beside buffers.

use muse_format::{Activation, Score};

use crate::Backend;

/// One matrix product of [`Backend::linear`]: `out[t] = weight * x[t] + bias`.
pub struct Linear<'a, B: Backend + ?Sized> {
    /// `(tokens, weight.rows)`
    pub out: &'a mut B::Buffer,
    pub weight: &'a B::Weight,
    /// `(weight.rows)`
    pub bias: Option<&'a B::Weight>,
}

/// One expert of a [`Mixture`]: `down(activation(gate(x)) * up(x))`.
pub struct Expert<W> {
    pub gate: W, // (ffn_dim, dim)
    pub up: W,   // (ffn_dim, dim)
    pub down: W, // (dim, ffn_dim)
}

/// How a row's experts are weighted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Routing {
    pub score: Score,
    /// Weights are divided by their sum.
    pub normalise: bool,
    /// Multiplies the weights, after that.
    pub scale: f32,
    /// Weights multiply what experts read in place of what they give.
    pub weigh_input: bool,
    pub activation: Activation,
}

/// The experts of one layer.
pub struct Mixture<'a, B: Backend + ?Sized> {
    pub experts: &'a [Expert<B::Weight>],
    /// `(experts)`, added to scores to choose by.
    pub choice_bias: Option<&'a B::Weight>,
    /// `(experts)`, each multiplies its expert's weights, after what [`Routing`] says.
    pub scales: Option<&'a B::Weight>,
    /// Experts that a row runs through.
    pub used: usize,
    pub routing: Routing,
    /// What becomes of an expert's output before it is weighted.
    pub norm: Option<ScaledNorm<'a, B::Weight>>,
}

/// `z * weight / sqrt(mean(z^2) + eps)` of `z = x * scale`, element by element.
pub struct ScaledNorm<'a, W> {
    pub scale: &'a W,  // (dim)
    pub weight: &'a W, // (dim)
    pub eps: f32,
}

/// What memory [`Backend::experts`] needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpertsShape {
    pub count: usize,
    pub used: usize,
    pub dim: usize,
    pub ffn_dim: usize,
}
