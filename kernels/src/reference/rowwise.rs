use std::f64::consts::{FRAC_1_SQRT_2, FRAC_2_SQRT_PI, SQRT_2};

use muse_format::{Activation, Temperature};

use crate::Span;

/// `x[r] = x[r] * weight / sqrt(mean(x[r]^2) + eps)`; `x` is `(rows, weight.len())`.
pub(super) fn rms_norm(x: &mut [f32], weight: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(weight.len()) {
        let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
        let inverse = 1.0 / (squares / x.len() as f64 + f64::from(eps)).sqrt();
        for (x, w) in x.iter_mut().zip(weight) {
            *x = (f64::from(*x) * inverse * f64::from(*w)) as f32;
        }
    }
}

/// `x[r] = x[r] * weight`; `x` is `(rows, weight.len())`.
pub(super) fn multiply(x: &mut [f32], weight: &[f32]) {
    for x in x.chunks_exact_mut(weight.len()) {
        x.iter_mut().zip(weight).for_each(|(x, w)| *x *= w);
    }
}

/// Turns pairs `(i, i + frequencies.len())` of one head by `position(i) * frequencies[i]`.
pub(super) fn rotate(head: &mut [f32], frequencies: &[f32], position: impl Fn(usize) -> u32) {
    let half = frequencies.len();
    assert!(2 * half <= head.len());
    for (i, frequency) in frequencies.iter().enumerate() {
        let (sin, cos) = f64::from(position(i) as f32 * frequency).sin_cos();
        let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
        head[i] = (a * cos - b * sin) as f32;
        head[i + half] = (a * sin + b * cos) as f32;
    }
}

/// Turns pairs `(i, i + head.len() / 2)`, the first `frequencies.len()` by the one coordinate, as many by the other.
pub(super) fn rotate_2d(head: &mut [f32], frequencies: &[f32], place: [u32; 2]) {
    let half = head.len() / 2;
    assert!(2 * frequencies.len() <= half);
    let angles = place.iter().flat_map(|at| frequencies.iter().map(move |f| *at as f32 * f));
    for (i, angle) in angles.enumerate() {
        let (sin, cos) = f64::from(angle).sin_cos();
        let (a, b) = (f64::from(head[i]), f64::from(head[i + half]));
        head[i] = (a * cos - b * sin) as f32;
        head[i + half] = (a * sin + b * cos) as f32;
    }
}

/// Multiplies each of the `width` wide rows of `x` by what `temperature` says of its position in `spans`.
pub(crate) fn temper(x: &mut [f32], spans: &[Span], width: usize, temperature: Temperature) {
    let positions = spans.iter().flat_map(|span| (0..span.len).map(move |i| span.start + i));
    for (x, position) in x.chunks_exact_mut(width).zip(positions) {
        let steps = (u64::from(position) + 1) / u64::from(temperature.every);
        let factor = 1.0 + f64::from(temperature.strength) * (steps as f64).ln_1p();
        x.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
    }
}

/// `x[r] = weight * (x[r] - mean) / sqrt(variance + eps) + bias`; `x` is `(rows, weight.len())`.
pub(super) fn layer_norm(x: &mut [f32], weight: &[f32], bias: &[f32], eps: f32) {
    for x in x.chunks_exact_mut(weight.len()) {
        let n = x.len() as f64;
        let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
        let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
        let inverse = 1.0 / (variance + f64::from(eps)).sqrt();
        for ((x, w), b) in x.iter_mut().zip(weight).zip(bias) {
            *x = (f64::from(*w) * (f64::from(*x) - mean) * inverse + f64::from(*b)) as f32;
        }
    }
}

/// Numbers that are none stay so.
pub(crate) fn clip(x: &mut [f32], [low, high]: [f32; 2]) {
    x.iter_mut().for_each(|x| {
        *x = if *x < low {
            low
        } else if *x > high {
            high
        } else {
            *x
        }
    });
}

