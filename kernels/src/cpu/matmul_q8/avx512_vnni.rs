//! One 64-byte vector is 16 rows x 4 columns, so `vpdpbusd` by four broadcast activations adds 4 products to each of
//! 16 rows, and no sum goes across a vector. The instruction wants one unsigned operand: weights have 8 (Q4) or 128
//! (Q8, and what a codebook looks up) added, and the sums start at minus that times the sum of the activations.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use muse_format::{CODEBOOK, TILE_ROWS};

use super::Activations;
use crate::cpu::load_x86::{ahead_of, prefetch};
use crate::cpu::quantize::GROUP;

/// Vectors of one group of activations: 4 columns each.
const VECTORS: usize = GROUP / 4;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
pub(super) fn q8(out: &mut [[f32; TILE_ROWS]], tiles: &[u8], group: usize, x: Activations<'_>) {
    run::<8, false, false>(out, tiles, group, x);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
pub(super) fn q4(out: &mut [[f32; TILE_ROWS]], tiles: &[u8], group: usize, x: Activations<'_>) {
    run::<4, false, false>(out, tiles, group, x);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
pub(super) fn q4_asym(out: &mut [[f32; TILE_ROWS]], tiles: &[u8], group: usize, x: Activations<'_>) {
    run::<4, true, false>(out, tiles, group, x);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
pub(super) fn q4_codebook(out: &mut [[f32; TILE_ROWS]], tiles: &[u8], group: usize, x: Activations<'_>) {
    run::<4, false, true>(out, tiles, group, x);
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

/// Tiles that meet the same activations at once.
pub(super) const TILES: usize = 3;

/// Rows of activations that [`TILES`] tiles meet at once. What is loaded is the limit beside what is multiplied: an
/// activation is loaded once for three products, and all sums fit the registers.
const TOKENS: usize = 4;

/// Fewer rows than this take the tiles one by one: memory gives the weights more slowly than they are multiplied, in
/// one stream best.
const MANY: usize = 16;

/// Takes the rows of activations in steps for which all sums fit the registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
fn run<const BITS: usize, const ASYM: bool, const TABLE: bool>(
    out: &mut [[f32; TILE_ROWS]],
    tiles: &[u8],
    group: usize,
    x: Activations<'_>,
) {
    let len = x.groups.div_ceil(group / GROUP) * block_bytes::<BITS, ASYM>(group);
    let rows = out.len() / (tiles.len() / len);
    let mut done = 0;
    if tiles.len() == TILES * len && rows >= MANY {
        while done + TOKENS <= rows {
            tokens::<BITS, ASYM, TABLE, TILES, TOKENS>(&mut out[done..], rows, tiles, group, x, done);
            done += TOKENS;
        }
    }
    for (out, tile) in out.chunks_exact_mut(rows).zip(tiles.chunks_exact(len)) {
        let mut done = done;
        while done < rows {
            let step = match rows - done {
                16.. => 16,
                13.. => 8,
                left => left,
            };
            let out = &mut out[done..];
            match step {
                16 => tokens::<BITS, ASYM, TABLE, 1, 16>(out, rows, tile, group, x, done),
                12 => tokens::<BITS, ASYM, TABLE, 1, 12>(out, rows, tile, group, x, done),
                11 => tokens::<BITS, ASYM, TABLE, 1, 11>(out, rows, tile, group, x, done),
                10 => tokens::<BITS, ASYM, TABLE, 1, 10>(out, rows, tile, group, x, done),
                9 => tokens::<BITS, ASYM, TABLE, 1, 9>(out, rows, tile, group, x, done),
                8 => tokens::<BITS, ASYM, TABLE, 1, 8>(out, rows, tile, group, x, done),
                7 => tokens::<BITS, ASYM, TABLE, 1, 7>(out, rows, tile, group, x, done),
                6 => tokens::<BITS, ASYM, TABLE, 1, 6>(out, rows, tile, group, x, done),
                5 => tokens::<BITS, ASYM, TABLE, 1, 5>(out, rows, tile, group, x, done),
                4 => tokens::<BITS, ASYM, TABLE, 1, 4>(out, rows, tile, group, x, done),
                3 => tokens::<BITS, ASYM, TABLE, 1, 3>(out, rows, tile, group, x, done),
                2 => tokens::<BITS, ASYM, TABLE, 1, 2>(out, rows, tile, group, x, done),
                _ => tokens::<BITS, ASYM, TABLE, 1, 1>(out, rows, tile, group, x, done),
            }
            done += step;
        }
    }
}

/// Bytes of the scales and offsets of a block.
const fn head_bytes<const ASYM: bool>() -> usize {
    if ASYM { 4 * TILE_ROWS } else { 2 * TILE_ROWS }
}

/// Bytes of one group of activations' columns.
const fn group_bytes<const BITS: usize>() -> usize {
    TILE_ROWS * GROUP * BITS / 8
}

const fn block_bytes<const BITS: usize, const ASYM: bool>(group: usize) -> usize {
    head_bytes::<ASYM>() + group / GROUP * group_bytes::<BITS>()
}

/// `M` tiles by `N` rows of activations from `first` on, each group of weights in turn; sums of one tile and the next
/// are `stride` apart in `out`. Four columns at a time meet all rows, so that the sums of a row, which wait for one
/// another, are far apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,f16c")]
fn tokens<const BITS: usize, const ASYM: bool, const TABLE: bool, const M: usize, const N: usize>(
    out: &mut [[f32; TILE_ROWS]],
    stride: usize,
    tiles: &[u8],
    group: usize,
    x: Activations<'_>,
    first: usize,
) {
    let x = x.rows(first, N);
    x.assert_rows(N);
    let (block_bytes, head_bytes) = (block_bytes::<BITS, ASYM>(group), head_bytes::<ASYM>());
    let per_block = group / GROUP;
    let tile_bytes = x.groups.div_ceil(per_block) * block_bytes;
    assert_eq!(tiles.len(), M * tile_bytes);
    let ahead = ahead_of(N);
    let mut sums = [[_mm512_setzero_ps(); N]; M];
    let (mut head, mut weights) = (0, head_bytes);
    for g in 0..x.groups {
        if weights == head + block_bytes {
            (head, weights) = (weights, weights + head_bytes);
        }
        // SAFETY: `m < M`, and `len` bytes from `begin` are in block `g / per_block` of a tile, which is there since
        // `g < x.groups`.
        let of = |m: usize, begin: usize, len: usize| unsafe {
            let begin = m * tile_bytes + begin;
            tiles.get_unchecked(begin..begin + len)
        };
        if M == 1 {
            prefetch(of(0, weights, group_bytes::<BITS>()), ahead);
        } else if first == 0 {
            // The tiles of the next call.
            for m in 0..M {
                let after = of(m, weights, group_bytes::<BITS>()).as_ptr().wrapping_add(M * tile_bytes);
                for line in 0..=group_bytes::<BITS>() / 64 {
                    _mm_prefetch::<_MM_HINT_T1>(after.wrapping_add(64 * line).cast());
                }
            }
        }
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
        let mut dots = [[_mm512_setzero_si512(); N]; M];
        for t in 0..N {
            let start = match (BITS, ASYM) {
                (4, false) if !TABLE => _mm512_set1_epi32(correction(t)),
                (4, true) => _mm512_setzero_si512(),
                _ => _mm512_set1_epi32(16 * correction(t)),
            };
            for dots in &mut dots {
                dots[t] = start;
            }
        }
        // With one row of activations, even products that are far apart would be the limit.
        let mut odd = _mm512_setzero_si512();
        for i in 0..VECTORS / 2 {
            for half in 0..2 {
                let i = 2 * i + half;
                let mut columns = [_mm512_setzero_si512(); M];
                for (m, columns) in columns.iter_mut().enumerate() {
                    *columns = unpack::<BITS, TABLE>(of(m, weights, group_bytes::<BITS>()), i);
                }
                for t in 0..N {
                    let x = _mm512_set1_epi32(quants(t, i));
                    for (dots, columns) in dots.iter_mut().zip(columns) {
                        let sum = if M * N == 1 && half == 1 { &mut odd } else { &mut dots[t] };
                        *sum = _mm512_dpbusd_epi32(*sum, columns, x);
                    }
                }
            }
        }
        if M * N == 1 {
            dots[0][0] = _mm512_add_epi32(dots[0][0], odd);
        }
        for (m, (sums, dots)) in sums.iter_mut().zip(dots).enumerate() {
            let scales = halves(of(m, head, 2 * TILE_ROWS));
            let offsets = if ASYM { halves(of(m, head + 2 * TILE_ROWS, 2 * TILE_ROWS)) } else { scales };
            for (t, (sum, dot)) in sums.iter_mut().zip(dots).enumerate() {
                let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(dot), scales);
                if ASYM {
                    *sum = _mm512_fmadd_ps(_mm512_set1_ps(total(t)), offsets, *sum);
                }
                *sum = _mm512_fmadd_ps(scaled, _mm512_set1_ps(scale(t)), *sum);
            }
        }
        weights += group_bytes::<BITS>();
    }
    for (m, sums) in sums.into_iter().enumerate() {
        for (out, sum) in out[m * stride..][..N].iter_mut().zip(sums) {
            // SAFETY: `out` is 16 f32; no alignment is needed.
            unsafe { _mm512_storeu_ps(out.as_mut_ptr(), sum) };
        }
    }
}

/// The unsigned weights of 16 rows in columns `4 * i..4 * i + 4` of a group.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn unpack<const BITS: usize, const TABLE: bool>(quants: &[u8], i: usize) -> __m512i {
    assert!(quants.len() == VECTORS * 8 * BITS && i < VECTORS);
    // SAFETY: vector `i` is inside `quants` by the assertion; no alignment is needed.
    let load = |i: usize| unsafe { _mm512_loadu_si512(quants.as_ptr().add(64 * i).cast()) };
    if BITS == 8 {
        return _mm512_xor_si512(load(i), _mm512_set1_epi8(i8::MIN));
    }
    let packed = load(i / 2);
    let packed = if i % 2 == 1 { _mm512_srli_epi16::<4>(packed) } else { packed };
    let indices = _mm512_and_si512(packed, _mm512_set1_epi8(15));
    if !TABLE {
        return indices;
    }
    // SAFETY: 16 bytes are read from an array of 16; no alignment is needed.
    let levels = _mm512_broadcast_i32x4(unsafe { _mm_loadu_si128(UNSIGNED.as_ptr().cast()) });
    _mm512_shuffle_epi8(levels, indices)
}

/// 16 f16 as f32.
#[inline]
#[target_feature(enable = "avx512f,f16c")]
fn halves(bytes: &[u8]) -> __m512 {
    assert_eq!(bytes.len(), 32);
    // SAFETY: 32 bytes by the assertion; no alignment is needed.
    _mm512_cvtph_ps(unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) })
}
