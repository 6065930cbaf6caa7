//! What follows from a spec and its options: lengths of buffers, shapes of caches, bytes of scratch.

use muse_format::{Attention, Embedding, Experts, Layer, Role, Spec, Vision};
use muse_kernels::{
    Best, CacheDtype, CacheShape, CpuBackend, DeltaShape, ExpertsShape, HeadsShape, Npu, TILE_POSITIONS,
    cuda_attention_bytes, cuda_best_bytes, cuda_choose_bytes, cuda_experts_bytes, cuda_graphs_bytes,
    cuda_heads_bytes, cuda_reserved_bytes, cuda_table_bytes,
};

use super::PROPOSED_MAX;
use super::mixers::{Widths, heads_shape, kept};
use crate::audio::AudioPlan;
use crate::vision::VisionPlan;
use crate::{BackendChoice, Placement};

/// Lengths in f32 of the buffers of [`crate::model::State`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BufferLens {
    pub x: u64,
    pub y: u64,
    pub q: u64,
    pub k: u64,
    pub v: u64,
    pub q_rope: u64,
    pub k_rope: u64,
    pub index_q: u64,
    pub index_k: u64,
    pub index_weight: u64,
    pub chosen: u64,
    pub mix: u64,
    pub gate: u64,
    pub up: u64,
    pub extra: u64,
    pub projected: u64,
    pub scores: u64,
    pub token_gate: u64,
    pub routed: u64,
    pub narrow: u64,
    pub blended: u64,
    pub logits: u64,
    /// What [`Best`] holds of each row of logits, where a backend brings no more of them to the host: on a GPU.
    pub best: u64,
}

impl BufferLens {
    /// Of the buffers that hold a row for each token, with what people call them.
    pub fn rows(&self) -> [(&'static str, u64); 21] {
        [
            ("x", self.x),
            ("y", self.y),
            ("q", self.q),
            ("k", self.k),
            ("v", self.v),
            ("rotated q", self.q_rope),
            ("rotated k", self.k_rope),
            ("index q", self.index_q),
            ("index k", self.index_k),
            ("index weights", self.index_weight),
            ("chosen", self.chosen),
            ("attention", self.mix),
            ("gate", self.gate),
            ("up", self.up),
            ("extra", self.extra),
            ("projected", self.projected),
            ("scores", self.scores),
            ("token gate", self.token_gate),
            ("routed", self.routed),
            ("narrow", self.narrow),
            ("blended", self.blended),
        ]
    }

    /// Bytes of all.
    pub(super) fn byte_len(&self) -> u64 {
        4 * (self.rows().iter().map(|(_, len)| len).sum::<u64>() + self.logits + self.best)
    }
}

/// Hidden width of a layer's dense feed-forward; 0 for none.
fn ffn_dim(layer: &Layer) -> u32 {
    layer.ffn.as_ref().map_or(0, |ffn| ffn.dim)
}

/// Width of each layer's own vector of a token; 0 for none.
fn per_layer_dim(spec: &Spec) -> u32 {
    spec.per_layer.as_ref().map_or(0, |e| e.dim)
}

/// Hidden width of one of a layer's experts; 0 for none.
fn experts_dim(layer: &Layer) -> u32 {
    layer.experts.as_ref().map_or(0, |experts| experts.dim)
}

/// Width that a layer's experts run at where it is their own; 0 for none.
fn latent_dim(layer: &Layer) -> u32 {
    layer.experts.as_ref().and_then(|experts| experts.latent).unwrap_or(0)
}

/// The larger of two mixtures in each of its numbers.
fn larger(a: ExpertsShape, b: ExpertsShape) -> ExpertsShape {
    ExpertsShape {
        count: a.count.max(b.count),
        used: a.used.max(b.used),
        dim: a.dim.max(b.dim),
        ffn_dim: a.ffn_dim.max(b.ffn_dim),
    }
}

/// The largest of all layers' mixtures in each of its numbers, a drafter's included; none where there are none.
pub(super) fn mixture_shape(spec: &Spec, d: Dims) -> Option<ExpertsShape> {
    let (own, drafter) = (experts_shape(spec), d.products.experts);
    own.zip(drafter).map(|(own, drafter)| larger(own, drafter)).or(own).or(drafter)
}

/// [`mixture_shape`] of `spec` alone.
pub(super) fn experts_shape(spec: &Spec) -> Option<ExpertsShape> {
    let widest = |number: fn(&Experts) -> u32| {
        spec.layers.iter().filter_map(|layer| layer.experts.as_ref()).map(number).max()
    };
    let width = |layer: &Layer| Some(layer.experts.as_ref()?.latent.unwrap_or(spec.dim));
    Some(ExpertsShape {
        count: widest(|e| e.count)? as usize,
        used: widest(|e| e.used)? as usize,
        dim: spec.layers.iter().filter_map(width).max()? as usize,
        ffn_dim: widest(|e| e.dim)? as usize,
    })
}

/// Numbers of the widest vector of a text on its way after pooling; 0 for a model that writes text.
pub(super) fn pooled_dim(spec: &Spec) -> u32 {
    let dense = |embedding: &Embedding| embedding.dense.iter().map(|dense| dense.dim).max();
    spec.embedding.as_ref().map_or(0, |embedding| dense(embedding).unwrap_or(0).max(spec.dim))
}

/// Rows and width of a matrix product, the mixture of experts of a layer, and heads with products of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Products {
    pub rows: u32,
    pub width: u32,
    pub experts: Option<ExpertsShape>,
    pub heads: Option<HeadsShape>,
}

