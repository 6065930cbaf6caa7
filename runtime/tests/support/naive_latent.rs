//! Multi-head latent attention with every head's keys and values made, as the model was trained.

use muse_format::{File, Indexer, LatentAttention, Sparse};

use super::naive::{affine, norm, rotate, tensor};

/// `(x - mean) / deviation * weight + bias`
fn layer_norm(file: &File<'_>, name: &str, x: &[f64], eps: f32) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / x.len() as f64;
    let parameters = tensor(file, name).into_iter().zip(tensor(file, &format!("{name}_bias")));
    let one = |(x, (w, b)): (&f64, (f64, f64))| (x - mean) / (variance + f64::from(eps)).sqrt() * w + b;
    x.iter().zip(parameters).map(one).collect()
}

/// The positions that each position's queries meet; `xs` is what they are made of.
fn choose(
    file: &File<'_>,
    a: &LatentAttention,
    indexer: &Indexer,
    l: usize,
    ys: &[Vec<f64>],
    xs: &[Vec<f64>],
) -> Vec<Vec<usize>> {
    let name = |part: &str| format!("l{l}.attn.index.{part}");
    let frequencies = tensor(file, &format!("rope.{}", a.rope));
    let turned = |mut head: Vec<f64>, t: usize| {
        rotate(&mut head, &frequencies, t);
        head
    };
    let normed =
        |y: &Vec<f64>| layer_norm(file, &name("k_norm"), &affine(file, &name("k"), y), indexer.norm_eps);
    let keys: Vec<_> = ys.iter().enumerate().map(|(t, y)| turned(normed(y), t)).collect();
    let of_position = |t: usize| {
        let q = affine(file, &name("q"), &xs[t]);
        let heads = q.chunks_exact(indexer.head_dim as usize).map(|head| turned(head.to_vec(), t));
        let heads: Vec<_> = heads.zip(affine(file, &name("weight"), &ys[t])).collect();
        let score = |s: usize| -> f64 {
            let dot = |q: &[f64]| q.iter().zip(&keys[s]).map(|(q, k)| q * k).sum::<f64>();
            heads.iter().map(|(q, weight)| weight * dot(q).max(0.0)).sum()
        };
        let mut order: Vec<(f64, usize)> = (0..=t).map(|s| (score(s), s)).collect();
        order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        order.into_iter().take(indexer.top as usize).map(|(_, s)| s).collect()
    };
    (0..ys.len()).map(of_position).collect()
}

/// What the layer gives for each position, `ys` being its normed inputs; `chosen` is what the last layer that chose
/// positions chose.
pub fn outs(
    file: &File<'_>,
    a: &LatentAttention,
    l: usize,
    ys: &[Vec<f64>],
    chosen: &mut Vec<Vec<usize>>,
) -> Vec<Vec<f64>> {
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
    let made_of = |y: &Vec<f64>| if a.query_rank.is_some() { normed("q_down", y) } else { y.clone() };
    let xs: Vec<_> = ys.iter().map(made_of).collect();
    if let Some(Sparse::Own(indexer)) = &a.sparse {
        *chosen = choose(file, a, indexer, l, ys, &xs);
    }
    let out = |t: usize| {
        let x = &xs[t];
        let (q, q_rope) = (affine(file, &name("q"), x), rotated("q_rope", x, t));
        let meets = |s: usize| a.sparse.is_none() || chosen[t].contains(&s);
        let mut mixed = Vec::new();
        for (h, (q, q_rope)) in q.chunks_exact(key).zip(&q_rope).enumerate() {
            let score = |s: usize| f64::from(a.scale) * (dot(q, &keys[h][s]) + dot(q_rope, &shared[s]));
            let weights: Vec<f64> = (0..=t).map(|s| if meets(s) { score(s).exp() } else { 0.0 }).collect();
            let total: f64 = weights.iter().sum();
            let element = |i: usize| weights.iter().zip(&values[h]).map(|(w, v)| w * v[i]).sum::<f64>();
            mixed.extend((0..value).map(|i| element(i) / total));
        }
        affine(file, &name("out"), &mixed)
    };
    (0..ys.len()).map(out).collect()
}