/// `out[t] = bias + sum of weight[j] * x[t + 1 - taps + j]`, of rows as wide as `bias`; rows before the first of `x` are
/// those of `before`.
pub(super) fn convolve_causal(out: &mut [f32], x: &[f32], before: &[f32], weight: &[f32], bias: &[f32]) {
    let (width, history) = (bias.len(), before.len() / bias.len());
    for (t, out) in out.chunks_exact_mut(width).enumerate() {
        for (c, out) in out.iter_mut().enumerate() {
            let input = |row: usize| match row.checked_sub(history) {
                None => before[row * width + c],
                Some(row) => x[row * width + c],
            };
            let products = (0..=history).map(|j| f64::from(weight[j * width + c]) * f64::from(input(t + j)));
            *out = (f64::from(bias[c]) + products.sum::<f64>()) as f32;
        }
    }
}

/// Makes `before` the last of its rows and those of `x` behind them.
pub(crate) fn pass_on(before: &mut [f32], x: &[f32]) {
    let kept = before.len().saturating_sub(x.len());
    before.copy_within(before.len() - kept.., 0);
    let came = before.len() - kept;
    before[kept..].copy_from_slice(&x[x.len() - came..]);
}

/// `out[s]` is the mean of the `width` wide rows of `x` that belong to `spans[s]`.
pub(crate) fn mean(out: &mut [f32], x: &[f32], spans: &[Span], width: usize) {
    let mut rest = x;
    for (out, span) in out.chunks_exact_mut(width).zip(spans) {
        let (rows, after) = rest.split_at(span.len as usize * width);
        for (column, out) in out.iter_mut().enumerate() {
            let sum: f64 = rows.iter().skip(column).step_by(width).map(|x| f64::from(*x)).sum();
            *out = (sum / f64::from(span.len)) as f32;
        }
        rest = after;
    }
}

pub(super) fn activated(x: f64, activation: Activation) -> f64 {
    match activation {
        Activation::Silu => x / (1.0 + (-x).exp()),
        Activation::Sigmoid => 1.0 / (1.0 + (-x).exp()),
        Activation::GeluTanh => {
            // sqrt(2 / pi) is (2 / sqrt(pi)) / sqrt(2)
            0.5 * x * (1.0 + (FRAC_2_SQRT_PI / SQRT_2 * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Gelu => 0.5 * x * libm::erfc(-x * FRAC_1_SQRT_2),
    }
}

/// `x[i] = activation(x[i])`.
pub(super) fn activate(x: &mut [f32], activation: Activation) {
    x.iter_mut().for_each(|x| *x = activated(f64::from(*x), activation) as f32);
}

/// `gate[i] = activation(gate[i]) * up[i]`.
pub(super) fn glu(gate: &mut [f32], up: &[f32], activation: Activation) {
    for (gate, up) in gate.iter_mut().zip(up) {
        *gate = (activated(f64::from(*gate), activation) * f64::from(*up)) as f32;
    }
}

/// `cap * tanh(x / cap)`.
pub(super) fn soft_cap(x: f64, cap: Option<f32>) -> f64 {
    cap.map_or(x, |cap| f64::from(cap) * (x / f64::from(cap)).tanh())
}

pub(super) fn scale_and_cap(x: &mut [f32], scale: f32, softcap: Option<f32>) {
    for x in x {
        *x = soft_cap(f64::from(scale) * f64::from(*x), softcap) as f32;
    }
}

/// `x[r] = sigmoid(gate[r]) * x[r]`, a row of `x` for each element of `gate`.
pub(super) fn gate_rows(x: &mut [f32], gate: &[f32], width: usize) {
    for (x, gate) in x.chunks_exact_mut(width).zip(gate) {
        let factor = activated(f64::from(*gate), Activation::Sigmoid);
        x.iter_mut().for_each(|x| *x = (factor * f64::from(*x)) as f32);
    }
}

/// `out[r]` is `a[r]` and behind it `b[r]`, of the two widths.
pub(crate) fn join(out: &mut [f32], a: &[f32], b: &[f32], widths: [usize; 2]) {
    let [first, second] = widths;
    let parts = a.chunks_exact(first).zip(b.chunks_exact(second));
    for (out, (a, b)) in out.chunks_exact_mut(first + second).zip(parts) {
        out[..first].copy_from_slice(a);
        out[first..].copy_from_slice(b);
    }
}
