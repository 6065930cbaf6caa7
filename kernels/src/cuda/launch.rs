//! What the kernels of `kernels/cuda/*.cu` are called and take. The structs mirror those of the `.cu` files of the same
//! name; addresses are the device's, 0 for none.

use std::sync::Arc;

use muse_format::Layout;

use super::driver::{Context, Module};
use crate::{CacheDtype, CudaError};

/// Threads of a block where a kernel does not say otherwise: `THREADS` of common.cuh.
pub(super) const THREADS: u32 = 128;
/// Tokens that the kernels called `few` multiply together.
pub(super) const FEW: usize = 8;
/// Products of a launch: products.cuh.
pub(super) const PRODUCTS_MAX: usize = 4;
/// The widest head of attention.cu.
pub(super) const HEAD_DIM_MAX: u32 = 512;
/// The most experts of experts.cu.
pub(super) const EXPERTS_MAX: usize = 4096;

/// The oldest GPU that the PTX is for.
const SM_MIN: u32 = 80;

/// Kernels compiled for the GPU of a board, loaded as they are.
const CUBINS: [(u32, &[u8]); 2] = [
    (87, include_bytes!("../../cuda/images/sm_87.cubin")),
    (110, include_bytes!("../../cuda/images/sm_110.cubin")),
];

/// For any other, compiled by its driver at load.
const PTX: &str = concat!(include_str!("../../cuda/images/compute_80.ptx"), "\0");

/// Every kernel, sorted.
const NAMES: [&str; 38] = [
    "add",
    "attention_f16",
    "attention_f32",
    "attention_int8",
    "combine",
    "embed_bf16",
    "embed_f16",
    "embed_f32",
    "embed_q4",
    "embed_q4_asym",
    "embed_q4_codebook",
    "embed_q8",
    "gather",
    "glu",
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
    "quantize",
    "rms_norm",
    "rope",
    "route",
    "scale_and_cap",
    "scaled_norm",
    "sort_choices",
    "store_f16",
    "store_f32",
    "store_int8",
    "weigh",
];

/// The kernels for a device: its own cubin, or the PTX.
pub(super) fn load(context: &Arc<Context>) -> Result<Kernels, CudaError> {
    if context.sm < SM_MIN {
        let device = context.name.clone();
        return Err(CudaError::OldDevice { device, sm: context.sm, needed: SM_MIN });
    }
    let cubin = CUBINS.iter().find(|(sm, _)| *sm == context.sm);
    let image = cubin.map_or(PTX.as_bytes(), |(_, image)| image);
    Ok(Kernels { module: Module::load(context, image, &NAMES)? })
}

/// The kernels, found by name.
#[derive(Debug)]
pub(super) struct Kernels {
    module: Module,
}

impl Kernels {
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

pub(super) fn store_name(dtype: CacheDtype) -> &'static str {
    match dtype {
        CacheDtype::F32 => "store_f32",
        CacheDtype::F16 => "store_f16",
        CacheDtype::Int8 => "store_int8",
        CacheDtype::Int8Int4 | CacheDtype::Int4 => unreachable!("there is no cache in {dtype}"),
    }
}

pub(super) fn attention_name(dtype: CacheDtype) -> &'static str {
    match dtype {
        CacheDtype::F32 => "attention_f32",
        CacheDtype::F16 => "attention_f16",
        CacheDtype::Int8 => "attention_int8",
        CacheDtype::Int8Int4 | CacheDtype::Int4 => unreachable!("there is no cache in {dtype}"),
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
    pub rows: u32,
    pub group: u32,
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
    pub heads: u32,
    pub scale: f32,
    pub window: u32,
    pub softcap: f32,
}

/// experts.cu
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub(super) struct RoutingRule {
    pub softmax: u32,
    pub normalise: u32,
    pub scale: f32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_in_every_image() {
        assert!(NAMES.is_sorted());
        for name in NAMES {
            let entry = format!(".entry {name}(");
            assert!(PTX.contains(&entry), "the PTX lacks {name}: run scripts/cubins.sh");
            let symbol = [name.as_bytes(), b"\0"].concat();
            for (sm, image) in CUBINS {
                let found = image.windows(symbol.len()).any(|bytes| bytes == symbol);
                assert!(found, "the cubin of sm_{sm} lacks {name}: run scripts/cubins.sh");
            }
        }
        assert_eq!(PTX.matches(".entry ").count(), NAMES.len(), "a kernel that nothing names");
    }
}
