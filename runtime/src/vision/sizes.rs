//! What a tower allocates at load.

use muse_format::{Spec, Vision};
use muse_kernels::{CacheDtype, CacheShape, TILE_POSITIONS};

use crate::plan::Item;

/// Sizes of a tower's memory, which follow from the tokens of the largest image and the rows of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VisionPlan {
    /// Most tokens of one image.
    pub tokens: u32,
    /// Most patches of one image, and a class.
    pub patches: u32,
    /// Patches computed at once: whole tokens.
    pub rows: u32,
    /// [`Vision::axes`].
    pub axes: Option<[u32; 2]>,
    /// Rows of a step of the language model that turn by them.
    pub turned: u32,
    /// Most pieces of such a step where rows of an image see each other.
    pub pieces: u32,
    /// [`Vision::joint_everywhere`].
    pub joint_everywhere: bool,
    /// Keys and values of one layer at a time.
    pub cache: CacheShape,
    /// Width of the vectors that an image becomes.
    dim: u32,
    /// Width of a patch's vector.
    inner: u32,
    /// Elements of a chunk's widest input or output.
    wide: u64,
    /// Width of a patch's values.
    values: u32,
    squares: u32,
}

impl VisionPlan {
    /// For images of `tokens` at most, about `batch` patches at once.
    pub fn new(spec: &Spec, vision: &Vision, tokens: u32, batch: u32, dtype: CacheDtype) -> Self {
        let patches = vision.rows(tokens.saturating_mul(vision.merged()));
        let rows = batch.next_multiple_of(vision.merged());
        let capacity = patches.next_multiple_of(TILE_POSITIONS as u32);
        let values = vision.pixels.values();
        let merged = u64::from(rows / vision.merged());
        let squares = if vision.adapter() { 0 } else { rows / vision.merged() };
        let of_patches = u64::from(rows) * u64::from(vision.ffn_dim.max(values).max(vision.dim));
        let of_tokens = merged * u64::from(vision.adapter_dim.max(spec.dim));
        Self {
            tokens,
            patches,
            rows,
            axes: vision.axes,
            turned: if vision.axes.is_some() { batch } else { 0 },
            pieces: if vision.joint { batch } else { 0 },
            joint_everywhere: vision.joint_everywhere,
            cache: CacheShape {
                dtype,
                slots: 1,
                capacity,
                kv_heads: vision.heads,
                head_dim: vision.head_dim(),
                values: true,
            },
            dim: spec.dim,
            inner: vision.dim,
            wide: of_patches.max(of_tokens),
            values,
            squares,
        }
    }

    /// Most squares of a chunk whose patches become one by their mean.
    pub fn squares(&self) -> u32 {
        self.squares
    }

    /// Widest input of a matrix product.
    pub fn widest_input(vision: &Vision) -> u32 {
        let squares = if vision.adapter() { vision.dim * vision.merged() } else { 0 };
        [vision.pixels.values(), vision.ffn_dim, squares, vision.adapter_dim].into_iter().max().unwrap_or(0)
    }

    /// Elements of the vectors of an image.
    pub fn image_len(&self) -> u64 {
        u64::from(self.tokens) * u64::from(self.dim)
    }

    /// Elements of the residual stream of all patches.
    pub fn stream_len(&self) -> u64 {
        u64::from(self.patches) * u64::from(self.inner)
    }

    /// Elements of what a chunk is computed in: five buffers of a patch's width.
    pub fn chunk_len(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.inner)
    }

    /// Elements of each of the two widest buffers of a chunk.
    pub fn wide_len(&self) -> u64 {
        self.wide
    }

    /// Elements of the chunk's values on the host.
    pub fn host_len(&self) -> u64 {
        u64::from(self.rows) * u64::from(self.values.max(self.inner))
    }

    pub fn items(&self) -> [Item; 4] {
        let item = |shape: String, bytes: u64| Item { what: "images", shape, bytes };
        let Self { tokens, patches, rows, dim, inner, .. } = self;
        // Which patch comes when, and where it went; which rows are a square's; what rows of a step turn by, for us and for
        // the backend; the pieces of a step.
        let own = 16 * u64::from(*rows) + 12 * u64::from(self.squares);
        let order = 8 * u64::from(*patches)
            + own
            + 2 * 12 * u64::from(self.turned)
            + (12 + 1) * u64::from(self.pieces);
        let chunk = 4 * (5 * self.chunk_len() + 2 * self.wide_len() + self.host_len()) + order;
        let dtype = self.cache.dtype;
        [
            item(format!("vectors of one: {tokens} tokens x {dim} f32"), 4 * self.image_len()),
            item(format!("residual stream: {patches} patches x {inner} f32"), 4 * self.stream_len()),
            item(format!("chunks of {rows} patches, f32"), chunk),
            item(format!("keys and values: {patches} patches x 2 x {inner} {dtype}"), self.cache.byte_len()),
        ]
    }

    pub fn byte_len(&self) -> u64 {
        self.items().iter().map(|item| item.bytes).sum()
    }
}
