//! Every operation in plain scalar loops with f64 sums: the definition of every answer, never tuned.

mod attention;
mod choose;
mod delta;
mod experts;
mod linear;
mod quantize;
mod rowwise;
mod weights;

use muse_format::{Activation, Temperature};

#[cfg(test)]
pub(crate) use quantize::quantize_row;
pub(crate) use quantize::{GROUP, TINY, quantize_group};
pub(crate) use rowwise::{clip, join, mean, pass_on, temper};
pub(crate) use weights::dequantize_row;

use self::attention::Seen;
use crate::cache::{HostCache, row_count, rows, zeroed};
use crate::shape::axis;
use crate::{
    AttentionShape, Backend, CacheShape, DeltaShape, HeadsShape, HostDeltaState, IndexShape, Linear, Mixture,
    Result, Span, Tensor,
};

/// The backend that others are compared with.
#[derive(Debug, Default)]
pub struct ReferenceBackend {}

impl ReferenceBackend {
    pub fn new() -> Self {
        Self {}
    }
}

impl Backend for ReferenceBackend {
    type Weight = Tensor;
    type Buffer = Vec<f32>;
    type Cache = HostCache;
    type DeltaState = HostDeltaState;

    fn load(&mut self, tensor: Tensor) -> Result<Tensor> {
        Ok(tensor)
    }

    fn buffer(&mut self, len: usize) -> Result<Vec<f32>> {
        zeroed(len)
    }

    fn cache(&mut self, shape: CacheShape) -> Result<HostCache> {
        HostCache::new(shape)
    }

    fn delta_state(&mut self, shape: DeltaShape) -> Result<HostDeltaState> {
        HostDeltaState::new(shape)
    }

    fn read(&mut self, buffer: &Vec<f32>, out: &mut [f32]) -> Result {
        out.copy_from_slice(&buffer[..out.len()]);
        Ok(())
    }

    fn write(&mut self, buffer: &mut Vec<f32>, values: &[f32]) -> Result {
        buffer[..values.len()].copy_from_slice(values);
        Ok(())
    }

    fn embed(&mut self, out: &mut Vec<f32>, table: &Tensor, tokens: &[u32], scale: f32) -> Result {
        let width = table.cols();
        for (out, token) in out[..tokens.len() * width].chunks_exact_mut(width).zip(tokens) {
            dequantize_row(out, table, *token as usize);
            out.iter_mut().for_each(|x| *x *= scale);
        }
        Ok(())
    }

    fn rms_norm(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Tensor,
        rows: usize,
        eps: f32,
    ) -> Result {
        let len = rows * weight.cols();
        out[..len].copy_from_slice(&x[..len]);
        rowwise::rms_norm(&mut out[..len], weight.f32(), eps);
        Ok(())
    }

    fn rms_norm_in_place(&mut self, x: &mut Vec<f32>, weight: &Tensor, rows: usize, eps: f32) -> Result {
        rowwise::rms_norm(&mut x[..rows * weight.cols()], weight.f32(), eps);
        Ok(())
    }

