//! One 64-byte vector is 16 rows x 4 columns, so `vpdpbusd` by four broadcast activations adds 4 products to each of
//! 16 rows, and no sum goes across a vector. The instruction wants one unsigned operand: weights have 8 (Q4) or 128
//! (Q8, and what a codebook looks up) added, and the sums start at minus that times the sum of the activations.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use muse_format::{CODEBOOK, TILE_ROWS};

use super::Activations;
use crate::cpu::quantize::GROUP;

/// Vectors of one group of activations: 4 columns each.
const VECTORS: usize = GROUP / 4;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
pub(super) fn q8(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<8, false, false>(out, tile, group, x);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
pub(super) fn q4(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<4, false, false>(out, tile, group, x);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
pub(super) fn q4_asym(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<4, true, false>(out, tile, group, x);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
pub(super) fn q4_codebook(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<4, false, true>(out, tile, group, x);
}

/// The codebook, each level 128 higher.
const UNSIGNED: [u8; 16] = {
    let mut levels = [0; 16];
    let mut i = 0;
    while i < 16 {
        levels[i] = CODEBOOK[i].cast_unsigned() ^ 128;
        i += 1;
    }
    levels
};

/// Takes the rows of activations in steps for which all sums fit the registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
fn run<const BITS: usize, const ASYM: bool, const TABLE: bool>(
    out: &mut [[f32; TILE_ROWS]],
    tile: &[u8],
    group: usize,
    x: Activations<'_>,
) {
    let mut done = 0;
    while done < out.len() {
        let step = match out.len() - done {
            16.. => 16,
            8.. => 8,
            4.. => 4,
            left => left,
        };
        let (out, x) = (&mut out[done..done + step], x.rows(done, step));
        match step {
            16 => tokens::<BITS, ASYM, TABLE, 16>(out, tile, group, x),
            8 => tokens::<BITS, ASYM, TABLE, 8>(out, tile, group, x),
            4 => tokens::<BITS, ASYM, TABLE, 4>(out, tile, group, x),
            3 => tokens::<BITS, ASYM, TABLE, 3>(out, tile, group, x),
            2 => tokens::<BITS, ASYM, TABLE, 2>(out, tile, group, x),
            _ => tokens::<BITS, ASYM, TABLE, 1>(out, tile, group, x),
        }
        done += step;
    }
}

/// `N` rows of activations: each group of weights is unpacked once for all.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
fn tokens<const BITS: usize, const ASYM: bool, const TABLE: bool, const N: usize>(
    out: &mut [[f32; TILE_ROWS]],
    tile: &[u8],
    group: usize,
    x: Activations<'_>,
) {
    x.assert_rows(N);
    let head = 2 * TILE_ROWS * (1 + usize::from(ASYM));
    let group_bytes = TILE_ROWS * GROUP * BITS / 8;
    let per_block = group / GROUP;
    let mut sums = [_mm512_setzero_ps(); N];
    let mut g = 0;
    for block in tile.chunks_exact(head + per_block * group_bytes) {
        let (head, quants) = block.split_at(head);
        let scales = halves(&head[..32]);
        // A correction is -8 times the sum that an offset multiplies.
        let offsets = if ASYM { _mm512_mul_ps(halves(&head[32..]), _mm512_set1_ps(-0.125)) } else { scales };
        for quants in quants.chunks_exact(group_bytes).take(x.groups - g) {
            let weights = unpack::<BITS, TABLE>(quants);
            for (t, sum) in sums.iter_mut().enumerate() {
                let at = t * x.groups + g;
                // SAFETY: `t < N` and `g < x.groups`, and `assert_rows` checked the three lengths for `N` rows.
                let (scale, correction, quants) = unsafe {
                    let quants = x.quants.as_ptr().add(at * GROUP).cast::<[i32; VECTORS]>();
                    (*x.scales.get_unchecked(at), *x.corrections.get_unchecked(at), quants.read_unaligned())
                };
                let correction = _mm512_set1_epi32(correction);
                let mut dot = match (BITS, ASYM) {
                    (4, false) if !TABLE => correction,
                    (4, true) => _mm512_setzero_si512(),
                    _ => _mm512_slli_epi32::<4>(correction),
                };
                // With one row of activations, products that waited for one another would be the limit.
                let mut odd = _mm512_setzero_si512();
                for (i, (weights, quants)) in weights.iter().zip(quants).enumerate() {
                    let sum = if N == 1 && i % 2 == 1 { &mut odd } else { &mut dot };
                    *sum = _mm512_dpbusd_epi32(*sum, *weights, _mm512_set1_epi32(quants));
                }
                if N == 1 {
                    dot = _mm512_add_epi32(dot, odd);
                }
                let mut scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scales);
                if ASYM {
                    scaled = _mm512_fmadd_ps(_mm512_cvtepi32_ps(correction), offsets, scaled);
                }
                *sum = _mm512_fmadd_ps(scaled, _mm512_set1_ps(scale), *sum);
            }
            g += 1;
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: `out` is 16 f32; no alignment is needed.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
}

/// The unsigned weights of 16 rows x 32 columns, 4 columns a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack<const BITS: usize, const TABLE: bool>(quants: &[u8]) -> [__m512i; VECTORS] {
    assert_eq!(quants.len(), VECTORS * 8 * BITS);
    // SAFETY: vector `i` is inside `quants` by the assertion; no alignment is needed.
    let load = |i: usize| unsafe { _mm512_loadu_si512(quants.as_ptr().add(64 * i).cast()) };
    let mut weights = [_mm512_setzero_si512(); VECTORS];
    if BITS == 8 {
        for (i, weights) in weights.iter_mut().enumerate() {
            *weights = _mm512_xor_si512(load(i), _mm512_set1_epi8(i8::MIN));
        }
    } else {
        let low = _mm512_set1_epi8(15);
        for (i, weights) in weights.chunks_exact_mut(2).enumerate() {
            let packed = load(i);
            weights[0] = _mm512_and_si512(packed, low);
            weights[1] = _mm512_and_si512(_mm512_srli_epi16::<4>(packed), low);
        }
        if TABLE {
            // SAFETY: 16 bytes are read from an array of 16; no alignment is needed.
            let levels = unsafe { _mm_loadu_si128(UNSIGNED.as_ptr().cast()) };
            let levels = _mm512_broadcast_i32x4(levels);
            weights.iter_mut().for_each(|index| *index = _mm512_shuffle_epi8(levels, *index));
        }
    }
    weights
}

/// 16 f16 as f32.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
fn halves(bytes: &[u8]) -> __m512 {
    assert_eq!(bytes.len(), 32);
    // SAFETY: 32 bytes by the assertion; no alignment is needed.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}
