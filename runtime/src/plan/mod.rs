//! Every byte that loading a model allocates, known before any of it is.

mod drafter;
mod experts;
mod mixers;
mod over_budget;
mod sizes;
mod table;

use std::fmt;

use muse_format::{Layout, Spec};
use muse_kernels::{BackendError, CacheDtype, CacheShape, DeltaShape, ExpertsShape, HeadsShape};
use serde::Serialize;

pub use self::drafter::DrafterFile;
pub(crate) use self::drafter::{CHAIN_KEPT, DrafterPlan};
pub(crate) use self::experts::{EXPERT_PARTS, expert_tensor};
pub use self::experts::{ExpertsOnFlash, WeightBytes};
pub use self::over_budget::OverBudget;
pub use self::sizes::BufferLens;
use self::sizes::{Dims, Products, cache_bytes, npu_bytes, working_bytes};
use crate::audio::AudioPlan;
use crate::flash::Flash;
use crate::vision::VisionPlan;
use crate::{BackendChoice, LoadError, LoadOptions, Placement};

/// Positions a slot gets where the caller does not say: what chats need, not what a model could hold.
pub const CONTEXT_DEFAULT: u32 = 8192;
/// Most tokens proposed for one answer in one step.
pub const PROPOSED_MAX: u32 = 12;
const SLOTS_MAX: u32 = 1024;
const BATCH_TOKENS_MAX: u32 = 1 << 16;

/// One line of the memory table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// `weights`, `experts`, `activations`, `scratch`, `logits`, `cache`, `state`, `images` or `sounds`.
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
    /// Bytes of the mapped tensors that count as memory: all, or all but experts and as many of these as may be hot.
    pub weight_bytes: u64,
    /// Bytes allocated beside them: activations, logits and cache.
    pub working_bytes: u64,
    /// What the two together may take.
    pub budget_bytes: u64,
    /// None where all experts are in memory, or there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experts_on_flash: Option<ExpertsOnFlash>,
    pub items: Vec<Item>,
    #[serde(skip)]
    pub buffers: BufferLens,
    /// Widest input of a matrix product.
    #[serde(skip)]
    pub input_width: usize,
    /// Most rows of a matrix product: of a step or of a part of an image.
    #[serde(skip)]
    pub product_rows: u32,
    /// What the tower over images takes.
    #[serde(skip)]
    pub(crate) vision: Option<VisionPlan>,
    /// What the tower over sounds takes.
    #[serde(skip)]
    pub(crate) audio: Option<AudioPlan>,
    /// What a drafter takes; none where there is none.
    #[serde(skip)]
    pub(crate) drafter: Option<DrafterPlan>,
    /// The largest mixture of experts.
    #[serde(skip)]
    pub experts: Option<ExpertsShape>,
    /// The most and widest heads that have a product of their own.
    #[serde(skip)]
    pub heads: Option<HeadsShape>,
    /// Numbers of the vectors of a step's texts, after pooling.
    #[serde(skip)]
    pub pooled: usize,
    /// One a layer, or one for all where texts are read whole.
    #[serde(skip)]
    pub caches: Vec<CacheShape>,
    /// One a layer; none where it does not score positions.
    #[serde(skip)]
    pub index_caches: Vec<Option<CacheShape>>,
    /// One a layer; none where it has attention.
    #[serde(skip)]
    pub delta_states: Vec<Option<DeltaShape>>,
}

fn checked(name: &'static str, value: u32, max: u32, rule: &'static str) -> Result<u32, LoadError> {
    if value == 0 || value > max {
        return Err(LoadError::Option { name, value: value.into(), max: max.into(), rule });
    }
    Ok(value)
}

impl Plan {
    /// Plans a model of `spec` whose tensors take `weights`, its matrices stored as `layouts`. Experts stay in the file
    /// where not all of them fit or [`LoadOptions::expert_memory`] has no room for them; then as many are hot as fit.
    ///
    /// # Errors
    /// [`LoadError::Option`] for an option out of its bounds, [`LoadError::Budget`] where weights and working set
    /// exceed [`LoadOptions::memory_budget`], or this machine's memory where that is `None`; of experts that may stay in
    /// the file, those of one token and layer count as weights.
    pub fn new(
        spec: &Spec,
        weights: impl Into<WeightBytes>,
        layouts: impl IntoIterator<Item = Layout>,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        Self::with_drafter(spec, weights, layouts, None, options)
    }

