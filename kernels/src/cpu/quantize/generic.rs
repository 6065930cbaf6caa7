use super::Groups;
use crate::reference::quantize_group;

pub(super) fn run(out: Groups<'_>, x: &[f32], cols: usize, first: usize) {
    out.each(x, cols, first, |quants, x| {
        let scale = quantize_group(quants, x);
        (scale, quants.iter().map(|q| i32::from(*q)).sum())
    });
}
