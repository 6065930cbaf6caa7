//! What a model looks at images with.

use serde::{Deserialize, Serialize};

use super::{
    Activation, DIM_MAX, Fit, Given, LAYERS_MAX, Pixels, Video, bounded, finite_positive, is_default,
    is_false, is_yes, yes,
};
use crate::FormatError;

/// Pixels of all tiles of an image, and of all of it once more.
const TILED_PIXELS_MAX: u64 = 1 << 26;

/// A transformer over the patches of an image (Dosovitskiy et al. 2020, <https://arxiv.org/abs/2010.11929>) and the
/// products that bring its output to the width of the residual stream. Each square of `merge * merge` patches becomes one
/// vector, in the place of one token.
///
/// A patch begins as `[norm](patch(pixels) + position)`, the position from a table. A block is
/// `x += [norm](out(attention(norm(x))))`, then `x += [norm](down(activation(up(norm(x)))))`, or
/// `down(activation(gate(norm(x))) * up(norm(x)))`, every norm by mean and variance, every product with a bias where the
/// fields do not say otherwise. After the last block and a norm, the patches of a square lie one behind the other, and
/// become `[norm](projection([activation(down](activation(up(x)))))`, the last norm an RMS norm by
/// [`super::Spec::norm_eps`]; or their mean does, as [`Join`] says. What is in brackets is there where its field says so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vision {
    /// The token that stands for one vector of an image.
    pub token: u32,
    /// Tokens that are embedded as `blank` where no image takes their place.
    pub blank_tokens: Vec<u32>,
    #[serde(default, skip_serializing_if = "is_default")]
    pub blank: u32,
    /// Whether the rows of an image see each other, also those behind them, in the language model's layers that have a
    /// window: all of an image is read in one step then.
    #[serde(default, skip_serializing_if = "is_false")]
    pub joint: bool,
    /// Whether those that are `joint` are so in layers without a window too.
    #[serde(default, skip_serializing_if = "is_false")]
    pub joint_everywhere: bool,
    pub pixels: Pixels,
    /// Whether the product over a patch's pixels has a bias.
    #[serde(default, skip_serializing_if = "is_false")]
    pub patch_bias: bool,
    /// Width of a patch's vector.
    pub dim: u32,
    pub heads: u32,
    /// Hidden width of a block's feed-forward.
    pub ffn_dim: u32,
    pub activation: Activation,
    /// Whether norms divide by the root of the mean square, without biases, in place of by mean and variance.
    #[serde(default, skip_serializing_if = "is_false")]
    pub rms: bool,
    /// Whether what a half of a block adds is normalised.
    #[serde(default, skip_serializing_if = "is_false")]
    pub post_norms: bool,
    /// Whether each head of queries, keys and values has an RMS norm, before it turns.
    #[serde(default, skip_serializing_if = "is_false")]
    pub head_norms: bool,
    /// Whether the feed-forward has a gate.
    #[serde(default, skip_serializing_if = "is_false")]
    pub gated: bool,
    /// Whether the products of a block have biases.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub bias: bool,
    /// Whether what goes into a product of a block, and what comes out, is cut to bounds that are tensors.
    #[serde(default, skip_serializing_if = "is_false")]
    pub clipped: bool,
    /// Multiplies `q . k`, in place of one by the root of a head's width.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scale: Option<f32>,
    /// Whether a token of a class stands behind the patches, which they see and which is no vector in the end. It begins as
    /// the sum of a vector of its own and one for its position, and does not turn.
    #[serde(default, skip_serializing_if = "is_false")]
    pub class: bool,
    /// Whether there is a norm in front of the blocks.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub pre_norm: bool,
    /// Whether there is a norm behind the blocks.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub post_norm: bool,
    /// Epsilon of the norms in front of the blocks and behind them.
    pub outer_norm_eps: f32,
    /// Epsilon of the norms in the blocks.
    pub norm_eps: f32,
    /// Rows, and columns, of the table of positions; entries of each of two, where it is laid by `Axes`.
    pub positions: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub laid: Laid,
    /// Inverse frequencies of the rotation of each coordinate; a head's first pairs turn by the column, as many by the
    /// row, both counted from 1. With 0 nothing turns.
    pub frequencies: u32,
    /// Patches on a side of what becomes one vector.
    pub merge: u32,
    #[serde(default, skip_serializing_if = "is_default")]
    pub join: Join,
    /// Hidden width between tower and projection.
    pub adapter_dim: u32,
    pub adapter_activation: Activation,
    /// Whether a second product, and its activation, lies between the first and the projection.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub adapter_down: bool,
    /// Whether the products behind the tower have biases.
    #[serde(default, skip_serializing_if = "is_false")]
    pub adapter_bias: bool,
    /// Whether a vector is normalised before it takes a token's place.
    #[serde(default = "yes", skip_serializing_if = "is_yes")]
    pub vector_norm: bool,
    /// Where vectors of an image turn, in the language model, by their row and column among them: how many frequencies turn
    /// by the row, and by the column, of every three the second and the third. The others turn by where the image begins,
    /// from which rows and columns are counted; text behind it goes on behind the largest of all three.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub axes: Option<[u32; 2]>,
    /// How it looks at videos; `None` where a prompt has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<Video>,
    pub layers: Vec<VisionLayer>,
}

