//! Loops without branches or calls, so that they vectorise; `inline(always)` so that a caller's target features apply.

use std::f32::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, LOG2_E, SQRT_2};

use muse_format::Activation;

use super::Kernel;

/// Whether the target multiplies and adds in one instruction whatever the CPU.
const FUSED: bool = cfg!(target_arch = "aarch64");

pub(super) const KERNEL: Kernel = Kernel {
    glu: glu::<FUSED>,
    weigh: weigh::<FUSED>,
    weigh_coarsely: weigh::<FUSED>,
    scale_and_cap: scale_and_cap::<FUSED>,
    add,
    multiply,
    add_products: add_products::<FUSED>,
    rms_norm,
    layer_norm,
};

/// `a * b + c`, rounded once where `FUSED`.
#[inline(always)]
fn add_product<const FUSED: bool>(a: f32, b: f32, c: f32) -> f32 {
    if FUSED { a.mul_add(b, c) } else { a * b + c }
}

/// `exp(x)` within 2 units in the last place; 0 below -87.33, infinity above 88.72, NaN for NaN.
///
/// `x = n ln 2 + r` with `|r| <= ln 2 / 2`, a Taylor polynomial of degree 7 for `exp(r)` (next term `r^8 / 8!` is below
/// 6e-9), and `2^n` in two factors so that neither overflows.
#[inline(always)]
fn exp<const FUSED: bool>(x: f32) -> f32 {
    // Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits.
    const ROUND: f32 = 12_582_912.0;
    // ln 2 in two parts; the first has few bits, so that n * LN_2_HIGH is exact.
    const LN_2_HIGH: f32 = 0.693_359_4;
    const LN_2_LOW: f32 = (std::f64::consts::LN_2 - 0.693_359_375) as f32;
    let bounded = x.clamp(-104.0, 89.0);
    let shifted = add_product::<FUSED>(bounded, LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = add_product::<FUSED>(-n, LN_2_LOW, add_product::<FUSED>(-n, LN_2_HIGH, bounded));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = add_product::<FUSED>(p, r, c);
    }
    let n = shifted.to_bits() as i32 - ROUND.to_bits() as i32;
    let half = n >> 1;
    let power = |n: i32| f32::from_bits(((n + 127) << 23) as u32);
    p * power(half) * power(n - half)
}

#[inline(always)]
pub(super) fn glu<const FUSED: bool>(gate: &mut [f32], up: &[f32], activation: Activation) {
    // GELU by tanh: 0.5 (1 + tanh u) is 1 / (1 + exp::<FUSED>(-2u)).
    const TWICE_SQRT_2_OVER_PI: f32 = SQRT_2 * FRAC_2_SQRT_PI;
    match activation {
        Activation::Silu => {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = *gate / (1.0 + exp::<FUSED>(-*gate)) * up;
            }
        }
        Activation::Sigmoid => {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = up / (1.0 + exp::<FUSED>(-*gate));
            }
        }
        Activation::GeluTanh => {
            for (gate, up) in gate.iter_mut().zip(up) {
                let x = *gate;
                let twice_u = TWICE_SQRT_2_OVER_PI * (x + 0.044715 * x * x * x);
                *gate = x / (1.0 + exp::<FUSED>(-twice_u)) * up;
            }
        }
        Activation::Gelu => {
            for (gate, up) in gate.iter_mut().zip(up) {
                *gate = *gate * normal::<FUSED>(*gate) * up;
            }
        }
    }
}

/// The standard normal distribution's `P(X <= x)` within 2 epsilon, from the formula 7.1.26 of Abramowitz and Stegun 1964
/// for `erf`, which errs by less than 1.5e-7.
#[inline(always)]
fn normal<const FUSED: bool>(x: f32) -> f32 {
    let t = 1.0 / (1.0 + 0.327_591_1 * FRAC_1_SQRT_2 * x.abs());
    let mut p = 1.061_405_4;
    for c in [-1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6, 0.0] {
        p = add_product::<FUSED>(p, t, c);
    }
    let tail = 0.5 * p * exp::<FUSED>(-0.5 * x * x);
    if x < 0.0 { tail } else { 1.0 - tail }
}

/// Adds in 16 sums side by side.
#[inline(always)]
fn sum_of(x: &[f32], term: impl Fn(f32) -> f32) -> f32 {
    let (chunks, tail) = x.as_chunks::<16>();
    let mut sums = [0.0_f32; 16];
    for chunk in chunks {
        for (sum, x) in sums.iter_mut().zip(chunk) {
            *sum += term(*x);
        }
    }
    sums.iter().sum::<f32>() + tail.iter().map(|x| term(*x)).sum::<f32>()
}

#[inline(always)]
pub(super) fn weigh<const FUSED: bool>(
    x: &mut [f32],
    scales: Option<[&[f32]; 2]>,
    scale: f32,
    max: &mut f32,
) -> f32 {
    if let Some([keys, _]) = scales {
        multiply(x, keys);
    }
    // The largest score is that of the largest product.
    *max = max.max(scale * largest(x));
    for x in x.iter_mut() {
        *x = exp::<FUSED>(add_product::<FUSED>(scale, *x, -*max));
    }
    let sum = sum_of(x, |x| x);
    if let Some([_, values]) = scales {
        multiply(x, values);
    }
    sum
}

#[inline(always)]
pub(super) fn scale_and_cap<const FUSED: bool>(x: &mut [f32], scale: f32, softcap: Option<f32>) {
    match softcap {
        None => x.iter_mut().for_each(|x| *x *= scale),
        Some(cap) => {
            let twice = 2.0 / cap * scale;
            for x in x {
                // tanh u is 1 - 2 / (exp(2u) + 1)
                *x = cap * (1.0 - 2.0 / (exp::<FUSED>(twice * *x) + 1.0));
            }
        }
    }
}

#[inline(always)]
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

#[inline(always)]
pub(super) fn multiply(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x *= y);
}

#[inline(always)]
pub(super) fn add_products<const FUSED: bool>(x: &mut [f32], y: &[f32], z: &[f32]) {
    for ((x, y), z) in x.iter_mut().zip(y).zip(z) {
        *x = add_product::<FUSED>(*y, *z, *x);
    }
}

/// The largest element, NaN left out; minus infinity for none.
#[inline(always)]
fn largest(x: &[f32]) -> f32 {
    let (chunks, tail) = x.as_chunks::<16>();
    let mut largest = [f32::NEG_INFINITY; 16];
    for chunk in chunks {
        for (largest, x) in largest.iter_mut().zip(chunk) {
            *largest = if *x > *largest { *x } else { *largest };
        }
    }
    largest.iter().chain(tail).copied().fold(f32::NEG_INFINITY, f32::max)
}

#[inline(always)]
pub(super) fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    let mean = sum_of(x, |x| x * x) / x.len() as f32;
    let inverse = 1.0 / (mean + eps).sqrt();
    for (x, w) in x.iter_mut().zip(weight) {
        *x = *x * inverse * w;
    }
}

#[inline(always)]
pub(super) fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    let mean = sum_of(x, |x| x) / x.len() as f32;
    x.iter_mut().for_each(|x| *x -= mean);
    let variance = sum_of(x, |x| x * x) / x.len() as f32;
    let inverse = 1.0 / (variance + eps).sqrt();
    for ((x, w), b) in x.iter_mut().zip(weight).zip(bias) {
        *x = *x * inverse * w + b;
    }
}
