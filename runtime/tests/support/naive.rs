//! The forward pass once more, written from the spec's documentation alone: f64, no cache, a whole sequence at
//! once, masks written out. It shares no code with the graph, the plan or a backend.

use muse_format::{Activation, Attention, Experts, File, Layer, Mixer, Score, Spec};

use super::{naive_delta_net, naive_latent};

/// A matrix or vector of the file as f64; f32 tensors only.
pub(super) fn tensor(file: &File<'_>, name: &str) -> Vec<f64> {
    let tensor = file.tensor(name).unwrap_or_else(|| panic!("{name}"));
    assert_eq!(tensor.layout, muse_format::Layout::F32, "the naive pass reads exact files");
    tensor.bytes.chunks_exact(4).map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap()))).collect()
}

pub(super) fn norm(x: &[f64], weight: &[f64], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(x, w)| x * w / (mean + f64::from(eps)).sqrt()).collect()
}

pub(super) fn affine(file: &File<'_>, name: &str, x: &[f64]) -> Vec<f64> {
    let products = tensor(file, name);
    let products = products.chunks_exact(x.len()).map(|w| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>());
    match file.tensor(&format!("{name}_bias")) {
        None => products.collect(),
        Some(_) => products.zip(tensor(file, &format!("{name}_bias"))).map(|(y, b)| y + b).collect(),
    }
}

pub(super) fn rotate(head: &mut [f64], frequencies: &[f64], position: usize) {
    for (i, frequency) in frequencies.iter().enumerate() {
        let (sin, cos) = (position as f64 * frequency).sin_cos();
        let (a, b) = (head[i], head[i + frequencies.len()]);
        (head[i], head[i + frequencies.len()]) = (a * cos - b * sin, b * cos + a * sin);
    }
}

pub(super) fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

fn cap(x: f64, cap: Option<f32>) -> f64 {
    cap.map_or(x, |c| f64::from(c) * (x / f64::from(c)).tanh())
}

/// Normalised and rotated heads of one position, `(heads, head_dim)`.
fn heads(file: &File<'_>, a: &Attention, l: usize, part: &str, y: &[f64], position: usize) -> Vec<Vec<f64>> {
    let all = affine(file, &format!("l{l}.attn.{part}"), y);
    let head = |head: &[f64]| {
        let mut head = head.to_vec();
        if if part == "v" { a.v_norm } else { a.qk_norm } {
            head = norm(&head, &tensor(file, &format!("l{l}.attn.{part}_norm")), file.spec.norm_eps);
        }
        if let Some(rope) = a.rope.filter(|_| part != "v") {
            rotate(&mut head, &tensor(file, &format!("rope.{rope}")), position);
        }
        head
    };
    all.chunks_exact(a.head_dim as usize).map(head).collect()
}

fn attention(a: &Attention, t: usize, q: &[Vec<f64>], k: &[Vec<Vec<f64>>], v: &[Vec<Vec<f64>>]) -> Vec<f64> {
    let group = (a.heads / a.kv_heads) as usize;
    let same_chunk = |s: usize| a.chunk.is_none_or(|chunk| s / chunk as usize == t / chunk as usize);
    let visible = |s: usize| s <= t && a.window.is_none_or(|w| t - s < w as usize) && same_chunk(s);
    let grown = a.temperature.map_or(1.0, |temperature| {
        let steps = ((t + 1) as f64 / f64::from(temperature.every)).floor();
        1.0 + f64::from(temperature.strength) * (1.0 + steps).ln()
    });
    let mut mixed = Vec::new();
    for (h, q) in q.iter().enumerate() {
        let score = |s: usize| {
            let dot: f64 = q.iter().zip(&k[s][h / group]).map(|(q, k)| q * k).sum();
            if visible(s) { cap(grown * dot * f64::from(a.scale), a.softcap).exp() } else { 0.0 }
        };
        let weights: Vec<f64> = (0..k.len()).map(score).collect();
        let total: f64 = weights.iter().sum();
        for i in 0..a.head_dim as usize {
            mixed.push(weights.iter().zip(v).map(|(w, v)| w * v[h / group][i]).sum::<f64>() / total);
        }
    }
    mixed
}

/// What attention gives for each position; `kept` is what earlier layers' keys and values are.
fn attend(
    file: &File<'_>,
    a: &Attention,
    l: usize,
    ys: &[Vec<f64>],
    kept: &mut Vec<[Vec<Vec<Vec<f64>>>; 2]>,
) -> Vec<Vec<f64>> {
    let part = |name: &str| -> Vec<Vec<Vec<f64>>> {
        ys.iter().enumerate().map(|(t, y)| heads(file, a, l, name, y, t)).collect()
    };
    let q = part("q");
    let [k, v] = match a.kv_from {
        None => [part("k"), part("v")],
        Some(from) => kept[from as usize].clone(),
    };
    kept.push([k.clone(), v.clone()]);
    let out = |t: usize| {
        let mut mixed = attention(a, t, &q[t], &k, &v);
        if a.mix_norm {
            let weight = tensor(file, &format!("l{l}.attn.mix_norm"));
            let eps = file.spec.norm_eps;
            mixed = mixed.chunks_exact(weight.len()).flat_map(|h| norm(h, &weight, eps)).collect();
        }
        if a.out_gate {
            let gate = affine(file, &format!("l{l}.attn.gate"), &ys[t]);
            mixed.iter_mut().zip(gate).for_each(|(x, g)| *x *= sigmoid(g));
        }
        affine(file, &format!("l{l}.attn.out"), &mixed)
    };
    (0..ys.len()).map(out).collect()
}

