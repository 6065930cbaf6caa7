//! What the kernels of `kernels/cuda/*.cu` are called and take. The structs mirror those of the `.cu` files of the same
//! name; addresses are the device's, 0 for none.

use std::sync::Arc;

use muse_format::Layout;

use super::driver::{Context, Module};
use super::images::{self, Origin};
use super::scratch;
use crate::{CacheDtype, CudaError};

/// Threads of a block where a kernel does not say otherwise: `THREADS` of common.cuh.
pub(super) const THREADS: u32 = 128;
/// Tokens that the kernels called `few` multiply together.
pub(super) const FEW: usize = 8;
/// Products of a launch: products.cuh.
pub(super) const PRODUCTS_MAX: usize = 4;
/// The widest head of cache.cuh.
pub(super) const HEAD_DIM_MAX: u32 = scratch::HEAD_DIM_MAX as u32;
/// Heads that share what a block of attention.cu reads, at most.
pub(super) const QUERIES: u32 = scratch::QUERIES as u32;
/// Queries that a block of attention_prompt.cu takes, rows by heads that share keys, and of heads of up to 128 numbers at most.
pub(super) const PROMPT_QUERIES: u32 = 64;
pub(super) const PROMPT_QUERIES_MAX: u32 = 128;
/// What a row sees behind itself: attention.cu.
pub(super) const BEHIND_NOTHING: u32 = 0;
pub(super) const BEHIND_WITHIN: u32 = 1;
pub(super) const BEHIND_ALL: u32 = 2;
/// Numbers of a row's queries that choose.cu takes, and the threads that find the best: select.cuh.
pub(super) const INDEX_WIDTH_MAX: u32 = 8192;
pub(super) const BEST_THREADS: u32 = 512;
/// Columns and threads of a block of delta.cu.
pub(super) const STATE_COLUMNS: u32 = 32;
pub(super) const STATE_THREADS: u32 = 512;
/// The most experts of experts.cu.
pub(super) const EXPERTS_MAX: usize = 4096;

/// Every kernel, sorted.
pub(super) const NAMES: &[&str] = &[
    "activate",
    "add",
    "attention_f16_4",
    "attention_f16_8",
    "attention_f32_4",
    "attention_f32_8",
    "attention_int4_4",
    "attention_int4_8",
    "attention_int8_4",
    "attention_int8_8",
    "attention_int8_int4_4",
    "attention_int8_int4_8",
    "attention_merge",
    "attention_prompt_f16_128_128",
    "attention_prompt_f16_128_64",
    "attention_prompt_f16_256_64",
    "attention_prompt_packed_128_128",
    "attention_prompt_packed_128_64",
    "attention_prompt_packed_256_64",
    "best_of_parts",
    "best_of_rows",
    "choose_best",
    "clip",
    "combine",
    "convolve",
    "convolve_causal",
    "delta_prepare",
    "delta_rule_128",
    "delta_rule_256",
    "delta_settle",
    "embed_bf16",
    "embed_f16",
    "embed_f32",
    "embed_q4",
    "embed_q4_asym",
    "embed_q4_codebook",
    "embed_q8",
    "gate_rows",
    "gather",
    "glu",
    "heads_bf16",
    "heads_f16",
    "heads_f32",
    "heads_q4",
    "heads_q4_asym",
    "heads_q4_codebook",
    "heads_q8",
    "index_scores_f16",
    "index_scores_f32",
    "index_scores_int8",
    "join",
    "layer_norm",
    "matmul_bf16_few",
    "matmul_bf16_prompt",
    "matmul_f16_few",
    "matmul_f16_prompt",
    "matmul_f32_few",
    "matmul_q4_asym_few",
    "matmul_q4_asym_prompt",
    "matmul_q4_codebook_few",
    "matmul_q4_codebook_prompt",
    "matmul_q4_few",
    "matmul_q4_prompt",
    "matmul_q8_few",
    "matmul_q8_prompt",
    "mean",
    "multiply_rows",
    "pass_on",
    "probe_bytes",
    "probe_half",
    "probe_read",
    "quantize",
    "quantize_heads",
    "rms_norm",
    "rope",
    "rope_2d",
    "rope_axes",
    "route",
    "scale_and_cap",
    "scaled_norm",
    "scatter",
    "sort_choices",
    "store_f16",
    "store_f32",
    "store_int4",
    "store_int8",
    "store_int8_int4",
    "temper",
    "weigh",
];

/// The kernels, found by name.
#[derive(Debug)]
pub(super) struct Kernels {
    module: Module,
    pub(super) origin: Origin,
}

impl Kernels {
    /// Those for a device.
    pub(super) fn load(context: &Arc<Context>) -> Result<Self, CudaError> {
        let (module, origin) = images::load(context, NAMES)?;
        Ok(Self { module, origin })
    }

