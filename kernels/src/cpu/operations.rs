//! Each operation of [`Backend`] as chunks for the pool.

use muse_format::{Activation, Temperature};

use super::attention::Ranking;
use super::{CpuBackend, LINE, attention, delta, experts, heads, rope};
use crate::cache::{HostCache, row_count, zeroed};
use crate::reference::{clip, dequantize_row, join, mean, pass_on, temper};
use crate::{
    AttentionShape, Backend, CacheShape, DeltaShape, ExpertsShape, HeadsShape, HostDeltaState, IndexShape,
    Linear, Mixture, PromptRows, Result, Span, Tensor,
};

/// Keys that make it worth having their heads stored by several threads.
const WORTH_SHARING: usize = 8 * 1024;

impl Backend for CpuBackend {
    type Weight = Tensor;
    type Buffer = Vec<f32>;
    type Cache = HostCache;
    type DeltaState = HostDeltaState;

    fn load(&mut self, tensor: Tensor) -> Result<Tensor> {
        if let Some(npu) = &mut self.npu {
            npu.note(&tensor)?;
        }
        Ok(tensor)
    }

    fn buffer(&mut self, len: usize) -> Result<Vec<f32>> {
        zeroed(len)
    }

    fn reserve(&mut self, tokens: usize, cols: usize) -> Result {
        self.multiply.reserve(tokens, cols);
        self.partial = zeroed(attention::partial_len(cols).max(self.partial.len()))?;
        self.npu.as_mut().map_or(Ok(()), |npu| npu.reserve(tokens))?;
        self.rotated.reserve(tokens, cols)
    }

    fn reserve_experts(&mut self, rows: usize, shape: ExpertsShape) -> Result {
        self.experts = experts::Scratch::new(rows, shape)?;
        Ok(())
    }

    fn reserve_heads(&mut self, tokens: usize, shape: HeadsShape) -> Result {
        self.heads = heads::Scratch::new(tokens, shape)?;
        Ok(())
    }

    fn reserve_choose(&mut self, positions: usize) -> Result {
        self.ranking = Ranking::new(positions)?;
        Ok(())
    }

    fn cache(&mut self, shape: CacheShape) -> Result<HostCache> {
        self.rotated.allow(shape.dtype)?;
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
        self.split(out, tokens.len() * width, width, |at, out| {
            for (out, token) in out.chunks_exact_mut(width).zip(&tokens[at / width..]) {
                dequantize_row(out, table, *token as usize);
                out.iter_mut().for_each(|x| *x *= scale);
            }
        });
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
        let (elementwise, weight) = (self.elementwise, weight.f32());
        self.split(out, rows * weight.len(), weight.len(), |at, out| {
            out.copy_from_slice(&x[at..][..out.len()]);
            out.chunks_exact_mut(weight.len()).for_each(|x| elementwise.rms_norm(x, weight, eps));
        });
        Ok(())
    }

    fn rms_norm_in_place(&mut self, x: &mut Vec<f32>, weight: &Tensor, rows: usize, eps: f32) -> Result {
        let (elementwise, weight) = (self.elementwise, weight.f32());
        self.split(x, rows * weight.len(), weight.len(), |_, x| {
            x.chunks_exact_mut(weight.len()).for_each(|x| elementwise.rms_norm(x, weight, eps));
        });
        Ok(())
    }

    fn prompt_rows(&mut self, rows: PromptRows<'_>) {
        self.npu.iter_mut().for_each(|npu| npu.prompt_rows(rows));
    }

