//! What a model listens to sounds with.

use serde::{Deserialize, Serialize};

use super::{Activation, DIM_MAX, Spec, bounded, finite_positive, is_yes, yes};
use crate::{FormatError, Role};

const STAGES_MAX: usize = 64;
/// Blocks of a stage.
const BLOCKS_MAX: u32 = 64;
const TAPS_MAX: u32 = 64;
/// Samples of one vector.
const SAMPLES_MAX: u64 = 1 << 20;

/// Causal convolutions over the samples of a sound, stage by stage at fewer rows a second, and the product that brings
/// them to the width of the residual stream. What the last stage makes of a row becomes one vector, in the place of one
/// token. No row depends on a later one.
///
/// A stage begins with `norm(patch(x))`, `x` as many rows of the stage before it, or samples, as a patch has, one behind
/// the other. A block is `x += down(activation(up(norm(conv(x)))))`, `conv` a convolution of each channel for itself over
/// a row and those before it. Every product and convolution has a bias, every norm is an RMS norm. After the last stage a
/// row becomes `[vector_norm](post_norm(projection(norm(x))))`, the norm in brackets by [`Spec::norm_eps`] and there where
/// its field says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Audio {
    /// The token that stands for one vector of a sound.
    pub token: u32,
    /// Tokens that are embedded as token 0 where nothing takes their place.
    pub blank_tokens: Vec<u32>,
    /// Samples of a second.
    pub rate: u32,
    /// Rows that a convolution reads, the row's own the last.
    pub taps: u32,
    pub activation: Activation,
    /// Epsilon of the norms of the tower.
    pub norm_eps: f32,
    /// Whether a vector is normalised once more before it takes a token's place.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub vector_norm: bool,
    pub stages: Vec<AudioStage>,
}

/// Blocks that run at one number of rows a second.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioStage {
    /// Rows of the stage before it, or samples, that become one.
    pub patch: u32,
    /// Width of a row.
    pub dim: u32,
    /// Hidden width of a block's feed-forward.
    pub ffn_dim: u32,
    pub blocks: u32,
}

impl Audio {
    /// Samples that become one vector; the largest number for more, which [`super::Spec::validate`] refuses.
    pub fn samples(&self) -> u32 {
        self.stages.iter().fold(1, |samples, stage| samples.saturating_mul(stage.patch))
    }

    /// Vectors of so many samples; the last may be of fewer.
    pub fn tokens(&self, samples: u64) -> u64 {
        samples.div_ceil(u64::from(self.samples()))
    }

    /// Width of the input of a stage's first product.
    pub fn patch_width(&self, stage: usize) -> u32 {
        let before = stage.checked_sub(1).and_then(|before| self.stages.get(before));
        self.stages
            .get(stage)
            .map_or(0, |own| own.patch)
            .saturating_mul(before.map_or(1, |before| before.dim))
    }

    /// Rows of a stage for one vector.
    pub fn rows(&self, stage: usize) -> u32 {
        self.stages.iter().skip(stage + 1).fold(1, |rows, stage| rows.saturating_mul(stage.patch))
    }

    pub(super) fn validate(&self, spec: &Spec) -> Result<(), FormatError> {
        let field = |name: &str| format!("audio.{name}");
        let refuse = |name: &str, value: String, rule: &'static str| {
            Err(FormatError::Spec { field: field(name), value, rule })
        };
        bounded(field("rate"), self.rate, 1 << 20)?;
        bounded(field("taps"), self.taps, TAPS_MAX)?;
        finite_positive(field("norm_eps"), self.norm_eps)?;
        if let Some(token) = self.blank_tokens.iter().chain([&self.token]).find(|token| **token >= spec.vocab)
        {
            return refuse("token", token.to_string(), "a token is one of the vocabulary");
        }
        if self.blank_tokens.len() > 16 {
            let count = self.blank_tokens.len().to_string();
            return refuse("blank_tokens", count, "there are at most 16 of them");
        }
        if self.stages.is_empty() || self.stages.len() > STAGES_MAX {
            return refuse("stages", self.stages.len().to_string(), "a tower has 1 to 64 stages");
        }
        let (mut samples, mut before) = (1, 1);
        for (i, stage) in self.stages.iter().enumerate() {
            for (name, value, max) in [
                ("patch", stage.patch, DIM_MAX),
                ("dim", stage.dim, DIM_MAX),
                ("ffn_dim", stage.ffn_dim, DIM_MAX),
                ("blocks", stage.blocks, BLOCKS_MAX),
            ] {
                bounded(format!("audio.stages[{i}].{name}"), value, max)?;
            }
            samples *= u64::from(stage.patch);
            if samples > SAMPLES_MAX || u64::from(stage.patch) * u64::from(before) > u64::from(DIM_MAX) {
                let rule = "a vector is of 1048576 samples at most, and a patch as wide at most";
                return refuse(&format!("stages[{i}].patch"), stage.patch.to_string(), rule);
            }
            before = stage.dim;
        }
        Ok(())
    }

    /// In the order in which a forward pass over a sound reads them; `dim` is the width of the residual stream.
    pub(crate) fn try_each_tensor<E>(
        &self,
        dim: u32,
        add: &mut impl FnMut(Role, String, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let product =
            |add: &mut dyn FnMut(Role, String, u32, u32) -> Result<(), E>, name: String, rows, cols| {
                add(Role::Matrix, name.clone(), rows, cols)?;
                add(Role::Vector, format!("{name}_bias"), 1, rows)
            };
        let mut width = 0;
        for (i, stage) in self.stages.iter().enumerate() {
            width = stage.dim;
            product(add, format!("audio.s{i}.patch"), width, self.patch_width(i))?;
            add(Role::Vector, format!("audio.s{i}.norm"), 1, width)?;
            for j in 0..stage.blocks {
                let named = |part: &str| format!("audio.s{i}.b{j}.{part}");
                add(Role::Vector, named("conv"), self.taps, width)?;
                add(Role::Vector, named("conv_bias"), 1, width)?;
                add(Role::Vector, named("norm"), 1, width)?;
                product(add, named("up"), stage.ffn_dim, width)?;
                product(add, named("down"), width, stage.ffn_dim)?;
            }
        }
        add(Role::Vector, "audio.norm".into(), 1, width)?;
        product(add, "audio.projection".into(), dim, width)?;
        add(Role::Vector, "audio.post_norm".into(), 1, dim)?;
        match self.vector_norm {
            true => add(Role::Vector, "audio.vector_norm".into(), 1, dim),
            false => Ok(()),
        }
    }
}
