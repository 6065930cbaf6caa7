//! Vectors of f32 from memory of any element type.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::sync::LazyLock;

use half::{bf16, f16};

use crate::cache::{LEVELS, Nibbles, Number};

/// An element type that a vector of f32 can be loaded from. Number `at` of a run is element `at`, but of
/// [`Nibbles`], where it is half of one.
pub(super) trait Element: Copy {
    const KIND: Kind;
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    Int8,
    Nibbles,
}

/// A form of numbers whose runs vectors of f32 can be loaded from.
pub(super) trait Run: Number + Element {}

impl<E: Number + Element> Run for E {}

impl Element for f32 {
    const KIND: Kind = Kind::F32;
}

impl Element for f16 {
    const KIND: Kind = Kind::F16;
}

impl Element for bf16 {
    const KIND: Kind = Kind::Bf16;
}

impl Element for i8 {
    const KIND: Kind = Kind::Int8;
}

impl Element for Nibbles {
    const KIND: Kind = Kind::Nibbles;
}

/// [`LEVELS`] as f32.
const LEVELS_F32: [f32; 16] = {
    let mut levels = [0.0; 16];
    let mut i = 0;
    while i < 16 {
        levels[i] = LEVELS[i] as f32;
        i += 1;
    }
    levels
};

/// 16 numbers from number `at` of the run.
///
/// # Safety
/// The run holds 16 numbers from `at`; of [`Nibbles`], whole elements, and `at` is a multiple of 16.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(super) unsafe fn load_16<E: Element>(run: *const E, at: usize) -> __m512 {
    // SAFETY: 16 numbers are 64 bytes of f32, 32 of a half type, 16 of i8 or one half of 16 bytes, by the caller's
    // promise; unaligned loads.
    unsafe {
        match E::KIND {
            Kind::F32 => _mm512_loadu_ps(run.add(at).cast()),
            Kind::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(run.add(at).cast())),
            Kind::Bf16 => {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(run.add(at).cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
            Kind::Int8 => _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(run.add(at).cast()))),
            Kind::Nibbles => load_half(run, at / 32, at / 16 % 2, u16::MAX),
        }
    }
}

/// As [`load_16`], the numbers of the set bits of `mask`, and zeros.
///
/// # Safety
/// The run holds number `at + i` wherever bit `i` of `mask` is set; of [`Nibbles`], as for `load_16`.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(super) unsafe fn load_some<E: Element>(run: *const E, at: usize, mask: __mmask16) -> __m512 {
    // SAFETY: a masked load touches only elements whose bit is set, which the caller promised.
    unsafe {
        match E::KIND {
            Kind::F32 => _mm512_maskz_loadu_ps(mask, run.add(at).cast()),
            Kind::F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, run.add(at).cast())),
            Kind::Bf16 => {
                let wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, run.add(at).cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
            Kind::Int8 => {
                _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, run.add(at).cast())))
            }
            Kind::Nibbles => load_half(run, at / 32, at / 16 % 2, mask),
        }
    }
}

/// The numbers of the set bits of `mask`, and zeros, of 16 from number `32 * pair + 16 * half` of the run. Where `half`
/// is known when this is compiled, both halves of a pair of [`Nibbles`] come of one load.
///
/// # Safety
/// As for [`load_some`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(super) unsafe fn load_half<E: Element>(
    run: *const E,
    pair: usize,
    half: usize,
    mask: __mmask16,
) -> __m512 {
    // SAFETY: the caller's promise; a pair of `Nibbles` is 16 bytes.
    unsafe {
        match E::KIND {
            Kind::Nibbles => {
                let both = _mm512_cvtepu8_epi32(_mm_loadu_si128(run.add(16 * pair).cast()));
                let indices = if half == 0 { both } else { _mm512_srli_epi32::<4>(both) };
                // It takes the low 4 bits of each index.
                _mm512_maskz_permutexvar_ps(mask, indices, _mm512_loadu_ps(LEVELS_F32.as_ptr()))
            }
            _ => load_some(run, 32 * pair + 16 * half, mask),
        }
    }
}

/// 8 numbers from number `at` of the run.
///
/// # Safety
/// The run holds 8 numbers from `at`; of [`Nibbles`], whole elements, and `at` is a multiple of 8.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn load_8<E: Element>(run: *const E, at: usize) -> __m256 {
    // SAFETY: 8 numbers are 32 bytes of f32, 16 of a half type, 8 of i8 or one half of 8 bytes, by the caller's promise;
    // unaligned loads.
    unsafe {
        match E::KIND {
            Kind::F32 => _mm256_loadu_ps(run.add(at).cast()),
            Kind::F16 => _mm256_cvtph_ps(_mm_loadu_si128(run.add(at).cast())),
            Kind::Bf16 => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(run.add(at).cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
            Kind::Int8 => _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(run.add(at).cast()))),
            Kind::Nibbles => {
                let (element, bit) = Nibbles::place(at);
                let both = _mm_loadl_epi64(run.add(element).cast());
                let shifted = _mm_srl_epi16(both, _mm_cvtsi32_si128(bit.cast_signed()));
                let indices = _mm_and_si128(shifted, _mm_set1_epi8(15));
                let levels = _mm_shuffle_epi8(_mm_loadu_si128(LEVELS.as_ptr().cast()), indices);
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(levels))
            }
        }
    }
}

/// How many bytes ahead weights are asked for; 0 is not to ask.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ahead {
    /// Into the first cache.
    near: usize,
    /// Into the second one.
    far: usize,
}

/// Where nothing else is known: a CPU's own streams stop at every 4 KiB.
pub(super) const AHEAD: Ahead = Ahead { near: 8192, far: 0 };

/// For a product of `rows` rows of activations by the AVX-512 kernels. A Zen 4 reads one stream best when left
/// alone. More rows leave its own requests too few instructions ahead of the arithmetic, and what is asked of the first cache
/// waits for one of the few lines that may be on their way to it: there the second cache is asked far ahead, the first one
/// for what is in the second by then.
pub(super) fn ahead_of(rows: usize) -> Ahead {
    static ZEN_4: LazyLock<bool> = LazyLock::new(|| {
        // The first is the highest leaf with the vendor's name, the second the family in bits 8 to 11 and 20 to 27.
        let (vendor, version) = (__cpuid(0), __cpuid(1).eax);
        let amd =
            [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD";
        // Of family 25 a Zen 3 has no AVX-512.
        amd && (version >> 8 & 15) + (version >> 20 & 255) == 25
    });
    match (*ZEN_4, rows) {
        (false, _) => AHEAD,
        (true, ..=2) => Ahead { near: 0, far: 0 },
        (true, _) => Ahead { near: 2048, far: 16384 },
    }
}

/// Asks for as many bytes as `quants` and a block's head have, as far ahead of them as `ahead` says.
#[inline(always)]
pub(super) fn prefetch(quants: &[u8], ahead: Ahead) {
    // SAFETY: SSE is part of x86-64, and any address may be asked for.
    unsafe {
        if ahead.far > 0 {
            for line in 0..=quants.len() / 64 {
                _mm_prefetch::<_MM_HINT_T1>(quants.as_ptr().wrapping_add(ahead.far + 64 * line).cast());
            }
        }
        if ahead.near > 0 {
            for line in 0..=quants.len() / 64 {
                _mm_prefetch::<_MM_HINT_T0>(quants.as_ptr().wrapping_add(ahead.near + 64 * line).cast());
            }
        }
    }
}
