//! A spec and its tensors, made resident and ready to step.

use std::sync::Arc;

use muse_format::{Experts, Ffn, Layer, Spec};
use muse_kernels::{Backend, BackendError, Expert, Span};

use crate::graph;
use crate::plan::{BufferLens, Plan};
use crate::weights::Mapped;
use crate::{Engine, LoadError, ModelInfo, Text};

/// The weights of a model. Matrices are `(out_features, in_features)`.
pub struct Weights<W> {
    pub embed: W,              // (vocab, dim)
    pub embed_norm: Option<W>, // (dim)
    pub per_layer: Option<PerLayerWeights<W>>,
    pub ropes: Vec<W>, // (n / 2) each, n <= head_dim
    pub layers: Vec<LayerWeights<W>>,
    pub norm: W,         // (dim)
    pub head: Option<W>, // (vocab, dim); none where the embedding is the head
}

/// What makes each layer's vector of a token.
pub struct PerLayerWeights<W> {
    pub table: W,      // (vocab, layers * per_layer)
    pub projection: W, // (layers * per_layer, dim)
    pub norm: W,       // (per_layer)
}

/// What a layer makes of its vector of a token.
pub struct PerLayerHalf<W> {
    pub gate: W, // (per_layer, dim)
    pub out: W,  // (dim, per_layer)
    pub norm: W, // (dim)
}

/// One block.
pub struct LayerWeights<W> {
    pub attn_norm: W,               // (dim)
    pub q: Affine<W>,               // (heads * head_dim, dim)
    pub kv: Option<[Affine<W>; 2]>, // (kv_heads * head_dim, dim) each; none where an earlier layer's are read
    pub q_norm: Option<W>,          // (head_dim)
    pub k_norm: Option<W>,          // (head_dim)
    pub v_norm: Option<W>,          // (head_dim)
    pub attn_gate: Option<W>,       // (heads * head_dim, dim)
    pub out: Affine<W>,             // (dim, heads * head_dim)
    pub attn_post_norm: Option<W>,  // (dim)
    pub ffn_norm: W,                // (dim)
    pub ffn: Option<FfnWeights<W>>,
    pub experts: Option<ExpertsWeights<W>>,
    pub ffn_post_norm: Option<W>, // (dim)
    pub per_layer: Option<PerLayerHalf<W>>,
    pub scale: Option<f32>,
}

/// A dense feed-forward.
pub struct FfnWeights<W> {
    pub gate: Affine<W>, // (ffn_dim, dim)
    pub up: Affine<W>,   // (ffn_dim, dim)
    pub down: Affine<W>, // (dim, ffn_dim)
}

/// A mixture of experts.
pub struct ExpertsWeights<W> {
    pub router: W,              // (experts, dim)
    pub choice_bias: Option<W>, // (experts)
    pub experts: Vec<Expert<W>>,
}

/// A matrix and what is added to its product.
pub struct Affine<W> {
    pub weight: W,       // (out, in)
    pub bias: Option<W>, // (out)
}

/// Takes tensors of a file into a backend.
struct Loader<'a, B> {
    mapped: &'a Mapped,
    backend: &'a mut B,
}

