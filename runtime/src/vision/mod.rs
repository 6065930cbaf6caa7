//! Images in place of tokens: a tower over patches, driven chunk by chunk so that memory does not grow with the hidden
//! width of its blocks. It reads a [`Vision`] as the graph of the language model reads a spec.

mod decode;
mod fit;
mod grid;
mod image;
mod resize;
mod sizes;
mod stages;
mod tiles;
mod video;
mod weights;

use muse_format::{Join, Spec, Vision};
use muse_kernels::{Backend, BackendError, Span, Tensor};

pub use self::image::{Image, ImageError};
pub use self::sizes::VisionPlan;
use self::stages::Stage;
pub use self::tiles::Tiles;
pub use self::video::{FrameGrid, Grids, Video, VideoError};
use self::weights::TowerWeights;
use crate::model::Loader;
use crate::weights::Mapped;

/// The tower of a model on one backend, and the vectors of the image that it saw last.
pub struct Tower<B: Backend> {
    spec: Vision,
    /// Width of the residual stream of the language model, and the epsilon of its norms.
    dim: usize,
    norm_eps: f32,
    weights: TowerWeights<B::Weight>,
    /// `(position_entries, dim)`
    positions: Tensor,
    /// What a class begins as, and its position, `(dim)` each.
    class: Option<[Tensor; 2]>,
    /// Added to the mean of a square's patches, `(dim)`.
    mean_shift: Option<Tensor>,
    rows: usize,
    state: State<B>,
    /// [`Image::hash`] of what `vectors` are of, and how many there are.
    seen: Option<([u8; 32], u32)>,
    /// [`Image::hash`] of what is begun, and how it goes on.
    under_way: Option<([u8; 32], Stage)>,
    pub(crate) vectors: B::Buffer, // (tokens, dim of the language model)
}

/// What is written while an image is computed. Rows are those of a chunk.
struct State<B: Backend> {
    stream: B::Buffer,     // (patches, dim), window after window
    x: B::Buffer,          // (rows, dim)
    y: B::Buffer,          // (rows, dim)
    q: B::Buffer,          // (rows, dim)
    k: B::Buffer,          // (rows, dim)
    v: B::Buffer,          // (rows, dim)
    wide: B::Buffer,       // (rows, values), (rows, ffn_dim) or (tokens, adapter_dim)
    other: B::Buffer,      // as `wide`
    cache: B::Cache,       // of one layer at a time
    order: Vec<u32>,       // (patches): which patch comes when
    came: Vec<u32>,        // (patches): when a patch came
    at: Vec<u32>,          // (rows): where a chunk's rows lie
    own: Vec<u32>,         // (rows): 0, 1, ..
    squares: Vec<Span>,    // (tokens): rows of a chunk that become one vector
    places: Vec<[u32; 2]>, // (rows): column and row of a chunk's patches, from 1
    host: Vec<f32>,        // (rows, values)
}

impl<B: Backend> Tower<B> {
    /// Makes the tower of `mapped` resident and allocates what `plan` says.
    ///
    /// # Errors
    /// [`BackendError`] where the backend has no kernel for a layout or memory runs out.
    pub fn new(
        mapped: &Mapped,
        backend: &mut B,
        spec: &Spec,
        vision: &Vision,
        plan: &VisionPlan,
    ) -> Result<Self, BackendError> {
        let weights = TowerWeights::load(&mut Loader { mapped, backend }, vision, spec.dim)?;
        let positions = mapped.tensor("vision.positions", vision.position_entries(), vision.dim)?;
        let class = match vision.class {
            false => None,
            true => Some([
                mapped.tensor("vision.class", 1, vision.dim)?,
                mapped.tensor("vision.class_position", 1, vision.dim)?,
            ]),
        };
        let moved = matches!(vision.join, Join::Mean { standardized: true, .. });
        let mean_shift = moved.then(|| mapped.tensor("vision.mean_shift", 1, vision.dim)).transpose()?;
        let fit = |len: u64| usize::try_from(len).expect("a length within the budget fits the address space");
        let (chunk, rows) = (fit(plan.chunk_len()), plan.rows as usize);
        let patches = plan.patches as usize;
        let state = State {
            stream: backend.buffer(fit(plan.stream_len()))?,
            x: backend.buffer(chunk)?,
            y: backend.buffer(chunk)?,
            q: backend.buffer(chunk)?,
            k: backend.buffer(chunk)?,
            v: backend.buffer(chunk)?,
            wide: backend.buffer(fit(plan.wide_len()))?,
            other: backend.buffer(fit(plan.wide_len()))?,
            cache: backend.cache(plan.cache)?,
            order: Vec::with_capacity(patches),
            came: Vec::with_capacity(patches),
            at: Vec::with_capacity(rows),
            own: (0..plan.rows).collect(),
            squares: Vec::with_capacity(plan.squares() as usize),
            places: Vec::with_capacity(rows),
            host: Vec::with_capacity(fit(plan.host_len())),
        };
        let vectors = backend.buffer(fit(plan.image_len()))?;
        let (dim, norm_eps) = (spec.dim as usize, spec.norm_eps);
        let spec = vision.clone();
        Ok(Self {
            spec,
            dim,
            norm_eps,
            weights,
            positions,
            class,
            mean_shift,
            rows,
            state,
            seen: None,
            under_way: None,
            vectors,
        })
    }

    /// How many vectors there are: 0 before the first image.
    pub fn tokens(&self) -> u32 {
        self.seen.map_or(0, |(_, tokens)| tokens)
    }

    /// Whether `vectors` are those of `image`.
    pub fn holds(&self, image: &Image) -> bool {
        self.seen.is_some_and(|(hash, _)| hash == *image.hash())
    }

    /// Computes the vectors of `image`, which has no more patches than planned.
    ///
    /// # Errors
    /// [`BackendError`]; the vectors are nobody's then.
    pub fn look(&mut self, backend: &mut B, image: &Image) -> Result<(), BackendError> {
        while !self.advance(backend, image)? {}
        Ok(())
    }

    /// Computes the next part of `image`: a chunk of its patches in one layer. Says whether its vectors are there; those of
    /// another image are not any more. Where another image was under way, this one begins.
    ///
    /// # Errors
    /// [`BackendError`]; the image begins again after it.
    pub fn advance(&mut self, backend: &mut B, image: &Image) -> Result<bool, BackendError> {
        if self.holds(image) {
            return Ok(true);
        }
        self.seen = None;
        let under_way = self.under_way.take().filter(|(hash, _)| hash == image.hash());
        let stage = under_way.map(|(_, stage)| stage).unwrap_or_else(|| {
            image.grid.order(self.spec.window(), &mut self.state.order);
            self.state.order.extend(image.grid.len()..self.spec.rows(image.grid.len()));
            Stage::Read { start: 0 }
        });
        match self.compute(backend, image, stage)? {
            Some(next) => self.under_way = Some((*image.hash(), next)),
            None => self.seen = Some((*image.hash(), image.tokens(&self.spec))),
        }
        Ok(self.seen.is_some())
    }
}