fn activate(activation: Activation, x: f64) -> f64 {
    match activation {
        Activation::Silu => x * sigmoid(x),
        Activation::Sigmoid => sigmoid(x),
        Activation::Gelu => 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2),
        Activation::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
    }
}

/// A gated feed-forward whose matrices' names begin with `prefix`.
fn gated(file: &File<'_>, prefix: &str, activation: Activation, y: &[f64]) -> Vec<f64> {
    let gate = affine(file, &format!("{prefix}.gate"), y);
    let up = affine(file, &format!("{prefix}.up"), y);
    let hidden: Vec<f64> = gate.iter().zip(up).map(|(g, u)| activate(activation, *g) * u).collect();
    affine(file, &format!("{prefix}.down"), &hidden)
}

/// `y` is what the dense feed-forward reads, made of `x`.
fn mixture(file: &File<'_>, experts: &Experts, l: usize, x: &[f64], y: &[f64], eps: f32) -> Vec<f64> {
    let own = |part: &str, x: &[f64], or: &[f64]| match experts.own_norms {
        true => norm(x, &tensor(file, &format!("l{l}.experts.{part}")), eps),
        false => or.to_vec(),
    };
    let products = affine(file, &format!("l{l}.experts.router"), &own("router_norm", x, y));
    let y = &own("norm", x, y)[..];
    let products: Vec<f64> = products.iter().map(|p| p * f64::from(experts.logit_scale)).collect();
    let scores: Vec<f64> = match experts.score {
        Score::Softmax => {
            let total: f64 = products.iter().map(|x| x.exp()).sum();
            products.iter().map(|x| x.exp() / total).collect()
        }
        Score::Sigmoid => products.iter().map(|x| sigmoid(*x)).collect(),
    };
    let bias = match experts.choice_bias {
        true => tensor(file, &format!("l{l}.experts.choice_bias")),
        false => vec![0.0; scores.len()],
    };
    let mut order: Vec<usize> = (0..scores.len()).collect();
    order.sort_by(|a, b| (scores[*b] + bias[*b]).total_cmp(&(scores[*a] + bias[*a])));
    let chosen = &order[..experts.used as usize];
    let total: f64 = if experts.normalise { chosen.iter().map(|e| scores[*e]).sum() } else { 1.0 };
    let named = |part: &str| format!("l{l}.experts.{part}");
    let x = match experts.latent {
        None => y.to_vec(),
        Some(_) => norm(&affine(file, &named("in"), y), &tensor(file, &named("in_norm")), eps),
    };
    let mut sum = vec![0.0; x.len()];
    for e in chosen {
        let own = if experts.expert_scale { tensor(file, &named("expert_scale"))[*e] } else { 1.0 };
        let weight = own * f64::from(experts.scale) * scores[*e] / total;
        let (before, weight) = if experts.weigh_input { (weight, 1.0) } else { (1.0, weight) };
        let x: Vec<f64> = x.iter().map(|x| before * x).collect();
        let mut out = gated(file, &named(&e.to_string()), experts.activation, &x);
        if let Some(eps) = experts.each_norm_eps {
            let scaled: Vec<f64> =
                out.iter().zip(tensor(file, &named("each_scale"))).map(|(x, s)| x * s).collect();
            out = norm(&scaled, &tensor(file, &named("each_norm")), eps);
        }
        sum.iter_mut().zip(out).for_each(|(sum, x)| *sum += weight * x);
    }
    let sum = if experts.latent.is_some() { affine(file, &named("out"), &sum) } else { sum };
    own("post_norm", &sum, &sum)
}

