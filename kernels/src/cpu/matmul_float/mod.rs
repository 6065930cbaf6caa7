//! Up to 16 rows of float weights times f32 activations: `out[t][r] = w[r] . x[t]`.
//!
//! | variant | needs | method |
//! |---------|-------|--------|
//! | `avx512` | avx512-vnni | 16 partial sums a vector, 4 x 4 rows share loads |
//! | `avx2` | avx2 | 8 partial sums a vector, 4 rows of activations share loads |
//! | `neon` | neon | 4 partial sums along the columns, for 4 rows x 4 tokens |
//! | `generic` | - | 16 partial sums along the columns |
//!
//! To add a variant, add a file with one `run` for each element type and a line to `VARIANTS`. The tests walk the
//! table.

use half::{bf16, f16};
use muse_format::{Layout, TILE_ROWS};

use super::features::Features;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::features::Level;
use super::variant::{Supported, Variant};
use crate::Tensor;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod generic;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(test)]
mod tests;

/// `out` is `(tokens)` times 16 rows, of which the first `weights.len() / cols` are written; `weights` is row-major,
/// `x` is `(tokens, cols)`.
///
/// # Safety
/// The variant's `supported` returned true for the features of this CPU.
type Run<E> = unsafe fn(out: &mut [[f32; TILE_ROWS]], weights: &[E], cols: usize, x: &[f32]);

/// A variant's entry for each element type.
pub(super) struct Kernel {
    f32: Run<f32>,
    f16: Run<f16>,
    bf16: Run<bf16>,
}

/// Fastest first; `generic` is last and runs everywhere.
const VARIANTS: &[Variant<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Variant {
        name: "avx512",
        supported: |f| f.has(Level::Avx512Vnni),
        run: Kernel { f32: avx512::run::<f32>, f16: avx512::run::<f16>, bf16: avx512::run::<bf16> },
    },
    #[cfg(target_arch = "x86_64")]
    Variant {
        name: "avx2",
        supported: |f| f.has(Level::Avx2),
        run: Kernel { f32: avx2::run::<f32>, f16: avx2::run::<f16>, bf16: avx2::run::<bf16> },
    },
    #[cfg(target_arch = "aarch64")]
    Variant {
        name: "neon",
        supported: |f| f.has(Level::Neon),
        run: Kernel { f32: neon::run::<f32>, f16: neon::run::<f16>, bf16: neon::run::<bf16> },
    },
    Variant {
        name: "generic",
        supported: |_| true,
        run: Kernel { f32: generic::run::<f32>, f16: generic::run::<f16>, bf16: generic::run::<bf16> },
    },
];

/// A kernel that this CPU can run.
#[derive(Clone, Copy)]
pub(super) struct MatmulFloat(Supported<Kernel>);

impl MatmulFloat {
    #[cfg(test)]
    fn all(features: Features) -> impl Iterator<Item = Self> {
        Supported::all(VARIANTS, features).map(Self)
    }

    pub(super) fn best(features: Features) -> Self {
        Self(Supported::best(VARIANTS, features))
    }

    pub(super) fn name(self) -> &'static str {
        self.0.name()
    }

    /// Multiplies the rows of tile `tile` of a float tensor: 16, or fewer at its end.
    ///
    /// # Panics
    /// If the layout is quantized, the tile is outside the tensor or the lengths do not agree.
    pub(super) fn run(self, weight: &Tensor, tile: usize, out: &mut [[f32; TILE_ROWS]], x: &[f32]) {
        let cols = weight.cols();
        assert_eq!(x.len(), out.len() * cols);
        let rows = tile * TILE_ROWS..weight.rows().min((tile + 1) * TILE_ROWS);
        let range = rows.start * cols..rows.end * cols;
        let kernel = self.0.get();
        // SAFETY: a `Supported` exists only for a variant that this CPU can run.
        unsafe {
            match weight.layout() {
                Layout::F32 => (kernel.f32)(out, &weight.f32()[range], cols, x),
                Layout::F16 => (kernel.f16)(out, &weight.f16()[range], cols, x),
                Layout::Bf16 => (kernel.bf16)(out, &weight.bf16()[range], cols, x),
                layout => panic!("{layout} is not a float layout"),
            }
        }
    }
}
