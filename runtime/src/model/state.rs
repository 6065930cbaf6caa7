//! What a step of a model writes.

use muse_kernels::{Backend, BackendError};

use crate::plan::{BufferLens, Plan};

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
    pub(super) fn new(backend: &mut B, plan: &Plan) -> Result<Self, BackendError> {
        backend.reserve(plan.batch_tokens as usize, plan.input_width)?;
        if let Some(shape) = plan.experts {
            backend.reserve_experts(plan.batch_tokens as usize, shape)?;
        }
        let BufferLens { x, y, q, k, v, mix, gate, up, extra, projected, scores, routed, logits } =
            plan.buffers;
        let mut buffer = |len: u64| {
            backend.buffer(usize::try_from(len).expect("a length within the budget fits the address space"))
        };
        Ok(Self {
            x: buffer(x)?,
            y: buffer(y)?,
            q: buffer(q)?,
            k: buffer(k)?,
            v: buffer(v)?,
            mix: buffer(mix)?,
            gate: buffer(gate)?,
            up: buffer(up)?,
            extra: buffer(extra)?,
            projected: buffer(projected)?,
            picked: Vec::with_capacity(plan.batch_tokens as usize),
            scores: buffer(scores)?,
            routed: buffer(routed)?,
            logits: buffer(logits)?,
            caches: plan.caches.iter().map(|shape| backend.cache(*shape)).collect::<Result<_, _>>()?,
        })
    }
}
