use muse_format::TILE_ROWS;

/// Partial sums that a compiler can keep in vector registers.
const LANES: usize = 16;

pub(super) fn run<E: Copy + Into<f32>>(out: &mut [[f32; TILE_ROWS]], weights: &[E], cols: usize, x: &[f32]) {
    for (out, x) in out.iter_mut().zip(x.chunks_exact(cols)) {
        for (out, weights) in out.iter_mut().zip(weights.chunks_exact(cols)) {
            *out = dot(weights, x);
        }
    }
}

fn dot<E: Copy + Into<f32>>(weights: &[E], x: &[f32]) -> f32 {
    let mut sums = [0.0_f32; LANES];
    let (weight_chunks, weight_tail) = weights.as_chunks::<LANES>();
    let (x_chunks, x_tail) = x.as_chunks::<LANES>();
    for (w, x) in weight_chunks.iter().zip(x_chunks) {
        for ((sum, w), x) in sums.iter_mut().zip(w).zip(x) {
            *sum += (*w).into() * x;
        }
    }
    let tail: f32 = weight_tail.iter().zip(x_tail).map(|(w, x)| (*w).into() * x).sum();
    sums.iter().sum::<f32>() + tail
}