impl<B: Backend> Loader<'_, B> {
    fn take(&mut self, name: &str, rows: u32, cols: u32) -> Result<B::Weight, BackendError> {
        self.backend.load(self.mapped.tensor(name, rows, cols)?)
    }

    fn take_if(&mut self, wanted: bool, name: &str, cols: u32) -> Result<Option<B::Weight>, BackendError> {
        if wanted { self.take(name, 1, cols).map(Some) } else { Ok(None) }
    }

    fn affine(
        &mut self,
        name: &str,
        rows: u32,
        cols: u32,
        bias: bool,
    ) -> Result<Affine<B::Weight>, BackendError> {
        let weight = self.take(name, rows, cols)?;
        Ok(Affine { weight, bias: self.take_if(bias, &format!("{name}_bias"), rows)? })
    }

    fn layer(
        &mut self,
        i: usize,
        dim: u32,
        layer: &Layer,
        per_layer: Option<u32>,
    ) -> Result<LayerWeights<B::Weight>, BackendError> {
        let a = &layer.attention;
        let own = a.kv_from.is_none();
        let (q, kv) = (a.heads * a.head_dim, a.kv_heads * a.head_dim);
        let ffn = layer.ffn.as_ref().map(|ffn| self.ffn(i, dim, ffn)).transpose()?;
        let experts = layer.experts.as_ref().map(|experts| self.experts(i, dim, experts)).transpose()?;
        let name = |part: &str| format!("l{i}.{part}");
        Ok(LayerWeights {
            attn_norm: self.take(&name("attn.norm"), 1, dim)?,
            q: self.affine(&name("attn.q"), q, dim, a.qkv_bias)?,
            kv: match own {
                false => None,
                true => Some([
                    self.affine(&name("attn.k"), kv, dim, a.qkv_bias)?,
                    self.affine(&name("attn.v"), kv, dim, a.qkv_bias)?,
                ]),
            },
            q_norm: self.take_if(a.qk_norm, &name("attn.q_norm"), a.head_dim)?,
            k_norm: self.take_if(a.qk_norm && own, &name("attn.k_norm"), a.head_dim)?,
            v_norm: self.take_if(a.v_norm && own, &name("attn.v_norm"), a.head_dim)?,
            attn_gate: if a.out_gate { Some(self.take(&name("attn.gate"), q, dim)?) } else { None },
            out: self.affine(&name("attn.out"), dim, q, a.out_bias)?,
            attn_post_norm: self.take_if(layer.post_norms, &name("attn.post_norm"), dim)?,
            ffn_norm: self.take(&name("ffn.norm"), 1, dim)?,
            ffn,
            experts,
            ffn_post_norm: self.take_if(layer.post_norms, &name("ffn.post_norm"), dim)?,
            per_layer: match per_layer {
                None => None,
                Some(width) => Some(PerLayerHalf {
                    gate: self.take(&name("per_layer.gate"), width, dim)?,
                    out: self.take(&name("per_layer.out"), dim, width)?,
                    norm: self.take(&name("per_layer.norm"), 1, dim)?,
                }),
            },
            scale: match layer.scaled {
                false => None,
                true => Some(self.mapped.tensor(&name("scale"), 1, 1)?.f32()[0]),
            },
        })
    }

    fn ffn(&mut self, i: usize, dim: u32, ffn: &Ffn) -> Result<FfnWeights<B::Weight>, BackendError> {
        Ok(FfnWeights {
            gate: self.affine(&format!("l{i}.ffn.gate"), ffn.dim, dim, ffn.bias)?,
            up: self.affine(&format!("l{i}.ffn.up"), ffn.dim, dim, ffn.bias)?,
            down: self.affine(&format!("l{i}.ffn.down"), dim, ffn.dim, ffn.bias)?,
        })
    }

    fn experts(
        &mut self,
        i: usize,
        dim: u32,
        experts: &Experts,
    ) -> Result<ExpertsWeights<B::Weight>, BackendError> {
        let name = |part: &str| format!("l{i}.experts.{part}");
        Ok(ExpertsWeights {
            router: self.take(&name("router"), experts.count, dim)?,
            choice_bias: self.take_if(experts.choice_bias, &name("choice_bias"), experts.count)?,
            experts: (0..experts.count)
                .map(|e| {
                    Ok(Expert {
                        gate: self.take(&name(&format!("{e}.gate")), experts.dim, dim)?,
                        up: self.take(&name(&format!("{e}.up")), experts.dim, dim)?,
                        down: self.take(&name(&format!("{e}.down")), dim, experts.dim)?,
                    })
                })
                .collect::<Result<_, BackendError>>()?,
        })
    }

    fn per_layer(&mut self, spec: &Spec, width: u32) -> Result<PerLayerWeights<B::Weight>, BackendError> {
        let all = spec.per_layer_width();
        Ok(PerLayerWeights {
            table: self.take("per_layer.table", spec.vocab, all)?,
            projection: self.take("per_layer.projection", all, spec.dim)?,
            norm: self.take("per_layer.norm", 1, width)?,
        })
    }

    fn weights(&mut self, spec: &Spec) -> Result<Weights<B::Weight>, BackendError> {
        let (vocab, dim) = (spec.vocab, spec.dim);
        let embed = self.take("embed", vocab, dim)?;
        let embed_norm = self.take_if(spec.embed_norm, "embed_norm", dim)?;
        let ropes =
            (0..spec.ropes).map(|i| self.take(&format!("rope.{i}"), 1, 0)).collect::<Result<_, _>>()?;
        let per_layer = spec.per_layer.as_ref().map(|e| self.per_layer(spec, e.dim)).transpose()?;
        let width = spec.per_layer.as_ref().map(|e| e.dim);
        let layers = spec.layers.iter().enumerate();
        let layers = layers.map(|(i, layer)| self.layer(i, dim, layer, width)).collect::<Result<_, _>>()?;
        let norm = self.take("norm", 1, dim)?;
        let head = if spec.tied_head { None } else { Some(self.take("head", vocab, dim)?) };
        Ok(Weights { embed, embed_norm, per_layer, ropes, layers, norm, head })
    }
}

