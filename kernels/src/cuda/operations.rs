//! Each operation of [`Backend`] as launches of kernels.

use muse_format::{Activation, Layout, Temperature};
use zerocopy::IntoBytes;

use super::attention::CudaCache;
use super::backend::{CudaBackend, CudaBuffer, CudaWeight, blocks, small};
use super::delta::CudaDeltaState;
use super::launch::{self as kernels, THREADS, launch, layout_name};
use super::memory::Memory;
use super::products::{Batch, Input, Operand};
use crate::cache::row_count;
use crate::{
    AttentionShape, Backend, BackendError, CacheShape, DeltaShape, Expert, ExpertsShape, HeadsShape,
    IndexShape, Linear, Mixture, Span, Tensor,
};

impl Backend for CudaBackend {
    type Weight = CudaWeight;
    type Buffer = CudaBuffer;
    type Cache = CudaCache;
    type DeltaState = CudaDeltaState;

    const COPIES_WEIGHTS: bool = true;

    fn reserve_weights(&mut self, bytes: &[u64]) -> Result<(), BackendError> {
        self.chunks.reserve(&self.context, bytes)
    }

    fn load(&mut self, tensor: Tensor) -> Result<CudaWeight, BackendError> {
        let unsupported = || BackendError::Unsupported(format!("{tensor:?}"));
        let (rows, cols) = (u32::try_from(tensor.rows()), u32::try_from(tensor.cols()));
        let (rows, cols) = (rows.map_err(|_| unsupported())?, cols.map_err(|_| unsupported())?);
        let memory = self.chunks.upload(&mut self.bounce, tensor.bytes())?;
        Ok(CudaWeight { layout: tensor.layout(), rows, cols, memory })
    }

    fn buffer(&mut self, len: usize) -> Result<CudaBuffer, BackendError> {
        let too_large = BackendError::OutOfMemory { wanted: (len as u64).saturating_mul(4) };
        let bytes = len.checked_mul(4).ok_or(too_large)?;
        Ok(CudaBuffer { memory: Memory::zeroed(&self.context, bytes)?, len })
    }

