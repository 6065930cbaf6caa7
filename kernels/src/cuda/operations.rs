//! Each operation of [`Backend`] as launches of kernels.

use muse_format::{Activation, Layout};
use zerocopy::IntoBytes;

use super::backend::{CudaBackend, CudaBuffer, CudaCache, CudaWeight, blocks, small};
use super::driver::Memory;
use super::launch::{self as kernels, THREADS, launch, layout_name};
use super::products::{Batch, Input, Operand};
use crate::cache::row_count;
use crate::{
    AttentionShape, Backend, BackendError, CacheDtype, CacheShape, Expert, ExpertsShape, Linear, Mixture,
    Span, TILE_POSITIONS, Tensor,
};

impl Backend for CudaBackend {
    type Weight = CudaWeight;
    type Buffer = CudaBuffer;
    type Cache = CudaCache;
    /// There are none yet.
    type DeltaState = std::convert::Infallible;

    fn load(&mut self, tensor: Tensor) -> Result<CudaWeight, BackendError> {
        let unsupported = || BackendError::Unsupported(format!("{tensor:?}"));
        let (rows, cols) = (u32::try_from(tensor.rows()), u32::try_from(tensor.cols()));
        let (rows, cols) = (rows.map_err(|_| unsupported())?, cols.map_err(|_| unsupported())?);
        Ok(CudaWeight { layout: tensor.layout(), rows, cols, memory: self.bounce.upload(tensor.bytes())? })
    }

    fn buffer(&mut self, len: usize) -> Result<CudaBuffer, BackendError> {
        let too_large = BackendError::OutOfMemory { wanted: (len as u64).saturating_mul(4) };
        let bytes = len.checked_mul(4).ok_or(too_large)?;
        Ok(CudaBuffer { memory: Memory::zeroed(&self.context, bytes)?, len })
    }

    fn reserve(&mut self, tokens: usize, cols: usize) -> Result<(), BackendError> {
        self.spans.clear();
        self.scratch.reserve(tokens, cols)
    }

    fn reserve_experts(&mut self, rows: usize, shape: ExpertsShape) -> Result<(), BackendError> {
        if shape.count > kernels::EXPERTS_MAX {
            return Err(BackendError::Unsupported(format!("{} experts of a layer", shape.count)));
        }
        self.scratch.reserve_experts(rows, shape)
    }

    fn load_experts(&mut self, experts: &[Expert<CudaWeight>]) -> Result<(), BackendError> {
        self.table(experts).map(|_| ())
    }

    fn cache(&mut self, mut shape: CacheShape) -> Result<CudaCache, BackendError> {
        if shape.head_dim > kernels::HEAD_DIM_MAX {
            return Err(BackendError::Unsupported(format!("heads of {} numbers", shape.head_dim)));
        }
        if !shape.values {
            return Err(BackendError::Unsupported("a cache of keys alone".into()));
        }
        let too_large = BackendError::OutOfMemory { wanted: u64::MAX };
        shape.capacity =
            shape.capacity.checked_next_multiple_of(TILE_POSITIONS as u32).ok_or(too_large.clone())?;
        let size = match shape.dtype {
            CacheDtype::F32 => 4,
            CacheDtype::F16 => 2,
            CacheDtype::Int8 => 1,
            CacheDtype::Int8Int4 | CacheDtype::Int4 => {
                return Err(BackendError::Unsupported(format!("a cache in {}", shape.dtype)));
            }
        };
        let mut numbers = [shape.slots, shape.capacity, shape.kv_heads].into_iter();
        let positions = numbers
            .try_fold(4_usize, |product, n| product.checked_mul(n as usize))
            .ok_or(too_large.clone())?;
        let positions = positions / 4; // the product with 4, for the scales, does not overflow either
        let bytes = positions.checked_mul(shape.head_dim as usize).and_then(|n| n.checked_mul(size));
        let bytes = bytes.ok_or(too_large)?;
        let scales = (shape.dtype == CacheDtype::Int8).then(|| {
            Ok([Memory::zeroed(&self.context, 4 * positions)?, Memory::zeroed(&self.context, 4 * positions)?])
        });
        Ok(CudaCache {
            shape,
            keys: Memory::zeroed(&self.context, bytes)?,
            values: Memory::zeroed(&self.context, bytes)?,
            scales: scales.transpose().map_err(|error: BackendError| error)?,
        })
    }