/// Widest input of a matrix product, for [`muse_kernels::Backend::reserve`].
pub(super) fn widest_input(spec: &Spec, d: Dims) -> u32 {
    let inputs = |l: &Layer| [Widths::of(l).input, ffn_dim(l), experts_dim(l), latent_dim(l)];
    let vision = spec.vision.as_ref().map_or(0, VisionPlan::widest_input);
    let audio = spec.audio.as_ref().map_or(0, AudioPlan::widest_input);
    let read = spec.drafter.as_ref().map_or(0, |drafter| drafter.width(spec.dim));
    let others = [spec.dim, per_layer_dim(spec), pooled_dim(spec), vision, audio, read, d.products.width];
    spec.layers.iter().flat_map(inputs).chain(others).max().unwrap_or(0)
}

/// What the tower over images takes; none where there is none.
pub(super) fn vision_plan(spec: &Spec, d: Dims) -> Option<VisionPlan> {
    let tokens = |vision: &Vision| vision.pixels.tokens_max.min(d.image_tokens).min(d.context);
    spec.vision.as_ref().map(|v| VisionPlan::new(spec, v, tokens(v), d.batch_tokens, d.dtype))
}

/// What the tower over sounds takes; none where there is none.
pub(super) fn audio_plan(spec: &Spec, d: Dims) -> Option<AudioPlan> {
    let tokens = d.audio_tokens.min(d.context);
    spec.audio.as_ref().map(|audio| AudioPlan::new(spec, audio, tokens, d.batch_tokens))
}

/// Most rows of a matrix product.
pub(super) fn product_rows(spec: &Spec, d: Dims) -> u32 {
    vision_plan(spec, d).map_or(0, |vision| vision.rows).max(d.batch_tokens).max(d.products.rows)
}

/// The numbers that sizes follow from, within their bounds.
#[derive(Clone, Copy)]
pub(super) struct Dims {
    pub context: u32,
    pub slots: u32,
    pub batch_tokens: u32,
    pub logit_rows: u32,
    pub dtype: CacheDtype,
    pub backend: BackendChoice,
    pub weights: Placement,
    /// Most tokens of one image.
    pub image_tokens: u32,
    /// Most tokens of one sound.
    pub audio_tokens: u32,
    /// The largest products of a drafter beside it.
    pub products: Products,
    /// Bytes that an NPU reads and writes.
    pub npu: u64,
}

/// Positions that a layer keeps, in whole tiles: all, or a ring that still holds the whole window, or chunk, of the first
/// row of the largest batch after the last row is stored.
fn capacity(layer: &Layer, d: Dims) -> u32 {
    let needed = layer
        .attention()
        .and_then(Attention::reach)
        .map_or(d.context, |w| d.context.min(w + d.batch_tokens - 1));
    needed.next_multiple_of(TILE_POSITIONS as u32)
}

fn cache_shape(layer: &Layer, d: Dims) -> CacheShape {
    // A layer that reads another's keeps none, and one without attention neither.
    let own = kept(layer);
    let (kv_heads, head_dim) = own.unwrap_or_default();
    let slots = own.map_or(0, |_| d.slots);
    CacheShape { dtype: d.dtype, slots, capacity: capacity(layer, d), kv_heads, head_dim, values: true }
}

