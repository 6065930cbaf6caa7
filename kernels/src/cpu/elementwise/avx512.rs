//! The portable loops, inlined here and so compiled for 512-bit registers; weights of scores by hand, which stay in
//! registers; `vscalefps` multiplies by a power of two.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

use muse_format::Activation;

use super::{Kernel, SCORES, portable};
use crate::cpu::load_x86::load_some;

pub(super) const KERNEL: Kernel = Kernel {
    glu,
    weigh: weigh::<false>,
    weigh_coarsely: weigh::<true>,
    scale_and_cap,
    add,
    multiply,
    add_products,
    rms_norm,
    layer_norm,
};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn glu(gate: &mut [f32], up: &[f32], activation: Activation) {
    portable::glu::<true>(gate, up, activation);
}

const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// Reads and writes the scores once.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn weigh<const COARSE: bool>(x: &mut [f32], scales: Option<[&[f32]; 2]>, scale: f32, max: &mut f32) -> f32 {
    let len = x.len();
    assert!(len <= SCORES && scales.iter().flatten().all(|s| s.len() == len));
    let mask = |i: usize| u16::MAX >> (16 - (len - 16 * i).min(16));
    let mut powers = [_mm512_setzero_ps(); SCORES / 16];
    let mut largest = _mm512_set1_ps(f32::NEG_INFINITY);
    for (i, power) in powers.iter_mut().enumerate() {
        if 16 * i >= len {
            break;
        }
        // SAFETY: the mask has as many bits as there are scores from `16 * i` on, and scales are as many.
        unsafe {
            *power = load_some(x.as_ptr(), 16 * i, mask(i));
            if let Some([keys, _]) = scales {
                *power = _mm512_mul_ps(*power, load_some(keys.as_ptr(), 16 * i, mask(i)));
            }
        }
        // Where the first operand is no number the second one is what comes out.
        largest = _mm512_mask_max_ps(largest, mask(i), *power, largest);
    }
    *max = max.max(scale * _mm512_reduce_max_ps(largest));
    let unit = if COARSE { LOG2_E } else { 1.0 };
    let (scale, max) = (_mm512_set1_ps(unit * scale), _mm512_set1_ps(unit * *max));
    let mut sums = _mm512_setzero_ps();
    for (i, power) in powers.iter().enumerate() {
        if 16 * i >= len {
            break;
        }
        let below = _mm512_fmsub_ps(*power, scale, max);
        let mut power = if COARSE { power_of_two(below) } else { exp(below) };
        sums = _mm512_mask_add_ps(sums, mask(i), sums, power);
        // SAFETY: as above.
        unsafe {
            if let Some([_, values]) = scales {
                power = _mm512_mul_ps(power, load_some(values.as_ptr(), 16 * i, mask(i)));
            }
            _mm512_mask_storeu_ps(x.as_mut_ptr().add(16 * i), mask(i), power);
        }
    }
    _mm512_reduce_add_ps(sums)
}

/// `2^x` of no `x` above 0 within 2^-18 of itself, by the polynomial of degree 4 whose largest relative error from -1/2 to
/// 1/2 is smallest.
#[inline]
#[target_feature(enable = "avx512f")]
fn power_of_two(x: __m512) -> __m512 {
    // Where an operand is no number the second one is what comes out.
    let x = _mm512_max_ps(_mm512_set1_ps(-150.0), x);
    let n = _mm512_roundscale_ps::<NEAREST>(x);
    let r = _mm512_sub_ps(x, n);
    let mut p = _mm512_set1_ps(0.009_570_102);
    for c in [0.055_917_86, 0.240_247_44, 0.693_121_8, 0.999_999_3] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, n)
}

/// As the portable one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn exp(x: __m512) -> __m512 {
    // ln 2 in two parts; the first has few bits, so that `n * LN_2_HIGH` is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = (std::f64::consts::LN_2 - 0.693_359_375) as f32;
    // Where an operand is no number the second one is what comes out.
    let x = _mm512_min_ps(_mm512_set1_ps(89.0), _mm512_max_ps(_mm512_set1_ps(-104.0), x));
    let n = _mm512_roundscale_ps::<NEAREST>(_mm512_mul_ps(x, _mm512_set1_ps(LOG2_E)));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2_HIGH), x);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN_2_LOW), r);
    let mut p = _mm512_set1_ps(1.0 / 5040.0);
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, n)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn scale_and_cap(x: &mut [f32], scale: f32, softcap: Option<f32>) {
    portable::scale_and_cap::<true>(x, scale, softcap);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn add(x: &mut [f32], y: &[f32]) {
    portable::add(x, y);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn multiply(x: &mut [f32], y: &[f32]) {
    portable::multiply(x, y);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn add_products(x: &mut [f32], y: &[f32], z: &[f32]) {
    portable::add_products::<true>(x, y, z);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    portable::rms_norm(x, weight, eps);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    portable::layer_norm(x, weight, bias, eps);
}
