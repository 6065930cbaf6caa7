//! The portable loops, inlined here and so compiled for 512-bit registers; weights of scores by hand, which stay in
//! registers; `vscalefps` multiplies by a power of two.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;

use muse_format::Activation;

use super::{Kernel, SCORES, portable};

pub(super) const KERNEL: Kernel =
    Kernel { glu, weigh, scale_and_cap, add, multiply, add_products, rms_norm, layer_norm };

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn glu(gate: &mut [f32], up: &[f32], activation: Activation) {
    portable::glu::<true>(gate, up, activation);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn weigh(x: &mut [f32], scales: Option<[&[f32]; 2]>, scale: f32, max: &mut f32) -> f32 {
    if let Ok(block) = x.try_into() {
        return weigh_block(block, scales.map(|scales| scales.map(|s| s.try_into().unwrap())), scale, max);
    }
    // What is behind the scores weighs nothing.
    let mut block = [f32::NEG_INFINITY; SCORES];
    block[..x.len()].copy_from_slice(x);
    let padded = scales.map(|scales| {
        scales.map(|s| {
            let mut padded = [1.0; SCORES];
            padded[..s.len()].copy_from_slice(s);
            padded
        })
    });
    let sum = weigh_block(&mut block, padded.as_ref().map(|[k, v]| [k, v]), scale, max);
    x.copy_from_slice(&block[..x.len()]);
    sum
}

/// [`weigh`] of a whole block, which is read and written once.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn weigh_block(x: &mut [f32; SCORES], scales: Option<[&[f32; SCORES]; 2]>, scale: f32, max: &mut f32) -> f32 {
    let (scores, []) = x.as_chunks_mut::<16>() else { unreachable!("128 are 8 by 16") };
    let scales = scales.map(|scales| scales.map(|s| s.as_chunks::<16>().0));
    let mut powers = [_mm512_setzero_ps(); SCORES / 16];
    let mut largest = _mm512_set1_ps(f32::NEG_INFINITY);
    for (i, power) in powers.iter_mut().enumerate() {
        *power = load(&scores[i]);
        if let Some([keys, _]) = scales {
            *power = _mm512_mul_ps(*power, load(&keys[i]));
        }
        // Where the first operand is no number the second one is what comes out.
        largest = _mm512_max_ps(*power, largest);
    }
    *max = max.max(scale * _mm512_reduce_max_ps(largest));
    let (scale, max) = (_mm512_set1_ps(scale), _mm512_set1_ps(*max));
    let mut sums = _mm512_setzero_ps();
    for (i, power) in powers.iter_mut().enumerate() {
        *power = exp(_mm512_fmsub_ps(*power, scale, max));
        sums = _mm512_add_ps(sums, *power);
        if let Some([_, values]) = scales {
            *power = _mm512_mul_ps(*power, load(&values[i]));
        }
        // SAFETY: 16 numbers are 64 bytes; an unaligned store.
        unsafe { _mm512_storeu_ps(scores[i].as_mut_ptr(), *power) };
    }
    _mm512_reduce_add_ps(sums)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load(x: &[f32; 16]) -> __m512 {
    // SAFETY: 16 numbers are 64 bytes; an unaligned load.
    unsafe { _mm512_loadu_ps(x.as_ptr()) }
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
fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    portable::rms_norm(x, weight, eps);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    portable::layer_norm(x, weight, bias, eps);
}
