//! How a model that looks at images looks at videos.

use serde::{Deserialize, Serialize};

use super::{Fit, bounded};
use crate::FormatError;

/// Some of a video's frames, of which [`super::Pixels::frames`] one behind the other are one grid of patches and looked at
/// as an image is: what is in between them only a grid's patches tell, and when they are only the text in front of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// The token that stands for one vector.
    pub token: u32,
    /// Frames that are taken of a second, where there are as many.
    pub rate: f64,
    /// Fewest frames that are taken, where there are as many.
    pub frames_min: u32,
    /// Most frames that are taken.
    pub frames_max: u32,
    pub taken: Taken,
    /// `Shape` makes each frame fit as an image, into `tokens_max`; the bounds of `Area` are those of all frames together.
    pub fit: Fit,
    /// Most vectors of a grid.
    pub tokens_max: u32,
}

/// Which frames are taken: as many as are wanted, from the first to the last at equal distances.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Taken {
    /// The frame at or before each point, points in f32; as many as are whole grids, where there are as many.
    Before,
    /// The nearest to each point.
    Nearest,
}

impl Video {
    pub(super) fn validate(&self, vocab: u32) -> Result<(), FormatError> {
        let field = |name: &str| format!("vision.video.{name}");
        let refuse = |name: &str, value: String, rule: &'static str| {
            Err(FormatError::Spec { field: field(name), value, rule })
        };
        if self.token >= vocab {
            return refuse("token", self.token.to_string(), "a token is one of the vocabulary");
        }
        if !(self.rate > 0.0 && self.rate <= 1000.0) {
            return refuse("rate", self.rate.to_string(), "it must be above zero and at most 1000");
        }
        bounded(field("frames_max"), self.frames_max, 1 << 16)?;
        bounded(field("frames_min"), self.frames_min, self.frames_max)?;
        bounded(field("tokens_max"), self.tokens_max, 1 << 20)?;
        self.fit.validate(&field("fit"))
    }
}
