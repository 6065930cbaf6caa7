//! One row of the gated delta rule for 32 columns of a head's state.
//!
//! | variant | needs | method |
//! |---------|-------|--------|
//! | `avx512` | avx512-vnni | `portable` compiled for 512-bit registers, 4 sums a column; what is taken in, in intrinsics |
//! | `avx2` | avx2 | `portable` compiled for 256-bit registers, 2 sums a column |
//! | `portable` | - | the loops as they are: SSE2 on x86-64, NEON on aarch64 |
//!
//! Columns of a state do not meet, so a tile of 32 goes through all rows of a span while it is in the first cache.

pub(super) use self::gates::sigmoid;
use super::features::Features;
#[cfg(target_arch = "x86_64")]
use super::features::Level;
use super::variant::{Supported, Variant};
use crate::delta::COLUMNS;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod gates;
mod portable;
mod rows;
#[cfg(test)]
mod tests;

/// Numbers of one row of a tile.
type Columns = [f32; COLUMNS];

/// What one row brings to one head.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    /// Normalised, `(key_dim)`
    q: &'a [f32],
    /// Normalised, `(key_dim)`
    k: &'a [f32],
    /// Zero past the head's last column.
    v: &'a Columns,
    decay: f32,
    beta: f32,
}

/// What becomes of it.
#[derive(Clone, Copy)]
pub(super) struct Step {
    out: Columns,
    /// What was added along the key: `beta * (v - decay * tile^T k)`
    delta: Columns,
}

/// `tile` is `(key_dim, 32)`.
///
/// # Safety
/// To call any of them, the variant's `supported` returned true for the features of this CPU.
pub(super) struct Kernel {
    /// Takes a row in and answers it.
    step: unsafe fn(tile: &mut [Columns], row: Row<'_>) -> Step,
    /// `tile = decay * tile + k delta^T`, as `step` does it.
    take_in: unsafe fn(tile: &mut [Columns], k: &[f32], decay: f32, delta: &Columns),
}

/// Fastest first; `portable` is last and runs everywhere.
const VARIANTS: &[Variant<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx512", supported: |f| f.has(Level::Avx512Vnni), run: avx512::KERNEL },
    #[cfg(target_arch = "x86_64")]
    Variant { name: "avx2", supported: |f| f.has(Level::Avx2), run: avx2::KERNEL },
    Variant { name: "portable", supported: |_| true, run: portable::KERNEL },
];

/// Kernels that this CPU can run.
#[derive(Clone, Copy)]
pub(super) struct Delta(Supported<Kernel>);

impl Delta {
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

    /// See [`Kernel::step`].
    fn step(self, tile: &mut [Columns], row: Row<'_>) -> Step {
        assert!(row.q.len() == tile.len() && row.k.len() == tile.len());
        // SAFETY: a `Supported` exists only for a variant that this CPU can run.
        unsafe { (self.0.get().step)(tile, row) }
    }

    /// See [`Kernel::take_in`].
    fn take_in(self, tile: &mut [Columns], k: &[f32], decay: f32, delta: &Columns) {
        assert_eq!(k.len(), tile.len());
        // SAFETY: as in `step`.
        unsafe { (self.0.get().take_in)(tile, k, decay, delta) }
    }
}