/// How the square table of positions is laid over an image whose patches are more or fewer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Laid {
    /// Edge to edge: an entry is a part of the image, and a patch takes from those around its middle. Beyond the table all
    /// is zero.
    #[default]
    Edges,
    /// As `Edges`, over an image of as many rows as this one has columns, whose patches are counted row by row in the place
    /// of this one's: the same for a square image.
    EdgesAcross,
    /// Corner to corner: the first and the last patch of a row take the first and the last entry.
    Corners,
    /// Not at all: there are two tables, one below the other, and a patch takes the sum of its column's entry of the first
    /// and its row's of the second. An image has no more rows or columns than there are entries.
    Axes,
}

/// How the patches of a square become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Join {
    /// One behind the other, through the adapter.
    #[default]
    Beside,
    /// `projection(norm([scale * (shift +] {root of dim *} mean[)]))`, an RMS norm; what is in brackets is there where it is
    /// `standardized`, and in braces where it is `rooted`. There is no adapter, and its width is `dim`.
    Mean {
        standardized: bool,
        #[serde(default = "yes", skip_serializing_if = "is_yes")]
        rooted: bool,
    },
}

/// One block of a tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionLayer {
    /// A patch sees those of its own square window of so many patches a side, the first in the image's corner; `None`
    /// sees the image.
    pub window: Option<u32>,
}

impl Default for Vision {
    /// What every field is where a tower does not say; sizes are 0, which a spec's check refuses.
    fn default() -> Self {
        Self {
            token: 0,
            blank_tokens: Vec::new(),
            blank: 0,
            joint: false,
            joint_everywhere: false,
            pixels: Pixels::default(),
            patch_bias: false,
            dim: 0,
            heads: 0,
            ffn_dim: 0,
            activation: Activation::Gelu,
            rms: false,
            post_norms: false,
            head_norms: false,
            gated: false,
            bias: true,
            clipped: false,
            scale: None,
            class: false,
            pre_norm: true,
            post_norm: true,
            outer_norm_eps: 1e-5,
            norm_eps: 1e-5,
            positions: 0,
            laid: Laid::default(),
            frequencies: 0,
            merge: 1,
            join: Join::default(),
            adapter_dim: 0,
            adapter_activation: Activation::Gelu,
            adapter_down: true,
            adapter_bias: false,
            vector_norm: true,
            axes: None,
            video: None,
            layers: Vec::new(),
        }
    }
}

impl Vision {
    pub fn head_dim(&self) -> u32 {
        self.dim / self.heads
    }

    /// Rows of an image in the tower: its patches, and the class behind them.
    pub fn rows(&self, patches: u32) -> u32 {
        patches.saturating_add(self.class.into())
    }

    /// Pixels on a side of a tile, where images are cut into them.
    pub fn tile(&self) -> u32 {
        self.positions * self.pixels.patch
    }

