//! The portable loops, inlined here and so compiled for 512-bit registers; exponentials by hand, since rows of scores are
//! short: a mask takes what is left of a vector, `vscalefps` multiplies by a power of two.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

use muse_format::Activation;

use super::{Kernel, portable};
use crate::cpu::load_x86::load_some;

pub(super) const KERNEL: Kernel =
    Kernel { glu, exp_and_sum, scale_and_cap, add, multiply, add_products, max, rms_norm, layer_norm };

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn glu(gate: &mut [f32], up: &[f32], activation: Activation) {
    portable::glu::<true>(gate, up, activation);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn exp_and_sum(x: &mut [f32], scale: f32, max: f32) -> f32 {
    let (scale, max) = (_mm512_set1_ps(scale), _mm512_set1_ps(max));
    let mut sums = _mm512_setzero_ps();
    for x in x.chunks_mut(16) {
        let mask = u16::MAX >> (16 - x.len());
        // SAFETY: the mask has as many bits as `x` has elements.
        unsafe {
            let power = exp(_mm512_fmsub_ps(load_some(x.as_ptr(), 0, mask), scale, max));
            _mm512_mask_storeu_ps(x.as_mut_ptr(), mask, power);
            sums = _mm512_mask_add_ps(sums, mask, sums, power);
        }
    }
    _mm512_reduce_add_ps(sums)
}

/// As the portable one.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn exp(x: __m512) -> __m512 {
    // ln 2 in two parts; the first has few bits, so that `n * LN_2_HIGH` is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = (std::f64::consts::LN_2 - 0.693_359_375) as f32;
    const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
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
fn max(x: &[f32]) -> f32 {
    portable::max(x)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    portable::rms_norm(x, weight, eps);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    portable::layer_norm(x, weight, bias, eps);
}