    fn linear(&mut self, x: &Vec<f32>, tokens: usize, products: &mut [Linear<'_, Self>]) -> Result {
        let Some(npu) = &mut self.npu else {
            self.multiply.run(&mut self.pool, x, 0..tokens, products);
            return Ok(());
        };
        let packed = |product: &Linear<'_, Self>| product.weight.layout().is_quantized();
        for products in products.chunk_by_mut(|a, b| packed(a) == packed(b)) {
            if !packed(&products[0]) {
                self.multiply.run(&mut self.pool, x, 0..tokens, products);
                continue;
            }
            for (rows, rounded) in npu.shares(tokens) {
                if rounded {
                    npu.linear(&mut self.pool, x, rows, products)?;
                } else {
                    self.multiply.run(&mut self.pool, x, rows, products);
                }
            }
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
        self.per_head(out, x, tokens, weight, shape);
        Ok(())
    }

    fn join(
        &mut self,
        out: &mut Vec<f32>,
        a: &Vec<f32>,
        b: &Vec<f32>,
        rows: usize,
        [first, second]: [usize; 2],
    ) -> Result {
        let width = first + second;
        self.split(out, rows * width, width, |at, out| {
            let row = at / width;
            join(out, &a[row * first..], &b[row * second..], [first, second]);
        });
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
        let mut rotations = std::mem::take(&mut self.rotations);
        rotations.prepare(frequencies.f32(), spans);
        self.rotate(x, &rotations, row_count(spans), heads, head_dim);
        self.rotations = rotations;
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
        let mut rotations = std::mem::take(&mut self.rotations);
        rotations.prepare_axes(frequencies.f32(), turns, axes);
        self.rotate(x, &rotations, turns.len(), heads, head_dim);
        self.rotations = rotations;
        Ok(())
    }

    fn temper(&mut self, x: &mut Vec<f32>, spans: &[Span], width: usize, temperature: Temperature) -> Result {
        temper(x, spans, width, temperature);
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
        let (width, head_dim) = (heads as usize * head_dim as usize, head_dim as usize);
        let frequencies = frequencies.f32();
        self.split(x, places.len() * width, width, |at, x| {
            for (x, place) in x.chunks_exact_mut(width).zip(&places[at / width..]) {
                rope::rotate_2d(x, head_dim, frequencies, *place);
            }
        });
        Ok(())
    }

    fn store(&mut self, cache: &mut HostCache, k: &Vec<f32>, v: &Vec<f32>, spans: &[Span]) -> Result {
        let numbers = row_count(spans) * cache.shape().kv_heads as usize * cache.shape().head_dim as usize;
        if numbers < WORTH_SHARING {
            cache.store(k, v, spans);
        } else {
            // SAFETY: the pool calls each number once.
            unsafe { cache.store_by(k, v, spans, |count, run| self.pool.run(count, run)) };
        }
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
        self.attend_among(out, q, cache, spans, shape, None, &[]);
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
        self.attend_among(out, q, cache, spans, shape, None, joint);
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
        let chosen = &mut chosen[..row_count(spans) * shape.top as usize];
        self.attend.choose(&mut self.pool, chosen, &mut self.ranking, q, weights, cache, spans, shape);
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
        self.attend_among(out, q, cache, spans, shape, Some((chosen, top as usize)), &[]);
        Ok(())
    }

    fn glu(&mut self, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize, activation: Activation) -> Result {
        let elementwise = self.elementwise;
        self.split(gate, len, LINE, |at, gate| elementwise.glu(gate, &up[at..][..gate.len()], activation));
        Ok(())
    }

    fn multiply(&mut self, x: &mut Vec<f32>, weight: &Tensor, rows: usize) -> Result {
        let (elementwise, weight) = (self.elementwise, weight.f32());
        self.split(x, rows * weight.len(), weight.len(), |_, x| {
            x.chunks_exact_mut(weight.len()).for_each(|x| elementwise.multiply(x, weight));
        });
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
        let mut scratch = std::mem::take(&mut self.experts);
        let out = &mut out[..rows * mixture.experts[0].gate.cols()];
        let done = self.mixture(&mut scratch, out, x, &logits[..rows * mixture.experts.len()], mixture);
        self.experts = scratch;
        done
    }

    fn layer_norm_in_place(
        &mut self,
        x: &mut Vec<f32>,
        weight: &Tensor,
        bias: &Tensor,
        rows: usize,
        eps: f32,
    ) -> Result {
        let (elementwise, weight, bias) = (self.elementwise, weight.f32(), bias.f32());
        self.split(x, rows * weight.len(), weight.len(), |_, x| {
            x.chunks_exact_mut(weight.len()).for_each(|x| elementwise.layer_norm(x, weight, bias, eps));
        });
        Ok(())
    }

    fn activate(&mut self, x: &mut Vec<f32>, len: usize, activation: Activation) -> Result {
        let elementwise = self.elementwise;
        self.split(x, len, LINE, |_, x| elementwise.activate(x, activation));
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
        let len = row_count(spans) * state.shape().channels() as usize;
        self.convolve_rows(&mut x[..len], weight.f32(), state, spans);
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
        let (elementwise, width, taps) = (self.elementwise, weight.cols(), weight.rows());
        let (weight, bias) = (weight.f32(), bias.f32());
        let before = &mut before[..(taps - 1) * width];
        let earlier = &*before;
        let input = |row: usize| match row.checked_sub(taps - 1) {
            None => &earlier[row * width..][..width],
            Some(row) => &x[row * width..][..width],
        };
        self.split(out, rows * width, width, |at, out| {
            for (t, out) in (at / width..).zip(out.chunks_exact_mut(width)) {
                out.copy_from_slice(bias);
                for (j, weight) in weight.chunks_exact(width).enumerate() {
                    elementwise.add_products(out, weight, input(t + j));
                }
            }
        });
        pass_on(before, &x[..rows * width]);
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
        self.rule_of_rows(out, x, [decay, beta], rate.f32(), state, spans);
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
        for (x, gate) in x[..rows * width].chunks_exact_mut(width).zip(&gate[..rows]) {
            let factor = delta::sigmoid(*gate);
            x.iter_mut().for_each(|x| *x *= factor);
        }
        Ok(())
    }

    fn add(&mut self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) -> Result {
        let elementwise = self.elementwise;
        self.split(x, len, LINE, |at, x| elementwise.add(x, &y[at..][..x.len()]));
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
        self.split(x, len, LINE, |_, x| clip(x, bounds));
        Ok(())
    }

    fn scale_and_cap(&mut self, x: &mut Vec<f32>, len: usize, scale: f32, softcap: Option<f32>) -> Result {
        let elementwise = self.elementwise;
        self.split(x, len, LINE, |_, x| elementwise.scale_and_cap(x, scale, softcap));
        Ok(())
    }
}
