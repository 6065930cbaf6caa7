//! One 32-byte vector is 8 rows x 4 columns; `vpmaddubsw` by four broadcast activations makes two 16-bit sums a row.
//!
//! Q4 keeps nibbles unsigned and starts at `-8 * sum of activations`. Its 8 sums of a group stay within
//! `8 * 2 * 15 * 127 = 30480` and need no widening in between. Q8, and what a codebook looks up, takes the
//! weight's sign to the activation: `2 * 128 * 127 = 32512` fits, but is widened each time.
//!
//! 16 registers hold the integer sums of 16 rows x 4 tokens and little else, so with many tokens a group of weights
//! is unpacked to the stack and the f32 sums stay in memory: the loop takes 6 loads for 8 products.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::{asm, x86_64::*};

use muse_format::{CODEBOOK, TILE_ROWS};

use super::Activations;
use crate::cpu::load_x86::{AHEAD, prefetch};
use crate::cpu::quantize::GROUP;

/// Vectors of one half (8 rows) of a group: 4 columns each.
const VECTORS: usize = GROUP / 4;

/// Both halves of 4 columns.
type Columns = [__m256i; 2];

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q8(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<8, 8, false>(out, tile, group, x);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<4, 4, false>(out, tile, group, x);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4_asym(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<4, 4, true>(out, tile, group, x);
}

#[target_feature(enable = "avx2,fma,f16c")]
pub(super) fn q4_codebook(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run::<4, 8, false>(out, tile, group, x);
}

/// Weights that take `STORED` bits in the tile and are multiplied as integers of `BITS`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn run<const STORED: usize, const BITS: usize, const ASYM: bool>(
    out: &mut [[f32; TILE_ROWS]],
    tile: &[u8],
    group: usize,
    x: Activations<'_>,
) {
    x.assert_rows(out.len());
    match out {
        [a] => few::<STORED, BITS, ASYM, 1>([a], tile, group, x),
        [a, b] => few::<STORED, BITS, ASYM, 2>([a, b], tile, group, x),
        [a, b, c] => few::<STORED, BITS, ASYM, 3>([a, b, c], tile, group, x),
        _ => {
            out.fill([0.0; TILE_ROWS]);
            groups::<STORED, ASYM>(tile, group, x.groups, |g, quants, scales| {
                let mut weights = [[_mm256_setzero_si256(); 2]; VECTORS];
                for (i, weights) in weights.iter_mut().enumerate() {
                    *weights = unpack::<STORED, BITS>(quants, i);
                }
                many::<BITS, ASYM>(out, &weights, scales, x, g);
            });
        }
    }
}

/// All groups by up to 3 tokens, which unpack as they multiply.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn few<const STORED: usize, const BITS: usize, const ASYM: bool, const N: usize>(
    out: [&mut [f32; TILE_ROWS]; N],
    tile: &[u8],
    group: usize,
    x: Activations<'_>,
) {
    // Not the caller's memory: the sums of one or two tokens stay in registers.
    let mut sums = [[0.0; TILE_ROWS]; N];
    groups::<STORED, ASYM>(tile, group, x.groups, |g, quants, scales| {
        tokens::<BITS, ASYM, N>(sums.each_mut(), |i| unpack::<STORED, BITS>(quants, i), scales, x, 0, g);
    });
    for (out, sums) in out.into_iter().zip(sums) {
        *out = sums;
    }
}

/// Calls `each` with the number, the quants and the scales of every group of a tile.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn groups<const STORED: usize, const ASYM: bool>(
    tile: &[u8],
    group: usize,
    count: usize,
    mut each: impl FnMut(usize, &[u8], &Scales<ASYM>),
) {
    let head = 2 * TILE_ROWS * (1 + usize::from(ASYM));
    let group_bytes = TILE_ROWS * GROUP * STORED / 8;
    let mut g = 0;
    for block in tile.chunks_exact(head + group / GROUP * group_bytes) {
        let (head, quants) = block.split_at(head);
        let scales = Scales::new(head);
        for quants in quants.chunks_exact(group_bytes).take(count - g) {
            prefetch(quants, AHEAD);
            each(g, quants, &scales);
            g += 1;
        }
    }
}

/// One group of weights by all tokens.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn many<const BITS: usize, const ASYM: bool>(
    out: &mut [[f32; TILE_ROWS]],
    weights: &[Columns; VECTORS],
    scales: &Scales<ASYM>,
    x: Activations<'_>,
    g: usize,
) {
    let (quads, rest) = out.as_chunks_mut::<4>();
    for (i, out) in quads.iter_mut().enumerate() {
        tokens::<BITS, ASYM, 4>(out.each_mut(), |i| weights[i], scales, x, 4 * i, g);
    }
    let first = 4 * quads.len();
    match rest {
        [a, b, c] => tokens::<BITS, ASYM, 3>([a, b, c], |i| weights[i], scales, x, first, g),
        [a, b] => tokens::<BITS, ASYM, 2>([a, b], |i| weights[i], scales, x, first, g),
        [a] => tokens::<BITS, ASYM, 1>([a], |i| weights[i], scales, x, first, g),
        _ => {}
    }
}

/// The f16 scales and offsets of a block as f32.
struct Scales<const ASYM: bool> {
    scales: [__m256; 2],
    offsets: [__m256; 2],
}

