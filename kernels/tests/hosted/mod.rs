//! The CUDA backend as one that works on vectors: each operation takes its inputs to the device and its outputs back.

use muse_format::{Activation, Temperature};
use muse_kernels::{
    AttentionShape, Backend, CacheShape, CudaBackend, CudaBuffer, CudaCache, CudaDeltaState, CudaWeight,
    DeltaShape, Expert, ExpertsShape, HeadsShape, IndexShape, Linear, Mixture, Result, ScaledNorm, Span,
    Tensor,
};

pub struct Hosted {
    cuda: CudaBackend,
}

impl Hosted {
    pub fn new() -> Result<Self> {
        Ok(Self { cuda: CudaBackend::new()? })
    }

    pub fn describe(&self) -> String {
        self.cuda.describe()
    }

    fn put(&mut self, values: &[f32]) -> Result<CudaBuffer> {
        let mut buffer = self.cuda.buffer(values.len())?;
        self.cuda.write(&mut buffer, values)?;
        Ok(buffer)
    }

    fn load_if(&mut self, tensor: Option<&Tensor>) -> Result<Option<CudaWeight>> {
        tensor.map(|tensor| self.cuda.load(tensor.clone())).transpose()
    }
}

impl Backend for Hosted {
    type Weight = Tensor;
    type Buffer = Vec<f32>;
    type Cache = CudaCache;
    type DeltaState = CudaDeltaState;

    fn load(&mut self, tensor: Tensor) -> Result<Tensor> {
        Ok(tensor)
    }

    fn buffer(&mut self, len: usize) -> Result<Vec<f32>> {
        let buffer = self.cuda.buffer(len)?;
        let mut values = vec![f32::NAN; len];
        self.cuda.read(&buffer, &mut values)?;
        Ok(values)
    }

    fn reserve(&mut self, tokens: usize, cols: usize) -> Result {
        self.cuda.reserve(tokens, cols)
    }

    fn reserve_experts(&mut self, rows: usize, shape: ExpertsShape) -> Result {
        self.cuda.reserve_experts(rows, shape)
    }

    fn reserve_heads(&mut self, tokens: usize, shape: HeadsShape) -> Result {
        self.cuda.reserve_heads(tokens, shape)
    }

    fn reserve_choose(&mut self, positions: usize) -> Result {
        self.cuda.reserve_choose(positions)
    }

    fn cache(&mut self, shape: CacheShape) -> Result<CudaCache> {
        self.cuda.cache(shape)
    }

    fn delta_state(&mut self, shape: DeltaShape) -> Result<CudaDeltaState> {
        self.cuda.delta_state(shape)
    }

    fn read(&mut self, buffer: &Vec<f32>, out: &mut [f32]) -> Result {
        out.copy_from_slice(&buffer[..out.len()]);
        Ok(())
    }

    fn write(&mut self, buffer: &mut Vec<f32>, values: &[f32]) -> Result {
        let mut on_device = self.put(buffer)?;
        self.cuda.write(&mut on_device, values)?;
        self.cuda.read(&on_device, buffer)
    }

    fn embed(&mut self, out: &mut Vec<f32>, table: &Tensor, tokens: &[u32], scale: f32) -> Result {
        let (mut on_device, table) = (self.put(out)?, self.cuda.load(table.clone())?);
        self.cuda.embed(&mut on_device, &table, tokens, scale)?;
        self.cuda.read(&on_device, out)
    }

    fn rms_norm(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        weight: &Tensor,
        rows: usize,
        eps: f32,
    ) -> Result {
        let (mut on_device, x, weight) = (self.put(out)?, self.put(x)?, self.cuda.load(weight.clone())?);
        self.cuda.rms_norm(&mut on_device, &x, &weight, rows, eps)?;
        self.cuda.read(&on_device, out)
    }

    fn rms_norm_in_place(&mut self, x: &mut Vec<f32>, weight: &Tensor, rows: usize, eps: f32) -> Result {
        let (mut on_device, weight) = (self.put(x)?, self.cuda.load(weight.clone())?);
        self.cuda.rms_norm_in_place(&mut on_device, &weight, rows, eps)?;
        self.cuda.read(&on_device, x)
    }

