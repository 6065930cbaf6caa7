//! Keys and values on the device, and attention over them.

use super::backend::{CudaBackend, CudaBuffer, small};
use super::driver::Context;
use super::launch::{self as kernels, BEST_THREADS, THREADS, cache_name, launch};
use super::memory::Memory;
use super::scratch::{BLOCKS_MAX, CHOOSE_ROWS};
use super::step::{Need, Splits};
use crate::cache::row_count;
use crate::{AttentionShape, BackendError, CacheDtype, CacheShape, IndexShape, Span, TILE_POSITIONS};

/// Keys and values of one layer on the device, in the order of `kernels/cuda/cache.cuh`.
#[derive(Debug)]
pub struct CudaCache {
    /// With the capacity rounded up to whole tiles.
    shape: CacheShape,
    keys: Memory,
    /// None where the shape has none.
    values: Memory,
    /// Of keys and of values, where they are scaled.
    scales: [Memory; 2],
}

impl CudaCache {
    pub(super) fn new(
        context: &std::sync::Arc<Context>,
        mut shape: CacheShape,
    ) -> Result<Self, BackendError> {
        if shape.head_dim > kernels::HEAD_DIM_MAX {
            return Err(BackendError::Unsupported(format!("heads of {} numbers", shape.head_dim)));
        }
        let too_large = || BackendError::OutOfMemory { wanted: u64::MAX };
        let tiles = shape.capacity.checked_next_multiple_of(TILE_POSITIONS as u32);
        shape.capacity = tiles.ok_or_else(too_large)?;
        let positions = [shape.slots, shape.capacity, shape.kv_heads]
            .into_iter()
            .try_fold(1_usize, |product, n| product.checked_mul(n as usize))
            .ok_or_else(too_large)?;
        let head_dim = shape.head_dim as usize;
        let (halves, rows) = (head_dim.div_ceil(2), 16 * head_dim.div_ceil(32));
        let (key, value, scaled) = match shape.dtype {
            CacheDtype::F32 => (4 * head_dim, 4 * head_dim, false),
            CacheDtype::F16 => (2 * head_dim, 2 * head_dim, false),
            CacheDtype::Int8 => (head_dim, head_dim, true),
            CacheDtype::Int8Int4 => (head_dim, rows, true),
            CacheDtype::Int4 => (halves, rows, true),
        };
        let zeroed = |wanted: bool, each: usize| {
            let bytes = positions.checked_mul(if wanted { each } else { 0 }).ok_or_else(too_large)?;
            Memory::zeroed(context, bytes)
        };
        Ok(Self {
            shape,
            keys: zeroed(true, key)?,
            values: zeroed(shape.values, value)?,
            scales: [zeroed(scaled, 4)?, zeroed(scaled && shape.values, 4)?],
        })
    }

    fn argument(&self) -> kernels::Cache {
        let CacheShape { capacity, kv_heads, head_dim, .. } = self.shape;
        let [key_scales, value_scales] = [self.scales[0].at(), self.scales[1].at()];
        let (keys, values) = (self.keys.at(), self.values.at());
        kernels::Cache { keys, values, key_scales, value_scales, capacity, kv_heads, head_dim }
    }

    /// # Panics
    /// If a slot is outside the shape.
    fn check(&self, spans: &[Span]) {
        assert!(spans.iter().all(|span| span.slot < self.shape.slots), "a slot outside {:?}", self.shape);
    }
}