    /// Starts the kernel called `name` in blocks of `threads`.
    ///
    /// # Safety
    /// See [`Module::launch`].
    pub(super) unsafe fn launch(
        &self,
        name: &str,
        grid: (u32, u32),
        threads: u32,
        arguments: &mut [*mut std::ffi::c_void],
    ) -> Result<(), CudaError> {
        if grid.0 == 0 || grid.1 == 0 {
            return Ok(());
        }
        let index = NAMES.binary_search(&name).expect("NAMES holds every kernel");
        // SAFETY: the caller's promise.
        unsafe { self.module.launch(index, grid, threads, arguments) }
    }
}

/// [`Kernels::launch`] with the addresses of the arguments, which must live until the call returns.
macro_rules! launch {
    ($kernels:expr, $name:expr, $grid:expr, $threads:expr, [$($argument:expr),+ $(,)?]) => {
        $kernels.launch($name, $grid, $threads, &mut [
            $(std::ptr::from_ref(&$argument).cast_mut().cast::<std::ffi::c_void>()),+
        ])
    };
}
pub(super) use launch;

/// What stands for a layout in the names of kernels.
pub(super) fn layout_name(layout: Layout) -> &'static str {
    match layout {
        Layout::F32 => "f32",
        Layout::F16 => "f16",
        Layout::Bf16 => "bf16",
        Layout::Q8 { .. } => "q8",
        Layout::Q4 { .. } => "q4",
        Layout::Q4Asym { .. } => "q4_asym",
        Layout::Q4Codebook { .. } => "q4_codebook",
    }
}

/// What stands for the form of a cache in the names of kernels.
pub(super) fn cache_name(dtype: CacheDtype) -> &'static str {
    match dtype {
        CacheDtype::F32 => "f32",
        CacheDtype::F16 => "f16",
        CacheDtype::Int8 => "int8",
        CacheDtype::Int8Int4 => "int8_int4",
        CacheDtype::Int4 => "int4",
    }
}

/// products.cuh
#[repr(C)]
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Product {
    pub out: u64,
    pub weight: u64,
    pub of_experts: u64,
    pub bias: u64,
    pub up: u64,
    pub up_of_experts: u64,
    pub rows: u32,
    pub group: u32,
    pub activation: u32,
    pub end: u32,
}

/// products.cuh
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Products {
    pub each: [Product; PRODUCTS_MAX],
    pub x: u64,
    pub quants: u64,
    pub scales: u64,
    pub cols: u32,
    pub tokens: u32,
}

/// products.cuh
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Choices {
    pub expert: u64,
    pub order: u64,
    pub works: u64,
    pub work_count: u64,
    pub share: u32,
}

impl Choices {
    /// All rows meet the same weights.
    pub(super) const NONE: Self = Self { expert: 0, order: 0, works: 0, work_count: 0, share: 1 };
}

/// cache.cuh
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Cache {
    pub keys: u64,
    pub values: u64,
    pub key_scales: u64,
    pub value_scales: u64,
    pub capacity: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
}

/// attention.cu
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Attention {
    pub out: u64,
    pub q: u64,
    pub batch: u64,
    pub chosen: u64,
    pub parts: u64,
    pub heads: u32,
    pub top: u32,
    pub splits: u32,
    pub scale: f32,
    pub softcap: f32,
    pub window: u32,
    pub chunk: u32,
    pub until: u32,
    pub behind: u32,
}

/// choose.cu
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Index {
    pub scores: u64,
    pub chosen: u64,
    pub q: u64,
    pub weights: u64,
    pub batch: u64,
    pub stride: u64,
    pub heads: u32,
    pub top: u32,
    pub first: u32,
}

/// best.cu
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts {
    pub numbers: u64,
    pub indices: u64,
    pub sums: u64,
}

/// delta.cu
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct DeltaState {
    pub states: u64,
    pub keys: u64,
    pub deltas: u64,
    pub decays: u64,
    pub inputs: u64,
    pub stride: u64,
    pub key_heads: u32,
    pub value_heads: u32,
    pub key_dim: u32,
    pub value_dim: u32,
    pub columns: u32,
    pub taps: u32,
    pub undo: u32,
}

/// heads.cu
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct Heads {
    pub out: u64,
    pub weight: u64,
    pub x: u64,
    pub quants: u64,
    pub scales: u64,
    pub heads: u32,
    pub rows: u32,
    pub cols: u32,
    pub stride: u32,
    pub group: u32,
}

/// experts.cu
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RoutingRule {
    pub softmax: u32,
    pub normalise: u32,
    pub scale: f32,
}
