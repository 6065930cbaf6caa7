//! Each operation of [`Backend`] as launches of kernels.

use muse_format::{Activation, Temperature};
use zerocopy::IntoBytes;

use super::attention::Seen;
use super::backend::{CudaBackend, CudaBuffer, CudaWeight};
use super::cache::CudaCache;
use super::delta::CudaDeltaState;
use super::launch as kernels;
use super::memory::Memory;
use crate::{
    AttentionShape, Backend, BackendError, CacheShape, DeltaShape, Expert, ExpertsShape, HeadsShape,
    IndexShape, Linear, Mixture, Result, Span, Step, Tensor,
};

impl Backend for CudaBackend {
    type Weight = CudaWeight;
    type Buffer = CudaBuffer;
    type Cache = CudaCache;
    type DeltaState = CudaDeltaState;

    fn copies_weights(&self) -> bool {
        self.shared.is_empty()
    }

    fn reserve_weights(&mut self, bytes: &[u64]) -> Result {
        if self.copies_weights() { self.chunks.reserve(&self.context, bytes) } else { Ok(()) }
    }

    fn load(&mut self, tensor: Tensor) -> Result<CudaWeight> {
        let unsupported = || BackendError::Unsupported(format!("{tensor:?}"));
        let (rows, cols) = (u32::try_from(tensor.rows()), u32::try_from(tensor.cols()));
        let (rows, cols) = (rows.map_err(|_| unsupported())?, cols.map_err(|_| unsupported())?);
        let memory = match self.in_place(tensor.bytes()) {
            Some(part) => part,
            None => self.chunks.upload(&mut self.bounce, tensor.bytes())?,
        };
        Ok(CudaWeight { layout: tensor.layout(), rows, cols, memory })
    }

    fn buffer(&mut self, len: usize) -> Result<CudaBuffer> {
        let too_large = BackendError::OutOfMemory { wanted: (len as u64).saturating_mul(4) };
        let bytes = len.checked_mul(4).ok_or(too_large)?;
        Ok(CudaBuffer { memory: Memory::zeroed(&self.context, bytes)?, len })
    }

    fn reserve(&mut self, tokens: usize, cols: usize) -> Result {
        self.spans.clear();
        self.pieces.clear();
        self.stretches.clear();
        self.scratch.reserve_parts(cols)?;
        self.scratch.reserve(tokens, cols)
    }

    fn reserve_experts(&mut self, rows: usize, shape: ExpertsShape) -> Result {
        if shape.count > kernels::EXPERTS_MAX {
            return Err(BackendError::Unsupported(format!("{} experts of a layer", shape.count)));
        }
        self.scratch.reserve_experts(rows, shape)
    }

    fn load_experts(&mut self, experts: &[Expert<CudaWeight>]) -> Result {
        self.table(experts).map(|_| ())
    }

    fn reserve_heads(&mut self, tokens: usize, shape: HeadsShape) -> Result {
        self.scratch.reserve_heads(tokens, shape)
    }

    fn reserve_choose(&mut self, positions: usize) -> Result {
        self.scratch.reserve_ranks(positions)
    }

    fn reserve_best(&mut self, rows: usize, width: usize) -> Result {
        self.scratch.reserve_best(rows, width).map(|_| ())
    }

    fn cache(&mut self, shape: CacheShape) -> Result<CudaCache> {
        CudaCache::new(&self.context, shape)
    }

    fn delta_state(&mut self, shape: DeltaShape) -> Result<CudaDeltaState> {
        CudaDeltaState::new(self, shape)
    }

    fn step(&mut self, step: &Step<'_>, operations: &mut dyn FnMut(&mut Self) -> Result) -> Result {
        self.run_step(step, operations)
    }

    fn write(&mut self, buffer: &mut CudaBuffer, values: &[f32]) -> Result {
        assert!(values.len() <= buffer.len);
        Ok(buffer.memory.write(values.as_bytes())?)
    }