    /// [`new`](Self::new) with what drafts for the model: it fits the model, and its layouts are among `layouts`.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn with_drafter(
        spec: &Spec,
        weights: impl Into<WeightBytes>,
        layouts: impl IntoIterator<Item = Layout>,
        drafter: Option<DrafterFile<'_>>,
        options: &LoadOptions,
    ) -> Result<Self, LoadError> {
        let layouts: Vec<Layout> = layouts.into_iter().collect();
        let exact = layouts.iter().all(|layout| *layout == Layout::F32);
        let (dims, batch_tokens) = dims(spec, exact, options)?;
        let products = drafter.map_or(dims.products, |drafter| drafter::products(drafter.spec, dims));
        let dims = Dims { products, ..dims };
        let npu =
            options.backend == BackendChoice::Rknn && layouts.iter().any(|layout| layout.is_quantized());
        let npu = if npu { npu_bytes(spec, drafter.map(|drafter| drafter.spec), dims) } else { 0 };
        let dims = Dims { npu, ..dims };
        let rotated = matches!(dims.dtype, CacheDtype::Int8Int4 | CacheDtype::Int4);
        let of_drafter = drafter.iter().flat_map(|drafter| &drafter.spec.layers);
        if rotated && spec.layers.iter().chain(of_drafter).any(|layer| layer.latent().is_some()) {
            let problem = format!("latents in a cache of {}; take f32, f16 or int8", dims.dtype);
            return Err(LoadError::Backend(BackendError::Unsupported(problem)));
        }
        let budget = options.memory_budget.unwrap_or_else(machine_memory);
        let weights = weights.into();
        let weights = WeightBytes {
            all: weights.all.saturating_add(drafter.map_or(0, |drafter| drafter.weight_bytes)),
            ..weights
        };
        let working = |context| {
            let d = Dims { context, batch_tokens: batch_tokens(context), ..dims };
            working_bytes(spec, d)
                + drafter.map_or(0, |drafter| drafter::working_bytes(drafter.spec, spec, d))
        };
        // A device and a copy hold all experts; otherwise those of one token and layer are the least in memory.
        let may_stay = weights.experts > 0
            && matches!(options.weights, Placement::Mapped | Placement::Shared)
            && options.backend != BackendChoice::Cuda;
        let beside = weights.resident().saturating_add(Flash::bytes(spec, dims.batch_tokens));
        let one_token = beside.saturating_add(weights.chosen);
        let least = if may_stay { weights.all.min(one_token) } else { weights.all };
        let fits = |weights: u64, context| u128::from(weights) + working(context) <= u128::from(budget);
        if !fits(least, dims.context) {
            let cache_of = |spec| cache_bytes(spec, dims);
            let cache = cache_of(spec) + drafter.map_or(0, |drafter| cache_of(drafter.spec));
            return Err(LoadError::Budget(Box::new(OverBudget {
                weight_bytes: least,
                cache_bytes: saturated(cache),
                buffer_bytes: saturated(working(dims.context) - cache),
                budget_bytes: budget,
                context: dims.context,
                slots: dims.slots,
                context_that_fits: largest(dims.context, |context| fits(least, context)),
            })));
        }
        let asked = options.expert_memory.unwrap_or(u64::MAX);
        let stay = may_stay
            && fits(one_token, dims.context)
            && (asked < weights.experts || !fits(weights.all, dims.context));
        let experts_on_flash = stay.then(|| {
            let left = u128::from(budget) - working(dims.context) - u128::from(beside);
            let wanted = asked.max(weights.chosen).min(weights.experts);
            let hot_bytes = wanted.min(saturated(left));
            ExpertsOnFlash { file_bytes: weights.experts, hot_bytes, short: hot_bytes < wanted }
        });
        Ok(Self::table(spec, weights, experts_on_flash, drafter, budget, dims))
    }
}

/// The sizes that `options` ask for, and the tokens of a step where a slot has so many positions; `exact` where all matrices
/// are in f32.
fn dims(
    spec: &Spec,
    exact: bool,
    options: &LoadOptions,
) -> Result<(Dims, impl Fn(u32) -> u32 + use<>), LoadError> {
    let context = options.context.unwrap_or(spec.context.min(CONTEXT_DEFAULT));
    let slots = checked("slots", options.slots, SLOTS_MAX, "sequences kept at once")?;
    let batch = checked("batch_tokens", options.batch_tokens, BATCH_TOKENS_MAX, "tokens of one step")?;
    // A text that is read whole is read in one step, and gives no logits.
    let whole = spec.embedding.is_some();
    let image_tokens = options
        .image_tokens
        .map_or(Ok(u32::MAX), |most| checked("image_tokens", most, 1 << 20, "tokens of one image"))?;
    // So is an image whose rows see each other.
    let joint = spec.vision.as_ref().filter(|vision| vision.joint);
    let image_tokens = if joint.is_some() { image_tokens.min(BATCH_TOKENS_MAX) } else { image_tokens };
    let image = joint.map_or(0, |vision| vision.pixels.tokens_max.min(image_tokens));
    let batch_tokens = move |context: u32| {
        let least = if whole { context } else { image.min(context) };
        batch.max(slots).max(least)
    };
    let context_max = if whole { spec.context.min(BATCH_TOKENS_MAX) } else { spec.context };
    // What chats may have bounds texts too, where it is less than a text may be.
    let context = if whole { context.min(context_max) } else { context };
    let context = checked("context", context, context_max, "the positions this model was trained for")?;
    let rows = options.logit_rows.unwrap_or(slots + PROPOSED_MAX).clamp(slots, batch_tokens(context));
    let dims = Dims {
        context,
        slots,
        batch_tokens: batch_tokens(context),
        logit_rows: if whole { 0 } else { rows },
        backend: options.backend,
        image_tokens,
        audio_tokens: options
            .audio_tokens
            .map_or(Ok(u32::MAX), |most| checked("audio_tokens", most, 1 << 20, "tokens of one sound"))?,
        weights: options.weights,
        dtype: options.cache.unwrap_or(if exact { CacheDtype::F32 } else { CacheDtype::F16 }),
        products: Products::default(),
        npu: 0,
    };
    Ok((dims, batch_tokens))
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