    fn write(&mut self, buffer: &mut CudaBuffer, values: &[f32]) -> Result<(), BackendError> {
        assert!(values.len() <= buffer.len);
        Ok(buffer.memory.write(values.as_bytes())?)
    }

    fn read(&mut self, buffer: &CudaBuffer, out: &mut [f32]) -> Result<(), BackendError> {
        Ok(buffer.memory.read(out.as_mut_bytes())?)
    }

    fn embed(
        &mut self,
        out: &mut CudaBuffer,
        table: &CudaWeight,
        tokens: &[u32],
        scale: f32,
    ) -> Result<(), BackendError> {
        assert!(tokens.iter().all(|token| *token < table.rows), "a token outside the table");
        let at = out.at(tokens.len() * table.cols as usize);
        let indices = self.indices(tokens)?;
        let group = small(table.layout.group());
        let name = format!("embed_{}", layout_name(table.layout));
        let (weight, grid) = (table.memory.at(), (small(tokens.len()), 1));
        // SAFETY: the asserts above; the table holds what its layout takes (`Tensor::new`).
        Ok(unsafe {
            launch!(self.kernels, &name, grid, THREADS, [at, weight, indices, table.cols, group, scale])
        }?)
    }

    fn rms_norm(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        weight: &CudaWeight,
        rows: usize,
        eps: f32,
    ) -> Result<(), BackendError> {
        let len = rows * weight.cols as usize;
        self.norm(out.at(len), x.at(len), weight, rows, eps)
    }

    fn rms_norm_in_place(
        &mut self,
        x: &mut CudaBuffer,
        weight: &CudaWeight,
        rows: usize,
        eps: f32,
    ) -> Result<(), BackendError> {
        let at = x.at(rows * weight.cols as usize);
        self.norm(at, at, weight, rows, eps)
    }

