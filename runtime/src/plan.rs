//! Every byte that loading a model allocates, known before any of it is.

use std::fmt;

use muse_format::{Experts, Layer, Layout, Spec};
use muse_kernels::{
    CacheDtype, CacheShape, CpuBackend, ExpertsShape, TILE_POSITIONS, cuda_experts_bytes, cuda_reserved_bytes,
};
use serde::Serialize;

use crate::{BackendChoice, LoadError, LoadOptions};

/// Positions a slot gets where the caller does not say: what chats need, not what a model could hold.
pub const CONTEXT_DEFAULT: u32 = 8192;
/// Most tokens proposed for one answer in one step.
pub const PROPOSED_MAX: u32 = 12;
const SLOTS_MAX: u32 = 1024;
const BATCH_TOKENS_MAX: u32 = 1 << 16;

/// Lengths in f32 of the buffers of [`crate::model::State`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BufferLens {
    pub x: usize,
    pub y: usize,
    pub q: usize,
    pub k: usize,
    pub v: usize,
    pub mix: usize,
    pub gate: usize,
    pub up: usize,
    pub extra: usize,
    pub scores: usize,
    pub routed: usize,
    pub logits: usize,
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

/// The largest of all layers' mixtures in each of its numbers; none where there are none.
fn experts_shape(spec: &Spec) -> Option<ExpertsShape> {
    let widest = |number: fn(&Experts) -> u32| {
        spec.layers.iter().filter_map(|layer| layer.experts.as_ref()).map(number).max()
    };
    Some(ExpertsShape {
        count: widest(|e| e.count)? as usize,
        used: widest(|e| e.used)? as usize,
        dim: spec.dim as usize,
        ffn_dim: widest(|e| e.dim)? as usize,
    })
}

/// Widest input of a matrix product, for [`muse_kernels::Backend::reserve`].
fn widest_input(spec: &Spec) -> u32 {
    let inputs = |l: &Layer| [l.attention.heads * l.attention.head_dim, ffn_dim(l), experts_dim(l)];
    spec.layers.iter().flat_map(inputs).chain([spec.dim, per_layer_dim(spec)]).max().unwrap_or(0)
}

/// One line of the memory table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// `weights`, `activations`, `scratch`, `logits` or `cache`.
    pub what: &'static str,
    /// Shape and type, for people.
    pub shape: String,
    pub bytes: u64,
}

/// What a model will take. `Display` prints it as a table in MiB.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Positions a slot.
    pub context: u32,
    pub slots: u32,
    pub batch_tokens: u32,
    pub logit_rows: u32,
    /// Bytes of the mapped tensors.
    pub weight_bytes: u64,
    /// Bytes allocated beside them: activations, logits and cache.
    pub working_bytes: u64,
    /// What the two together may take.
    pub budget_bytes: u64,
    pub items: Vec<Item>,
    #[serde(skip)]
    pub buffers: BufferLens,
    /// Widest input of a matrix product.
    #[serde(skip)]
    pub input_width: usize,
    /// The largest mixture of experts.
    #[serde(skip)]
    pub experts: Option<ExpertsShape>,
    /// One a layer.
    #[serde(skip)]
    pub caches: Vec<CacheShape>,
}

/// The numbers that sizes follow from, within their bounds.
#[derive(Clone, Copy)]
struct Dims {
    context: u32,
    slots: u32,
    batch_tokens: u32,
    logit_rows: u32,
    dtype: CacheDtype,
    backend: BackendChoice,
}

/// Positions that a layer keeps, in whole tiles: all, or a ring that still holds the whole window of the first row
/// of the largest batch after the last row is stored.
fn capacity(layer: &Layer, d: Dims) -> u32 {
    let needed = layer.attention.window.map_or(d.context, |w| d.context.min(w + d.batch_tokens - 1));
    needed.next_multiple_of(TILE_POSITIONS as u32)
}

fn cache_shape(layer: &Layer, d: Dims) -> CacheShape {
    let a = &layer.attention;
    let (kv_heads, head_dim) = (a.kv_heads, a.head_dim);
    // A layer that reads another's keeps none.
    let slots = if a.kv_from.is_none() { d.slots } else { 0 };
    CacheShape { dtype: d.dtype, slots, capacity: capacity(layer, d), kv_heads, head_dim }
}

/// Bytes of the caches. Cannot overflow: 1024 layers x 2^10 slots x 2^27 positions x 2^24 values x 8 bytes < 2^75.
fn cache_bytes(spec: &Spec, d: Dims) -> u128 {
    let layer = |layer: &Layer| {
        let shape = cache_shape(layer, d);
        let tile = CacheShape { slots: 1, capacity: TILE_POSITIONS as u32, ..shape }.byte_len();
        let tiles = u128::from(shape.slots) * u128::from(shape.capacity / TILE_POSITIONS as u32);
        tiles * u128::from(tile)
    };
    spec.layers.iter().map(layer).sum()
}