/// What a row sees beside what its shape says.
#[derive(Clone, Copy)]
pub(super) enum Seen<'a> {
    Plain,
    /// Of chosen positions, `top` a row, alone.
    Chosen(&'a CudaBuffer, u32),
    /// In some spans, one flag each, also the rows behind it.
    Joint(&'a [bool]),
}

impl Seen<'_> {
    /// Positions that a row sees by its shape and its span, at most.
    ///
    /// # Panics
    /// If there is no flag for each span, or the shape is one of attention to both sides.
    pub(super) fn most(self, spans: &[Span], shape: &AttentionShape) -> usize {
        let Self::Joint(joint) = self else {
            let of = |span: &Span| shape.sees(span, span.start + (span.len - 1)).count();
            return spans.iter().map(of).max().unwrap_or(0);
        };
        assert!(joint.len() == spans.len() && !shape.bidirectional, "{joint:?} of {spans:?}, {shape:?}");
        // The first row of a span sees as far as the last, and from further back.
        let of = |(span, joint): (&Span, &bool)| {
            let position = if *joint { span.start } else { span.start + (span.len - 1) };
            shape.sees_jointly(span, position, *joint).count()
        };
        spans.iter().zip(joint).map(of).max().unwrap_or(0)
    }
}

impl CudaBackend {
    /// See [`crate::Backend::store`].
    pub(super) fn put(
        &mut self,
        cache: &CudaCache,
        k: &CudaBuffer,
        v: &CudaBuffer,
        spans: &[Span],
    ) -> Result<(), BackendError> {
        cache.check(spans);
        self.steps.need(Need::Slots(cache.shape.slots));
        let CacheShape { kv_heads, head_dim, dtype, .. } = cache.shape;
        let tokens = row_count(spans);
        let len = tokens * kv_heads as usize * head_dim as usize;
        let (k, v) = (k.at(len), v.at(len));
        let (batch, argument) = (self.batch(spans)?, cache.argument());
        let (name, grid) = (format!("store_{}", cache_name(dtype)), (small(tokens), kv_heads));
        // SAFETY: `check`; a position's place is below the capacity; `k` and `v` hold `len` (`at`).
        Ok(unsafe { launch!(self.kernels, &name, grid, 64, [argument, k, v, batch]) }?)
    }

    /// See [`crate::Backend::attention`].
    pub(super) fn attend(
        &mut self,
        out: &CudaBuffer,
        q: &CudaBuffer,
        cache: &CudaCache,
        spans: &[Span],
        shape: &AttentionShape,
        seen: Seen<'_>,
    ) -> Result<(), BackendError> {
        let own = &cache.shape;
        assert!(shape.kv_heads == own.kv_heads && shape.head_dim == own.head_dim, "{shape:?} of {own:?}");
        assert!(own.values, "a cache of keys alone");
        cache.check(spans);
        let (tokens, most) = (row_count(spans), seen.most(spans, shape));
        let capacity = own.capacity as usize;
        assert!(most <= capacity, "a query sees {most} positions of a cache of {capacity}");
        let (chosen, top) = match seen {
            Seen::Chosen(chosen, top) => (chosen.at(tokens * top as usize), top),
            Seen::Plain | Seen::Joint(_) => (0, 0),
        };
        let most = if top > 0 { most.min(top as usize) } else { most };
        let group = shape.heads / shape.kv_heads;
        let each = if group <= 4 { 4 } else { kernels::QUERIES };
        let grid_y = shape.kv_heads * group.div_ceil(each);
        let blocks = tokens as u64 * u64::from(grid_y);
        let splits = self.splits(blocks, most);
        self.steps.need(Need::Slots(own.slots));
        self.steps.need(Need::Splits(Splits { shape: *shape, top, capacity, blocks, splits }));
        let width = shape.heads as usize * shape.head_dim as usize;
        if splits > 1 {
            self.scratch.reserve_parts(width)?;
        }
        let attention = kernels::Attention {
            out: out.at(tokens * width),
            q: q.at(tokens * width),
            batch: match seen {
                Seen::Joint(joint) => self.pieces(spans, joint)?,
                Seen::Plain | Seen::Chosen(..) => self.batch(spans)?,
            },
            chosen,
            parts: self.scratch.parts.at(),
            heads: shape.heads,
            top,
            splits,
            scale: shape.scale,
            softcap: shape.softcap.unwrap_or(0.0),
            window: shape.window.unwrap_or(u32::MAX),
            chunk: shape.chunk.unwrap_or(0),
            until: shape.until.unwrap_or(u32::MAX),
            behind: match seen {
                Seen::Joint(_) => kernels::BEHIND_ALL,
                _ if shape.bidirectional => kernels::BEHIND_WITHIN,
                _ => kernels::BEHIND_NOTHING,
            },
        };
        let name = format!("attention_{}_{each}", cache_name(own.dtype));
        let (argument, grid) = (cache.argument(), (small(tokens) * splits, grid_y));
        // SAFETY: the asserts above; `out`, `q` and `chosen` hold all rows (`at`), and parts were reserved where there are
        // any: `splits` bounds their number.
        unsafe { launch!(self.kernels, &name, grid, THREADS, [attention, argument]) }?;
        if splits > 1 {
            let rotated = u32::from(own.dtype.rotates_values());
            let (grid, parts) = ((small(tokens) * shape.heads, 1), attention.parts);
            let arguments = (attention.out, parts, splits, shape.head_dim, rotated);
            // SAFETY: as above; the launch before wrote every part.
            unsafe {
                launch!(
                    self.kernels,
                    "attention_merge",
                    grid,
                    THREADS,
                    [arguments.0, arguments.1, arguments.2, arguments.3, arguments.4]
                )
            }?;
        }
        Ok(())
    }

