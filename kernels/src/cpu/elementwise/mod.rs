//! Operations that go over f32 elements one by one, each a plain loop that the compiler turns into vector code.
//!
//! | variant | needs | method |
//! |---------|-------|--------|
//! | `avx512` | avx512-vnni | `portable` compiled for 512-bit registers |
//! | `avx2` | avx2 | `portable` compiled for 256-bit registers |
//! | `portable` | - | the loops as they are: SSE2 on x86-64, NEON on aarch64 |

use muse_format::Activation;

use super::features::Features;
#[cfg(target_arch = "x86_64")]
use super::features::Level;
use super::variant::{Supported, Variant};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod portable;
#[cfg(test)]
mod tests;

/// Most scores that become weights at once: 8 vectors of 16, which stay in registers meanwhile.
pub(super) const SCORES: usize = 128;

/// See [`Elementwise::weigh`].
type Weigh = unsafe fn(x: &mut [f32], scales: Option<[&[f32]; 2]>, scale: f32, max: &mut f32) -> f32;

/// The loops, compiled for one set of instructions.
///
/// # Safety
/// To call any of them, the variant's `supported` returned true for the features of this CPU.
pub(super) struct Kernel {
    /// `gate = activation(gate) * up`
    glu: unsafe fn(gate: &mut [f32], up: &[f32], activation: Activation),
    /// As [`Elementwise::weigh`].
    weigh: Weigh,
    /// As [`Elementwise::weigh_coarsely`].
    weigh_coarsely: Weigh,
    /// `x = soft_cap(scale * x)`
    scale_and_cap: unsafe fn(x: &mut [f32], scale: f32, softcap: Option<f32>),
    /// `x = x + y`
    add: unsafe fn(x: &mut [f32], y: &[f32]),
    /// `x = x * y`
    multiply: unsafe fn(x: &mut [f32], y: &[f32]),
    /// `x = x + y * z`
    add_products: unsafe fn(x: &mut [f32], y: &[f32], z: &[f32]),
    /// `x = x * weight / sqrt(mean(x^2) + eps)`
    rms_norm: unsafe fn(x: &mut [f32], weight: &[f32], eps: f32),
    /// `x = weight * (x - mean(x)) / sqrt(variance(x) + eps) + bias`
    layer_norm: unsafe fn(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32),
}

/// Factors that change nothing.
const ONES: [f32; 1024] = [1.0; 1024];

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
pub(super) struct Elementwise(Supported<Kernel>);

impl Elementwise {
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

    /// `gate[i] = activation(gate[i]) * up[i]`; the activation within 8 units in the last place, plus twice as many as
    /// the argument of its `exp`, plus 1e-36; GELU by `erf` within `3 * eps * |gate * up|`.
    pub(super) fn glu(self, gate: &mut [f32], up: &[f32], activation: Activation) {
        assert_eq!(gate.len(), up.len());
        // SAFETY: a `Supported` exists only for a variant that this CPU can run.
        unsafe { (self.0.get().glu)(gate, up, activation) }
    }

    /// `x[i] = activation(x[i])`, as [`glu`](Self::glu).
    pub(super) fn activate(self, x: &mut [f32], activation: Activation) {
        x.chunks_mut(ONES.len()).for_each(|x| self.glu(x, &ONES[..x.len()], activation));
    }

    /// Makes weights of a query's scores, a step of an online softmax: `x[i] = exp(scale * k[i] * x[i] - max) * v[i]`, where
    /// `scales` are `[k, v]`, 1 where there are none. `max` becomes the largest of itself and all `scale * k * x`, NaN left
    /// out. Returns the sum of the exponentials, each within 2 units in the last place of its argument's. The scale is
    /// above 0.
    ///
    /// # Panics
    /// If there are more than [`SCORES`], or other numbers of scales.
    pub(super) fn weigh(self, x: &mut [f32], scales: Option<[&[f32]; 2]>, scale: f32, max: &mut f32) -> f32 {
        assert!(x.len() <= SCORES && scales.iter().flatten().all(|s| s.len() == x.len()));
        // SAFETY: as in `glu`.
        unsafe { (self.0.get().weigh)(x, scales, scale, max) }
    }

    /// As [`weigh`](Self::weigh), each exponential within `2^-18` of itself and `2^-22` for each unit of its argument and of
    /// the largest score: for weights that are rounded to bf16.
    pub(super) fn weigh_coarsely(
        self,
        x: &mut [f32],
        scales: Option<[&[f32]; 2]>,
        scale: f32,
        max: &mut f32,
    ) -> f32 {
        assert!(x.len() <= SCORES && scales.iter().flatten().all(|s| s.len() == x.len()));
        // SAFETY: as in `glu`.
        unsafe { (self.0.get().weigh_coarsely)(x, scales, scale, max) }
    }

    /// `x[i] += y[i]`
    pub(super) fn add(self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        // SAFETY: as in `glu`.
        unsafe { (self.0.get().add)(x, y) }
    }

    /// `x[i] *= y[i]`
    pub(super) fn multiply(self, x: &mut [f32], y: &[f32]) {
        assert_eq!(x.len(), y.len());
        // SAFETY: as in `glu`.
        unsafe { (self.0.get().multiply)(x, y) }
    }

    /// `x[i] += y[i] * z[i]`
    pub(super) fn add_products(self, x: &mut [f32], y: &[f32], z: &[f32]) {
        assert!(x.len() == y.len() && x.len() == z.len());
        // SAFETY: as in `glu`.
        unsafe { (self.0.get().add_products)(x, y, z) }
    }

    /// `x[i] = cap * tanh(scale * x[i] / cap)`, or only scaled; within `4 * eps * cap`.
    pub(super) fn scale_and_cap(self, x: &mut [f32], scale: f32, softcap: Option<f32>) {
        // SAFETY: as in `glu`.
        unsafe { (self.0.get().scale_and_cap)(x, scale, softcap) }
    }

    /// Normalises one row in place.
    pub(super) fn rms_norm(self, x: &mut [f32], weight: &[f32], eps: f32) {
        assert_eq!(x.len(), weight.len());
        // SAFETY: as in `glu`.
        unsafe { (self.0.get().rms_norm)(x, weight, eps) }
    }

    /// Normalises one row in place.
    pub(super) fn layer_norm(self, x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
        assert!(x.len() == weight.len() && x.len() == bias.len());
        // SAFETY: as in `glu`.
        unsafe { (self.0.get().layer_norm)(x, weight, bias, eps) }
    }
}