    /// Patches of one vector.
    pub fn merged(&self) -> u32 {
        self.merge * self.merge
    }

    /// Entries of the table of positions.
    pub fn position_entries(&self) -> u32 {
        match self.laid {
            Laid::Edges | Laid::EdgesAcross | Laid::Corners => self.positions * self.positions,
            Laid::Axes => 2 * self.positions,
        }
    }

    /// Most patches on a side of an image; none where any table fits.
    pub fn side_max(&self) -> Option<u32> {
        (self.laid == Laid::Axes).then_some(self.positions)
    }

    /// Whether an adapter stands between patches and projection.
    pub fn adapter(&self) -> bool {
        self.join == Join::Beside
    }

    /// The window of every layer that has one.
    pub fn window(&self) -> Option<u32> {
        self.layers.iter().find_map(|layer| layer.window)
    }

    /// Tiles of whole squares of patches, which together are no more pixels than an image that is read; or one image of a
    /// tile's size.
    fn validate_tiles(&self, tiles: u32) -> Result<(), FormatError> {
        let refuse = |name: &str, value: String, rule| {
            Err(FormatError::Spec { field: format!("vision.{name}"), value, rule })
        };
        if !self.positions.is_multiple_of(self.merge) {
            return refuse("positions", self.positions.to_string(), "a tile is whole squares of patches");
        }
        let pixels = u64::from(self.tile()).pow(2).saturating_mul(u64::from(tiles) + 1);
        if pixels > TILED_PIXELS_MAX {
            let name = if tiles == 0 { "pixels.fit" } else { "pixels.tiles" };
            let (value, rule) = (format!("{tiles} tiles of {}", self.tile()), "they are 2^26 pixels at most");
            return refuse(name, value, rule);
        }
        Ok(())
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
            ("merge", self.merge, 16),
            ("adapter_dim", self.adapter_dim, DIM_MAX),
        ] {
            bounded(field(name), value, max)?;
        }
        if let Some(axes) = self.axes {
            axes.into_iter().try_for_each(|count| bounded(field("axes"), count, DIM_MAX))?;
        }
        self.pixels.fit.validate(&field("pixels.fit"))?;
        if let Some(tiles) = self.pixels.tiles {
            bounded("vision.pixels.tiles", tiles, 256)?;
            self.validate_tiles(tiles)?;
        }
        let fit_of_videos = self.video.as_ref().map(|video| video.fit);
        if [Some(self.pixels.fit), fit_of_videos].contains(&Some(Fit::Table)) {
            self.validate_tiles(0)?;
        }
        if self.joint_everywhere && !self.joint {
            return refuse("joint_everywhere", "true".into(), "only what is joint is so everywhere");
        }
        if self.class && (self.patch_bias || self.window().is_some()) {
            let rule = "a class sees all patches, and is no product, which would have a bias";
            return refuse("class", "true".into(), rule);
        }
        self.video.as_ref().map_or(Ok(()), |video| video.validate(vocab))?;
        if matches!(self.pixels.given, Given::Padded | Given::Planes) && self.pixels.frames != 1 {
            return refuse(
                "pixels.frames",
                self.pixels.frames.to_string(),
                "patches given so have one frame",
            );
        }
        finite_positive(field("outer_norm_eps"), self.outer_norm_eps)?;
        finite_positive(field("norm_eps"), self.norm_eps)?;
        for (mean, deviation) in self.pixels.mean.iter().zip(self.pixels.deviation) {
            finite_positive(field("pixels.deviation"), deviation)?;
            if !mean.is_finite() {
                return refuse("pixels.mean", mean.to_string(), "it must be finite");
            }
        }
        if let Some(scale) = self.scale {
            finite_positive(field("scale"), scale)?;
        }
        if !self.adapter() && (self.adapter_dim != self.dim || self.adapter_down) {
            let rule = "without an adapter it is dim, and nothing lies between";
            return refuse("adapter_dim", self.adapter_dim.to_string(), rule);
        }
        if let Some(token) =
            self.blank_tokens.iter().chain([&self.token, &self.blank]).find(|token| **token >= vocab)
        {
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
        if self.frequencies > self.head_dim() / 4 {
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