    /// Over how many blocks `seen` positions are split where `blocks` would leave processors without work.
    pub(super) fn splits(&self, blocks: u64, seen: usize) -> u32 {
        let wanted = BLOCKS_MAX.min(4 * u64::from(self.context.processors));
        let most = (seen as u64).div_ceil(THREADS.into());
        (wanted / blocks.max(1)).clamp(1, most.max(1)) as u32
    }

    /// See [`crate::Backend::choose`].
    pub(super) fn choose_rows(
        &mut self,
        chosen: &CudaBuffer,
        (q, weights): (&CudaBuffer, &CudaBuffer),
        cache: &CudaCache,
        spans: &[Span],
        shape: &IndexShape,
    ) -> Result<(), BackendError> {
        // Scores lie as far apart as there are positions.
        self.steps.refuse()?;
        let own = cache.shape;
        assert!(own.kv_heads == 1 && own.head_dim == shape.head_dim && !own.dtype.rotates_keys(), "{own:?}");
        cache.check(spans);
        let width = shape.heads.saturating_mul(shape.head_dim);
        if width > kernels::INDEX_WIDTH_MAX || matches!(own.dtype, CacheDtype::Int8Int4) {
            let what = format!("positions chosen by queries of {width} numbers and keys in {}", own.dtype);
            return Err(BackendError::Unsupported(what));
        }
        let positions = spans.iter().map(|span| (span.start + span.len) as usize).max().unwrap_or(0);
        assert!(positions <= own.capacity as usize, "position {} of {own:?}", positions - 1);
        self.scratch.reserve_ranks(positions)?;
        let (tokens, heads) = (row_count(spans), shape.heads as usize);
        let mut index = kernels::Index {
            scores: self.scratch.ranks.at(),
            chosen: chosen.at(tokens * shape.top as usize),
            q: q.at(tokens * width as usize),
            weights: weights.at(tokens * heads),
            batch: self.batch(spans)?,
            stride: positions as u64,
            heads: shape.heads,
            top: shape.top,
            first: 0,
        };
        let (name, argument) = (format!("index_scores_{}", cache_name(own.dtype)), cache.argument());
        while (index.first as usize) < tokens {
            let rows = (small(tokens) - index.first).min(CHOOSE_ROWS as u32);
            let grid = (small(positions).div_ceil(THREADS), rows);
            // SAFETY: the asserts above; the operands hold all rows (`at`), and scores are reserved for CHOOSE_ROWS rows.
            unsafe { launch!(self.kernels, &name, grid, THREADS, [index, argument]) }?;
            // SAFETY: as above.
            unsafe { launch!(self.kernels, "choose_best", (rows, 1), BEST_THREADS, [index]) }?;
            index.first += rows;
        }
        Ok(())
    }
}
