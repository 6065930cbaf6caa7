//! The door: a path becomes an [`Engine`] or one [`LoadError`].

use std::path::{Path, PathBuf};
use std::sync::Arc;

use muse_format::{FormatError, Layout, Role, Spec};
use muse_kernels::{Backend, BackendError, CacheDtype, CpuBackend, Npu, ReferenceBackend};

use crate::model::{EmbeddingModel, Model};
use crate::plan::{DrafterFile, OverBudget};
use crate::random::no_text;
use crate::{Engine, HfText, Mapped, Plan, Text, TextError, WeightBytes, WholeText};

/// The layout family that this build's kernels read: [`muse_format::Provenance::target`] of a file it takes.
pub const TARGET: &str = "cpu";

/// A board of this build's target, for the command in [`LoadError::Target`].
const BOARD: &str = if cfg!(target_arch = "x86_64") { "x86-64" } else { "generic-arm64" };

const THREADS_MAX: usize = 256;

/// Which kernels run a model.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackendChoice {
    /// The fastest that this machine's features allow.
    #[default]
    Cpu,
    /// The first NVIDIA GPU. Where it cannot be used a model is not loaded, on the CPU neither unless
    /// [`LoadOptions::cpu_fallback`] allows it.
    Cuda,
    /// The CPU, and for packed weights of prompts the NPU of Rockchip's RK3588. Where that cannot be used a model is not
    /// loaded, as with a GPU.
    Rknn,
    /// Plain loops with f64 sums: slow, the definition of every answer.
    Reference,
}

/// Where a model's weights lie while it runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Placement {
    /// In the file's mapping: nothing is copied, and memory can be reclaimed. On a GPU weights are copied to its memory
    /// and the file's pages given back, also where they are to be copied or reserved.
    #[default]
    Mapped,
    /// In the file's mapping on a GPU too, which reads it in place; a model is refused where the GPU cannot. The pages
    /// stay in memory.
    Shared,
    /// In memory of the process, see [`Mapped::into_memory`].
    Copied,
    /// In memory of the kernel's reserve of huge pages, see [`Mapped::into_reserved`].
    Reserved,
}

/// How to load a model. The default is one sequence at a time on all cores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadOptions {
    /// Positions a sequence may have; by default the model's own, [`crate::CONTEXT_DEFAULT`] at most.
    pub context: Option<u32>,
    /// Sequences that can be resident at once.
    pub slots: u32,
    /// Most tokens of one step; more where a model reads an image, or a text, in one step.
    pub batch_tokens: u32,
    /// Most logit rows of one step; by default one a slot and [`crate::PROPOSED_MAX`] for speculation, for which
    /// `slots` leaves no room.
    pub logit_rows: Option<u32>,
    /// How keys and values are kept; by default f32 where every matrix is f32, f16 otherwise.
    pub cache: Option<CacheDtype>,
    /// Most tokens of one image; by default the model's own, or its context where that is less.
    pub image_tokens: Option<u32>,
    /// Most tokens of one sound; by default as many as the context has.
    pub audio_tokens: Option<u32>,
    /// Bytes that weights and working set may take together; by default the machine's memory, or what a GPU finds
    /// free.
    pub memory_budget: Option<u64>,
    /// Bytes of experts that may stay in memory, those of one token and layer at least; the others are read from the file
    /// where a token chooses them. By default what is left of the budget. Of mapped weights on the host alone.
    pub expert_memory: Option<u64>,
    /// By default one a core.
    pub threads: Option<usize>,
    pub backend: BackendChoice,
    /// Whether a model that a GPU or an NPU cannot run is run on the CPU, in the file's mapping in place of a GPU's memory;
    /// [`ModelInfo::backend`](crate::ModelInfo::backend) says why. One that is over the budget is refused all the same.
    pub cpu_fallback: bool,
    pub weights: Placement,
    /// The file of what drafts for the model, for [`load`] and [`open`].
    pub drafter: Option<PathBuf>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            context: None,
            slots: 1,
            batch_tokens: 256,
            logit_rows: None,
            cache: None,
            image_tokens: None,
            audio_tokens: None,
            memory_budget: None,
            expert_memory: None,
            threads: None,
            backend: BackendChoice::Cpu,
            cpu_fallback: false,
            weights: Placement::Mapped,
            drafter: None,
        }
    }
}