    fn read(&mut self, buffer: &CudaBuffer, out: &mut [f32]) -> Result {
        buffer.memory.read(out.as_mut_bytes())?;
        self.bounce.waited();
        Ok(())
    }

    fn embed(&mut self, out: &mut CudaBuffer, table: &CudaWeight, tokens: &[u32], scale: f32) -> Result {
        self.embedded(out, table, tokens, scale)
    }

    fn rms_norm(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        weight: &CudaWeight,
        rows: usize,
        eps: f32,
    ) -> Result {
        let len = rows * weight.cols as usize;
        self.norm(out.at(len), x.at(len), weight, rows, eps)
    }

    fn rms_norm_in_place(
        &mut self,
        x: &mut CudaBuffer,
        weight: &CudaWeight,
        rows: usize,
        eps: f32,
    ) -> Result {
        let at = x.at(rows * weight.cols as usize);
        self.norm(at, at, weight, rows, eps)
    }

    fn linear(&mut self, x: &CudaBuffer, tokens: usize, products: &mut [Linear<'_, Self>]) -> Result {
        self.multiplied_by_all(x, tokens, products)
    }

    fn linear_glu(
        &mut self,
        x: &CudaBuffer,
        tokens: usize,
        products: [Linear<'_, Self>; 2],
        len: usize,
        activation: Activation,
    ) -> Result {
        self.multiplied_and_gated(x, tokens, products, len, activation)
    }

    fn linear_heads(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        tokens: usize,
        weight: &CudaWeight,
        shape: HeadsShape,
    ) -> Result {
        self.product_of_heads(out, x, tokens, weight, shape)
    }

    fn join(
        &mut self,
        out: &mut CudaBuffer,
        a: &CudaBuffer,
        b: &CudaBuffer,
        rows: usize,
        widths: [usize; 2],
    ) -> Result {
        self.joined(out, [a, b], rows, widths)
    }

    fn rope(
        &mut self,
        x: &mut CudaBuffer,
        frequencies: &CudaWeight,
        spans: &[Span],
        heads: u32,
        head_dim: u32,
    ) -> Result {
        self.rotated(x, frequencies, spans, heads, head_dim)
    }

    fn temper(
        &mut self,
        x: &mut CudaBuffer,
        spans: &[Span],
        width: usize,
        temperature: Temperature,
    ) -> Result {
        self.tempered(x, spans, width, temperature)
    }

    fn rope_axes(
        &mut self,
        x: &mut CudaBuffer,
        frequencies: &CudaWeight,
        turns: &[[u32; 3]],
        axes: [u32; 2],
        heads: u32,
        head_dim: u32,
    ) -> Result {
        self.turn(x, frequencies, turns, axes, (heads, head_dim))
    }

    fn rope_2d(
        &mut self,
        x: &mut CudaBuffer,
        frequencies: &CudaWeight,
        places: &[[u32; 2]],
        heads: u32,
        head_dim: u32,
    ) -> Result {
        self.turn(x, frequencies, places, [0; 2], (heads, head_dim))
    }

    fn store(&mut self, cache: &mut CudaCache, k: &CudaBuffer, v: &CudaBuffer, spans: &[Span]) -> Result {
        self.put(cache, k, v, spans)
    }

    fn attention(
        &mut self,
        out: &mut CudaBuffer,
        q: &CudaBuffer,
        cache: &CudaCache,
        spans: &[Span],
        shape: &AttentionShape,
    ) -> Result {
        self.attend(out, q, cache, spans, shape, Seen::Plain)
    }

    fn choose(
        &mut self,
        chosen: &mut CudaBuffer,
        q: &CudaBuffer,
        weights: &CudaBuffer,
        cache: &CudaCache,
        spans: &[Span],
        shape: &IndexShape,
    ) -> Result {
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
    ) -> Result {
        self.attend(out, q, cache, spans, shape, Seen::Chosen(chosen, top))
    }

    fn attention_joint(
        &mut self,
        out: &mut CudaBuffer,
        q: &CudaBuffer,
        cache: &CudaCache,
        spans: &[Span],
        shape: &AttentionShape,
        joint: &[bool],
    ) -> Result {
        self.attend(out, q, cache, spans, shape, Seen::Joint(joint))
    }

    fn glu(&mut self, gate: &mut CudaBuffer, up: &CudaBuffer, len: usize, activation: Activation) -> Result {
        self.gate(gate.at(len), up.at(len), len, activation)
    }

    fn multiply(&mut self, x: &mut CudaBuffer, weight: &CudaWeight, rows: usize) -> Result {
        self.multiplied(x, weight, rows)
    }

    fn layer_norm_in_place(
        &mut self,
        x: &mut CudaBuffer,
        weight: &CudaWeight,
        bias: &CudaWeight,
        rows: usize,
        eps: f32,
    ) -> Result {
        self.layer_norm(x, weight, bias, rows, eps)
    }

    fn activate(&mut self, x: &mut CudaBuffer, len: usize, activation: Activation) -> Result {
        self.activated(x, len, activation)
    }

    fn mean(&mut self, out: &mut CudaBuffer, x: &CudaBuffer, spans: &[Span], width: usize) -> Result {
        self.means(out, x, spans, width)
    }

    fn convolve(
        &mut self,
        x: &mut CudaBuffer,
        weight: &CudaWeight,
        state: &mut CudaDeltaState,
        spans: &[Span],
    ) -> Result {
        self.convolve_rows(x, weight, state, spans)
    }

    fn convolve_causal(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        before: &mut CudaBuffer,
        weight: &CudaWeight,
        bias: &CudaWeight,
        rows: usize,
    ) -> Result {
        self.convolve_sequence([out, x, before], weight, bias, rows)
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
    ) -> Result {
        self.rule(out, [x, decay, beta], rate, state, spans)
    }

    fn remember(&mut self, state: &mut CudaDeltaState, slot: u32) -> Result {
        self.kept(state, slot)
    }

    fn recall(&mut self, state: &mut CudaDeltaState, slot: u32) -> Result {
        self.recalled(state, slot)
    }

    fn gate_rows(&mut self, x: &mut CudaBuffer, gate: &CudaBuffer, rows: usize, width: usize) -> Result {
        self.gated_rows(x, gate, rows, width)
    }

    fn experts(
        &mut self,
        out: &mut CudaBuffer,
        x: &CudaBuffer,
        logits: &CudaBuffer,
        rows: usize,
        mixture: &Mixture<'_, Self>,
    ) -> Result {
        self.mixture(out, x, logits, rows, mixture)
    }

    fn add(&mut self, x: &mut CudaBuffer, y: &CudaBuffer, len: usize) -> Result {
        self.added(x, y, len)
    }

    fn gather(&mut self, out: &mut CudaBuffer, x: &CudaBuffer, rows: &[u32], width: usize) -> Result {
        self.gathered(out, x, rows, width)
    }

    fn scatter(&mut self, out: &mut CudaBuffer, x: &CudaBuffer, rows: &[u32], width: usize) -> Result {
        self.scattered(out, x, rows, width)
    }

    fn clip(&mut self, x: &mut CudaBuffer, len: usize, bounds: [f32; 2]) -> Result {
        self.clipped(x, len, bounds)
    }

    fn scale_and_cap(&mut self, x: &mut CudaBuffer, len: usize, scale: f32, softcap: Option<f32>) -> Result {
        self.scaled_and_capped(x, len, scale, softcap)
    }

    fn best(&mut self, out: &mut CudaBuffer, x: &CudaBuffer, width: usize, temperatures: &[f32]) -> Result {
        self.best_of(out, x, width, temperatures)
    }
}
