//! What a step of a model writes.

use muse_kernels::{Backend, BackendError, CacheShape, Span};

use crate::flash::Flash;
use crate::plan::{BufferLens, Plan};

/// What a step writes. Rows are those of the batch, at most `batch_tokens`.
pub struct State<B: Backend> {
    pub x: B::Buffer,            // (rows, dim): the residual stream
    pub y: B::Buffer,            // (rows, dim): what goes into a half block and what comes out of it
    pub q: B::Buffer,            // (rows, heads * head_dim), or (rows, channels) of a gated DeltaNet
    pub k: B::Buffer,            // (rows, kv_heads * head_dim), or (rows, value_heads): decays
    pub v: B::Buffer,            // (rows, kv_heads * head_dim), or (rows, value_heads): betas
    pub q_rope: B::Buffer,       // (rows, heads * rope_dim): the rotated part of queries that meet latents
    pub k_rope: B::Buffer,       // (rows, rope_dim)
    pub index_q: B::Buffer,      // (rows, heads * head_dim) of what scores positions
    pub index_k: B::Buffer,      // (rows, head_dim) of it
    pub index_weight: B::Buffer, // (rows, heads) of it
    pub chosen: B::Buffer,       // (rows, top): the positions that queries meet
    pub mix: B::Buffer,          // (rows, heads * head_dim): what attention read from the cache
    pub gate: B::Buffer,         // (rows, ffn_dim), or (rows, heads * head_dim): the gate on `mix`
    pub up: B::Buffer,           // (rows, ffn_dim)
    pub extra: B::Buffer,        // (rows, layers, per_layer): vectors of tokens for each layer
    pub projected: B::Buffer,    // as `extra`, while it is made
    pub picked: Vec<u32>,        // (rows): which rows of `extra` are a layer's
    pub scores: B::Buffer,       // (rows, experts): products of a router
    pub token_gate: B::Buffer,   // (rows): the gate on what a dense feed-forward gives
    pub routed: B::Buffer,       // (rows, dim): what the experts give
    pub narrow: B::Buffer,       // (rows, latent): what experts of a width of their own read
    pub blended: B::Buffer,      // (rows, latent): what they give
    pub logits: B::Buffer,       // (logit_rows, vocab)
    pub best: B::Buffer,         // (logit_rows, Best::WIDTH), where they are read in the place of logits
    pub caches: Vec<B::Cache>,   // one a layer, or one for all where nothing is kept between steps
    /// One a layer; none where it does not score positions.
    pub index_caches: Vec<Option<B::Cache>>,
    /// One a layer; none where it has attention.
    pub delta_states: Vec<Option<B::DeltaState>>,
    /// [`Vision::axes`](muse_format::Vision::axes).
    pub axes: Option<[u32; 2]>,
    /// What rows turn by where not all turn by their positions; else empty.
    pub turns: Vec<[u32; 3]>, // (rows)
    /// The spans of a step cut where rows see each other, and which of them do; empty where none do.
    pub pieces: Vec<Span>, // (rows)
    pub joint: Vec<bool>, // (rows)
    /// Whether they do in layers without a window too.
    pub joint_everywhere: bool,
    /// Experts that stay in the file.
    pub flash: Option<Flash>,
    /// What a drafter reads.
    pub hidden: Option<Hidden<B>>,
}

/// What a drafter reads of the rows of a step: what some layers give, or the last norm.
pub struct Hidden<B: Backend> {
    pub layers: Vec<u32>,
    /// What the last norm gives of all rows; then there are no layers.
    pub last: bool,
    pub values: B::Buffer, // (rows, layers, dim), or (rows and those that are kept, dim)
}

impl<B: Backend> State<B> {
    /// The cache that layer `index` stores in.
    pub fn own_cache(&self, index: usize) -> usize {
        if self.caches.len() == 1 { 0 } else { index }
    }

    pub(super) fn new(backend: &mut B, plan: &Plan, flash: Option<Flash>) -> Result<Self, BackendError> {
        backend.reserve(plan.product_rows as usize, plan.input_width)?;
        if let Some(shape) = plan.experts {
            backend.reserve_experts(plan.batch_tokens as usize, shape)?;
        }
        if let Some(shape) = plan.heads {
            backend.reserve_heads(plan.batch_tokens as usize, shape)?;
        }
        if let Some(cache) = plan.index_caches.iter().flatten().next() {
            backend.reserve_choose(cache.capacity as usize)?;
        }
        if plan.buffers.best > 0 {
            let rows = plan.logit_rows as usize;
            backend.reserve_best(rows, plan.buffers.logits as usize / rows)?;
        }
        let vision = plan.vision.as_ref();
        Ok(Self {
            axes: vision.and_then(|vision| vision.axes),
            turns: Vec::with_capacity(vision.map_or(0, |vision| vision.turned as usize)),
            pieces: Vec::with_capacity(vision.map_or(0, |vision| vision.pieces as usize)),
            joint: Vec::with_capacity(vision.map_or(0, |vision| vision.pieces as usize)),
            joint_everywhere: vision.is_some_and(|vision| vision.joint_everywhere),
            flash,
            index_caches: plan
                .index_caches
                .iter()
                .map(|shape| shape.map(|shape| backend.cache(shape)).transpose())
                .collect::<Result<_, _>>()?,
            delta_states: plan
                .delta_states
                .iter()
                .map(|shape| shape.map(|shape| backend.delta_state(shape)).transpose())
                .collect::<Result<_, _>>()?,
            ..Self::of(backend, plan.buffers, &plan.caches, plan.batch_tokens)?
        })
    }

    /// Buffers and caches of layers of attention alone, for `rows` rows.
    pub(super) fn of(
        backend: &mut B,
        lens: BufferLens,
        caches: &[CacheShape],
        rows: u32,
    ) -> Result<Self, BackendError> {
        let mut buffer = |len: u64| buffer(backend, len);
        Ok(Self {
            x: buffer(lens.x)?,
            y: buffer(lens.y)?,
            q: buffer(lens.q)?,
            k: buffer(lens.k)?,
            v: buffer(lens.v)?,
            q_rope: buffer(lens.q_rope)?,
            k_rope: buffer(lens.k_rope)?,
            index_q: buffer(lens.index_q)?,
            index_k: buffer(lens.index_k)?,
            index_weight: buffer(lens.index_weight)?,
            chosen: buffer(lens.chosen)?,
            mix: buffer(lens.mix)?,
            gate: buffer(lens.gate)?,
            up: buffer(lens.up)?,
            extra: buffer(lens.extra)?,
            projected: buffer(lens.projected)?,
            picked: Vec::with_capacity(rows as usize),
            scores: buffer(lens.scores)?,
            token_gate: buffer(lens.token_gate)?,
            routed: buffer(lens.routed)?,
            narrow: buffer(lens.narrow)?,
            blended: buffer(lens.blended)?,
            logits: buffer(lens.logits)?,
            best: buffer(lens.best)?,
            caches: caches.iter().map(|shape| backend.cache(*shape)).collect::<Result<_, _>>()?,
            index_caches: Vec::new(),
            delta_states: Vec::new(),
            axes: None,
            turns: Vec::new(),
            pieces: Vec::new(),
            joint: Vec::new(),
            joint_everywhere: false,
            flash: None,
            hidden: None,
        })
    }
}

/// A buffer of a length that a plan says.
pub(super) fn buffer<B: Backend>(backend: &mut B, len: u64) -> Result<B::Buffer, BackendError> {
    backend.buffer(usize::try_from(len).expect("a length within the budget fits the address space"))
}