/// The keys by which a layer finds the positions that its queries meet.
pub(super) fn index_shape(layer: &Layer, d: Dims) -> Option<CacheShape> {
    let head_dim = layer.indexer()?.head_dim;
    let capacity = d.context.next_multiple_of(TILE_POSITIONS as u32);
    Some(CacheShape { dtype: d.dtype, slots: d.slots, capacity, kv_heads: 1, head_dim, values: false })
}

/// What a gated DeltaNet layer keeps. As many rows can be taken back as a step may propose.
pub(super) fn delta_shape(layer: &Layer, d: Dims) -> Option<DeltaShape> {
    let delta_net = layer.delta_net()?;
    Some(DeltaShape {
        slots: d.slots,
        key_heads: delta_net.key_heads,
        value_heads: delta_net.value_heads,
        key_dim: delta_net.key_dim,
        value_dim: delta_net.value_dim,
        taps: delta_net.taps,
        undo: PROPOSED_MAX.min(d.logit_rows - d.slots),
    })
}

/// One for each layer; where texts are read whole, one for all, as a layer's keys and values are read before the next's
/// are made.
pub(super) fn cache_shapes(spec: &Spec, d: Dims) -> impl Iterator<Item = CacheShape> {
    let shared = spec.embedding.is_some();
    let whole = d.context.next_multiple_of(TILE_POSITIONS as u32);
    let layers = spec.layers.iter().take(if shared { 1 } else { usize::MAX });
    layers.map(move |layer| {
        let shape = cache_shape(layer, d);
        if shared { CacheShape { capacity: whole, ..shape } } else { shape }
    })
}

/// Bytes of caches and recurrent states. Cannot overflow: 1024 layers x 2^10 slots x 2^27 positions x 2^24 values x 8 bytes < 2^75.
pub(super) fn cache_bytes(spec: &Spec, d: Dims) -> u128 {
    let cache = |shape: CacheShape| {
        let tile = CacheShape { slots: 1, capacity: TILE_POSITIONS as u32, ..shape }.byte_len();
        let tiles = u128::from(shape.slots) * u128::from(shape.capacity / TILE_POSITIONS as u32);
        tiles * u128::from(tile)
    };
    let recurrent = |layer| delta_shape(layer, d).map_or(0, |shape| u128::from(shape.byte_len()));
    let indices = spec.layers.iter().filter_map(|layer| index_shape(layer, d));
    cache_shapes(spec, d).chain(indices).map(cache).sum::<u128>()
        + spec.layers.iter().map(recurrent).sum::<u128>()
}

pub(super) fn buffer_lens(spec: &Spec, d: Dims) -> BufferLens {
    let widest = |width: fn(&Layer) -> u32| spec.layers.iter().map(width).max().unwrap_or(0);
    let mixer = Widths::widest(spec);
    let ffn = widest(ffn_dim).max(per_layer_dim(spec));
    let experts = experts_shape(spec);
    let rows = |width: u32| u64::from(d.batch_tokens) * u64::from(width);
    BufferLens {
        x: rows(spec.dim),
        y: rows(spec.dim),
        q: rows(mixer.q),
        k: rows(mixer.k),
        v: rows(mixer.v),
        q_rope: rows(mixer.q_rope),
        k_rope: rows(mixer.k_rope),
        index_q: rows(mixer.index_q),
        index_k: rows(mixer.index_k),
        index_weight: rows(mixer.index_weight),
        chosen: rows(mixer.chosen),
        mix: rows(mixer.mix),
        gate: rows(ffn.max(mixer.gate)),
        up: rows(ffn.max(mixer.up)),
        extra: rows(spec.per_layer_width()),
        projected: rows(spec.per_layer_width()),
        scores: rows(experts.map_or(0, |experts| experts.count as u32)),
        token_gate: rows(widest(|l| l.token_gate.into())),
        routed: rows(experts.map_or(0, |_| spec.dim)),
        narrow: rows(widest(latent_dim)),
        blended: rows(widest(latent_dim)),
        logits: u64::from(d.logit_rows) * u64::from(spec.vocab),
        best: match d.backend {
            BackendChoice::Cuda => u64::from(d.logit_rows) * Best::WIDTH as u64,
            BackendChoice::Cpu | BackendChoice::Rknn | BackendChoice::Reference => 0,
        },
    }
}