    fn linear(
        &mut self,
        x: &CudaBuffer,
        tokens: usize,
        products: &mut [Linear<'_, Self>],
    ) -> Result<(), BackendError> {
        let Some(first) = products.first() else { return Ok(()) };
        let cols = first.weight.cols;
        let at = x.at(tokens * cols as usize);
        assert!(products.iter().all(|product| product.weight.cols == cols), "products of other inputs");
        if products.iter().any(|product| product.weight.layout.is_quantized()) {
            self.scratch.reserve(tokens, cols as usize)?;
            let to = [self.scratch.quants.at(), self.scratch.scales.at()];
            self.quantize(to, at, tokens, cols)?;
        }
        let operands: Vec<Operand> = products.iter().map(|product| Operand::new(product, tokens)).collect();
        let quantized = [self.scratch.quants.at(), self.scratch.scales.at()];
        let input = Input { x: at, quantized, cols, tokens: small(tokens) };
        // SAFETY: `Operand::new` and `at` checked the outputs and the input, `Tensor::new` the weights; the input was
        // quantized above where a weight is.
        unsafe { self.run_products(&operands, input, Batch::of_rows(tokens)) }
    }

    fn rope(
        &mut self,
        x: &mut CudaBuffer,
        frequencies: &CudaWeight,
        spans: &[Span],
        heads: u32,
        head_dim: u32,
    ) -> Result<(), BackendError> {
        let (tokens, half) = (row_count(spans), frequencies.cols);
        assert!(frequencies.layout == Layout::F32 && 2 * half <= head_dim);
        let pairs = tokens * heads as usize * half as usize;
        let at = x.at(tokens * heads as usize * head_dim as usize);
        let batch = self.batch(spans)?;
        let (weight, grid) = (frequencies.memory.at(), (blocks(pairs)?, 1));
        // SAFETY: the asserts above; `batch` holds `tokens` rows.
        Ok(unsafe {
            launch!(
                self.kernels,
                "rope",
                grid,
                THREADS,
                [at, weight, batch, small(tokens), heads, head_dim, half]
            )
        }?)
    }

    fn store(
        &mut self,
        cache: &mut CudaCache,
        k: &CudaBuffer,
        v: &CudaBuffer,
        spans: &[Span],
    ) -> Result<(), BackendError> {
        let CacheShape { slots, kv_heads, head_dim, dtype, .. } = cache.shape;
        assert!(spans.iter().all(|span| span.slot < slots), "a slot outside {:?}", cache.shape);
        let tokens = row_count(spans);
        let len = tokens * kv_heads as usize * head_dim as usize;
        let (k, v) = (k.at(len), v.at(len));
        let (batch, argument) = (self.batch(spans)?, cache.argument());
        // SAFETY: the assert above; a position's place is below the capacity; `k` and `v` hold `len` (`at`).
        Ok(unsafe {
            launch!(
                self.kernels,
                kernels::store_name(dtype),
                (small(tokens), kv_heads),
                64,
                [argument, k, v, batch]
            )
        }?)
    }

    fn attention(
        &mut self,
        out: &mut CudaBuffer,
        q: &CudaBuffer,
        cache: &CudaCache,
        spans: &[Span],
        shape: &AttentionShape,
    ) -> Result<(), BackendError> {
        let own = &cache.shape;
        assert!(shape.kv_heads == own.kv_heads && shape.head_dim == own.head_dim, "{shape:?} of {own:?}");
        if shape.bidirectional || shape.until.is_some() {
            return Err(BackendError::Unsupported("attention to later positions".into()));
        }
        if shape.chunk.is_some() {
            return Err(BackendError::Unsupported("attention by chunks".into()));
        }
        let seen = |span: &Span| shape.sees(span, span.start + (span.len - 1)).count();
        let seen = spans.iter().map(seen).max().unwrap_or(0);
        assert!(
            seen <= own.capacity as usize,
            "a query sees {seen} positions of a cache of {}",
            own.capacity
        );
        assert!(spans.iter().all(|span| span.slot < own.slots), "a slot outside {own:?}");
        let tokens = row_count(spans);
        let len = tokens * shape.heads as usize * shape.head_dim as usize;
        let attention = kernels::Attention {
            out: out.at(len),
            q: q.at(len),
            batch: self.batch(spans)?,
            heads: shape.heads,
            scale: shape.scale,
            window: shape.window.unwrap_or(u32::MAX),
            softcap: shape.softcap.unwrap_or(0.0),
        };
        let argument = cache.argument();
        // SAFETY: the asserts above; `out` and `q` hold `len` (`at`).
        Ok(unsafe {
            let name = kernels::attention_name(own.dtype);
            launch!(self.kernels, name, (small(tokens), shape.heads), THREADS, [attention, argument])
        }?)
    }

    fn glu(
        &mut self,
        gate: &mut CudaBuffer,
        up: &CudaBuffer,
        len: usize,
        activation: Activation,
    ) -> Result<(), BackendError> {
        self.gate(gate.at(len), up.at(len), len, activation)
    }

    fn multiply(&mut self, _: &mut CudaBuffer, _: &CudaWeight, _: usize) -> Result<(), BackendError> {
        Err(BackendError::Unsupported("products with a vector, element by element".into()))
    }

    fn experts(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        logits: &CudaBuffer,
        rows: usize,
        mixture: &Mixture<'_, Self>,
    ) -> Result<(), BackendError> {
        self.mixture(out, x, logits, rows, mixture)
    }

    fn add(&mut self, x: &mut CudaBuffer, y: &CudaBuffer, len: usize) -> Result<(), BackendError> {
        // SAFETY: both hold `len` (`at`).
        Ok(unsafe {
            launch!(self.kernels, "add", (blocks(len)?, 1), THREADS, [x.at(len), y.at(len), len as u64])
        }?)
    }

    fn gather(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        rows: &[u32],
        width: usize,
    ) -> Result<(), BackendError> {
        let last = rows.iter().max().map_or(0, |row| *row as usize + 1);
        let (out, x) = (out.at(rows.len() * width), x.at(last * width));
        let indices = self.indices(rows)?;
        // SAFETY: `out` holds all rows, and `x` the last of those that are read (`at`).
        Ok(unsafe {
            launch!(self.kernels, "gather", (small(rows.len()), 1), THREADS, [out, x, indices, small(width)])
        }?)
    }

    fn scale_and_cap(
        &mut self,
        x: &mut CudaBuffer,
        len: usize,
        scale: f32,
        softcap: Option<f32>,
    ) -> Result<(), BackendError> {
        // SAFETY: `x` holds `len` (`at`).
        Ok(unsafe {
            launch!(
                self.kernels,
                "scale_and_cap",
                (blocks(len)?, 1),
                THREADS,
                [x.at(len), len as u64, scale, softcap.unwrap_or(0.0)]
            )
        }?)
    }
}
