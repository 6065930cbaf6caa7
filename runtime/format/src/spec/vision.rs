//! What a model looks at images with.

use serde::{Deserialize, Serialize};

use super::{Activation, DIM_MAX, LAYERS_MAX, bounded, finite_positive};
use crate::FormatError;

/// A transformer over the patches of an image (Dosovitskiy et al. 2020, <https://arxiv.org/abs/2010.11929>) and the
/// products that bring its output to the width of the residual stream. Each square of `merge * merge` patches becomes one
/// vector, in the place of one token.
///
/// A patch begins as `norm(patch(pixels) + position)`, the position resampled from a table. A block is
/// `x += out(attention(norm(x)))`, then `x += down(activation(up(norm(x))))`, every norm by mean and variance, every
/// product with a bias. After the last block and a norm, the patches of a square lie one behind the other, and become
/// `norm(projection(activation(down(activation(up(x))))))`, that norm an RMS norm by [`super::Spec::norm_eps`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vision {
    /// The token that stands for one vector of an image.
    pub token: u32,
    /// Tokens that are embedded as token 0 where no image takes their place.
    pub blank_tokens: Vec<u32>,
    pub pixels: Pixels,
    /// Width of a patch's vector.
    pub dim: u32,
    pub heads: u32,
    /// Hidden width of a block's feed-forward.
    pub ffn_dim: u32,
    pub activation: Activation,
    /// Epsilon of the norms in front of the blocks and behind them.
    pub outer_norm_eps: f32,
    /// Epsilon of the norms in the blocks.
    pub norm_eps: f32,
    /// Rows, and columns, of the table of positions.
    pub positions: u32,
    /// Inverse frequencies of the rotation of each coordinate; a head's first pairs turn by the column, as many by the
    /// row, both counted from 1.
    pub frequencies: u32,
    /// Patches on a side of what becomes one vector.
    pub merge: u32,
    /// Hidden width between tower and projection.
    pub adapter_dim: u32,
    pub adapter_activation: Activation,
    pub layers: Vec<VisionLayer>,
}

/// One block of a tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionLayer {
    /// A patch sees those of its own square window of so many patches a side, the first in the image's corner; `None`
    /// sees the image.
    pub window: Option<u32>,
}

/// How an image becomes the values of patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pixels {
    /// Pixels on a side of a patch.
    pub patch: u32,
    /// Frames of a patch; a still image is all of them.
    pub frames: u32,
    /// Most vectors of an image, which is made smaller until it has no more.
    pub tokens_max: u32,
    /// Taken off each channel, of values from 0 to 1.
    pub mean: [f32; 3],
    /// What each channel is divided by after that.
    pub deviation: [f32; 3],
}

impl Pixels {
    /// Values of a patch: `frames` times red, green and blue of `patch` rows of `patch` pixels.
    pub fn values(&self) -> u32 {
        self.frames * 3 * self.patch * self.patch
    }
}

impl Vision {
    pub fn head_dim(&self) -> u32 {
        self.dim / self.heads
    }

    /// Patches of one vector.
    pub fn merged(&self) -> u32 {
        self.merge * self.merge
    }

    /// The window of every layer that has one.
    pub fn window(&self) -> Option<u32> {
        self.layers.iter().find_map(|layer| layer.window)
    }

    pub(super) fn validate(&self, vocab: u32) -> Result<(), FormatError> {
        let field = |name: &str| format!("vision.{name}");
        let refuse = |name: &str, value: String, rule: &'static str| {
            Err(FormatError::Spec { field: field(name), value, rule })
        };
        for (name, value, max) in [
            ("pixels.patch", self.pixels.patch, 256),
            ("pixels.frames", self.pixels.frames, 16),
            ("pixels.tokens_max", self.pixels.tokens_max, 1 << 20),
            ("dim", self.dim, DIM_MAX),
            ("heads", self.heads, 4096),
            ("ffn_dim", self.ffn_dim, DIM_MAX),
            ("positions", self.positions, 1 << 12),
            ("frequencies", self.frequencies, 1 << 12),
            ("merge", self.merge, 16),
            ("adapter_dim", self.adapter_dim, DIM_MAX),
        ] {
            bounded(field(name), value, max)?;
        }
        finite_positive(field("outer_norm_eps"), self.outer_norm_eps)?;
        finite_positive(field("norm_eps"), self.norm_eps)?;
        for (mean, deviation) in self.pixels.mean.iter().zip(self.pixels.deviation) {
            finite_positive(field("pixels.deviation"), deviation)?;
            if !mean.is_finite() {
                return refuse("pixels.mean", mean.to_string(), "it must be finite");
            }
        }
        if let Some(token) = self.blank_tokens.iter().chain([&self.token]).find(|token| **token >= vocab) {
            return refuse("token", token.to_string(), "a token is one of the vocabulary");
        }
        if self.blank_tokens.len() > 16 {
            let count = self.blank_tokens.len().to_string();
            return refuse("blank_tokens", count, "there are at most 16 of them");
        }
        if self.layers.is_empty() || self.layers.len() > LAYERS_MAX {
            return refuse("layers", self.layers.len().to_string(), "a tower has 1 to 1024 layers");
        }
        for (i, window) in self.layers.iter().enumerate().filter_map(|(i, layer)| Some((i, layer.window?))) {
            bounded(format!("vision.layers[{i}].window"), window, 1 << 12)?;
            if self.window() != Some(window) {
                return refuse("layers[].window", window.to_string(), "all windows of a tower are of a size");
            }
        }
        if !self.dim.is_multiple_of(self.heads) || !self.head_dim().is_multiple_of(2) {
            return refuse("dim", self.dim.to_string(), "it must be heads times an even width");
        }
        if 4 * self.frequencies > self.head_dim() {
            let rule = "pairs of both coordinates must fit a head";
            return refuse("frequencies", self.frequencies.to_string(), rule);
        }
        if u64::from(self.dim) * u64::from(self.merged()) > u64::from(DIM_MAX) {
            let width = format!("{} patches of {}", self.merged(), self.dim);
            return refuse("merge", width, "a vector's patches together must be within the format's bound");
        }
        Ok(())
    }
}
