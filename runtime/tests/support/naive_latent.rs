//! Multi-head latent attention with every head's keys and values made, as the model was trained.

use muse_format::{File, LatentAttention};

use super::naive::{affine, norm, rotate, tensor};

/// What the layer gives for each position, `ys` being its normed inputs.
pub fn outs(file: &File<'_>, a: &LatentAttention, l: usize, ys: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let name = |part: &str| format!("l{l}.attn.{part}");
    let [rank, key, turned, value] = [a.rank, a.key_dim, a.rope_dim, a.value_dim].map(|n| n as usize);
    let frequencies = tensor(file, &format!("rope.{}", a.rope));
    let normed = |part: &str, y: &[f64]| {
        norm(&affine(file, &name(part), y), &tensor(file, &name(&format!("{part}_norm"))), a.norm_eps)
    };
    let rotated = |part: &str, x: &[f64], t: usize| -> Vec<Vec<f64>> {
        let mut all = affine(file, &name(part), x);
        all.chunks_exact_mut(turned).for_each(|head| rotate(head, &frequencies, t));
        all.chunks_exact(turned).map(<[f64]>::to_vec).collect()
    };
    let latents: Vec<_> = ys.iter().map(|y| normed("latent", y)).collect();
    let shared: Vec<_> = ys.iter().enumerate().map(|(t, y)| rotated("k_rope", y, t).remove(0)).collect();
    let (key_up, value_up) = (tensor(file, &name("key_up")), tensor(file, &name("value_up")));
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let key_of = |h: usize, s: usize| -> Vec<f64> {
        let weight = |r: usize, i: usize| key_up[(h * rank + r) * key + i];
        let element = |i: usize| (0..rank).map(|r| weight(r, i) * latents[s][r]).sum::<f64>();
        (0..key).map(element).collect()
    };
    let value_of = |h: usize, s: usize| -> Vec<f64> {
        let own = &value_up[h * value * rank..][..value * rank];
        own.chunks_exact(rank).map(|row| dot(row, &latents[s])).collect()
    };
    let of_heads = |made: &dyn Fn(usize, usize) -> Vec<f64>| -> Vec<Vec<Vec<f64>>> {
        (0..a.heads as usize).map(|h| (0..ys.len()).map(|s| made(h, s)).collect()).collect()
    };
    let (keys, values) = (of_heads(&key_of), of_heads(&value_of));
    let out = |t: usize| {
        let x = if a.query_rank.is_some() { normed("q_down", &ys[t]) } else { ys[t].clone() };
        let (q, q_rope) = (affine(file, &name("q"), &x), rotated("q_rope", &x, t));
        let mut mixed = Vec::new();
        for (h, (q, q_rope)) in q.chunks_exact(key).zip(&q_rope).enumerate() {
            let score = |s: usize| f64::from(a.scale) * (dot(q, &keys[h][s]) + dot(q_rope, &shared[s]));
            let weights: Vec<f64> = (0..=t).map(|s| score(s).exp()).collect();
            let total: f64 = weights.iter().sum();
            let element = |i: usize| weights.iter().zip(&values[h]).map(|(w, v)| w * v[i]).sum::<f64>();
            mixed.extend((0..value).map(|i| element(i) / total));
        }
        affine(file, &name("out"), &mixed)
    };
    (0..ys.len()).map(out).collect()
}
