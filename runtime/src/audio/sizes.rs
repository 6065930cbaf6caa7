//! What a tower over sounds allocates at load.

use muse_format::{Audio, Spec};

use super::histories;
use crate::plan::Item;

/// Vectors of a stretch, whose weights are read once for all of them: a second or so.
const STRETCH: u32 = 16;

/// Sizes of a tower's memory, which follow from the vectors of the longest sound and the rows that are computed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AudioPlan {
    /// Most vectors of one sound.
    pub tokens: u32,
    /// Vectors of a stretch.
    pub stretch: u32,
    /// Rows of a stage that are computed at once.
    pub rows: u32,
    /// Elements of each of the two buffers of a stretch between stages.
    pub between: u64,
    /// Elements of each of the two buffers of rows.
    pub chunk: u64,
    /// Elements of the widest input or output of rows.
    pub wide: u64,
    /// Elements of the rows' samples on the host.
    pub host: u64,
    /// Elements of the rows that blocks keep.
    kept: u64,
    /// Samples of a vector.
    samples: u32,
    /// Width of the vectors that a sound becomes.
    dim: u32,
}

impl AudioPlan {
    /// For sounds of `tokens` vectors at most, `batch` rows at once.
    pub fn new(spec: &Spec, audio: &Audio, tokens: u32, batch: u32) -> Self {
        let stretch = STRETCH.min(tokens);
        let widest = |of: &dyn Fn(usize) -> u64| (0..audio.stages.len()).map(of).max().unwrap_or(0);
        let dim = |stage: usize| u64::from(audio.stages[stage].dim);
        let rows = widest(&|stage| u64::from(stretch) * u64::from(audio.rows(stage)));
        // No more than a stretch has.
        let rows = u32::try_from(rows).map_or(batch, |rows| rows.min(batch));
        let of_rows = |width: u64| u64::from(rows) * width;
        let inner = widest(&dim);
        let ffn = widest(&|stage| u64::from(audio.stages[stage].ffn_dim.max(audio.patch_width(stage))));
        let longest = histories(audio).max().unwrap_or(0);
        // The last stage gives vectors.
        let between = audio.stages.len().saturating_sub(1);
        let between =
            (0..between).map(|stage| u64::from(stretch) * u64::from(audio.rows(stage)) * dim(stage));
        Self {
            tokens,
            stretch,
            rows,
            between: between.max().unwrap_or(0),
            chunk: of_rows(inner),
            wide: of_rows(ffn.max(spec.dim.into())),
            host: of_rows(audio.patch_width(0).into()).max(longest),
            kept: histories(audio).sum(),
            samples: audio.samples(),
            dim: spec.dim,
        }
    }

    /// Widest input of a matrix product.
    pub fn widest_input(audio: &Audio) -> u32 {
        let stages = audio.stages.iter().enumerate();
        let inputs = stages.map(|(i, stage)| audio.patch_width(i).max(stage.ffn_dim).max(stage.dim));
        inputs.max().unwrap_or(0)
    }

    /// Elements of the vectors of a sound.
    pub fn sound_len(&self) -> u64 {
        u64::from(self.tokens) * u64::from(self.dim)
    }

    pub fn items(&self) -> [Item; 3] {
        let item = |shape: String, bytes: u64| Item { what: "sounds", shape, bytes };
        let Self { tokens, stretch, rows, samples, dim, .. } = self;
        let chunk = 4 * (2 * self.chunk + self.wide + self.host + self.kept + u64::from(*rows));
        [
            item(format!("vectors of one: {tokens} tokens x {dim} f32"), 4 * self.sound_len()),
            item(format!("stretches of {stretch} x {samples} samples between stages, f32"), 8 * self.between),
            item(format!("chunks of {rows} rows and what convolutions keep, f32"), chunk),
        ]
    }

    pub fn byte_len(&self) -> u64 {
        self.items().iter().map(|item| item.bytes).sum()
    }
}
