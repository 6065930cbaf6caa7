use super::{linear, rowwise};
use crate::routing::{Choice, choose};
use crate::{Mixture, ReferenceBackend};

/// `x` and `out` are `(rows, dim)`, `logits` is `(rows, experts)`.
pub(super) fn run(out: &mut [f32], x: &[f32], logits: &[f32], mixture: &Mixture<'_, ReferenceBackend>) {
    let count = mixture.experts.len();
    let dim = mixture.experts[0].gate.cols();
    let vectors = [mixture.choice_bias, mixture.scales].map(|vector| vector.map(|v| v.f32()));
    let mut chosen = vec![Choice::default(); mixture.used];
    let inputs = x.chunks_exact(dim).zip(logits.chunks_exact(count));
    for (out, (x, logits)) in out.chunks_exact_mut(dim).zip(inputs) {
        choose(&mut chosen, logits, vectors, &mixture.routing);
        let mut sums = vec![0.0_f64; dim];
        for choice in &chosen {
            let weighed: Vec<f32>;
            let (x, weight) = if mixture.routing.weigh_input {
                weighed = x.iter().map(|x| choice.weight * x).collect();
                (&weighed[..], 1.0)
            } else {
                (x, choice.weight)
            };
            let expert = &mixture.experts[choice.expert as usize];
            let (mut gate, mut up) = (vec![0.0; expert.gate.rows()], vec![0.0; expert.up.rows()]);
            linear::run(&mut gate, &expert.gate, None, x);
            linear::run(&mut up, &expert.up, None, x);
            rowwise::glu(&mut gate, &up, mixture.routing.activation);
            let mut down = vec![0.0; dim];
            linear::run(&mut down, &expert.down, None, &gate);
            if let Some(norm) = &mixture.norm {
                rowwise::multiply(&mut down, norm.scale.f32());
                rowwise::rms_norm(&mut down, norm.weight.f32(), norm.eps);
            }
            let weighted = down.iter().map(|y| f64::from(weight) * f64::from(*y));
            sums.iter_mut().zip(weighted).for_each(|(sum, y)| *sum += y);
        }
        out.iter_mut().zip(&sums).for_each(|(out, sum)| *out = *sum as f32);
    }
}
