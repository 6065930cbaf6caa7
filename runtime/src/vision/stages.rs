//! How an image becomes vectors, a chunk of its patches at a time, so that somebody else may be served between two.

use muse_format::{Join, Vision};
use muse_kernels::{AttentionShape, Backend, BackendError, Span};

use super::weights::{Block, linear, products};
use super::{Image, State, Tower};

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
        let patches = self.spec.rows(image.grid.len());
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
                // A class and all patches see each other.
                let group = if self.spec.class {
                    0..patches
                } else {
                    let mut groups = image.grid.groups(self.spec.layers[layer].window);
                    groups.find(|group| group.contains(&start)).expect("a patch is in a window")
                };
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
        let patches = image.grid.len();
        for patch in chunk {
            if *patch < patches {
                image.patch(*patch, &self.spec.pixels, host);
            } else {
                host.resize(host.len() + self.spec.pixels.values() as usize, 0.0);
            }
        }
        backend.write(wide, host)?;
        backend.linear(wide, rows, &mut [linear(x, &w.patch)])?;
        host.clear();
        host.resize(rows * dim, 0.0);
        for (patch, out) in chunk.iter().zip(host.chunks_exact_mut(dim)) {
            if *patch < patches {
                image.grid.add_position(
                    *patch,
                    self.positions.f32(),
                    self.spec.positions,
                    self.spec.laid,
                    out,
                );
            }
            // The product of no pixels is nothing.
            for part in self.class.iter().flatten().filter(|_| *patch >= patches) {
                out.iter_mut().zip(part.f32()).for_each(|(out, part)| *out += part);
            }
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
        let State { stream, x, y, k, v, cache, order, at, own, places, .. } = &mut self.state;
        numbers(at, span.start, rows);
        backend.gather(y, stream, at, dim)?;
        w.attn_norm.run(backend, y, rows, eps)?;
        products(backend, y, x, &own[..rows], [(&mut *k, &w.k), (&mut *v, &w.v)])?;
        if let Some([_, of_keys, of_values]) = &w.head_norms {
            backend.rms_norm_in_place(k, of_keys, rows * heads as usize, eps)?;
            backend.rms_norm_in_place(v, of_values, rows * heads as usize, eps)?;
        }
        turned_by(places, &order[start..start + rows], image);
        if let Some(rope) = &self.weights.rope {
            backend.rope_2d(k, rope, places, heads, head_dim)?;
        }
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
        let Vision { heads, norm_eps, scale, .. } = self.spec;
        let (dim, head_dim) = (self.spec.dim as usize, self.spec.head_dim());
        let (rows, start) = (span.len as usize, span.start as usize);
        let w: &Block<B::Weight> = &self.weights.blocks[layer];
        let State { stream, x, y, q, k: mix, v: spare, cache, order, at, own, places, .. } = &mut self.state;
        let own = &own[..rows];
        numbers(at, span.start, rows);
        backend.gather(x, stream, at, dim)?;
        backend.gather(y, stream, at, dim)?;
        w.attn_norm.run(backend, y, rows, norm_eps)?;
        products(backend, y, spare, own, [(&mut *q, &w.q)])?;
        if let Some([of_queries, ..]) = &w.head_norms {
            backend.rms_norm_in_place(q, of_queries, rows * heads as usize, norm_eps)?;
        }
        turned_by(places, &order[start..start + rows], image);
        if let Some(rope) = &self.weights.rope {
            backend.rope_2d(q, rope, places, heads, head_dim)?;
        }
        let shape = AttentionShape {
            heads,
            kv_heads: heads,
            head_dim,
            scale: scale.unwrap_or(f64::from(head_dim).powf(-0.5) as f32),
            window: Some(last - first + 1),
            chunk: None,
            softcap: None,
            bidirectional: false,
            until: Some(last),
        };
        backend.attention(mix, q, cache, &[span], &shape)?;
        products(backend, mix, spare, own, [(&mut *y, &w.out)])?;
        if let Some(norm) = &w.attn_post_norm {
            norm.run(backend, y, rows, norm_eps)?;
        }
        backend.add(x, y, rows * dim)?;
        backend.scatter(stream, x, at, dim)?;
        self.feed_forward(backend, layer, rows)
    }

    /// The second half of a block, of the rows that [`State::at`] says.
    fn feed_forward(&mut self, backend: &mut B, layer: usize, rows: usize) -> Result<(), BackendError> {
        let Vision { ffn_dim, activation, norm_eps, .. } = self.spec;
        let (dim, hidden) = (self.spec.dim as usize, rows * ffn_dim as usize);
        let w: &Block<B::Weight> = &self.weights.blocks[layer];
        let State { stream, x, y, q: spare, wide, other, at, own, .. } = &mut self.state;
        let own = &own[..rows];
        backend.gather(y, stream, at, dim)?;
        w.ffn_norm.run(backend, y, rows, norm_eps)?;
        match &w.gate {
            None => {
                products(backend, y, spare, own, [(&mut *wide, &w.up)])?;
                backend.activate(wide, hidden, activation)?;
            }
            Some(gate) => {
                products(backend, y, spare, own, [(&mut *wide, gate), (&mut *other, &w.up)])?;
                backend.glu(wide, other, hidden, activation)?;
            }
        }
        products(backend, wide, other, own, [(&mut *y, &w.down)])?;
        if let Some(norm) = &w.ffn_post_norm {
            norm.run(backend, y, rows, norm_eps)?;
        }
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
        let Vision { merge, outer_norm_eps, .. } = self.spec;
        let (inner, merged) = (self.spec.dim as usize, self.spec.merged() as usize);
        let State { stream, x, order, came, at, .. } = &mut self.state;
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
        backend.gather(x, stream, at, inner)?;
        if let Some(norm) = &self.weights.post_norm {
            norm.run(backend, x, rows * merged, outer_norm_eps)?;
        }
        match &self.weights.mean_norm {
            None => self.adapt(backend, rows)?,
            Some(_) => self.mean(backend, rows)?,
        }
        let (w, State { wide, other, at, .. }) = (&self.weights, &mut self.state);
        backend.linear(wide, rows, &mut [linear(other, &w.projection)])?;
        if let Some(norm) = &w.norm {
            backend.rms_norm_in_place(other, norm, rows, self.norm_eps)?;
        }
        numbers(at, first, rows);
        backend.scatter(&mut self.vectors, other, at, self.dim)
    }

    /// `wide` is what the adapter makes of `x`, `rows` rows of a square's patches.
    fn adapt(&mut self, backend: &mut B, rows: usize) -> Result<(), BackendError> {
        let Vision { adapter_dim, adapter_activation, .. } = self.spec;
        let hidden = rows * adapter_dim as usize;
        let (w, State { x, wide, other, .. }) = (&self.weights, &mut self.state);
        // The patches of a square lie one behind the other: one row of the adapter's input.
        let up = w.adapter_up.as_ref().expect("weights are loaded by the spec");
        backend.linear(x, rows, &mut [linear(wide, up)])?;
        backend.activate(wide, hidden, adapter_activation)?;
        if let Some(down) = &w.adapter_down {
            backend.linear(wide, rows, &mut [linear(other, down)])?;
            backend.activate(other, hidden, adapter_activation)?;
            std::mem::swap(wide, other);
        }
        Ok(())
    }

    /// `wide` is the mean of the patches of each of `rows` squares in `x`, scaled, moved and normalised.
    fn mean(&mut self, backend: &mut B, rows: usize) -> Result<(), BackendError> {
        let (dim, merged) = (self.spec.dim as usize, self.spec.merged());
        let (w, State { x, wide, other, squares, host, .. }) = (&self.weights, &mut self.state);
        squares.clear();
        squares.extend((0..rows as u32).map(|square| Span { slot: 0, start: square * merged, len: merged }));
        backend.mean(wide, x, squares, dim)?;
        if matches!(self.spec.join, Join::Mean { rooted: true, .. }) {
            backend.scale_and_cap(wide, rows * dim, (dim as f64).sqrt() as f32, None)?;
        }
        if let Some((scale, shift)) = w.mean_scale.as_ref().zip(self.mean_shift.as_ref()) {
            host.clear();
            (0..rows).for_each(|_| host.extend_from_slice(shift.f32()));
            backend.write(other, host)?;
            backend.add(wide, other, rows * dim)?;
            backend.multiply(wide, scale, rows)?;
        }
        let norm = w.mean_norm.as_ref().expect("weights are loaded by the spec");
        backend.rms_norm_in_place(wide, norm, rows, self.spec.outer_norm_eps)
    }
}

/// `at = [start, start + 1, ..]`
fn numbers(at: &mut Vec<u32>, start: u32, len: usize) {
    at.clear();
    at.extend(start..start + len as u32);
}

/// Column and row of each patch, counted from 1; a class does not turn.
fn turned_by(places: &mut Vec<[u32; 2]>, patches: &[u32], image: &Image) {
    places.clear();
    places.extend(patches.iter().map(|patch| {
        let [row, col] = image.grid.place(*patch);
        if *patch < image.grid.len() { [col + 1, row + 1] } else { [0; 2] }
    }));
}