/// Bytes of quantized activations, of attention's partial sums, of experts' inputs and outputs, of heads' inputs, of
/// the scores of positions and of the best of parts of logits, which the reference backend does not keep.
pub(super) fn scratch_bytes(spec: &Spec, d: Dims) -> [u64; 6] {
    let (rows, width) = (u64::from(product_rows(spec, d)), widest_input(spec, d).into());
    let batch = u64::from(d.batch_tokens);
    let experts =
        |bytes: fn(u64, ExpertsShape) -> u64| mixture_shape(spec, d).map_or(0, |shape| bytes(batch, shape));
    let heads = heads_shape(spec, d.products);
    let positions = index_capacity(spec, d).map_or(0, u64::from);
    match d.backend {
        BackendChoice::Cpu | BackendChoice::Rknn => [
            CpuBackend::reserved_bytes(rows, width),
            CpuBackend::attention_bytes(rows, width, d.dtype),
            experts(CpuBackend::experts_bytes),
            heads.map_or(0, |shape| CpuBackend::heads_bytes(batch, shape)),
            if positions > 0 { CpuBackend::choose_bytes(positions) } else { 0 },
            0,
        ],
        BackendChoice::Cuda => {
            let layers = spec.layers.iter().filter_map(|layer| layer.experts.as_ref());
            // A drafter has one layer.
            let counts = layers.map(|experts| u64::from(experts.count));
            let counts = counts.chain(d.products.experts.map(|shape| shape.count as u64));
            let tables: u64 = counts.map(cuda_table_bytes).sum();
            [
                cuda_reserved_bytes(rows, width),
                cuda_attention_bytes(width),
                experts(cuda_experts_bytes) + tables,
                heads.map_or(0, |shape| cuda_heads_bytes(batch, shape)),
                cuda_choose_bytes(positions),
                cuda_best_bytes(d.logit_rows.into(), spec.vocab.into()),
            ]
        }
        BackendChoice::Reference => [0; 6],
    }
}

/// Where weights lie, for people.
pub(super) fn weights_lie(d: Dims) -> &'static str {
    match (d.backend, d.weights) {
        (BackendChoice::Cuda, Placement::Shared) => "mapped file, read in place",
        (BackendChoice::Cuda, _) => "copied to the GPU",
        (_, Placement::Mapped | Placement::Shared) => "mapped file",
        (_, Placement::Copied | Placement::Reserved) => "copied to memory",
    }
}

/// Positions among which some are chosen; none where no layer chooses.
pub(super) fn index_capacity(spec: &Spec, d: Dims) -> Option<u32> {
    spec.layers.iter().find_map(|layer| index_shape(layer, d)).map(|shape| shape.capacity)
}

/// Bytes of the vectors of a step's texts, before and after a product.
pub(super) fn pooled_bytes(spec: &Spec, d: Dims) -> u64 {
    2 * 4 * u64::from(d.slots) * u64::from(pooled_dim(spec))
}

/// Bytes that are left to a GPU's driver for graphs of steps; a model that embeds has none.
pub(super) fn graphs_bytes(spec: &Spec, d: Dims) -> u64 {
    let graphs = d.backend == BackendChoice::Cuda && spec.embedding.is_none();
    if graphs { cuda_graphs_bytes() } else { 0 }
}

/// Bytes that an NPU reads and writes in products of a model and of what drafts for it, where all their matrices are packed.
pub(super) fn npu_bytes(spec: &Spec, drafter: Option<&Spec>, d: Dims) -> u64 {
    let tensors = [Some(spec), drafter].into_iter().flatten().flat_map(Spec::tensors);
    let matrices = tensors.filter(|tensor| tensor.role != Role::Vector);
    Npu::bytes(product_rows(spec, d).into(), matrices.map(|tensor| tensor.cols))
}

/// Bytes beside the weights. Each buffer is below 2^16 rows x 2^24 values.
pub(super) fn working_bytes(spec: &Spec, d: Dims) -> u128 {
    let scratch: u64 = scratch_bytes(spec, d).iter().sum();
    let vision = vision_plan(spec, d).map_or(0, |vision| vision.byte_len());
    let audio = audio_plan(spec, d).map_or(0, |audio| audio.byte_len());
    let buffers = buffer_lens(spec, d).byte_len() + scratch + pooled_bytes(spec, d) + vision + audio;
    u128::from(buffers) + u128::from(graphs_bytes(spec, d)) + u128::from(d.npu) + cache_bytes(spec, d)
}
