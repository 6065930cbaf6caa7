//! Tiles of 16 quantized rows times 8-bit activations: `out[tile][t][r] = w[tile][r] . x[t]`, f32.
//!
//! Decode has one row of activations and reads every weight once, so there a variant is judged in GB/s of weights;
//! prefill has many rows and reuses each unpacked weight, so there it is judged in operations per second. All
//! variants compute the same integers within 32 columns and differ only in the order of the f32 additions.
//!
//! | variant | needs | method |
//! |---------|-------|--------|
//! | `avx512-vnni` | avx512-vnni | 16 rows a vector, `vpdpbusd` by broadcast activations |
//! | `avx2` | avx2 | 8 rows a vector, `vpmaddubsw` by broadcast activations |
//! | `neon_i8mm` | neon-i8mm | `smmla`: 4 rows x 8 tokens in 8 vectors; a single token as `neon_dotprod` |
//! | `neon_dotprod` | neon-dotprod | `sdot` by element: 4 rows x 4 tokens |
//! | `neon` | neon | `smull` and `sadalp`, one token at a time |
//! | `generic` | - | one loop, 16 sums side by side |
//!
//! To add a variant, add a file with one `run` for each layout and a line to `VARIANTS`. The tests walk the table.

use muse_format::{Layout, TILE_ROWS};

use super::features::Features;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use super::features::Level;
use super::quantize::Activations;
use super::variant::{Supported, Variant};

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512_vnni;
mod generic;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
mod neon_dotprod;
#[cfg(target_arch = "aarch64")]
mod neon_i8mm;
#[cfg(target_arch = "aarch64")]
mod neon_tile;
#[cfg(test)]
mod tests;

/// `out` has an element for each tile and row of activations; a tile is `x.groups * 32 / group` blocks, rounded up;
/// `group` is that of the weights, a multiple of 32.
///
/// # Safety
/// The variant's `supported` returned true for the features of this CPU.
type Run = unsafe fn(out: &mut [[f32; TILE_ROWS]], tiles: &[u8], group: usize, x: Activations<'_>);

/// A variant's entry for each layout.
pub(super) struct Kernel {
    /// The most tiles of one call.
    tiles: usize,
    q8: Run,
    q4: Run,
    q4_asym: Run,
    q4_codebook: Run,
}

/// Fastest first; `generic` is last and runs everywhere.
const VARIANTS: &[Variant<Kernel>] = &[
    #[cfg(target_arch = "x86_64")]
    Variant {
        name: "avx512-vnni",
        supported: |f| f.has(Level::Avx512Vnni),
        run: Kernel {
            tiles: avx512_vnni::TILES,
            q8: avx512_vnni::q8,
            q4: avx512_vnni::q4,
            q4_asym: avx512_vnni::q4_asym,
            q4_codebook: avx512_vnni::q4_codebook,
        },
    },
    #[cfg(target_arch = "x86_64")]
    Variant {
        name: "avx2",
        supported: |f| f.has(Level::Avx2),
        run: Kernel {
            tiles: 1,
            q8: avx2::q8,
            q4: avx2::q4,
            q4_asym: avx2::q4_asym,
            q4_codebook: avx2::q4_codebook,
        },
    },
    #[cfg(target_arch = "aarch64")]
    Variant {
        name: "neon-i8mm",
        supported: |f| f.has(Level::NeonI8mm),
        run: Kernel {
            tiles: 1,
            q8: neon_i8mm::q8,
            q4: neon_i8mm::q4,
            q4_asym: neon_i8mm::q4_asym,
            q4_codebook: neon_i8mm::q4_codebook,
        },
    },
    #[cfg(target_arch = "aarch64")]
    Variant {
        name: "neon-dotprod",
        supported: |f| f.has(Level::NeonDotprod),
        run: Kernel {
            tiles: 1,
            q8: neon_dotprod::q8,
            q4: neon_dotprod::q4,
            q4_asym: neon_dotprod::q4_asym,
            q4_codebook: neon_dotprod::q4_codebook,
        },
    },
    #[cfg(target_arch = "aarch64")]
    Variant {
        name: "neon",
        supported: |f| f.has(Level::Neon),
        run: Kernel {
            tiles: 1,
            q8: neon::q8,
            q4: neon::q4,
            q4_asym: neon::q4_asym,
            q4_codebook: neon::q4_codebook,
        },
    },
    Variant {
        name: "generic",
        supported: |_| true,
        run: Kernel {
            tiles: 1,
            q8: generic::q8,
            q4: generic::q4,
            q4_asym: generic::q4_asym,
            q4_codebook: generic::q4_codebook,
        },
    },
];

/// A kernel that this CPU can run.
#[derive(Clone, Copy)]
pub(super) struct MatmulQ8(Supported<Kernel>);

impl MatmulQ8 {
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

    /// Tiles that are best multiplied in one call.
    pub(super) fn tiles(self) -> usize {
        self.0.get().tiles
    }

    /// Multiplies neighbouring tiles of a tensor in `layout` by `tokens` rows of activations; `out` is `(tiles, tokens)`.
    ///
    /// # Panics
    /// If the layout is not quantized or the lengths do not agree.
    pub(super) fn run(
        self,
        layout: Layout,
        out: &mut [[f32; TILE_ROWS]],
        tiles: &[u8],
        x: Activations<'_>,
        tokens: usize,
    ) {
        let kernel = self.0.get();
        let (run, group) = match layout {
            Layout::Q8 { group } => (kernel.q8, usize::from(group)),
            Layout::Q4 { group } => (kernel.q4, usize::from(group)),
            Layout::Q4Asym { group } => (kernel.q4_asym, usize::from(group)),
            Layout::Q4Codebook { group } => (kernel.q4_codebook, usize::from(group)),
            Layout::F32 | Layout::F16 | Layout::Bf16 => panic!("{layout} is not quantized"),
        };
        x.assert_rows(tokens);
        assert!(group > 0 && group.is_multiple_of(super::quantize::GROUP));
        let tile = (x.groups * super::quantize::GROUP).div_ceil(group) * layout.block_bytes();
        assert!(tokens > 0 && out.len().is_multiple_of(tokens) && tiles.len() == out.len() / tokens * tile);
        for (out, tiles) in out.chunks_mut(kernel.tiles * tokens).zip(tiles.chunks(kernel.tiles * tile)) {
            // SAFETY: a `Supported` exists only for a variant that this CPU can run.
            unsafe { run(out, tiles, group, x) }
        }
    }
}
