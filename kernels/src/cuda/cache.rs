//! Keys and values on the device, and the positions that rows choose among them.

use super::backend::{CudaBackend, CudaBuffer, small};
use super::driver::Context;
use super::launch::{self as kernels, BEST_THREADS, THREADS, cache_name, launch};
use super::memory::Memory;
use super::recording::Need;
use super::scratch::CHOOSE_ROWS;
use crate::cache::row_count;
use crate::{BackendError, CacheDtype, CacheShape, IndexShape, Span, TILE_POSITIONS};

/// Keys and values of one layer on the device, in the order of `kernels/cuda/cache.cuh`.
#[derive(Debug)]
pub struct CudaCache {
    /// With the capacity rounded up to whole tiles.
    pub(super) shape: CacheShape,
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

    pub(super) fn argument(&self) -> kernels::Cache {
        let CacheShape { capacity, kv_heads, head_dim, .. } = self.shape;
        let [key_scales, value_scales] = [self.scales[0].at(), self.scales[1].at()];
        let (keys, values) = (self.keys.at(), self.values.at());
        kernels::Cache { keys, values, key_scales, value_scales, capacity, kv_heads, head_dim }
    }

    /// # Panics
    /// If a slot is outside the shape.
    pub(super) fn check(&self, spans: &[Span]) {
        assert!(spans.iter().all(|span| span.slot < self.shape.slots), "a slot outside {:?}", self.shape);
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
        self.steps.need(spans, |spans| Need::Slots { spans, count: cache.shape.slots });
        let CacheShape { kv_heads, head_dim, dtype, .. } = cache.shape;
        let tokens = row_count(spans);
        let len = tokens * kv_heads as usize * head_dim as usize;
        let (k, v) = (k.at(len), v.at(len));
        let (batch, argument) = (self.batch(spans)?, cache.argument());
        let (name, grid) = (format!("store_{}", cache_name(dtype)), (small(tokens), kv_heads));
        // SAFETY: `check`; a position's place is below the capacity; `k` and `v` hold `len` (`at`).
        Ok(unsafe { launch!(self.kernels, &name, grid, 64, [argument, k, v, batch]) }?)
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
        let own = cache.shape;
        assert!(own.kv_heads == 1 && own.head_dim == shape.head_dim && !own.dtype.rotates_keys(), "{own:?}");
        cache.check(spans);
        self.steps.need(spans, |spans| Need::Slots { spans, count: own.slots });
        let width = shape.heads.saturating_mul(shape.head_dim);
        if width > kernels::INDEX_WIDTH_MAX || matches!(own.dtype, CacheDtype::Int8Int4) {
            let what = format!("positions chosen by queries of {width} numbers and keys in {}", own.dtype);
            return Err(BackendError::Unsupported(what));
        }
        let positions = spans.iter().map(|span| (span.start + span.len) as usize).max().unwrap_or(0);
        assert!(positions <= own.capacity as usize, "position {} of {own:?}", positions - 1);
        // Scores lie as far apart as a graph's rows may see; the blocks of positions that are not there return at once.
        let positions = positions.next_power_of_two().min(own.capacity as usize);
        self.steps.need(spans, |spans| Need::Positions { spans, within: small(positions) });
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