    fn reserve(&mut self, tokens: usize, cols: usize) -> Result<(), BackendError> {
        self.spans.clear();
        self.stretches.clear();
        self.scratch.reserve_parts(cols)?;
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

    fn reserve_heads(&mut self, tokens: usize, shape: HeadsShape) -> Result<(), BackendError> {
        self.scratch.reserve_heads(tokens, shape)
    }

    fn reserve_choose(&mut self, positions: usize) -> Result<(), BackendError> {
        self.scratch.reserve_ranks(positions)
    }

    fn cache(&mut self, shape: CacheShape) -> Result<CudaCache, BackendError> {
        CudaCache::new(&self.context, shape)
    }

    fn delta_state(&mut self, shape: DeltaShape) -> Result<CudaDeltaState, BackendError> {
        CudaDeltaState::new(&self.context, shape)
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

    fn linear_heads(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        tokens: usize,
        weight: &CudaWeight,
        shape: HeadsShape,
    ) -> Result<(), BackendError> {
        self.product_of_heads(out, x, tokens, weight, shape)
    }

    fn join(
        &mut self,
        out: &mut CudaBuffer,
        a: &CudaBuffer,
        b: &CudaBuffer,
        rows: usize,
        [first, second]: [usize; 2],
    ) -> Result<(), BackendError> {
        let len = rows * (first + second);
        let (out, a, b) = (out.at(len), a.at(rows * first), b.at(rows * second));
        let (first, second, grid) = (small(first), small(second), (blocks(len)?, 1));
        // SAFETY: all hold `rows` rows of their widths (`at`).
        Ok(unsafe { launch!(self.kernels, "join", grid, THREADS, [out, a, b, len as u64, first, second]) }?)
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

    fn temper(
        &mut self,
        x: &mut CudaBuffer,
        spans: &[Span],
        width: usize,
        temperature: Temperature,
    ) -> Result<(), BackendError> {
        let rows = row_count(spans);
        let (x, batch, grid) = (x.at(rows * width), self.batch(spans)?, (small(rows), 1));
        let (width, Temperature { every, strength }) = (small(width), temperature);
        // SAFETY: `x` and `batch` hold all rows.
        Ok(unsafe { launch!(self.kernels, "temper", grid, THREADS, [x, batch, width, every, strength]) }?)
    }

    fn rope_axes(
        &mut self,
        x: &mut CudaBuffer,
        frequencies: &CudaWeight,
        turns: &[[u32; 3]],
        axes: [u32; 2],
        heads: u32,
        head_dim: u32,
    ) -> Result<(), BackendError> {
        self.turn(x, frequencies, turns, axes, (heads, head_dim))
    }

    fn rope_2d(
        &mut self,
        x: &mut CudaBuffer,
        frequencies: &CudaWeight,
        places: &[[u32; 2]],
        heads: u32,
        head_dim: u32,
    ) -> Result<(), BackendError> {
        self.turn(x, frequencies, places, [0; 2], (heads, head_dim))
    }

    fn store(
        &mut self,
        cache: &mut CudaCache,
        k: &CudaBuffer,
        v: &CudaBuffer,
        spans: &[Span],
    ) -> Result<(), BackendError> {
        self.put(cache, k, v, spans)
    }

    fn attention(
        &mut self,
        out: &mut CudaBuffer,
        q: &CudaBuffer,
        cache: &CudaCache,
        spans: &[Span],
        shape: &AttentionShape,
    ) -> Result<(), BackendError> {
        self.attend(out, q, cache, spans, shape, None)
    }

    fn choose(
        &mut self,
        chosen: &mut CudaBuffer,
        q: &CudaBuffer,
        weights: &CudaBuffer,
        cache: &CudaCache,
        spans: &[Span],
        shape: &IndexShape,
    ) -> Result<(), BackendError> {
        self.choose_rows(chosen, (q, weights), cache, spans, shape)
    }

    fn attention_chosen(
        &mut self,
        out: &mut CudaBuffer,
        q: &CudaBuffer,
        cache: &CudaCache,
        spans: &[Span],
        shape: &AttentionShape,
        chosen: &CudaBuffer,
        top: u32,
    ) -> Result<(), BackendError> {
        self.attend(out, q, cache, spans, shape, Some((chosen, top)))
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

    fn multiply(&mut self, x: &mut CudaBuffer, weight: &CudaWeight, rows: usize) -> Result<(), BackendError> {
        self.multiplied(x, weight, rows)
    }

    fn layer_norm_in_place(
        &mut self,
        x: &mut CudaBuffer,
        weight: &CudaWeight,
        bias: &CudaWeight,
        rows: usize,
        eps: f32,
    ) -> Result<(), BackendError> {
        self.layer_norm(x, weight, bias, rows, eps)
    }

    fn activate(
        &mut self,
        x: &mut CudaBuffer,
        len: usize,
        activation: Activation,
    ) -> Result<(), BackendError> {
        self.activated(x, len, activation)
    }

    fn mean(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        spans: &[Span],
        width: usize,
    ) -> Result<(), BackendError> {
        self.means(out, x, spans, width)
    }

    fn convolve(
        &mut self,
        x: &mut CudaBuffer,
        weight: &CudaWeight,
        state: &mut CudaDeltaState,
        spans: &[Span],
    ) -> Result<(), BackendError> {
        self.convolve_rows(x, weight, state, spans)
    }

    fn delta_rule(
        &mut self,
        out: &mut CudaBuffer,
        x: &mut CudaBuffer,
        decay: &mut CudaBuffer,
        beta: &mut CudaBuffer,
        rate: &CudaWeight,
        state: &mut CudaDeltaState,
        spans: &[Span],
    ) -> Result<(), BackendError> {
        self.rule(out, [x, decay, beta], rate, state, spans)
    }

    fn remember(&mut self, state: &mut CudaDeltaState, slot: u32) -> Result<(), BackendError> {
        state.remember(slot)
    }

    fn recall(&mut self, state: &mut CudaDeltaState, slot: u32) -> Result<(), BackendError> {
        state.recall(slot)
    }

    fn gate_rows(
        &mut self,
        x: &mut CudaBuffer,
        gate: &CudaBuffer,
        rows: usize,
        width: usize,
    ) -> Result<(), BackendError> {
        let len = rows * width;
        let (x, gate, width, grid) = (x.at(len), gate.at(rows), small(width), (blocks(len)?, 1));
        // SAFETY: `x` holds `len` and `gate` a number of each row (`at`).
        Ok(unsafe { launch!(self.kernels, "gate_rows", grid, THREADS, [x, gate, len as u64, width]) }?)
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

    fn scatter(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        rows: &[u32],
        width: usize,
    ) -> Result<(), BackendError> {
        let last = rows.iter().max().map_or(0, |row| *row as usize + 1);
        let (out, x) = (out.at(last * width), x.at(rows.len() * width));
        let (indices, width, grid) = (self.indices(rows)?, small(width), (small(rows.len()), 1));
        // SAFETY: `x` holds all rows, and `out` the last of those that are written (`at`).
        Ok(unsafe { launch!(self.kernels, "scatter", grid, THREADS, [out, x, indices, width]) }?)
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