/// Why a model was not loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    #[error("{}: {source}", path.display())]
    Open { path: PathBuf, source: std::io::Error },
    #[error("{} is not a file", path.display())]
    NotAFile { path: PathBuf },
    #[error("{} is being written; try again when that is done", path.display())]
    Writing { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Format { path: PathBuf, source: FormatError },
    #[error(
        "{} is packed for target {file} (board {board}) and this build runs target {build}: make the right one \
         with `muse-quantize convert SOURCE -o OUT.muse --board {remedy}`",
        path.display()
    )]
    Target {
        path: PathBuf,
        /// Target and board in the file.
        file: String,
        board: String,
        /// Target of this build, and a board that has it.
        build: &'static str,
        remedy: &'static str,
    },
    #[error(
        "{} takes {wanted} huge pages of 2 MiB, of which {free} are free: `sudo sysctl vm.nr_hugepages={needed}` sets \
         enough aside, best soon after the system starts; weights = \"copied\" does with what there is",
        path.display()
    )]
    HugePages {
        path: PathBuf,
        wanted: u64,
        free: u64,
        /// What the reserve must be, all users together.
        needed: u64,
    },
    #[error(
        "{} is a drafter ({family}), which proposes tokens of another model: load that model and name this file as its \
         drafter",
        path.display()
    )]
    Drafter { path: PathBuf, family: String },
    #[error("{} is no drafter but a model of its own ({family}): convert the drafter of the model", path.display())]
    NotADrafter { path: PathBuf, family: String },
    #[error("{} makes vectors of texts and writes none: it can have no drafter", path.display())]
    NothingToDraft { path: PathBuf },
    #[error(
        "{} drafts for a model with {what} {wanted}, and {} has {has}: take the drafter that was made for the model",
        drafter.display(),
        target.display()
    )]
    DrafterFits {
        drafter: PathBuf,
        target: PathBuf,
        /// `a vocabulary of at least`.
        what: &'static str,
        wanted: u32,
        has: u32,
    },
    #[error(
        "{} was made of another checkpoint than {}: convert both of one, the drafter with --mtp",
        drafter.display(),
        target.display()
    )]
    DrafterOfAnother { drafter: PathBuf, target: PathBuf },
    #[error("{name} is {value}; it must be 1 to {max}, {rule}")]
    Option { name: &'static str, value: u64, max: u64, rule: &'static str },
    #[error("the model does not fit: {0}")]
    Budget(Box<OverBudget>),
    #[error(transparent)]
    Backend(#[from] BackendError),
    #[error(transparent)]
    Text(#[from] TextError),
}

/// Maps the file at `path` and makes it ready to step, with its own tokenizer and chat template.
///
/// # Errors
/// [`LoadError`]: no such file, a damaged one, a tokenizer or template that cannot be used, or as [`load_mapped`].
pub fn load(path: &Path, options: &LoadOptions) -> Result<Box<dyn Engine>, LoadError> {
    let mapped = open(path, options)?;
    check_whole(&mapped)?;
    // Before the tokenizer, which takes seconds to build where the file is for another board anyway.
    check_target(&mapped)?;
    let text = read_text(&mapped.spec, &mapped.tokenizer, &mapped.text, &mapped.chat_template)?;
    let mapped = place(mapped, options)?;
    load_mapped(&mapped, options, text)
}

/// Maps the file at `path`, and with it [`LoadOptions::drafter`].
///
/// # Errors
/// As [`Mapped::open`] and [`Mapped::with_drafter`].
pub fn open(path: &Path, options: &LoadOptions) -> Result<Mapped, LoadError> {
    let mapped = Mapped::open(path)?;
    match &options.drafter {
        None => Ok(mapped),
        Some(drafter) => mapped.with_drafter(Mapped::open(drafter)?),
    }
}

/// The text side of a model: its tokenizer, and its chat template where it writes text. A model without a tokenizer takes
/// and gives ids alone.
///
/// # Errors
/// [`TextError`] for a tokenizer or a template that cannot be used.
pub fn read_text(
    spec: &Spec,
    tokenizer_json: &[u8],
    text: &muse_format::Text,
    chat_template: &str,
) -> Result<Arc<dyn Text>, TextError> {
    match spec.embedding {
        _ if tokenizer_json.is_empty() => Ok(no_text()),
        Some(_) => Ok(Arc::new(WholeText::new(tokenizer_json)?)),
        None => Ok(Arc::new(HfText::new(tokenizer_json, text, chat_template)?)),
    }
}

/// Puts the weights where `options` wants them; [`load_mapped`] takes them from where they are.
///
/// # Errors
/// [`LoadError::Open`] or [`LoadError::HugePages`] where there is no memory for a copy, or as [`plan`]: what does not fit
/// is not copied.
pub fn place(mapped: Mapped, options: &LoadOptions) -> Result<Mapped, LoadError> {
    match options.weights {
        _ if options.backend == BackendChoice::Cuda => Ok(mapped),
        Placement::Mapped | Placement::Shared => Ok(mapped),
        Placement::Copied => {
            plan(&mapped, options)?;
            mapped.into_memory()
        }
        Placement::Reserved => {
            plan(&mapped, options)?;
            mapped.into_reserved()
        }
    }
}

/// Makes a mapped file ready to step, with `text` to read and write its tokens.
///
/// # Errors
/// [`LoadError`]: another target, options out of bounds, over budget, which on a GPU is also what the GPU finds free, or a
/// layout without a kernel.
pub fn load_mapped(
    mapped: &Mapped,
    options: &LoadOptions,
    text: Arc<dyn Text>,
) -> Result<Box<dyn Engine>, LoadError> {
    check_target(mapped)?;
    if let Some(threads) = options.threads.filter(|n| !(1..=THREADS_MAX).contains(n)) {
        let rule = "one for each core that may be used";
        return Err(LoadError::Option {
            name: "threads",
            value: threads as u64,
            max: THREADS_MAX as u64,
            rule,
        });
    }
    match options.backend {
        BackendChoice::Reference => {
            let name = "reference".to_owned();
            model(mapped, ReferenceBackend::new(), name, &plan(mapped, options)?, text)
        }
        BackendChoice::Cpu => on_cpu(mapped, options, None, "", text),
        BackendChoice::Cuda => {
            // Its budget is what the GPU finds free, not the machine's memory.
            let loaded = crate::device::load(mapped, options, text.clone());
            // For a GPU nothing was copied or reserved.
            or_on_cpu(
                loaded,
                "GPU",
                mapped,
                &LoadOptions { weights: Placement::Mapped, ..options.clone() },
                text,
            )
        }
        BackendChoice::Rknn => {
            let opened = Npu::open().map_err(|error| LoadError::Backend(error.into()));
            let loaded = opened.and_then(|npu| on_cpu(mapped, options, Some(npu), "", text.clone()));
            or_on_cpu(loaded, "NPU", mapped, options, text)
        }
    }
}

/// What was loaded on the device that was asked for, or the model on the CPU where that is allowed.
fn or_on_cpu(
    loaded: Result<Box<dyn Engine>, LoadError>,
    device: &str,
    mapped: &Mapped,
    options: &LoadOptions,
    text: Arc<dyn Text>,
) -> Result<Box<dyn Engine>, LoadError> {
    match loaded {
        Err(LoadError::Backend(reason)) if options.cpu_fallback => {
            let path = mapped.path.display();
            tracing::warn!(
                "{path} runs on the CPU, as cpu_fallback allows: the {device} cannot run it: {reason}"
            );
            let options = LoadOptions { backend: BackendChoice::Cpu, ..options.clone() };
            on_cpu(mapped, &options, None, &format!(", not on the {device}: {reason}"), text)
        }
        done => done,
    }
}

/// A model on the CPU, its prompts on `npu`; `note` is what else its status says.
fn on_cpu(
    mapped: &Mapped,
    options: &LoadOptions,
    npu: Option<Npu>,
    note: &str,
    text: Arc<dyn Text>,
) -> Result<Box<dyn Engine>, LoadError> {
    let plan = plan(mapped, options)?;
    let threads = options.threads.or_else(|| std::thread::available_parallelism().ok().map(Into::into));
    let backend = CpuBackend::new(threads.unwrap_or(1));
    let backend = match npu {
        Some(npu) => backend.with_npu(npu),
        None => backend,
    };
    let name = backend.describe() + note;
    model(mapped, backend, name, &plan, text)
}

/// A model of the kind that its spec says.
pub(crate) fn model<B>(
    mapped: &Mapped,
    mut backend: B,
    name: String,
    plan: &Plan,
    text: Arc<dyn Text>,
) -> Result<Box<dyn Engine>, LoadError>
where
    B: Backend<Weight: Send, Buffer: Send, Cache: Send, DeltaState: Send> + Send + 'static,
{
    tracing::info!("memory of {}:\n{plan}", mapped.path.display());
    if plan.experts_on_flash.is_none() && !backend.copies_weights() {
        mapped.read_ahead();
    }
    backend.reserve_weights(&mapped.tensor_bytes())?;
    match mapped.spec.embedding {
        Some(_) => Ok(Box::new(EmbeddingModel::new(mapped, backend, name, plan, text)?)),
        None => Ok(Box::new(Model::new(mapped, backend, name, plan, text)?)),
    }
}

/// What `mapped` would take under `options`, its drafter included.
///
/// # Errors
/// See [`Plan::new`]; [`LoadError::Drafter`] of a file that is one.
pub fn plan(mapped: &Mapped, options: &LoadOptions) -> Result<Plan, LoadError> {
    check_whole(mapped)?;
    let weights = WeightBytes::new(&mapped.spec, |name| mapped.stored(name).map_or(0, |(_, bytes)| bytes));
    let drafter = mapped.drafter();
    let layouts: Vec<_> = [Some(mapped), drafter].into_iter().flatten().flat_map(layouts).collect();
    let drafter = drafter.map(|file| DrafterFile { spec: &file.spec, weight_bytes: file.weight_bytes() });
    Plan::with_drafter(&mapped.spec, weights, layouts, drafter, options)
}

/// How the matrices of a file are stored.
fn layouts(mapped: &Mapped) -> Vec<Layout> {
    let matrices = mapped.spec.tensors().into_iter().filter(|t| t.role != Role::Vector);
    matrices.filter_map(|t| Some(mapped.stored(&t.name)?.0)).collect()
}

/// Refuses what is no model by itself.
fn check_whole(mapped: &Mapped) -> Result<(), LoadError> {
    match mapped.spec.drafter {
        Some(_) => Err(LoadError::Drafter { path: mapped.path.clone(), family: mapped.spec.family.clone() }),
        None => Ok(()),
    }
}

fn check_target(mapped: &Mapped) -> Result<(), LoadError> {
    let file = &mapped.provenance;
    if file.target == TARGET {
        return mapped.drafter().map_or(Ok(()), check_target);
    }
    Err(LoadError::Target {
        path: mapped.path.clone(),
        file: file.target.clone(),
        board: file.board.clone(),
        build: TARGET,
        remedy: BOARD,
    })
}