fn feed_forward(file: &File<'_>, layer: &Layer, l: usize, x: &[f64], y: &[f64], eps: f32) -> Vec<f64> {
    let mut sum = vec![0.0; y.len()];
    let mut dense = layer.ffn.as_ref().map(|ffn| gated(file, &format!("l{l}.ffn"), ffn.activation, y));
    if layer.token_gate {
        let gate = sigmoid(affine(file, &format!("l{l}.ffn.token_gate"), y)[0]);
        dense.iter_mut().flatten().for_each(|x| *x *= gate);
    }
    if layer.experts.as_ref().is_some_and(|experts| experts.own_norms) {
        let weight = tensor(file, &format!("l{l}.experts.beside_norm"));
        dense = dense.map(|dense| norm(&dense, &weight, eps));
    }
    let routed = layer.experts.as_ref().map(|experts| mixture(file, experts, l, x, y, eps));
    for part in [dense, routed].into_iter().flatten() {
        sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
    sum
}

/// Each token's vectors of all layers, `(tokens, layers * per_layer)`; nothing where the spec has none.
fn vectors_of_layers(file: &File<'_>, spec: &Spec, tokens: &[u32], stream: &[Vec<f64>]) -> Vec<Vec<f64>> {
    let Some(e) = &spec.per_layer else { return Vec::new() };
    let (width, weight) = (e.dim as usize, tensor(file, "per_layer.norm"));
    let all = width * spec.layers.len();
    let table = tensor(file, "per_layer.table");
    let of_token = |(token, x): (&u32, &Vec<f64>)| -> Vec<f64> {
        let products = affine(file, "per_layer.projection", x);
        let scaled: Vec<f64> = products.iter().map(|p| p * f64::from(e.projection_scale)).collect();
        let normed = scaled.chunks_exact(width).flat_map(|p| norm(p, &weight, spec.norm_eps));
        let row = &table[*token as usize * all..][..all];
        let sums = normed.zip(row).map(|(p, t)| p + t * f64::from(e.table_scale));
        sums.map(|sum| sum * f64::from(e.scale)).collect()
    };
    tokens.iter().zip(stream).map(of_token).collect()
}

/// The logits of every position, `(tokens, vocab)`.
pub fn logits(file: &File<'_>, tokens: &[u32]) -> Vec<f32> {
    let spec = &file.spec;
    let (dim, embed) = (spec.dim as usize, tensor(file, "embed"));
    let row = |t: &u32| embed[*t as usize * dim..][..dim].iter().map(|x| x * f64::from(spec.embed_scale));
    let mut stream: Vec<Vec<f64>> = tokens.iter().map(|t| row(t).collect()).collect();
    let mut kept: Vec<[Vec<Vec<Vec<f64>>>; 2]> = Vec::new();
    let mut chosen = Vec::new();
    if spec.embed_norm {
        let weight = tensor(file, "embed_norm");
        stream.iter_mut().for_each(|x| *x = norm(x, &weight, spec.norm_eps));
    }
    let extra = vectors_of_layers(file, spec, tokens, &stream);
    for (l, layer) in spec.layers.iter().enumerate() {
        let normed =
            |x: &Vec<f64>, half: &str| norm(x, &tensor(file, &format!("l{l}.{half}.norm")), spec.norm_eps);
        let residual = |x: &mut Vec<f64>, out: Vec<f64>, half: &str| {
            let scaled = half == "ffn" && layer.ffn_post_scale;
            let out = match scaled {
                true => {
                    let scale = tensor(file, &format!("l{l}.ffn.post_scale"));
                    out.iter().zip(scale).map(|(x, s)| x * s).collect()
                }
                false => out,
            };
            let out = match layer.post_norms {
                true => {
                    let eps = layer.post_norm_eps.unwrap_or(spec.norm_eps);
                    norm(&out, &tensor(file, &format!("l{l}.{half}.post_norm")), eps)
                }
                false => out,
            };
            let keep = match layer.residual_gates {
                true => tensor(file, &format!("l{l}.{half}.keep")),
                false => vec![1.0; x.len()],
            };
            x.iter_mut().zip(out).zip(keep).for_each(|((x, y), keep)| *x = keep * *x + y);
        };
        let ys: Vec<_> = stream.iter().map(|x| normed(x, "attn")).collect();
        let outs = match &layer.mixer {
            Mixer::Attention(a) => attend(file, a, l, &ys, &mut kept),
            Mixer::DeltaNet(d) => {
                kept.push([vec![], vec![]]);
                naive_delta_net::outs(file, d, l, &ys)
            }
            Mixer::Latent(a) => {
                kept.push([vec![], vec![]]);
                naive_latent::outs(file, a, l, &ys, &mut chosen)
            }
        };
        for ((t, x), out) in stream.iter_mut().enumerate().zip(outs) {
            residual(x, out, "attn");
            let y = normed(x, "ffn");
            let given = feed_forward(file, layer, l, x, &y, spec.norm_eps);
            residual(x, given, "ffn");
            if let Some(e) = &spec.per_layer {
                let gate = affine(file, &format!("l{l}.per_layer.gate"), x);
                let own = &extra[t][l * gate.len()..];
                let hidden: Vec<_> =
                    gate.iter().zip(own).map(|(g, e_)| activate(e.activation, *g) * e_).collect();
                let out = affine(file, &format!("l{l}.per_layer.out"), &hidden);
                let out = norm(&out, &tensor(file, &format!("l{l}.per_layer.norm")), spec.norm_eps);
                x.iter_mut().zip(out).for_each(|(x, y)| *x += y);
            }
            if layer.scaled {
                let scale = tensor(file, &format!("l{l}.scale"))[0];
                x.iter_mut().for_each(|x| *x *= scale);
            }
        }
    }
    let head = if spec.tied_head { "embed" } else { "head" };
    let last = tensor(file, "norm");
    let logits = stream.iter().flat_map(|x| affine(file, head, &norm(x, &last, spec.norm_eps)));
    logits.map(|x| cap(x * f64::from(spec.logit_scale), spec.logit_softcap) as f32).collect()
}
