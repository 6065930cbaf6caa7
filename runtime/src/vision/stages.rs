//! How an image becomes vectors, a chunk of its patches at a time, so that somebody else may be served between two.

use muse_format::Vision;
use muse_kernels::{AttentionShape, Backend, BackendError, Linear, Span};

use super::weights::Block;
use super::{Image, State, Tower};
use crate::model::Affine;

/// What is computed next. Places are those of [`State::order`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The vectors that patches begin as, from `start` on.
    Read { start: u32 },
    /// The keys and values of a layer, from `start` on.
    Keys { layer: usize, start: u32 },
    /// The rest of a layer, from `start` on.
    Block { layer: usize, start: u32 },
    /// Vectors in the place of tokens, from this one on.
    Project { first: u32 },
}

impl<B: Backend> Tower<B> {
    /// Computes a chunk, and says what is next; nothing after the last.
    pub(super) fn compute(
        &mut self,
        backend: &mut B,
        image: &Image,
        stage: Stage,
    ) -> Result<Option<Stage>, BackendError> {
        let patches = image.grid.len();
        let chunk = |start: u32, end: u32| Span { slot: 0, start, len: (end - start).min(self.rows as u32) };
        Ok(Some(match stage {
            Stage::Read { start } => {
                let span = chunk(start, patches);
                self.read_patches(backend, image, span)?;
                match span.start + span.len {
                    end if end < patches => Stage::Read { start: end },
                    _ => Stage::Keys { layer: 0, start: 0 },
                }
            }
            Stage::Keys { layer, start } => {
                let span = chunk(start, patches);
                self.keys_and_values(backend, image, layer, span)?;
                match span.start + span.len {
                    end if end < patches => Stage::Keys { layer, start: end },
                    _ => Stage::Block { layer, start: 0 },
                }
            }
            Stage::Block { layer, start } => {
                let mut groups = image.grid.groups(self.spec.layers[layer].window);
                let group = groups.find(|group| group.contains(&start)).expect("a patch is in a window");
                let span = chunk(start, group.end);
                self.block(backend, image, layer, span, (group.start, group.end - 1))?;
                match span.start + span.len {
                    end if end < patches => Stage::Block { layer, start: end },
                    _ if layer + 1 < self.spec.layers.len() => Stage::Keys { layer: layer + 1, start: 0 },
                    _ => Stage::Project { first: 0 },
                }
            }
            Stage::Project { first } => {
                let tokens = image.tokens(&self.spec);
                let squares = (tokens - first).min(self.rows as u32 / self.spec.merged());
                self.project(backend, image, first, squares)?;
                match first + squares {
                    end if end < tokens => Stage::Project { first: end },
                    _ => return Ok(None),
                }
            }
        }))
    }

    /// `stream = [norm](patch(pixels) + position)`
    fn read_patches(&mut self, backend: &mut B, image: &Image, span: Span) -> Result<(), BackendError> {
        let (dim, eps) = (self.spec.dim as usize, self.spec.outer_norm_eps);
        let (rows, w) = (span.len as usize, &self.weights);
        let State { stream, x, y, wide, order, at, host, .. } = &mut self.state;
        let chunk = &order[span.start as usize..][..rows];
        host.clear();
        chunk.iter().for_each(|patch| image.patch(*patch, &self.spec.pixels, host));
        backend.write(wide, host)?;
        backend.linear(wide, rows, &mut [product(x, &w.patch)])?;
        host.clear();
        host.resize(rows * dim, 0.0);
        for (patch, out) in chunk.iter().zip(host.chunks_exact_mut(dim)) {
            image.grid.add_position(*patch, self.positions.f32(), self.spec.positions, self.spec.laid, out);
        }
        backend.write(y, host)?;
        backend.add(x, y, rows * dim)?;
        if let Some(norm) = &w.pre_norm {
            norm.run(backend, x, rows, eps)?;
        }
        numbers(at, span.start, rows);
        backend.scatter(stream, x, at, dim)
    }

    /// Stores the keys and values of patches for one layer.
    fn keys_and_values(
        &mut self,
        backend: &mut B,
        image: &Image,
        layer: usize,
        span: Span,
    ) -> Result<(), BackendError> {
        let (heads, head_dim) = (self.spec.heads, self.spec.head_dim());
        let (dim, eps, w) = (self.spec.dim as usize, self.spec.norm_eps, &self.weights.blocks[layer]);
        let (start, rows) = (span.start as usize, span.len as usize);
        let State { stream, y, k, v, cache, order, at, places, .. } = &mut self.state;
        numbers(at, span.start, rows);
        backend.gather(y, stream, at, dim)?;
        w.attn_norm.run(backend, y, rows, eps)?;
        backend.linear(y, rows, &mut [product(k, &w.k), product(v, &w.v)])?;
        turned_by(places, &order[start..start + rows], image);
        backend.rope_2d(k, &self.weights.rope, places, heads, head_dim)?;
        backend.store(cache, k, v, &[span])
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
            chunk: None,
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

    /// `vectors` of `squares` squares of patches from `first` on.
    fn project(
        &mut self,
        backend: &mut B,
        image: &Image,
        first: u32,
        squares: u32,
    ) -> Result<(), BackendError> {
        let Vision { merge, adapter_dim, adapter_activation, outer_norm_eps, .. } = self.spec;
        let (inner, merged) = (self.spec.dim as usize, self.spec.merged() as usize);
        let (w, State { stream, x, wide, other, order, came, at, .. }) = (&self.weights, &mut self.state);
        if first == 0 {
            came.clear();
            came.resize(order.len(), 0);
            order.iter().zip(0..).for_each(|(patch, when)| came[*patch as usize] = when);
        }
        let cols = image.grid.cols / merge;
        at.clear();
        for square in first..first + squares {
            let (top, left) = (square / cols * merge, square % cols * merge);
            let patches = (0..merge).flat_map(|y| (0..merge).map(move |x| [top + y, left + x]));
            at.extend(patches.map(|[y, x]| came[(y * image.grid.cols + x) as usize]));
        }
        let rows = squares as usize;
        let hidden = rows * adapter_dim as usize;
        backend.gather(x, stream, at, inner)?;
        w.post_norm.run(backend, x, rows * merged, outer_norm_eps)?;
        // The patches of a square lie one behind the other: one row of the adapter's input.
        backend.linear(x, rows, &mut [product(wide, &w.adapter_up)])?;
        backend.activate(wide, hidden, adapter_activation)?;
        if let Some(down) = &w.adapter_down {
            backend.linear(wide, rows, &mut [product(other, down)])?;
            backend.activate(other, hidden, adapter_activation)?;
            std::mem::swap(wide, other);
        }
        backend.linear(wide, rows, &mut [product(other, &w.projection)])?;
        if let Some(norm) = &w.norm {
            backend.rms_norm_in_place(other, norm, rows, self.norm_eps)?;
        }
        numbers(at, first, rows);
        backend.scatter(&mut self.vectors, other, at, self.dim)
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
