//! Every supported variant against f64 sums. A variant rounds each product and each of `cols` additions at most
//! once, in any order: it errs by at most `(cols + 1) * eps * sum |w * x|`.

use super::*;
use crate::test_data::Random;

fn assert_agrees<E: Copy + Into<f32>>(
    run: impl Fn(&mut [[f32; TILE_ROWS]], &[E], usize, &[f32]),
    narrow: fn(f32) -> E,
    case: &str,
) {
    let mut random = Random::new(3);
    for rows in [1, 2, 3, 4, 5, 15, 16] {
        for cols in [1, 7, 8, 15, 16, 17, 31, 32, 33, 64, 172, 576] {
            for tokens in [1, 2, 3, 4, 5, 17] {
                let weights: Vec<E> = random.normal(rows * cols).into_iter().map(narrow).collect();
                let x = random.normal(tokens * cols);
                let mut out = vec![[f32::NAN; TILE_ROWS]; tokens];
                run(&mut out, &weights, cols, &x);
                for (t, x) in x.chunks(cols).enumerate() {
                    for (r, weights) in weights.chunks(cols).enumerate() {
                        let terms =
                            || weights.iter().zip(x).map(|(w, x)| f64::from((*w).into()) * f64::from(*x));
                        let (sum, magnitude) = (terms().sum::<f64>(), terms().map(f64::abs).sum::<f64>());
                        let bound = (cols + 1) as f64 * f64::from(f32::EPSILON) * magnitude;
                        let error = (f64::from(out[t][r]) - sum).abs();
                        assert!(
                            error <= bound,
                            "{case} {rows} x {cols}, {tokens} tokens: ({t}, {r}) {error} > {bound}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn every_variant_agrees() {
    for matmul in MatmulFloat::all(Features::detect()) {
        let (kernel, name) = (matmul.0.get(), matmul.name());
        // SAFETY: a `Supported` exists only for a variant that this CPU can run.
        assert_agrees(
            |out, w, cols, x| unsafe { (kernel.f32)(out, w, cols, x) },
            |x| x,
            &format!("{name} f32"),
        );
        // SAFETY: as above.
        assert_agrees(
            |out, w, cols, x| unsafe { (kernel.f16)(out, w, cols, x) },
            f16::from_f32,
            &format!("{name} f16"),
        );
        // SAFETY: as above.
        assert_agrees(
            |out, w, cols, x| unsafe { (kernel.bf16)(out, w, cols, x) },
            bf16::from_f32,
            &format!("{name} bf16"),
        );
    }
}