/// What a step writes. Rows are those of the batch, at most `batch_tokens`.
pub struct State<B: Backend> {
    pub x: B::Buffer,          // (rows, dim): the residual stream
    pub y: B::Buffer,          // (rows, dim): what goes into a half block and what comes out of it
    pub q: B::Buffer,          // (rows, heads * head_dim)
    pub k: B::Buffer,          // (rows, kv_heads * head_dim)
    pub v: B::Buffer,          // (rows, kv_heads * head_dim)
    pub mix: B::Buffer,        // (rows, heads * head_dim): what attention read from the cache
    pub gate: B::Buffer,       // (rows, ffn_dim), or (rows, heads * head_dim): the gate on `mix`
    pub up: B::Buffer,         // (rows, ffn_dim)
    pub extra: B::Buffer,      // (rows, layers, per_layer): vectors of tokens for each layer
    pub projected: B::Buffer,  // as `extra`, while it is made
    pub picked: Vec<u32>,      // (rows): which rows of `extra` are a layer's
    pub scores: B::Buffer,     // (rows, experts): products of a router
    pub routed: B::Buffer,     // (rows, dim): what the experts give
    pub logits: B::Buffer,     // (logit_rows, vocab)
    pub caches: Vec<B::Cache>, // one a layer
}

impl<B: Backend> State<B> {
    fn new(backend: &mut B, plan: &Plan) -> Result<Self, BackendError> {
        backend.reserve(plan.batch_tokens as usize, plan.input_width)?;
        if let Some(shape) = plan.experts {
            backend.reserve_experts(plan.batch_tokens as usize, shape)?;
        }
        let BufferLens { x, y, q, k, v, mix, gate, up, extra, scores, routed, logits } = plan.buffers;
        Ok(Self {
            x: backend.buffer(x)?,
            y: backend.buffer(y)?,
            q: backend.buffer(q)?,
            k: backend.buffer(k)?,
            v: backend.buffer(v)?,
            mix: backend.buffer(mix)?,
            gate: backend.buffer(gate)?,
            up: backend.buffer(up)?,
            extra: backend.buffer(extra)?,
            projected: backend.buffer(extra)?,
            picked: Vec::with_capacity(plan.batch_tokens as usize),
            scores: backend.buffer(scores)?,
            routed: backend.buffer(routed)?,
            logits: backend.buffer(logits)?,
            caches: plan.caches.iter().map(|shape| backend.cache(*shape)).collect::<Result<_, _>>()?,
        })
    }
}

