//! The portable step, inlined here and so compiled for 512-bit registers; what is taken in, in intrinsics, as a compiler
//! takes 16 rows for the vector and transposes them.

#[allow(clippy::wildcard_imports)] // intrinsics
use std::arch::x86_64::*;

use super::{Columns, Kernel, Row, Step, portable};

pub(super) const KERNEL: Kernel = Kernel { step, take_in };

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn step(tile: &mut [Columns], row: Row<'_>) -> Step {
    portable::step::<true, 4>(tile, row)
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
fn take_in(tile: &mut [Columns], k: &[f32], decay: f32, delta: &Columns) {
    let decay = _mm512_set1_ps(decay);
    for (s, k) in tile.iter_mut().zip(k) {
        let k = _mm512_set1_ps(*k);
        for (s, delta) in s.as_chunks_mut::<16>().0.iter_mut().zip(delta.as_chunks::<16>().0) {
            // SAFETY: both are 16 numbers.
            let (held, delta) = unsafe { (_mm512_loadu_ps(s.as_ptr()), _mm512_loadu_ps(delta.as_ptr())) };
            let held = _mm512_fmadd_ps(k, delta, _mm512_mul_ps(decay, held));
            // SAFETY: as above.
            unsafe { _mm512_storeu_ps(s.as_mut_ptr(), held) };
        }
    }
}
