//! What a token is turned into on its own: dense feed-forwards and experts.

use serde::{Deserialize, Serialize};

use super::{DIM_MAX, bounded, finite_positive, is_false, is_one, one};
use crate::FormatError;

/// Experts of one layer.
const COUNT_MAX: u32 = 4096;

/// Gated feed-forward: `down(act(gate(x)) * up(x))`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ffn {
    pub dim: u32,
    pub activation: Activation,
    /// Biases on gate, up and down.
    pub bias: bool,
}

/// Mixture of experts, each a gated feed-forward without biases. A router scores them for each token; those with the
/// highest score run, and their outputs are weighted with their scores and summed. Shazeer et al. 2017,
/// <https://arxiv.org/abs/1701.06538>.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Experts {
    pub count: u32,
    /// Experts that a token runs through.
    pub used: u32,
    /// Hidden width of one expert.
    pub dim: u32,
    /// Width of what experts read and give where it is not [`Spec::dim`]: `out(experts(norm(in(x))))`, the norm RMS with
    /// weights. The router reads `x`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latent: Option<u32>,
    pub activation: Activation,
    /// Multiplies the router's products.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub logit_scale: f32,
    pub score: Score,
    /// A vector that is added to scores to choose by, not to weight with.
    pub choice_bias: bool,
    /// Weights are divided by their sum.
    pub normalise: bool,
    /// Multiplies the weights, after that.
    pub scale: f32,
    /// A factor for each expert on its weight, after that.
    #[serde(default, skip_serializing_if = "is_false")]
    pub expert_scale: bool,
    /// Weights multiply what experts read in place of what they give.
    #[serde(default, skip_serializing_if = "is_false")]
    pub weigh_input: bool,
    /// Router and experts read the residual stream, each through an RMS norm of its own, in place of what the dense
    /// feed-forward reads; what the experts give and what the feed-forward beside them gives is normed before they are added.
    #[serde(default, skip_serializing_if = "is_false")]
    pub own_norms: bool,
    /// What an expert gives is multiplied by a vector, element by element, and RMS normed with weights, with this
    /// epsilon, before it is weighted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub each_norm_eps: Option<f32>,
}

/// What the products of a router become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// The softmax over all experts.
    Softmax,
    /// `1 / (1 + exp(-x))` of each.
    Sigmoid,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    Silu,
    /// `1 / (1 + exp(-x))`.
    Sigmoid,
    /// GELU by its tanh approximation.
    GeluTanh,
    /// GELU, `x * (1 + erf(x / sqrt(2))) / 2`.
    Gelu,
}

impl Experts {
    /// `used` of `count` experts of hidden width `dim`, weighted by the softmax over all, and nothing of what is optional.
    pub fn new(count: u32, used: u32, dim: u32) -> Self {
        Self {
            count,
            used,
            dim,
            latent: None,
            activation: Activation::Silu,
            logit_scale: 1.0,
            score: Score::Softmax,
            choice_bias: false,
            normalise: false,
            scale: 1.0,
            expert_scale: false,
            weigh_input: false,
            own_norms: false,
            each_norm_eps: None,
        }
    }

    pub(super) fn validate(&self, layer: usize) -> Result<(), FormatError> {
        let field = |name: &str| format!("layers[{layer}].experts.{name}");
        bounded(field("count"), self.count, COUNT_MAX)?;
        bounded(field("dim"), self.dim, DIM_MAX)?;
        finite_positive(field("scale"), self.scale)?;
        finite_positive(field("logit_scale"), self.logit_scale)?;
        if let Some(width) = self.latent {
            bounded(field("latent"), width, DIM_MAX)?;
        }
        if let Some(eps) = self.each_norm_eps {
            finite_positive(field("each_norm_eps"), eps)?;
        }
        if !(1..=self.count).contains(&self.used) {
            let rule = "a token runs through at least one expert and at most all";
            return Err(FormatError::Spec { field: field("used"), value: self.used.to_string(), rule });
        }
        Ok(())
    }
}