impl<const ASYM: bool> Scales<ASYM> {
    #[inline]
    #[target_feature(enable = "avx2,f16c")]
    fn new(head: &[u8]) -> Self {
        let scales = [halves(&head[..16]), halves(&head[16..32])];
        let offsets = if ASYM { [halves(&head[32..48]), halves(&head[48..64])] } else { scales };
        Self { scales, offsets }
    }
}

/// Adds the products of one group of weights and `N` rows of activations from `first` to `out`.
#[inline]
#[target_feature(enable = "avx2,fma,f16c")]
fn tokens<const BITS: usize, const ASYM: bool, const N: usize>(
    out: [&mut [f32; TILE_ROWS]; N],
    weights: impl Fn(usize) -> Columns,
    scales: &Scales<ASYM>,
    x: Activations<'_>,
    first: usize,
    g: usize,
) {
    assert!(g < x.groups && x.at(first + N - 1, g) < x.scales.len());
    let at = |t: usize| x.at(first + t, g);
    let ones = _mm256_set1_epi16(1);
    let mut sums = [[_mm256_setzero_si256(); 2]; N];
    for i in 0..VECTORS {
        let weights = weights(i);
        for (t, sums) in sums.iter_mut().enumerate() {
            // SAFETY: four quants of a group inside `x` by the assertion and by `assert_rows`.
            let quants =
                unsafe { x.quants.as_ptr().add(at(t) * GROUP + 4 * i).cast::<i32>().read_unaligned() };
            let quants = _mm256_set1_epi32(quants);
            for (sum, weights) in sums.iter_mut().zip(weights) {
                *sum = if BITS == 8 {
                    let pairs =
                        _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(quants, weights));
                    _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, ones))
                } else {
                    add_16(*sum, _mm256_maddubs_epi16(weights, quants))
                };
            }
        }
    }
    for (t, (out, sums)) in out.into_iter().zip(sums).enumerate() {
        // SAFETY: inside `x` by the assertion and by `assert_rows`.
        let (scale, correction, total) = unsafe {
            let scale = *x.scales.get_unchecked(at(t));
            (scale, *x.corrections.get_unchecked(at(t)), *x.totals.get_unchecked(at(t)))
        };
        let (scale, correction) = (_mm256_set1_ps(scale), _mm256_set1_epi32(correction));
        for (half, sum) in sums.into_iter().enumerate() {
            let mut dot = if BITS == 8 { sum } else { _mm256_madd_epi16(sum, ones) };
            if BITS == 4 && !ASYM {
                dot = _mm256_add_epi32(dot, correction);
            }
            let scaled = _mm256_mul_ps(_mm256_cvtepi32_ps(dot), scales.scales[half]);
            // SAFETY: `out` is 16 f32: two vectors; no alignment is needed.
            unsafe {
                let out = out.as_mut_ptr().add(8 * half);
                let mut sum = _mm256_loadu_ps(out);
                if ASYM {
                    sum = _mm256_fmadd_ps(_mm256_set1_ps(total), scales.offsets[half], sum);
                }
                _mm256_storeu_ps(out, _mm256_fmadd_ps(scaled, scale, sum));
            }
        }
    }
}

/// The weights of 16 rows in columns `4 * i..4 * i + 4` of a group: unsigned for Q4, signed for Q8 and a
/// codebook.
#[inline]
#[target_feature(enable = "avx2")]
fn unpack<const STORED: usize, const BITS: usize>(quants: &[u8], i: usize) -> Columns {
    assert!(quants.len() == VECTORS * 8 * STORED && i < VECTORS);
    // SAFETY: both halves of vector `i` are inside `quants` by the assertion; no alignment is needed.
    let load = |i: usize| unsafe {
        let from = quants.as_ptr().add(64 * i);
        [_mm256_loadu_si256(from.cast()), _mm256_loadu_si256(from.add(32).cast())]
    };
    if STORED == 8 {
        return load(i);
    }
    let low = _mm256_set1_epi8(15);
    let packed = load(i / 2);
    let nibbles =
        |v: __m256i| _mm256_and_si256(if i.is_multiple_of(2) { v } else { _mm256_srli_epi16::<4>(v) }, low);
    let indices = [nibbles(packed[0]), nibbles(packed[1])];
    if BITS == 4 {
        return indices;
    }
    // SAFETY: 16 bytes are read from an array of 16; no alignment is needed.
    let levels = _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(CODEBOOK.as_ptr().cast()) });
    [_mm256_shuffle_epi8(levels, indices[0]), _mm256_shuffle_epi8(levels, indices[1])]
}

/// `_mm256_add_epi16`, which a compiler cannot rearrange into a tree with more sums than there are registers.
#[inline]
#[target_feature(enable = "avx2")]
fn add_16(mut sum: __m256i, x: __m256i) -> __m256i {
    // SAFETY: AVX2 by this function's feature; registers only.
    unsafe {
        asm!("vpaddw {sum}, {sum}, {x}", sum = inout(ymm_reg) sum, x = in(ymm_reg) x,
            options(pure, nomem, nostack, preserves_flags));
    }
    sum
}

/// 8 f16 as f32.
#[inline]
#[target_feature(enable = "avx2,f16c")]
fn halves(bytes: &[u8]) -> __m256 {
    assert_eq!(bytes.len(), 16);
    // SAFETY: 16 bytes by the assertion; no alignment is needed.
    _mm256_cvtph_ps(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
}
