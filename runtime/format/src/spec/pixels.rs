//! How images become the values that a tower reads.

use serde::{Deserialize, Serialize};

use super::{bounded, is_default, is_false};
use crate::FormatError;

/// How an image becomes the values of patches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pixels {
    #[serde(default, skip_serializing_if = "is_default")]
    pub resampling: Resampling,
    #[serde(default, skip_serializing_if = "is_default")]
    pub fit: Fit,
    /// Where an image is not fit but cut into at most so many square tiles of as many patches a side as the table of
    /// positions has, each an image for itself, in front of all of it in one more. What fits one tile is that one alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<u32>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub given: Given,
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
    /// Whether values are rounded to bf16 as they are brought to 0 to 1, and after each of these steps.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rounded: bool,
}

/// How an image is made larger or smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resampling {
    /// By a windowed sinc of three lobes.
    #[default]
    Lanczos,
    /// By cubic convolution with `a = -1/2`.
    Bicubic,
    /// By a triangle.
    Bilinear,
}

/// How many patches an image is made to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fit {
    /// The grid of squares nearest to its shape, of about its size.
    #[default]
    Shape,
    /// Each side rounded to whole squares, both scaled where their product is out of these bounds.
    Area { pixels_min: u32, pixels_max: u32 },
    /// Scaled to the size of most tokens, each side rounded down to whole squares; one at least.
    Fill,
    /// As many patches a side as the table of positions has, whatever its shape.
    Table,
}

impl Fit {
    pub(super) fn validate(self, field: &str) -> Result<(), FormatError> {
        let Self::Area { pixels_min, pixels_max } = self else { return Ok(()) };
        bounded(format!("{field}.pixels_max"), pixels_max, 1 << 30)?;
        bounded(format!("{field}.pixels_min"), pixels_min, pixels_max)
    }
}

/// How the reference implementation hands over the values of patches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Given {
    /// Row by row, the values of a patch frame by frame.
    #[default]
    Rows,
    /// Square by square, row by row in each, the values of a patch channel by channel.
    Squares,
    /// Row by row with empty patches behind, the values of a patch pixel by pixel, from 0 to 1.
    Padded,
    /// As pixels: channel by channel, row by row in each.
    Planes,
}

impl Default for Pixels {
    /// Sizes are 0, which a spec's check refuses; values are kept as they are.
    fn default() -> Self {
        Self {
            resampling: Resampling::default(),
            fit: Fit::default(),
            tiles: None,
            given: Given::default(),
            patch: 0,
            frames: 1,
            tokens_max: 0,
            mean: [0.0; 3],
            deviation: [1.0; 3],
            rounded: false,
        }
    }
}

impl Pixels {
    /// Values of a patch: `frames` times red, green and blue of `patch` rows of `patch` pixels.
    pub fn values(&self) -> u32 {
        self.frames * 3 * self.patch * self.patch
    }
}
