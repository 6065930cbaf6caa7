//! One 32-byte vector is 8 rows x 4 columns; `vpmaddubsw` by four broadcast activations makes two 16-bit sums a row.
//!
//! Q4 keeps nibbles unsigned and starts at `-8 * sum of activations`. Its 8 sums of a group stay within
//! `8 * 2 * 15 * 127 = 30480` and need no widening in between. Q8 takes the weight's sign to the activation:
//! `2 * 128 * 127 = 32512` fits, but is widened each time.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use muse_format::TILE_ROWS;

use super::Activations;
use crate::cpu::quantize::GROUP;

/// Vectors of one half (8 rows) of a group of activations: 4 columns each.
const VECTORS: usize = GROUP / 4;

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<8, false>(out, tile, group, x);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<4, false>(out, tile, group, x);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4_asym(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<4, true>(out, tile, group, x);
}

/// Takes the rows of activations in steps for which all sums fit the registers.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn run<const BITS: usize, const ASYM: bool>(
    out: &mut [[f32; TILE_ROWS]],
    tile: &[u8],
    group: usize,
    x: Activations<'_>,
) {
    let mut done = 0;
    while done < out.len() {
        let step = (out.len() - done).min(4);
        let (out, x) = (&mut out[done..done + step], x.rows(done, step));
        match step {
            4 => tokens::<BITS, ASYM, 4>(out, tile, group, x),
            3 => tokens::<BITS, ASYM, 3>(out, tile, group, x),
            2 => tokens::<BITS, ASYM, 2>(out, tile, group, x),
            _ => tokens::<BITS, ASYM, 1>(out, tile, group, x),
        }
        done += step;
    }
}

/// `N` rows of activations: each group of weights is unpacked once for all.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tokens<const BITS: usize, const ASYM: bool, const N: usize>(
    out: &mut [[f32; TILE_ROWS]],
    tile: &[u8],
    group: usize,
    x: Activations<'_>,
) {
    x.assert_rows(N);
    let head = 2 * TILE_ROWS * (1 + usize::from(ASYM));
    let group_bytes = TILE_ROWS * GROUP * BITS / 8;
    let per_block = group / GROUP;
    let mut sums = [[_mm256_setzero_ps(); 2]; N];
    let mut g = 0;
    for block in tile.chunks_exact(head + per_block * group_bytes) {
        let (head, quants) = block.split_at(head);
        for quants in quants.chunks_exact(group_bytes).take(x.groups - g) {
            for half in 0..2 {
                let scales = halves(&head[16 * half..][..16]);
                let weights = unpack::<BITS>(quants, half);
                for (t, sums) in sums.iter_mut().enumerate() {
                    let at = t * x.groups + g;
                    // SAFETY: `t < N` and `g < x.groups`, and `assert_rows` checked the three lengths for `N` rows.
                    let (scale, correction, quants) = unsafe {
                        let quants = x.quants.as_ptr().add(at * GROUP).cast::<[i32; VECTORS]>();
                        (
                            *x.scales.get_unchecked(at),
                            *x.corrections.get_unchecked(at),
                            quants.read_unaligned(),
                        )
                    };
                    let correction = _mm256_set1_epi32(correction);
                    let mut dot = dot::<BITS>(&weights, quants);
                    if BITS == 4 && !ASYM {
                        dot = _mm256_add_epi32(dot, correction);
                    }
                    let mut scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), scales);
                    if ASYM {
                        // A correction is -8 times the sum that an offset multiplies.
                        let offsets =
                            _mm256_mul_ps(halves(&head[32 + 16 * half..][..16]), _mm256_set1_ps(-0.125));
                        scaled = _mm256_fmadd_ps(_mm256_cvtepi32_ps(correction), offsets, scaled);
                    }
                    sums[half] = _mm256_fmadd_ps(scaled, _mm256_set1_ps(scale), sums[half]);
                }
            }
            g += 1;
        }
    }
    for (out, sums) in out.iter_mut().zip(sums) {
        // SAFETY: `out` is 16 f32: two vectors; no alignment is needed.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), sums[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), sums[1]);
        }
    }
}

/// The weights of 8 rows x 32 columns, 4 columns a vector: unsigned for Q4, signed for Q8.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack<const BITS: usize>(quants: &[u8], half: usize) -> [__m256i; VECTORS] {
    assert!(quants.len() == VECTORS * 8 * BITS && half < 2);
    // SAFETY: half `half` of vector `i` is inside `quants` by the assertion; no alignment is needed.
    let load = |i: usize| unsafe { _mm256_loadu_si256(quants.as_ptr().add(64 * i + 32 * half).cast()) };
    let mut weights = [_mm256_setzero_si256(); VECTORS];
    if BITS == 8 {
        weights.iter_mut().enumerate().for_each(|(i, weights)| *weights = load(i));
    } else {
        let low = _mm256_set1_epi8(15);
        for (i, weights) in weights.chunks_exact_mut(2).enumerate() {
            let packed = load(i);
            weights[0] = _mm256_and_si256(packed, low);
            weights[1] = _mm256_and_si256(_mm256_srli_epi16::<4>(packed), low);
        }
    }
    weights
}

/// The integer products of 8 rows.
#[inline]
#[target_feature(enable = "avx2")]
fn dot<const BITS: usize>(weights: &[__m256i; VECTORS], quants: [i32; VECTORS]) -> __m256i {
    let ones = _mm256_set1_epi16(1);
    let mut sum = _mm256_setzero_si256();
    for (weights, quants) in weights.iter().zip(quants) {
        let quants = _mm256_set1_epi32(quants);
        if BITS == 8 {
            let pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(*weights), _mm256_sign_epi8(quants, *weights));
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        } else {
            sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(*weights, quants));
        }
    }
    if BITS == 8 { sum } else { _mm256_madd_epi16(sum, ones) }
}

/// 8 f16 as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves(bytes: &[u8]) -> __m256 {
    assert_eq!(bytes.len(), 16);
    // SAFETY: 16 bytes by the assertion; no alignment is needed.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}
