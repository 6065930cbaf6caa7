//! Gated DeltaNet from its documentation alone, a position after another, every sum written out.

use muse_format::{DeltaNet, File};

use super::naive::{affine, norm, sigmoid, tensor};

fn silu(x: f64) -> f64 {
    x * sigmoid(x)
}

/// `x / |x|`, as the rule has it.
fn unit(x: &[f64]) -> Vec<f64> {
    let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
    x.iter().map(|x| x / length).collect()
}

/// What the layer gives for each position, `ys` being its normed inputs.
pub fn outs(file: &File<'_>, d: &DeltaNet, l: usize, ys: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let name = |part: &str| format!("l{l}.delta.{part}");
    let of_all = |part: &str| -> Vec<Vec<f64>> { ys.iter().map(|y| affine(file, &name(part), y)).collect() };
    let [products, gates, decays, betas] = ["qkv", "gate", "decay", "beta"].map(of_all);
    let (taps, rate, weight) =
        (tensor(file, &name("taps")), tensor(file, &name("rate")), tensor(file, &name("norm")));
    let channels = d.channels() as usize;
    let convolved = |t: usize| -> Vec<f64> {
        let of_channel = |c: usize| {
            let term = |j: usize| {
                let position = (t + 1 + j).checked_sub(d.taps as usize);
                position.map_or(0.0, |position| taps[j * channels + c] * products[position][c])
            };
            silu((0..d.taps as usize).map(term).sum())
        };
        (0..channels).map(of_channel).collect()
    };
    let (key_dim, value_dim) = (d.key_dim as usize, d.value_dim as usize);
    let keys = d.key_heads as usize * key_dim;
    let mut states = vec![vec![vec![0.0; value_dim]; key_dim]; d.value_heads as usize];
    let mut outs = Vec::new();
    for t in 0..ys.len() {
        let x = convolved(t);
        let mut mixed = Vec::new();
        for (h, state) in states.iter_mut().enumerate() {
            let key_head = h / (d.value_heads / d.key_heads) as usize * key_dim;
            let root = (key_dim as f64).sqrt();
            let q: Vec<f64> = unit(&x[key_head..][..key_dim]).iter().map(|q| q / root).collect();
            let k = unit(&x[keys + key_head..][..key_dim]);
            let v = &x[2 * keys + h * value_dim..][..value_dim];
            let keeps = (-rate[h] * (1.0 + decays[t][h].exp()).ln()).exp();
            state.iter_mut().flatten().for_each(|s| *s *= keeps);
            for j in 0..value_dim {
                let held: f64 = (0..key_dim).map(|i| state[i][j] * k[i]).sum();
                for i in 0..key_dim {
                    state[i][j] += k[i] * sigmoid(betas[t][h]) * (v[j] - held);
                }
            }
            let read: Vec<f64> =
                (0..value_dim).map(|j| (0..key_dim).map(|i| state[i][j] * q[i]).sum()).collect();
            mixed.extend(norm(&read, &weight, file.spec.norm_eps));
        }
        mixed.iter_mut().zip(&gates[t]).for_each(|(x, g)| *x *= silu(*g));
        outs.push(affine(file, &name("out"), &mixed));
    }
    outs
}
