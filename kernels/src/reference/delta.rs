use muse_format::Activation;

use super::rowwise::activated;
use crate::DeltaShape;
use crate::delta::{COLUMNS, HostDeltaState, Stretch};
use crate::{Span, Tensor};

/// `x` is `(rows, channels)`, `weight` `(taps, channels)`.
pub(super) fn convolve(x: &mut [f32], weight: &[f32], state: &mut HostDeltaState, spans: &[Span]) {
    let shape = state.shape();
    let (channels, taps, ring) = (shape.channels() as usize, shape.taps as usize, shape.ring());
    let mut row = 0;
    for span in spans {
        let of_slot = span.slot as usize * ring;
        for position in span.start as usize..(span.start + span.len) as usize {
            let kept = |position: usize| (of_slot + position % ring.max(1)) * channels;
            let x = &mut x[row * channels..][..channels];
            let inputs: Vec<f32> = x.to_vec();
            for (c, x) in x.iter_mut().enumerate() {
                let mut sum = f64::from(weight[(taps - 1) * channels + c]) * f64::from(*x);
                for back in 1..taps.min(position + 1) {
                    let weight = weight[(taps - 1 - back) * channels + c];
                    sum += f64::from(weight) * f64::from(state.inputs[kept(position - back) + c]);
                }
                *x = activated(sum, Activation::Silu) as f32;
            }
            if ring > 0 {
                state.inputs[kept(position)..][..channels].copy_from_slice(&inputs);
            }
            row += 1;
        }
    }
}

/// See [`crate::Backend::delta_rule`]; one row after another, one head after another.
pub(super) fn rule(
    out: &mut [f32],
    x: &mut [f32],
    decay: &mut [f32],
    beta: &mut [f32],
    rate: &Tensor,
    state: &mut HostDeltaState,
    spans: &[Span],
) {
    let shape = state.shape();
    let (heads, channels) = (shape.value_heads as usize, shape.channels() as usize);
    for (decay, beta) in decay.chunks_exact_mut(heads).zip(beta.chunks_exact_mut(heads)) {
        for ((decay, beta), rate) in decay.iter_mut().zip(beta).zip(rate.f32()) {
            let x = f64::from(*decay);
            let softplus = x.max(0.0) + (-x.abs()).exp().ln_1p();
            *decay = (-f64::from(*rate) * softplus).exp() as f32;
            *beta = activated(f64::from(*beta), Activation::Sigmoid) as f32;
        }
    }
    for x in x.chunks_exact_mut(channels) {
        let both = 2 * (shape.key_heads * shape.key_dim) as usize;
        let (queries, keys) = x[..both].split_at_mut(both / 2);
        normalise(queries, shape.key_dim as usize, f64::from(shape.key_dim).powf(-0.5));
        normalise(keys, shape.key_dim as usize, 1.0);
    }
    let stretches = state.stretches(spans);
    for stretch in &stretches {
        (0..heads).for_each(|head| one_head(out, x, decay, beta, state, stretch, head));
    }
    state.settle(&stretches, x, decay);
}

/// Divides each head by its length, and multiplies it by `scale`.
fn normalise(x: &mut [f32], width: usize, scale: f64) {
    for head in x.chunks_exact_mut(width) {
        let squares: f64 = head.iter().map(|x| f64::from(*x).powi(2)).sum();
        let factor = scale / (squares + 1e-6).sqrt();
        head.iter_mut().for_each(|x| *x = (f64::from(*x) * factor) as f32);
    }
}

/// Index of row `i` and column `j` of the state of one head.
fn place(shape: &DeltaShape, i: usize, j: usize) -> usize {
    (j / COLUMNS * shape.key_dim as usize + i) * COLUMNS + j % COLUMNS
}

fn one_head(
    out: &mut [f32],
    x: &[f32],
    decay: &[f32],
    beta: &[f32],
    state: &mut HostDeltaState,
    stretch: &Stretch,
    head: usize,
) {
    let shape = state.shape();
    let (heads, width) = (shape.value_heads as usize, shape.value_dim as usize);
    let (rows, columns) = (shape.key_dim as usize, shape.columns());
    let key_head = head / (shape.value_heads / shape.key_heads) as usize;
    let keys = (shape.key_heads * shape.key_dim) as usize;
    let first = state.first + (stretch.slot * heads + head) * rows * columns;
    let own = first..first + rows * columns;
    let mut s = match stretch.start {
        0 => vec![0.0; own.len()],
        _ => state.states[own.clone()].to_vec(),
    };
    for position in stretch.settled..stretch.start {
        let open = shape.open_at(stretch.slot, position);
        let k = &state.keys[open * keys + key_head * rows..][..rows];
        let delta = &state.deltas[(open * heads + head) * columns..][..width];
        take_in(&mut s, &shape, k, delta, state.decays[open * heads + head]);
    }
    for n in 0..stretch.len {
        if n == stretch.settling {
            state.states[own.clone()].copy_from_slice(&s);
        }
        let row = stretch.row + n;
        let x = &x[row * shape.channels() as usize..][..shape.channels() as usize];
        let (q, k) = (&x[key_head * rows..][..rows], &x[keys + key_head * rows..][..rows]);
        let v = &x[2 * keys + head * width..][..width];
        let (decay, beta) = (decay[row * heads + head], f64::from(beta[row * heads + head]));
        let along = |s: &[f32], x: &[f32], j: usize| -> f64 {
            (0..rows).map(|i| f64::from(s[place(&shape, i, j)]) * f64::from(x[i])).sum()
        };
        let rest = |j: usize| f64::from(v[j]) - f64::from(decay) * along(&s, k, j);
        let delta: Vec<f32> = (0..width).map(|j| (beta * rest(j)) as f32).collect();
        take_in(&mut s, &shape, k, &delta, decay);
        for (j, out) in out[(row * heads + head) * width..][..width].iter_mut().enumerate() {
            *out = along(&s, q, j) as f32;
        }
        if n >= stretch.settling {
            let open = shape.open_at(stretch.slot, stretch.start + n as u32);
            state.deltas[(open * heads + head) * columns..][..width].copy_from_slice(&delta);
        }
    }
    if stretch.settling == stretch.len {
        state.states[own].copy_from_slice(&s);
    }
}

/// `s = decay * s + k delta^T`
fn take_in(s: &mut [f32], shape: &DeltaShape, k: &[f32], delta: &[f32], decay: f32) {
    for (i, k) in k.iter().enumerate() {
        for (j, delta) in delta.iter().enumerate() {
            let s = &mut s[place(shape, i, j)];
            *s = (f64::from(*s) * f64::from(decay) + f64::from(*k) * f64::from(*delta)) as f32;
        }
    }
}