/// A model on one backend.
pub struct Model<B: Backend> {
    backend: B,
    spec: Spec,
    weights: Weights<B::Weight>,
    state: State<B>,
    /// Of the layers that forget: window and ring length.
    rings: Vec<(u32, u32)>,
    info: ModelInfo,
    text: Arc<dyn Text>,
}

impl<B: Backend> Model<B> {
    /// Makes the weights of `mapped` resident and allocates what `plan` says; nothing is allocated after this.
    /// `name` tells people which backend it is.
    ///
    /// # Errors
    /// [`LoadError::Backend`] where the backend has no kernel for a layout or memory runs out.
    pub fn new(
        mapped: &Mapped,
        mut backend: B,
        name: String,
        plan: &Plan,
        text: Arc<dyn Text>,
    ) -> Result<Self, LoadError> {
        let spec = mapped.spec.clone();
        let weights = Loader { mapped, backend: &mut backend }.weights(&spec)?;
        let state = State::new(&mut backend, plan)?;
        let info = ModelInfo {
            family: spec.family.clone(),
            hash: mapped.hash,
            vocab: spec.vocab,
            context: plan.context,
            slots: plan.slots,
            batch_tokens: plan.batch_tokens,
            logit_rows: plan.logit_rows,
            weight_bytes: plan.weight_bytes,
            working_bytes: plan.working_bytes,
            backend: name,
            generation: mapped.generation.clone(),
        };
        let layers = spec.layers.iter().zip(&plan.caches);
        let rings = layers.filter(|(_, cache)| cache.capacity < plan.context);
        let mut rings: Vec<_> =
            rings.filter_map(|(layer, cache)| Some((layer.attention.window?, cache.capacity))).collect();
        rings.sort_unstable();
        rings.dedup();
        Ok(Self { backend, spec, weights, state, rings, info, text })
    }

    /// Panics where a caller broke the contract of [`Engine::step`].
    fn check_step(&self, spans: &[Span], tokens: &[u32], wanted: &[u32], logits: &[f32]) {
        let info = &self.info;
        let rows: u64 = spans.iter().map(|s| u64::from(s.len)).sum();
        assert!(rows == tokens.len() as u64 && (1..=u64::from(info.batch_tokens)).contains(&rows));
        for span in spans {
            let end = u64::from(span.start) + u64::from(span.len);
            assert!(span.len > 0 && span.slot < info.slots && end <= u64::from(info.context), "{span:?}");
        }
        assert!(wanted.len() <= info.logit_rows as usize && wanted.iter().all(|w| u64::from(*w) < rows));
        assert_eq!(logits.len(), wanted.len() * info.vocab as usize);
    }
}

impl<B> Engine for Model<B>
where
    B: Backend + Send,
    B::Weight: Send,
    B::Buffer: Send,
    B::Cache: Send,
{
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn text(&self) -> Arc<dyn Text> {
        self.text.clone()
    }

    fn step(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        wanted: &[u32],
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        self.check_step(spans, tokens, wanted, logits);
        if let Some(token) = tokens.iter().find(|t| **t >= self.spec.vocab) {
            let problem = format!("embed has {} rows; there is no token {token}", self.spec.vocab);
            return Err(BackendError::Tensor { problem });
        }
        graph::forward(&mut self.backend, &self.spec, &self.weights, &mut self.state, spans, tokens, wanted)?;
        self.backend.read(&self.state.logits, logits)
    }

    fn keep(&self, len: u32, written: u32) -> u32 {
        // The next query, at `len`, sees back to `len + 1 - window`; a ring has lost what lies more than its
        // length behind the furthest position ever written.
        let whole =
            |(window, ring): &(u32, u32)| (len + 1).saturating_sub(*window) >= written.saturating_sub(*ring);
        if len <= written && self.rings.iter().all(whole) { len } else { 0 }
    }
}