    fn linear(&mut self, x: &Vec<f32>, tokens: usize, products: &mut [Linear<'_, Self>]) -> Result {
        let x = self.put(x)?;
        let mut operands = Vec::new();
        for product in &mut *products {
            let weight = self.cuda.load(product.weight.clone())?;
            operands.push((self.put(product.out)?, weight, self.load_if(product.bias)?));
        }
        let mut on_device: Vec<_> = operands
            .iter_mut()
            .map(|(out, weight, bias)| Linear { out, weight, bias: bias.as_ref() })
            .collect();
        self.cuda.linear(&x, tokens, &mut on_device)?;
        for (product, (out, ..)) in products.iter_mut().zip(&operands) {
            self.cuda.read(out, product.out)?;
        }
        Ok(())
    }

    fn linear_glu(
        &mut self,
        x: &Vec<f32>,
        tokens: usize,
        products: [Linear<'_, Self>; 2],
        len: usize,
        activation: Activation,
    ) -> Result {
        let x = self.put(x)?;
        let [gate, up] = products;
        let weights = [self.cuda.load(gate.weight.clone())?, self.cuda.load(up.weight.clone())?];
        let biases = [self.load_if(gate.bias)?, self.load_if(up.bias)?];
        let mut outs = [self.put(gate.out)?, self.put(up.out)?];
        let [gate_out, up_out] = &mut outs;
        let on_device = [
            Linear { out: gate_out, weight: &weights[0], bias: biases[0].as_ref() },
            Linear { out: up_out, weight: &weights[1], bias: biases[1].as_ref() },
        ];
        self.cuda.linear_glu(&x, tokens, on_device, len, activation)?;
        self.cuda.read(&outs[0], gate.out)
    }

    fn rope(
        &mut self,
        x: &mut Vec<f32>,
        frequencies: &Tensor,
        spans: &[Span],
        heads: u32,
        head_dim: u32,
    ) -> Result {
        let (mut on_device, frequencies) = (self.put(x)?, self.cuda.load(frequencies.clone())?);
        self.cuda.rope(&mut on_device, &frequencies, spans, heads, head_dim)?;
        self.cuda.read(&on_device, x)
    }

    fn store(&mut self, cache: &mut CudaCache, k: &Vec<f32>, v: &Vec<f32>, spans: &[Span]) -> Result {
        let (k, v) = (self.put(k)?, self.put(v)?);
        self.cuda.store(cache, &k, &v, spans)
    }

    fn attention(
        &mut self,
        out: &mut Vec<f32>,
        q: &Vec<f32>,
        cache: &CudaCache,
        spans: &[Span],
        shape: &AttentionShape,
    ) -> Result {
        let (mut on_device, q) = (self.put(out)?, self.put(q)?);
        self.cuda.attention(&mut on_device, &q, cache, spans, shape)?;
        self.cuda.read(&on_device, out)
    }

    fn glu(&mut self, gate: &mut Vec<f32>, up: &Vec<f32>, len: usize, activation: Activation) -> Result {
        let (mut on_device, up) = (self.put(gate)?, self.put(up)?);
        self.cuda.glu(&mut on_device, &up, len, activation)?;
        self.cuda.read(&on_device, gate)
    }

    fn multiply(&mut self, x: &mut Vec<f32>, weight: &Tensor, rows: usize) -> Result {
        let (mut on_device, weight) = (self.put(x)?, self.cuda.load(weight.clone())?);
        self.cuda.multiply(&mut on_device, &weight, rows)?;
        self.cuda.read(&on_device, x)
    }

    fn experts(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        logits: &Vec<f32>,
        rows: usize,
        mixture: &Mixture<'_, Self>,
    ) -> Result {
        let (mut on_device, x, logits) = (self.put(out)?, self.put(x)?, self.put(logits)?);
        let mut load = |tensor: &Tensor| self.cuda.load(tensor.clone());
        let experts: Vec<_> = mixture
            .experts
            .iter()
            .map(|e| Ok(Expert { gate: load(&e.gate)?, up: load(&e.up)?, down: load(&e.down)? }))
            .collect::<Result<_>>()?;
        let bias = self.load_if(mixture.choice_bias)?;
        let scales = self.load_if(mixture.scales)?;
        let norm = match &mixture.norm {
            None => None,
            Some(norm) => {
                Some((self.cuda.load(norm.scale.clone())?, self.cuda.load(norm.weight.clone())?, norm.eps))
            }
        };
        let mixture = Mixture {
            experts: &experts,
            choice_bias: bias.as_ref(),
            scales: scales.as_ref(),
            used: mixture.used,
            routing: mixture.routing,
            norm: norm.as_ref().map(|(scale, weight, eps)| ScaledNorm { scale, weight, eps: *eps }),
        };
        self.cuda.experts(&mut on_device, &x, &logits, rows, &mixture)?;
        self.cuda.read(&on_device, out)
    }

    fn add(&mut self, x: &mut Vec<f32>, y: &Vec<f32>, len: usize) -> Result {
        let (mut on_device, y) = (self.put(x)?, self.put(y)?);
        self.cuda.add(&mut on_device, &y, len)?;
        self.cuda.read(&on_device, x)
    }

    fn gather(&mut self, out: &mut Vec<f32>, x: &Vec<f32>, rows: &[u32], width: usize) -> Result {
        let (mut on_device, x) = (self.put(out)?, self.put(x)?);
        self.cuda.gather(&mut on_device, &x, rows, width)?;
        self.cuda.read(&on_device, out)
    }

    fn scale_and_cap(&mut self, x: &mut Vec<f32>, len: usize, scale: f32, softcap: Option<f32>) -> Result {
        let mut on_device = self.put(x)?;
        self.cuda.scale_and_cap(&mut on_device, len, scale, softcap)?;
        self.cuda.read(&on_device, x)
    }

    fn linear_heads(
        &mut self,
        out: &mut Vec<f32>,
        x: &Vec<f32>,
        tokens: usize,
        weight: &Tensor,
        shape: HeadsShape,
    ) -> Result {
        let (mut on_device, x, weight) = (self.put(out)?, self.put(x)?, self.cuda.load(weight.clone())?);
        self.cuda.linear_heads(&mut on_device, &x, tokens, &weight, shape)?;
        self.cuda.read(&on_device, out)
    }

    fn join(
        &mut self,
        out: &mut Vec<f32>,
        a: &Vec<f32>,
        b: &Vec<f32>,
        rows: usize,
        widths: [usize; 2],
    ) -> Result {
        let (mut on_device, a, b) = (self.put(out)?, self.put(a)?, self.put(b)?);
        self.cuda.join(&mut on_device, &a, &b, rows, widths)?;
        self.cuda.read(&on_device, out)
    }

    fn temper(&mut self, x: &mut Vec<f32>, spans: &[Span], width: usize, temperature: Temperature) -> Result {
        let mut on_device = self.put(x)?;
        self.cuda.temper(&mut on_device, spans, width, temperature)?;
        self.cuda.read(&on_device, x)
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
        let (mut on_device, frequencies) = (self.put(x)?, self.cuda.load(frequencies.clone())?);
        self.cuda.rope_axes(&mut on_device, &frequencies, turns, axes, heads, head_dim)?;
        self.cuda.read(&on_device, x)
    }

    fn rope_2d(
        &mut self,
        x: &mut Vec<f32>,
        frequencies: &Tensor,
        places: &[[u32; 2]],
        heads: u32,
        head_dim: u32,
    ) -> Result {
        let (mut on_device, frequencies) = (self.put(x)?, self.cuda.load(frequencies.clone())?);
        self.cuda.rope_2d(&mut on_device, &frequencies, places, heads, head_dim)?;
        self.cuda.read(&on_device, x)
    }

    fn choose(
        &mut self,
        chosen: &mut Vec<f32>,
        q: &Vec<f32>,
        weights: &Vec<f32>,
        cache: &CudaCache,
        spans: &[Span],
        shape: &IndexShape,
    ) -> Result {
        let (mut on_device, q, weights) = (self.put(chosen)?, self.put(q)?, self.put(weights)?);
        self.cuda.choose(&mut on_device, &q, &weights, cache, spans, shape)?;
        self.cuda.read(&on_device, chosen)
    }

    fn attention_chosen(
        &mut self,
        out: &mut Vec<f32>,
        q: &Vec<f32>,
        cache: &CudaCache,
        spans: &[Span],
        shape: &AttentionShape,
        chosen: &Vec<f32>,
        top: u32,
    ) -> Result {
        let (mut on_device, q, chosen) = (self.put(out)?, self.put(q)?, self.put(chosen)?);
        self.cuda.attention_chosen(&mut on_device, &q, cache, spans, shape, &chosen, top)?;
        self.cuda.read(&on_device, out)
    }

    fn attention_joint(
        &mut self,
        out: &mut Vec<f32>,
        q: &Vec<f32>,
        cache: &CudaCache,
        spans: &[Span],
        shape: &AttentionShape,
        joint: &[bool],
    ) -> Result {
        let (mut on_device, q) = (self.put(out)?, self.put(q)?);
        self.cuda.attention_joint(&mut on_device, &q, cache, spans, shape, joint)?;
        self.cuda.read(&on_device, out)
    }

    fn clip(&mut self, x: &mut Vec<f32>, len: usize, bounds: [f32; 2]) -> Result {
        let mut on_device = self.put(x)?;
        self.cuda.clip(&mut on_device, len, bounds)?;
        self.cuda.read(&on_device, x)
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
        let (mut on_device, x, mut kept) = (self.put(out)?, self.put(x)?, self.put(before)?);
        let (weight, bias) = (self.cuda.load(weight.clone())?, self.cuda.load(bias.clone())?);
        self.cuda.convolve_causal(&mut on_device, &x, &mut kept, &weight, &bias, rows)?;
        self.cuda.read(&kept, before)?;
        self.cuda.read(&on_device, out)
    }

    fn layer_norm_in_place(
        &mut self,
        x: &mut Vec<f32>,
        weight: &Tensor,
        bias: &Tensor,
        rows: usize,
        eps: f32,
    ) -> Result {
        let mut on_device = self.put(x)?;
        let (weight, bias) = (self.cuda.load(weight.clone())?, self.cuda.load(bias.clone())?);
        self.cuda.layer_norm_in_place(&mut on_device, &weight, &bias, rows, eps)?;
        self.cuda.read(&on_device, x)
    }

    fn activate(&mut self, x: &mut Vec<f32>, len: usize, activation: Activation) -> Result {
        let mut on_device = self.put(x)?;
        self.cuda.activate(&mut on_device, len, activation)?;
        self.cuda.read(&on_device, x)
    }

    fn mean(&mut self, out: &mut Vec<f32>, x: &Vec<f32>, spans: &[Span], width: usize) -> Result {
        let (mut on_device, x) = (self.put(out)?, self.put(x)?);
        self.cuda.mean(&mut on_device, &x, spans, width)?;
        self.cuda.read(&on_device, out)
    }

    fn convolve(
        &mut self,
        x: &mut Vec<f32>,
        weight: &Tensor,
        state: &mut CudaDeltaState,
        spans: &[Span],
    ) -> Result {
        let (mut on_device, weight) = (self.put(x)?, self.cuda.load(weight.clone())?);
        self.cuda.convolve(&mut on_device, &weight, state, spans)?;
        self.cuda.read(&on_device, x)
    }

    fn delta_rule(
        &mut self,
        out: &mut Vec<f32>,
        x: &mut Vec<f32>,
        decay: &mut Vec<f32>,
        beta: &mut Vec<f32>,
        rate: &Tensor,
        state: &mut CudaDeltaState,
        spans: &[Span],
    ) -> Result {
        let (mut on_device, mut x) = (self.put(out)?, self.put(x)?);
        let (mut decay, mut beta) = (self.put(decay)?, self.put(beta)?);
        let rate = self.cuda.load(rate.clone())?;
        self.cuda.delta_rule(&mut on_device, &mut x, &mut decay, &mut beta, &rate, state, spans)?;
        self.cuda.read(&on_device, out)
    }

    fn remember(&mut self, state: &mut CudaDeltaState, slot: u32) -> Result {
        self.cuda.remember(state, slot)
    }

    fn recall(&mut self, state: &mut CudaDeltaState, slot: u32) -> Result {
        self.cuda.recall(state, slot)
    }

    fn gate_rows(&mut self, x: &mut Vec<f32>, gate: &Vec<f32>, rows: usize, width: usize) -> Result {
        let (mut on_device, gate) = (self.put(x)?, self.put(gate)?);
        self.cuda.gate_rows(&mut on_device, &gate, rows, width)?;
        self.cuda.read(&on_device, x)
    }

    fn scatter(&mut self, out: &mut Vec<f32>, x: &Vec<f32>, rows: &[u32], width: usize) -> Result {
        let (mut on_device, x) = (self.put(out)?, self.put(x)?);
        self.cuda.scatter(&mut on_device, &x, rows, width)?;
        self.cuda.read(&on_device, out)
    }

    fn reserve_best(&mut self, rows: usize, width: usize) -> Result {
        self.cuda.reserve_best(rows, width)
    }

    fn best(&mut self, out: &mut Vec<f32>, x: &Vec<f32>, width: usize, temperatures: &[f32]) -> Result {
        let (mut on_device, x) = (self.put(out)?, self.put(x)?);
        self.cuda.best(&mut on_device, &x, width, temperatures)?;
        self.cuda.read(&on_device, out)
    }
}
