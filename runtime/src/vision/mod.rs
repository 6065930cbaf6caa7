//! Images in place of tokens: a tower over patches, driven chunk by chunk so that memory does not grow with the hidden
//! width of its blocks. It reads a [`Vision`] as the graph of the language model reads a spec.

mod decode;
mod fit;
mod grid;
mod image;
mod resize;
mod sizes;
mod weights;

use muse_format::{Spec, Vision};
use muse_kernels::{AttentionShape, Backend, BackendError, Linear, Span, Tensor};

pub use self::image::{Image, ImageError};
pub use self::sizes::VisionPlan;
use self::weights::{Block, TowerWeights};
use crate::model::{Affine, Loader};
use crate::weights::Mapped;

/// The tower of a model on one backend, and the vectors of the image that it saw last.
pub struct Tower<B: Backend> {
    spec: Vision,
    /// Width of the residual stream of the language model, and the epsilon of its norms.
    dim: usize,
    norm_eps: f32,
    weights: TowerWeights<B::Weight>,
    /// `(positions, positions, dim)`
    positions: Tensor,
    rows: usize,
    state: State<B>,
    /// [`Image::hash`] of what `vectors` are of, and how many there are.
    seen: Option<([u8; 32], u32)>,
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
        let side = vision.positions * vision.positions;
        let positions = mapped.tensor("vision.positions", side, vision.dim)?;
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
            places: Vec::with_capacity(rows),
            host: Vec::with_capacity(fit(plan.host_len())),
        };
        let vectors = backend.buffer(fit(plan.image_len()))?;
        let (dim, norm_eps) = (spec.dim as usize, spec.norm_eps);
        let spec = vision.clone();
        Ok(Self { spec, dim, norm_eps, weights, positions, rows, state, seen: None, vectors })
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
        if self.holds(image) {
            return Ok(());
        }
        self.seen = None;
        image.grid.order(self.spec.window(), &mut self.state.order);
        self.read_patches(backend, image)?;
        for layer in 0..self.spec.layers.len() {
            self.keys_and_values(backend, image, layer)?;
            let window = self.spec.layers[layer].window;
            for group in image.grid.groups(window) {
                for start in group.clone().step_by(self.rows) {
                    let len = (group.end - start).min(self.rows as u32);
                    let span = Span { slot: 0, start, len };
                    self.block(backend, image, layer, span, (group.start, group.end - 1))?;
                }
            }
        }
        self.project(backend, image)?;
        self.seen = Some((*image.hash(), image.tokens(&self.spec)));
        Ok(())
    }

    /// `stream = norm(patch(pixels) + position)`
    fn read_patches(&mut self, backend: &mut B, image: &Image) -> Result<(), BackendError> {
        let (dim, eps) = (self.spec.dim as usize, self.spec.outer_norm_eps);
        let State { stream, x, y, wide, order, at, host, .. } = &mut self.state;
        for (chunk, start) in order.chunks(self.rows).zip((0..).step_by(self.rows)) {
            let rows = chunk.len();
            host.clear();
            chunk.iter().for_each(|patch| image.patch(*patch, &self.spec.pixels, host));
            backend.write(wide, host)?;
            backend.linear(wide, rows, &mut [Linear { out: x, weight: &self.weights.patch, bias: None }])?;
            host.clear();
            host.resize(rows * dim, 0.0);
            for (patch, out) in chunk.iter().zip(host.chunks_exact_mut(dim)) {
                image.grid.add_position(*patch, self.positions.f32(), self.spec.positions, out);
            }
            backend.write(y, host)?;
            backend.add(x, y, rows * dim)?;
            self.weights.pre_norm.run(backend, x, rows, eps)?;
            numbers(at, start, rows);
            backend.scatter(stream, x, at, dim)?;
        }
        Ok(())
    }

    /// Stores the keys and values of all patches for one layer.
    fn keys_and_values(&mut self, backend: &mut B, image: &Image, layer: usize) -> Result<(), BackendError> {
        let (heads, head_dim) = (self.spec.heads, self.spec.head_dim());
        let (dim, eps, w) = (self.spec.dim as usize, self.spec.norm_eps, &self.weights.blocks[layer]);
        let State { stream, y, k, v, cache, order, at, places, .. } = &mut self.state;
        for (chunk, start) in order.chunks(self.rows).zip((0..).step_by(self.rows)) {
            let rows = chunk.len();
            numbers(at, start, rows);
            backend.gather(y, stream, at, dim)?;
            w.attn_norm.run(backend, y, rows, eps)?;
            backend.linear(y, rows, &mut [product(k, &w.k), product(v, &w.v)])?;
            turned_by(places, chunk, image);
            backend.rope_2d(k, &self.weights.rope, places, heads, head_dim)?;
            backend.store(cache, k, v, &[Span { slot: 0, start, len: rows as u32 }])?;
        }
        Ok(())
    }

    /// Takes the patches of `span` through a block; they see those from `first` to `last`.
    fn block(
        &mut self,
        backend: &mut B,
        image: &Image,
        layer: usize,
        span: Span,
        (first, last): (u32, u32),
    ) -> Result<(), BackendError> {
        let Vision { heads, ffn_dim, activation, norm_eps, .. } = self.spec;
        let (dim, head_dim) = (self.spec.dim as usize, self.spec.head_dim());
        let (rows, start) = (span.len as usize, span.start as usize);
        let w: &Block<B::Weight> = &self.weights.blocks[layer];
        let State { stream, x, y, q, k: mix, wide, cache, order, at, places, .. } = &mut self.state;
        numbers(at, span.start, rows);
        backend.gather(x, stream, at, dim)?;
        backend.gather(y, stream, at, dim)?;
        w.attn_norm.run(backend, y, rows, norm_eps)?;
        backend.linear(y, rows, &mut [product(q, &w.q)])?;
        turned_by(places, &order[start..start + rows], image);
        backend.rope_2d(q, &self.weights.rope, places, heads, head_dim)?;
        let shape = AttentionShape {
            heads,
            kv_heads: heads,
            head_dim,
            scale: f64::from(head_dim).powf(-0.5) as f32,
            window: Some(last - first + 1),
            softcap: None,
            bidirectional: false,
            until: Some(last),
        };
        backend.attention(mix, q, cache, &[span], &shape)?;
        backend.linear(mix, rows, &mut [product(y, &w.out)])?;
        backend.add(x, y, rows * dim)?;

        backend.scatter(stream, x, at, dim)?;
        backend.gather(y, stream, at, dim)?;
        w.ffn_norm.run(backend, y, rows, norm_eps)?;
        backend.linear(y, rows, &mut [product(wide, &w.up)])?;
        backend.activate(wide, rows * ffn_dim as usize, activation)?;
        backend.linear(wide, rows, &mut [product(y, &w.down)])?;
        backend.add(x, y, rows * dim)?;
        backend.scatter(stream, x, at, dim)
    }

    /// `vectors` of the squares of patches.
    fn project(&mut self, backend: &mut B, image: &Image) -> Result<(), BackendError> {
        let Vision { merge, adapter_dim, adapter_activation, outer_norm_eps, .. } = self.spec;
        let (inner, merged) = (self.spec.dim as usize, self.spec.merged() as usize);
        let (w, State { stream, x, wide, other, order, came, at, .. }) = (&self.weights, &mut self.state);
        came.clear();
        came.resize(order.len(), 0);
        order.iter().zip(0..).for_each(|(patch, when)| came[*patch as usize] = when);
        let (cols, tokens) = (image.grid.cols / merge, image.tokens(&self.spec) as usize);
        for (first, start) in (0..tokens).step_by(self.rows / merged).zip((0..).step_by(self.rows / merged)) {
            let squares = (tokens - first).min(self.rows / merged);
            at.clear();
            for square in start..start + squares as u32 {
                let (top, left) = (square / cols * merge, square % cols * merge);
                let patches = (0..merge).flat_map(|y| (0..merge).map(move |x| [top + y, left + x]));
                at.extend(patches.map(|[y, x]| came[(y * image.grid.cols + x) as usize]));
            }
            backend.gather(x, stream, at, inner)?;
            w.post_norm.run(backend, x, squares * merged, outer_norm_eps)?;
            // The patches of a square lie one behind the other: one row of the adapter's input.
            backend.linear(x, squares, &mut [Linear { out: wide, weight: &w.adapter_up, bias: None }])?;
            backend.activate(wide, squares * adapter_dim as usize, adapter_activation)?;
            backend.linear(
                wide,
                squares,
                &mut [Linear { out: other, weight: &w.adapter_down, bias: None }],
            )?;
            backend.activate(other, squares * adapter_dim as usize, adapter_activation)?;
            backend.linear(other, squares, &mut [Linear { out: wide, weight: &w.projection, bias: None }])?;
            backend.rms_norm_in_place(wide, &w.norm, squares, self.norm_eps)?;
            numbers(at, start, squares);
            backend.scatter(&mut self.vectors, wide, at, self.dim)?;
        }
        Ok(())
    }
}

/// `at = [start, start + 1, ..]`
fn numbers(at: &mut Vec<u32>, start: u32, len: usize) {
    at.clear();
    at.extend(start..start + len as u32);
}

/// Column and row of each patch, counted from 1.
fn turned_by(places: &mut Vec<[u32; 2]>, patches: &[u32], image: &Image) {
    places.clear();
    places.extend(patches.iter().map(|patch| {
        let [row, col] = image.grid.place(*patch);
        [col + 1, row + 1]
    }));
}

fn product<'a, B: Backend>(out: &'a mut B::Buffer, affine: &'a Affine<B::Weight>) -> Linear<'a, B> {
    Linear { out, weight: &affine.weight, bias: affine.bias.as_ref() }
}
