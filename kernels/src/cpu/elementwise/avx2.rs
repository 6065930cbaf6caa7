//! The portable loops, inlined here and so compiled for 256-bit registers.

use muse_format::Activation;

use super::{Kernel, portable};

pub(super) const KERNEL: Kernel = Kernel {
    glu,
    weigh,
    weigh_coarsely: weigh,
    scale_and_cap,
    add,
    multiply,
    add_products,
    rms_norm,
    layer_norm,
};

#[target_feature(enable = "avx2,fma")]
fn glu(gate: &mut [f32], up: &[f32], activation: Activation) {
    portable::glu::<true>(gate, up, activation);
}

#[target_feature(enable = "avx2,fma")]
fn weigh(x: &mut [f32], scales: Option<[&[f32]; 2]>, scale: f32, max: &mut f32) -> f32 {
    portable::weigh::<true>(x, scales, scale, max)
}

#[target_feature(enable = "avx2,fma")]
fn scale_and_cap(x: &mut [f32], scale: f32, softcap: Option<f32>) {
    portable::scale_and_cap::<true>(x, scale, softcap);
}

#[target_feature(enable = "avx2,fma")]
fn add(x: &mut [f32], y: &[f32]) {
    portable::add(x, y);
}

#[target_feature(enable = "avx2,fma")]
fn multiply(x: &mut [f32], y: &[f32]) {
    portable::multiply(x, y);
}

#[target_feature(enable = "avx2,fma")]
fn add_products(x: &mut [f32], y: &[f32], z: &[f32]) {
    portable::add_products::<true>(x, y, z);
}

#[target_feature(enable = "avx2,fma")]
fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    portable::rms_norm(x, weight, eps);
}

#[target_feature(enable = "avx2,fma")]
fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    portable::layer_norm(x, weight, bias, eps);
}
