//! One 64-byte vector is 16 rows x 4 columns, so `vpdpbusd` by four broadcast activations adds 4 products to each of
//! 16 rows, and no sum goes across a vector. The instruction wants one unsigned operand: weights have 8 (Q4) or 128
//! (Q8, and what a codebook looks up) added, and the sums start at minus that times the sum of the activations.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use muse_format::{CODEBOOK, TILE_ROWS};

use super::Activations;
use crate::cpu::load_x86::prefetch;
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
            left => left.min(8),
        };
        let (out, x) = (&mut out[done..done + step], x.rows(done, step));
        match step {
            16 => tokens::<BITS, ASYM, TABLE, 16>(out, tile, group, x),
            8 => tokens::<BITS, ASYM, TABLE, 8>(out, tile, group, x),
            7 => tokens::<BITS, ASYM, TABLE, 7>(out, tile, group, x),
            6 => tokens::<BITS, ASYM, TABLE, 6>(out, tile, group, x),
            5 => tokens::<BITS, ASYM, TABLE, 5>(out, tile, group, x),
            4 => tokens::<BITS, ASYM, TABLE, 4>(out, tile, group, x),
            3 => tokens::<BITS, ASYM, TABLE, 3>(out, tile, group, x),
            2 => tokens::<BITS, ASYM, TABLE, 2>(out, tile, group, x),
            _ => tokens::<BITS, ASYM, TABLE, 1>(out, tile, group, x),
        }
        done += step;
    }
}

/// `N` rows of activations by each group of weights. Four columns at a time meet all rows, so that the sums of a row,
/// which wait for one another, are far apart.
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
        let offsets = if ASYM { halves(&head[32..]) } else { scales };
        for weights in quants.chunks_exact(group_bytes).take(x.groups - g) {
            prefetch(weights);
            // SAFETY: `t < N` and `g < x.groups`, and `assert_rows` checked the lengths for `N` rows.
            let correction = |t: usize| unsafe { *x.corrections.get_unchecked(x.at(t, g)) };
            // SAFETY: as above.
            let total = |t: usize| unsafe { *x.totals.get_unchecked(x.at(t, g)) };
            // SAFETY: as above.
            let scale = |t: usize| unsafe { *x.scales.get_unchecked(x.at(t, g)) };
            // SAFETY: as above; `i < VECTORS` is one of the four quants of a group.
            let quants = |t: usize, i: usize| unsafe {
                x.quants.as_ptr().add(x.at(t, g) * GROUP + 4 * i).cast::<i32>().read_unaligned()
            };
            let mut dots = [_mm512_setzero_si512(); N];
            for (t, dot) in dots.iter_mut().enumerate() {
                *dot = match (BITS, ASYM) {
                    (4, false) if !TABLE => _mm512_set1_epi32(correction(t)),
                    (4, true) => _mm512_setzero_si512(),
                    _ => _mm512_set1_epi32(16 * correction(t)),
                };
            }
            // With one row of activations, even products that are far apart would be the limit.
            let mut odd = _mm512_setzero_si512();
            for i in 0..VECTORS / 2 {
                for (i, weights) in [2 * i, 2 * i + 1].into_iter().zip(unpack::<BITS, TABLE>(weights, i)) {
                    for (t, dot) in dots.iter_mut().enumerate() {
                        let sum = if N == 1 && i % 2 == 1 { &mut odd } else { dot };
                        *sum = _mm512_dpbusd_epi32(*sum, weights, _mm512_set1_epi32(quants(t, i)));
                    }
                }
            }
            if N == 1 {
                dots[0] = _mm512_add_epi32(dots[0], odd);
            }
            for (t, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scales);
                if ASYM {
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(total(t)), offsets, *sum);
                }
                *sum = _mm512_fmadd_ps(scaled, _mm512_set1_ps(scale(t)), *sum);
            }
            g += 1;
        }
    }
    for (out, sum) in out.iter_mut().zip(sums) {
        // SAFETY: `out` is 16 f32; no alignment is needed.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
    }
}

/// The unsigned weights of 16 rows in columns `8 * i..8 * i + 8` of a group, 4 columns a vector.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack<const BITS: usize, const TABLE: bool>(quants: &[u8], i: usize) -> [__m512i; 2] {
    assert!(quants.len() == VECTORS * 8 * BITS && 2 * i < VECTORS);
    // SAFETY: vector `i` is inside `quants` by the assertion; no alignment is needed.
    let load = |i: usize| unsafe { _mm512_loadu_si512(quants.as_ptr().add(64 * i).cast()) };
    if BITS == 8 {
        let sign = _mm512_set1_epi8(i8::MIN);
        return [_mm512_xor_si512(load(2 * i), sign), _mm512_xor_si512(load(2 * i + 1), sign)];
    }
    let (packed, low) = (load(i), _mm512_set1_epi8(15));
    let indices = [_mm512_and_si512(packed, low), _mm512_and_si512(_mm512_srli_epi16::<4>(packed), low)];
    if !TABLE {
        return indices;
    }
    // SAFETY: 16 bytes are read from an array of 16; no alignment is needed.
    let levels = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(UNSIGNED.as_ptr().cast()) });
    [_mm512_shuffle_epi8(levels, indices[0]), _mm512_shuffle_epi8(levels, indices[1])]
}

/// 16 f16 as f32.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
fn halves(bytes: &[u8]) -> __m512 {
    assert_eq!(bytes.len(), 32);
    // SAFETY: 32 bytes by the assertion; no alignment is needed.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}