    fn linear(&mut self, x: &Vec<f32>, tokens: usize, products: &mut [Linear<'_, Self>]) -> Result {
        for Linear { out, weight, bias } in products {
            let (rows, cols) = (weight.rows(), weight.cols());
            let x = &x[..tokens * cols];
            linear::run(&mut out[..tokens * rows], weight, bias.map(Tensor::f32), x);
        }
        Ok(())
    }

    fn linear_heads(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        tokens: usize,
        weight: &Tensor,
        shape: HeadsShape,
    ) -> Result {
        let x = &x[..tokens * shape.heads * shape.cols];
        linear::heads(&mut out[..tokens * weight.rows()], weight, x, shape);
        Ok(())
    }

    fn join(
        &mut self,
        out: &mut Vec<f32>,
        a: &Vec<f32>,
        b: &Vec<f32>,
        rows: usize,
        widths: [usize; 2],
    ) -> Result {
        rowwise::join(&mut out[..rows * (widths[0] + widths[1])], a, b, widths);
        Ok(())
    }

    fn rope(
        &mut self,
        x: &mut Vec<f32>,
        frequencies: &Tensor,
        spans: &[Span],
        heads: u32,
        head_dim: u32,
    ) -> Result {
        let width = heads as usize * head_dim as usize;
        let x = &mut x[..row_count(spans) * width];
        for (x, (_, position)) in x.chunks_exact_mut(width).zip(rows(spans)) {
            for head in x.chunks_exact_mut(head_dim as usize) {
                rowwise::rotate(head, frequencies.f32(), |_| position);
            }
        }
        Ok(())
    }

    fn rope_axes(
        &mut self,
        x: &mut Vec<f32>,
        frequencies: &Tensor,
        turns: &[[u32; 3]],
        axes: [u32; 2],
        heads: u32,
        head_dim: u32,
    ) -> Result {
        let width = heads as usize * head_dim as usize;
        let x = &mut x[..turns.len() * width];
        for (x, turns) in x.chunks_exact_mut(width).zip(turns) {
            for head in x.chunks_exact_mut(head_dim as usize) {
                rowwise::rotate(head, frequencies.f32(), |i| turns[axis(i, axes)]);
            }
        }
        Ok(())
    }

    fn temper(&mut self, x: &mut Vec<f32>, spans: &[Span], width: usize, temperature: Temperature) -> Result {
        rowwise::temper(x, spans, width, temperature);
        Ok(())
    }

    fn rope_2d(
        &mut self,
        x: &mut Vec<f32>,
        frequencies: &Tensor,
        places: &[[u32; 2]],
        heads: u32,
        head_dim: u32,
    ) -> Result {
        let width = heads as usize * head_dim as usize;
        let x = &mut x[..places.len() * width];
        for (x, place) in x.chunks_exact_mut(width).zip(places) {
            for head in x.chunks_exact_mut(head_dim as usize) {
                rowwise::rotate_2d(head, frequencies.f32(), *place);
            }
        }
        Ok(())
    }

    fn store(&mut self, cache: &mut HostCache, k: &Vec<f32>, v: &Vec<f32>, spans: &[Span]) -> Result {
        cache.store(k, v, spans);
        Ok(())
    }

    fn attention(
        &mut self,
        out: &mut Vec<f32>,
        q: &Vec<f32>,
        cache: &HostCache,
        spans: &[Span],
        shape: &AttentionShape,
    ) -> Result {
        let len = row_count(spans) * shape.heads as usize * shape.head_dim as usize;
        attention::run(&mut out[..len], &q[..len], cache, spans, shape, Seen::Plain);
        Ok(())
    }

    fn choose(
        &mut self,
        chosen: &mut Vec<f32>,
        q: &Vec<f32>,
        weights: &Vec<f32>,
        cache: &HostCache,
        spans: &[Span],
        shape: &IndexShape,
    ) -> Result {
        choose::run(&mut chosen[..row_count(spans) * shape.top as usize], q, weights, cache, spans, shape);
        Ok(())
    }

    fn attention_chosen(
        &mut self,
        out: &mut Vec<f32>,
        q: &Vec<f32>,
        cache: &HostCache,
        spans: &[Span],
        shape: &AttentionShape,
        chosen: &Vec<f32>,
        top: u32,
    ) -> Result {
        let len = row_count(spans) * shape.heads as usize * shape.head_dim as usize;
        attention::run(&mut out[..len], &q[..len], cache, spans, shape, Seen::Chosen(chosen, top));
        Ok(())
    }

    fn attention_joint(
        &mut self,
        out: &mut Vec<f32>,
        q: &Vec<f32>,
        cache: &HostCache,
        spans: &[Span],
        shape: &AttentionShape,
        joint: &[bool],
    ) -> Result {
        let len = row_count(spans) * shape.heads as usize * shape.head_dim as usize;
        attention::run(&mut out[..len], &q[..len], cache, spans, shape, Seen::Joint(joint));
        Ok(())
    }

    fn glu(&mut self, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize, activation: Activation) -> Result {
        rowwise::glu(&mut gate[..len], &up[..len], activation);
        Ok(())
    }

    fn multiply(&mut self, x: &mut Vec<f32>, weight: &Tensor, rows: usize) -> Result {
        rowwise::multiply(&mut x[..rows * weight.cols()], weight.f32());
        Ok(())
    }

    fn experts(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        logits: &Vec<f32>,
        rows: usize,
        mixture: &Mixture<'_, Self>,
    ) -> Result {
        let len = rows * mixture.experts[0].gate.cols();
        experts::run(&mut out[..len], &x[..len], &logits[..rows * mixture.experts.len()], mixture);
        Ok(())
    }

    fn layer_norm_in_place(
        &mut self,
        x: &mut Vec<f32>,
        weight: &Tensor,
        bias: &Tensor,
        rows: usize,
        eps: f32,
    ) -> Result {
        rowwise::layer_norm(&mut x[..rows * weight.cols()], weight.f32(), bias.f32(), eps);
        Ok(())
    }

    fn activate(&mut self, x: &mut Vec<f32>, len: usize, activation: Activation) -> Result {
        rowwise::activate(&mut x[..len], activation);
        Ok(())
    }

    fn mean(&mut self, out: &mut Vec<f32>, x: &Vec<f32>, spans: &[Span], width: usize) -> Result {
        mean(out, x, spans, width);
        Ok(())
    }

    fn convolve(
        &mut self,
        x: &mut Vec<f32>,
        weight: &Tensor,
        state: &mut HostDeltaState,
        spans: &[Span],
    ) -> Result {
        delta::convolve(x, weight.f32(), state, spans);
        Ok(())
    }

    fn convolve_causal(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        before: &mut Vec<f32>,
        weight: &Tensor,
        bias: &Tensor,
        rows: usize,
    ) -> Result {
        let len = rows * weight.cols();
        let before = &mut before[..(weight.rows() - 1) * weight.cols()];
        rowwise::convolve_causal(&mut out[..len], &x[..len], before, weight.f32(), bias.f32());
        pass_on(before, &x[..len]);
        Ok(())
    }

    fn delta_rule(
        &mut self,
        out: &mut Vec<f32>,
        x: &mut Vec<f32>,
        decay: &mut Vec<f32>,
        beta: &mut Vec<f32>,
        rate: &Tensor,
        state: &mut HostDeltaState,
        spans: &[Span],
    ) -> Result {
        let (rows, heads) = (row_count(spans), state.shape().value_heads as usize);
        let (decay, beta) = (&mut decay[..rows * heads], &mut beta[..rows * heads]);
        let x = &mut x[..rows * state.shape().channels() as usize];
        delta::rule(out, x, decay, beta, rate, state, spans);
        Ok(())
    }

    fn remember(&mut self, state: &mut HostDeltaState, slot: u32) -> Result {
        state.remember(slot);
        Ok(())
    }

    fn recall(&mut self, state: &mut HostDeltaState, slot: u32) -> Result {
        state.recall(slot);
        Ok(())
    }

    fn gate_rows(&mut self, x: &mut Vec<f32>, gate: &Vec<f32>, rows: usize, width: usize) -> Result {
        rowwise::gate_rows(&mut x[..rows * width], &gate[..rows], width);
        Ok(())
    }

    fn add(&mut self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) -> Result {
        x[..len].iter_mut().zip(&y[..len]).for_each(|(x, y)| *x += y);
        Ok(())
    }

    fn gather(&mut self, out: &mut Vec<f32>, x: &Vec<f32>, rows: &[u32], width: usize) -> Result {
        for (out, row) in out[..rows.len() * width].chunks_exact_mut(width).zip(rows) {
            out.copy_from_slice(&x[*row as usize * width..][..width]);
        }
        Ok(())
    }

    fn scatter(&mut self, out: &mut Vec<f32>, x: &Vec<f32>, rows: &[u32], width: usize) -> Result {
        for (x, row) in x[..rows.len() * width].chunks_exact(width).zip(rows) {
            out[*row as usize * width..][..width].copy_from_slice(x);
        }
        Ok(())
    }

    fn clip(&mut self, x: &mut Vec<f32>, len: usize, bounds: [f32; 2]) -> Result {
        rowwise::clip(&mut x[..len], bounds);
        Ok(())
    }

    fn scale_and_cap(&mut self, x: &mut Vec<f32>, len: usize, scale: f32, softcap: Option<f32>) -> Result {
        rowwise::scale_and_cap(&mut x[..len], scale, softcap);
        Ok(())
    }
}