/// Elements of each buffer, in the order of [`BufferLens`], `extra` twice.
fn buffer_lens(spec: &Spec, d: Dims) -> [u64; 13] {
    let widest = |width: fn(&Layer) -> u32| spec.layers.iter().map(width).max().unwrap_or(0);
    let q = widest(|l| l.attention.heads * l.attention.head_dim);
    let kv = widest(|l| l.attention.kv_heads * l.attention.head_dim);
    let ffn = widest(ffn_dim).max(per_layer_dim(spec));
    let experts = experts_shape(spec);
    let scores = experts.map_or(0, |experts| experts.count as u32);
    let routed = experts.map_or(0, |_| spec.dim);
    let gate = widest(|l| if l.attention.out_gate { l.attention.heads * l.attention.head_dim } else { 0 });
    let rows = |width: u32| u64::from(d.batch_tokens) * u64::from(width);
    let logits = u64::from(d.logit_rows) * u64::from(spec.vocab);
    let extra = spec.per_layer_width();
    let [gate, up, extra, scores, routed] = [ffn.max(gate), ffn, extra, scores, routed].map(rows);
    let dim = rows(spec.dim);
    [dim, dim, rows(q), rows(kv), rows(kv), rows(q), gate, up, extra, extra, scores, routed, logits]
}

/// Bytes of quantized activations, of attention's partial sums and of experts' inputs and outputs, which the reference
/// backend does not keep.
fn scratch_bytes(spec: &Spec, d: Dims) -> [u64; 3] {
    let (rows, width) = (u64::from(d.batch_tokens), widest_input(spec).into());
    let experts =
        |bytes: fn(u64, ExpertsShape) -> u64| experts_shape(spec).map_or(0, |shape| bytes(rows, shape));
    match d.backend {
        BackendChoice::Cpu => {
            let experts = experts(CpuBackend::experts_bytes);
            [CpuBackend::reserved_bytes(rows, width), CpuBackend::attention_bytes(width), experts]
        }
        BackendChoice::Cuda => [cuda_reserved_bytes(rows, width), 0, experts(cuda_experts_bytes)],
        BackendChoice::Reference => [0; 3],
    }
}

/// Bytes beside the weights. Each buffer is below 2^16 rows x 2^24 values.
fn working_bytes(spec: &Spec, d: Dims) -> u128 {
    let scratch: u64 = scratch_bytes(spec, d).iter().sum();
    let buffers = 4 * buffer_lens(spec, d).iter().sum::<u64>() + scratch;
    u128::from(buffers) + cache_bytes(spec, d)
}

fn checked(name: &'static str, value: u32, max: u32, rule: &'static str) -> Result<u32, LoadError> {
    if value == 0 || value > max {
        return Err(LoadError::Option { name, value: value.into(), max: max.into(), rule });
    }
    Ok(value)
}

impl Plan {
    /// Plans a model of `spec` whose tensors take `weight_bytes`, its matrices stored as `layouts`.
    ///
    /// # Errors
    /// [`LoadError::Option`] for an option out of its bounds, [`LoadError::Budget`] where weights and working set
    /// exceed [`LoadOptions::memory_budget`], or this machine's memory where that is `None`.
    pub fn new(
        spec: &Spec,
        weight_bytes: u64,
        layouts: impl IntoIterator<Item = Layout>,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let context = options.context.unwrap_or(spec.context.min(CONTEXT_DEFAULT));
        let slots = checked("slots", options.slots, SLOTS_MAX, "sequences kept at once")?;
        let batch = checked("batch_tokens", options.batch_tokens, BATCH_TOKENS_MAX, "tokens of one step")?;
        let batch_tokens = batch.max(slots);
        let exact = layouts.into_iter().all(|layout| layout == Layout::F32);
        let dims = Dims {
            context: checked("context", context, spec.context, "the positions this model was trained for")?,
            slots,
            batch_tokens,
            logit_rows: options.logit_rows.unwrap_or(slots + PROPOSED_MAX).clamp(slots, batch_tokens),
            backend: options.backend,
            dtype: options.cache.unwrap_or(if exact { CacheDtype::F32 } else { CacheDtype::F16 }),
        };
        let budget = options.memory_budget.unwrap_or_else(machine_memory);
        let fits = |context| {
            let total = u128::from(weight_bytes) + working_bytes(spec, Dims { context, ..dims });
            total <= u128::from(budget)
        };
        if !fits(dims.context) {
            let cache = cache_bytes(spec, dims);
            return Err(LoadError::Budget(Box::new(OverBudget {
                weight_bytes,
                cache_bytes: saturated(cache),
                buffer_bytes: saturated(working_bytes(spec, dims) - cache),
                budget_bytes: budget,
                context: dims.context,
                slots,
                context_that_fits: largest(dims.context, fits),
            })));
        }
        Ok(Self::table(spec, weight_bytes, budget, dims))
    }

