use super::GROUP;
use crate::reference::quantize_group;

pub(super) fn run(quants: &mut [i8], scales: &mut [f32], corrections: &mut [i32], x: &[f32]) {
    let outputs = quants.chunks_exact_mut(GROUP).zip(scales).zip(corrections);
    for (((quants, scale), correction), x) in outputs.zip(x.chunks(GROUP)) {
        quants[x.len()..].fill(0);
        *scale = quantize_group(&mut quants[..x.len()], x);
        *correction = -8 * quants.iter().map(|q| i32::from(*q)).sum::<i32>();
    }
}
