//! Attention over what a cache holds: the rows of prompts by tensor cores, any others exactly.

use std::ops::Range;

use super::backend::{CudaBackend, CudaBuffer, small};
use super::cache::CudaCache;
use super::launch::{
    self as kernels, Attention, PROMPT_QUERIES, PROMPT_QUERIES_MAX, THREADS, cache_name, launch,
};
use super::recording::{Need, Splits};
use super::scratch::BLOCKS_MAX;

use crate::cache::row_count;
use crate::shape::PROMPT_ROWS;
use crate::{AttentionShape, BackendError, CacheDtype, CacheShape, Span};

/// The widest head of a prompt's kernels.
const PROMPT_HEAD_DIM_MAX: u32 = 256;

/// Bits of a number of a key and of a value.
fn number_bits(dtype: CacheDtype) -> [u32; 2] {
    match dtype {
        CacheDtype::F32 => [32; 2],
        CacheDtype::F16 => [16; 2],
        CacheDtype::Int8 => [8; 2],
        CacheDtype::Int8Int4 => [8, 4],
        CacheDtype::Int4 => [4; 2],
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
    /// The same of some of the spans.
    fn of(self, spans: Range<usize>) -> Self {
        match self {
            Self::Joint(joint) => Self::Joint(&joint[spans]),
            Self::Plain | Self::Chosen(..) => self,
        }
    }

    /// Whether the rows of a span see each other.
    fn joint(self, span: usize) -> bool {
        matches!(self, Self::Joint(joint) if joint[span])
    }

    /// Positions that a row sees by its shape and its span, at most.
    pub(super) fn most(self, spans: &[Span], shape: &AttentionShape) -> usize {
        let of = |(index, span): (usize, &Span)| {
            let joint = self.joint(index);
            // The first row of a joint span sees as far as the last, and from further back.
            let position = if joint { span.start } else { span.start + (span.len - 1) };
            shape.sees_jointly(span, position, joint).count()
        };
        spans.iter().enumerate().map(of).max().unwrap_or(0)
    }

    /// Whether a span's rows are met together, rounded to f16: many of them, over a cache that holds no more than 16 bits a
    /// number and whole pieces of a head, and all that they see.
    fn is_prompt(self, index: usize, span: &Span, shape: &AttentionShape, cache: &CacheShape) -> bool {
        // Numbers of 16 bytes, of keys and of values.
        let [keys, values] = number_bits(cache.dtype);
        let piece = 128 / keys.min(values);
        let sees = |position| shape.sees_jointly(span, position, self.joint(index));
        let all = *sees(span.start).start()..=*sees(span.start + (span.len - 1)).end();
        let whole = cache.head_dim.is_multiple_of(piece) && cache.head_dim <= PROMPT_HEAD_DIM_MAX;
        let exact = cache.dtype == CacheDtype::F32 || matches!(self, Self::Chosen(..));
        span.len >= PROMPT_ROWS && whole && !exact && all.count() <= cache.capacity as usize
    }
}

impl Attention {
    /// The same of the rows from `row` on.
    fn starting_at(self, row: usize, head_dim: u32) -> Self {
        let (row, q) = (row as u64, 4 * row as u64 * u64::from(self.heads * head_dim));
        let chosen = if self.chosen == 0 { 0 } else { self.chosen + 4 * row * u64::from(self.top) };
        Self { out: self.out + q, q: self.q + q, batch: self.batch + 12 * row, chosen, ..self }
    }
}

impl CudaBackend {
    /// See [`crate::Backend::attention`].
    ///
    /// # Panics
    /// If the cache is not of the shape's heads, a row sees more than it holds, or there is not a flag for each span.
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
        self.steps.need(spans, |spans| Need::Slots { spans, count: own.slots });
        let all = self.attention(out, q, spans, shape, seen)?;
        let (mut at, mut row) = (0, 0);
        while at < spans.len() {
            let prompt = |index: usize| seen.is_prompt(index, &spans[index], shape, own);
            let end = if prompt(at) {
                at + 1
            } else {
                (at + 1..spans.len()).find(|i| prompt(*i)).unwrap_or(spans.len())
            };
            let (run, attention) = (&spans[at..end], all.starting_at(row, shape.head_dim));
            let (rows, most) = (row_count(run), seen.of(at..end).most(run, shape));
            assert!(most <= own.capacity as usize, "a query sees {most} positions of {own:?}");
            // SAFETY: the asserts; `attention` checked what the operands hold.
            unsafe {
                if prompt(at) {
                    self.attend_prompt(attention, cache, rows)?;
                } else {
                    self.attend_rows(attention, cache, run, (shape, most))?;
                }
            }
            (at, row) = (end, row + rows);
        }
        Ok(())
    }

    /// What kernels are told of all rows.
    fn attention(
        &mut self,
        out: &CudaBuffer,
        q: &CudaBuffer,
        spans: &[Span],
        shape: &AttentionShape,
        seen: Seen<'_>,
    ) -> Result<Attention, BackendError> {
        let tokens = row_count(spans);
        let len = tokens * shape.heads as usize * shape.head_dim as usize;
        let (batch, behind) = match seen {
            Seen::Joint(joint) => {
                assert!(
                    joint.len() == spans.len() && !shape.bidirectional,
                    "{joint:?} of {spans:?}, {shape:?}"
                );
                (self.pieces(spans, joint)?, kernels::BEHIND_ALL)
            }
            _ if shape.bidirectional => (self.batch(spans)?, kernels::BEHIND_WITHIN),
            _ => (self.batch(spans)?, kernels::BEHIND_NOTHING),
        };
        let (chosen, top) = match seen {
            Seen::Chosen(chosen, top) => (chosen.at(tokens * top as usize), top),
            Seen::Plain | Seen::Joint(_) => (0, 0),
        };
        Ok(Attention {
            out: out.at(len),
            q: q.at(len),
            batch,
            chosen,
            parts: 0,
            heads: shape.heads,
            top,
            splits: 1,
            scale: shape.scale,
            softcap: shape.softcap.unwrap_or(0.0),
            window: shape.window.unwrap_or(u32::MAX),
            chunk: shape.chunk.unwrap_or(0),
            until: shape.until.unwrap_or(u32::MAX),
            behind,
        })
    }

    /// Attention of the `rows` rows of one span on tensor cores.
    ///
    /// # Safety
    /// `attention` is of at least so many rows, of slots of `cache`, that see no more than it holds.
    unsafe fn attend_prompt(
        &self,
        attention: Attention,
        cache: &CudaCache,
        rows: usize,
    ) -> Result<(), BackendError> {
        let CacheShape { kv_heads, head_dim, dtype, .. } = cache.shape;
        let [keys, values] = number_bits(dtype);
        let (form, width) =
            (if keys == 16 { "f16" } else { "packed" }, if head_dim <= 128 { 128 } else { 256 });
        let (argument, rows) = (cache.argument(), small(rows));
        let blocks = |queries| (rows * (attention.heads / kv_heads)).div_ceil(queries);
        // More queries a block read keys and values less often, where a block for every processor has that many.
        let queries = u64::from(rows) * u64::from(attention.heads);
        let fills = queries >= u64::from(PROMPT_QUERIES_MAX) * u64::from(self.context.processors);
        let queries = if width == 128 && fills { PROMPT_QUERIES_MAX } else { PROMPT_QUERIES };
        let (name, grid) =
            (format!("attention_prompt_{form}_{width}_{queries}"), (blocks(queries), kv_heads));
        // SAFETY: the caller's promise.
        Ok(unsafe { launch!(self.kernels, &name, grid, THREADS, [attention, argument, rows, keys, values]) }?)
    }

    /// Exact attention of the rows of `spans`, that see up to `most` positions each by `shape`.
    ///
    /// # Safety
    /// That of [`attend_prompt`](Self::attend_prompt).
    unsafe fn attend_rows(
        &mut self,
        mut attention: Attention,
        cache: &CudaCache,
        spans: &[Span],
        (shape, most): (&AttentionShape, usize),
    ) -> Result<(), BackendError> {
        let CacheShape { kv_heads, head_dim, dtype, .. } = cache.shape;
        let (rows, group) = (row_count(spans), attention.heads / kv_heads);
        let each = if group <= 4 { 4 } else { kernels::QUERIES };
        let grid_y = kv_heads * group.div_ceil(each);
        let (blocks, top) = (rows as u64 * u64::from(grid_y), attention.top);
        let splits = self.splits(blocks, if top > 0 { most.min(top as usize) } else { most });
        let capacity = cache.shape.capacity as usize;
        let own = Splits { shape: *shape, top, capacity, blocks, splits };
        self.steps.need(spans, |spans| Need::Splits(spans, own));
        if splits > 1 {
            self.scratch.reserve_parts(attention.heads as usize * head_dim as usize)?;
        }
        (attention.splits, attention.parts) = (splits, self.scratch.parts.at());
        let (name, rows) = (format!("attention_{}_{each}", cache_name(dtype)), small(rows));
        let (argument, grid) = (cache.argument(), (rows * splits, grid_y));
        // SAFETY: the caller's promise; parts were reserved where there are any: `splits` bounds their number.
        unsafe { launch!(self.kernels, &name, grid, THREADS, [attention, argument]) }?;
        if splits > 1 {
            let rotated = u32::from(dtype.rotates_values());
            let Attention { out, parts, heads, .. } = attention;
            let (kernel, grid) = ("attention_merge", (rows * heads, 1));
            // SAFETY: as above; the launch before wrote every part.
            unsafe { launch!(self.kernels, kernel, grid, THREADS, [out, parts, splits, head_dim, rotated]) }?;
        }
        Ok(())
    }

    /// Over how many blocks `seen` positions are split where `blocks` would leave processors without work.
    pub(super) fn splits(&self, blocks: u64, seen: usize) -> u32 {
        let wanted = BLOCKS_MAX.min(4 * u64::from(self.context.processors));
        let most = (seen as u64).div_ceil(THREADS.into());
        (wanted / blocks.max(1)).clamp(1, most.max(1)) as u32
    }
}