    fn table(spec: &Spec, weight_bytes: u64, budget_bytes: u64, d: Dims) -> Self {
        let caches: Vec<_> = spec.layers.iter().map(|layer| cache_shape(layer, d)).collect();
        let lens = buffer_lens(spec, d);
        let fit = |len: u64| usize::try_from(len).expect("a length within the budget fits the address space");
        let [x, y, q, k, v, mix, gate, up, extra, _, scores, routed, logits] = lens.map(fit);
        let mut items = vec![Item { what: "weights", shape: "mapped file".into(), bytes: weight_bytes }];
        let widths =
            ["x", "y", "q", "k", "v", "attention", "gate", "up", "extra", "projected", "scores", "routed"];
        let rows = u64::from(d.batch_tokens);
        items.extend(widths.iter().zip(lens).filter(|(_, len)| *len > 0).map(|(name, len)| Item {
            what: "activations",
            shape: format!("{name}: {rows} tokens x {} f32", len / rows),
            bytes: 4 * len,
        }));
        let input_width = widest_input(spec);
        let shape = format!("quantized activations: {rows} tokens x {input_width} q8");
        let [quantized, partial, experts] = scratch_bytes(spec, d);
        items.push(Item { what: "scratch", shape, bytes: quantized });
        let shape = "partial sums of attention, f32".into();
        items.push(Item { what: "scratch", shape, bytes: partial });
        if let Some(ExpertsShape { count, used, .. }) = experts_shape(spec) {
            let shape = format!("experts: {rows} tokens, {used} of {count} each, f32");
            items.push(Item { what: "scratch", shape, bytes: experts });
        }
        let shape = format!("{} rows x {} f32", d.logit_rows, spec.vocab);
        items.push(Item { what: "logits", shape, bytes: 4 * lens[12] });
        items.extend(cache_items(&caches, d.context));
        Self {
            context: d.context,
            slots: d.slots,
            batch_tokens: d.batch_tokens,
            logit_rows: d.logit_rows,
            weight_bytes,
            working_bytes: items[1..].iter().map(|item| item.bytes).sum(),
            budget_bytes,
            items,
            buffers: BufferLens { x, y, q, k, v, mix, gate, up, extra, scores, routed, logits },
            input_width: input_width as usize,
            experts: experts_shape(spec),
            caches,
        }
    }
}

/// One item for each group of layers whose caches are alike.
fn cache_items(caches: &[CacheShape], context: u32) -> Vec<Item> {
    let mut groups: Vec<(CacheShape, u64)> = Vec::new();
    for shape in caches.iter().filter(|shape| shape.slots > 0) {
        match groups.iter_mut().find(|(other, _)| other == shape) {
            Some((_, layers)) => *layers += 1,
            None => groups.push((*shape, 1)),
        }
    }
    let item = |(s, layers): &(CacheShape, u64)| {
        let kind = if s.capacity < context { "ring" } else { "full" };
        let shape = format!(
            "{layers} {kind} layers: {} slots x {} positions x 2 x {} heads x {} {}",
            s.slots, s.capacity, s.kv_heads, s.head_dim, s.dtype
        );
        Item { what: "cache", shape, bytes: layers * s.byte_len() }
    };
    groups.iter().map(item).collect()
}

/// The largest value in `1..=most` that `fits`, where everything below a fitting value fits.
fn largest(most: u32, fits: impl Fn(u32) -> bool) -> Option<u32> {
    let (mut low, mut high) = (0, most + 1); // `low` fits or is 0, `high` does not fit
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    (low > 0).then_some(low)
}

fn saturated(bytes: u128) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// Bytes of RAM of this machine.
fn machine_memory() -> u64 {
    let info = rustix::system::sysinfo();
    info.totalram.saturating_mul(u64::from(info.mem_unit.max(1)))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Item { what, shape, bytes } in &self.items {
            writeln!(f, "{what:<12}{:>10.1} MiB  {shape}", mib(*bytes))?;
        }
        let total = self.weight_bytes + self.working_bytes;
        let budget = mib(self.budget_bytes);
        write!(f, "{:<12}{:>10.1} MiB  of a budget of {budget:.1} MiB", "total", mib(total))
    }
}

/// A model that does not fit, in numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OverBudget {
    pub weight_bytes: u64,
    pub cache_bytes: u64,
    pub buffer_bytes: u64,
    pub budget_bytes: u64,
    pub context: u32,
    pub slots: u32,
    /// The longest context with which it would fit.
    pub context_that_fits: Option<u32>,
}

impl fmt::Display for OverBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = [self.weight_bytes, self.cache_bytes, self.buffer_bytes];
        let total = parts.iter().fold(0_u64, |sum, bytes| sum.saturating_add(*bytes));
        let [weights, cache, buffers] = parts.map(mib);
        write!(
            f,
            "it takes {:.0} MiB (weights {weights:.0}, cache {cache:.0} for {} slots of {} positions, buffers \
             {buffers:.0}) and the budget is {:.0} MiB: ",
            mib(total),
            self.slots,
            self.context,
            mib(self.budget_bytes)
        )?;
        match self.context_that_fits {
            Some(context) => write!(f, "a context of {context} fits, or take fewer slots"),
            None => write!(f, "no context fits; take fewer slots or a file with fewer bits a weight"),
        }
    }
}
