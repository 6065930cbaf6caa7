//! Vectors of f32 from memory of any element type.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use half::{bf16, f16};

/// An element type that a vector of f32 can be loaded from.
pub(super) trait Element: Copy + Into<f32> {
    const KIND: Kind;
}

#[derive(Clone, Copy)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    Int8,
}

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

/// 16 elements.
///
/// # Safety
/// `from` points to 16 readable elements.
#[inline]
#[target_feature(enable = "avx512f,avx2,f16c")]
pub(super) unsafe fn load_16<E: Element>(from: *const E) -> __m512 {
    // SAFETY: 16 elements are 64 bytes of f32, 32 of a half type or 16 of i8, by the caller's promise; unaligned loads.
    unsafe {
        match E::KIND {
            Kind::F32 => _mm512_loadu_ps(from.cast()),
            Kind::F16 => _mm512_cvtph_ps(_mm256_loadu_si256(from.cast())),
            Kind::Bf16 => {
                let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
            Kind::Int8 => _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(from.cast()))),
        }
    }
}

/// The elements of the set bits of `mask`, and zeros.
///
/// # Safety
/// `from` points to readable elements wherever `mask` is set.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx2,f16c")]
pub(super) unsafe fn load_some<E: Element>(from: *const E, mask: __mmask16) -> __m512 {
    // SAFETY: a masked load touches only elements whose bit is set, which the caller promised.
    unsafe {
        match E::KIND {
            Kind::F32 => _mm512_maskz_loadu_ps(mask, from.cast()),
            Kind::F16 => _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, from.cast())),
            Kind::Bf16 => {
                let wide = _mm512_cvtepu16_epi32(_mm256_maskz_loadu_epi16(mask, from.cast()));
                _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
            }
            Kind::Int8 => _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_maskz_loadu_epi8(mask, from.cast()))),
        }
    }
}

/// 8 elements.
///
/// # Safety
/// `from` points to 8 readable elements.
#[inline]
#[target_feature(enable = "avx2,f16c")]
pub(super) unsafe fn load_8<E: Element>(from: *const E) -> __m256 {
    // SAFETY: 8 elements are 32 bytes of f32, 16 of a half type or 8 of i8, by the caller's promise; unaligned loads.
    unsafe {
        match E::KIND {
            Kind::F32 => _mm256_loadu_ps(from.cast()),
            Kind::F16 => _mm256_cvtph_ps(_mm_loadu_si128(from.cast())),
            Kind::Bf16 => {
                let wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(from.cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(wide))
            }
            Kind::Int8 => _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(from.cast()))),
        }
    }
}

/// How far ahead weights are asked for: a CPU's own streams stop at every 4 KiB.
const AHEAD: usize = 8192;

/// Asks for as many bytes as `quants` and a block's head have, [`AHEAD`] of them.
#[inline(always)]
pub(super) fn prefetch(quants: &[u8]) {
    for line in 0..=quants.len() / 64 {
        // SAFETY: SSE is part of x86-64, and any address may be asked for.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(quants.as_ptr().wrapping_add(AHEAD + 64 * line).cast()) };
    }
}
