//! Attention at the end of a long context: of an answer's row, which reads a cache, and of a prompt's, which multiply.

use muse_kernels::{AttentionShape, Backend, CacheDtype, CacheShape, CudaBackend, CudaCache, Span};

use super::report::Row;
use super::timing::{each, poison, step, written};
use super::{Dims, Extent, noise, put};
use crate::report::BenchError;

/// Rows that are stored at once.
const STORED: u32 = 512;

impl Dims {
    pub(super) fn attention(&self) -> AttentionShape {
        AttentionShape {
            heads: self.heads,
            kv_heads: self.kv_heads,
            head_dim: self.head_dim,
            scale: 1.0 / (self.head_dim as f32).sqrt(),
            window: None,
            chunk: None,
            softcap: None,
            bidirectional: false,
            until: None,
        }
    }

    pub(super) fn cache(&self, dtype: CacheDtype, slots: u32, capacity: u32) -> CacheShape {
        CacheShape { dtype, slots, capacity, kv_heads: self.kv_heads, head_dim: self.head_dim, values: true }
    }
}

/// A row of an answer and one of a prompt.
pub(super) fn measure(
    cuda: &mut CudaBackend,
    dims: &Dims,
    dtype: CacheDtype,
    extent: &Extent,
) -> Result<Vec<Row>, BenchError> {
    let (shape, context) = (dims.attention(), extent.context);
    let bytes = dims.cache(dtype, 1, context).byte_len();
    let slots = (extent.turn_bytes / bytes).clamp(2, 64) as u32;
    let cache = full(cuda, dims, dtype, slots, context)?;
    let (width, prompt) = ((dims.heads * dims.head_dim) as usize, extent.prompt.min(context as usize));
    cuda.reserve(prompt, width)?;
    let len = prompt * width;
    let (q, mut out) = (put(cuda, &noise(len))?, cuda.buffer(len)?);
    let row = |rows, seconds| Row::new(dims, "attention", dtype.to_string(), rows, seconds);
    let what = || format!("attention of {} over {dtype}", dims.name);

    poison(cuda, &mut out, len)?;
    let spans: Vec<_> = (0..slots).map(|slot| [Span { slot, start: context - 1, len: 1 }]).collect();
    let spans: Vec<&[Span]> = spans.iter().map(|span| &span[..]).collect();
    let operations = extent.operations.min((8 * extent.turn_bytes / bytes) as usize).max(slots as usize);
    let mut all = |cuda: &mut CudaBackend| {
        let mut turns = spans.iter().cycle().take(operations);
        turns.try_for_each(|spans| cuda.attention(&mut out, &q, &cache, spans, &shape))
    };
    let (all, graph) = step(cuda, &spans, extent.rounds, &mut all)?;
    written(cuda, &out, width, what)?;
    let answer = row(1, all / operations as f64).reading(bytes, graph);

    poison(cuda, &mut out, len)?;
    let start = context - prompt as u32;
    let span = [Span { slot: 0, start, len: prompt as u32 }];
    let seconds = each(cuda, extent.rounds, &mut |cuda| cuda.attention(&mut out, &q, &cache, &span, &shape))?;
    written(cuda, &out, len, what)?;
    // A row sees itself and all before it.
    let seen = (u64::from(start) + 1 + u64::from(context)) * prompt as u64 / 2;
    Ok(vec![answer, row(prompt, seconds).multiplying(4 * width as u64 * seen)])
}

/// A cache whose slots all hold numbers up to `context`.
fn full(
    cuda: &mut CudaBackend,
    dims: &Dims,
    dtype: CacheDtype,
    slots: u32,
    context: u32,
) -> Result<CudaCache, BenchError> {
    let mut cache = cuda.cache(dims.cache(dtype, slots, context))?;
    let k = noise((STORED.min(context) * dims.kv_heads * dims.head_dim) as usize);
    let v: Vec<f32> = k.iter().map(|x| 1.0 - x).collect();
    let (k, v) = (put(cuda, &k)?, put(cuda, &v)?);
    for slot in 0..slots {
        for start in (0..context).step_by(STORED as usize) {
            let len = STORED.min(context - start);
            cuda.store(&mut cache, &k, &v, &[Span { slot, start, len }])?;
        }
    }
    Ok(cache)
}
