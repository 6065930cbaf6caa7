use super::*;
use crate::test_data::Random;

/// A unit in the last place of `x`.
fn ulp(x: f64) -> f64 {
    (x.abs() * f64::from(f32::EPSILON)).max(f64::from(f32::from_bits(1)))
}

fn each(test: impl Fn(&str, Elementwise)) {
    Elementwise::all(Features::detect()).for_each(|e| test(e.name(), e));
}

/// Every binary step and the edges: overflow, underflow, zero, and lengths that are not whole vectors.
fn inputs() -> Vec<f32> {
    let steps = (-2000..2000).map(|i| i as f32 * 0.0547);
    steps.chain([0.0, -0.0, 1e-30, -1e-30, 87.0, -87.0, -103.0, -200.0, f32::NEG_INFINITY]).collect()
}

#[test]
fn weights_are_exponentials_within_two_ulp_and_summed() {
    each(|name, elementwise| {
        for top in [0.0, 89.0] {
            let below: Vec<f32> = inputs().into_iter().filter(|x| *x <= top).collect();
            // Whole blocks, and every shorter length.
            let lens = (1..=SCORES).chain(std::iter::repeat(SCORES));
            let mut rest = &below[..];
            for len in lens {
                let (x, after) = rest.split_at(len.min(rest.len()));
                let mut actual = x.to_vec();
                let mut max = top;
                let sum = elementwise.weigh(&mut actual, None, 1.0, &mut max);
                assert_eq!(max, top, "{name}");
                let exact: Vec<f64> = x.iter().map(|x| f64::from(x - top).exp()).collect();
                for (actual, exact) in actual.iter().zip(&exact) {
                    let error = (f64::from(*actual) - exact).abs();
                    assert!(error <= 2.0 * ulp(*exact), "{name}: {actual}, not {exact}");
                }
                let total: f64 = exact.iter().sum();
                // Each of the terms errs by 2 ulp and each addition by half of one.
                let bound = (2 + len) as f64 * f64::from(f32::EPSILON) * total + ulp(0.0) * len as f64;
                assert!((f64::from(sum) - total).abs() <= bound, "{name}: {sum}, not {total}");
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
        }
        assert!(elementwise.weigh(&mut [f32::NAN], None, 1.0, &mut 0.0).is_nan(), "{name}");
        assert!(elementwise.weigh_coarsely(&mut [f32::NAN], None, 1.0, &mut 0.0).is_nan(), "{name}");
        let mut hidden = [0.0, f32::NEG_INFINITY];
        assert_eq!(elementwise.weigh_coarsely(&mut hidden, None, 1.0, &mut 0.0), hidden[0], "{name}");
        assert_eq!(hidden[1], 0.0, "{name}");
    });
}

#[test]
fn weights_are_scaled_before_and_after() {
    each(|name, elementwise| {
        for len in [1, 15, 16, 127, SCORES] {
            let mut random = Random::new(len as u64);
            let x = random.normal(len);
            let [keys, values] =
                [0; 2].map(|_| random.normal(len).iter().map(|x| x.abs()).collect::<Vec<_>>());
            let (mut actual, mut coarse) = (x.clone(), x.clone());
            let (mut max, mut coarse_max) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
            let scales = Some([&keys[..], &values]);
            let sum = elementwise.weigh(&mut actual, scales, 8.0, &mut max);
            let coarse_sum = elementwise.weigh_coarsely(&mut coarse, scales, 8.0, &mut coarse_max);
            assert_eq!(max, coarse_max, "{name} {len}");
            let scores: Vec<f64> =
                x.iter().zip(&keys).map(|(x, k)| 8.0 * f64::from(*x) * f64::from(*k)).collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            assert!((f64::from(max) - largest).abs() <= ulp(largest), "{name} {len}: {max}, not {largest}");
            // Two ulp of the exponential, half of one for the last product, and what its argument errs by.
            let each = |score: f64| 2.5 + 2.0 * (score.abs() + largest.abs());
            let coarsely =
                |score: f64| 2_f64.powi(-18) + (1.0 + score.abs() + largest.abs()) * 2_f64.powi(-22);
            let (mut total, mut bounds) = (0.0, [0.0; 2]);
            for (i, score) in scores.iter().enumerate() {
                let power = (score - largest).exp();
                let exact = power * f64::from(values[i]);
                let error = (f64::from(actual[i]) - exact).abs();
                assert!(error <= each(*score) * ulp(exact), "{name} {len} {i}: {}, not {exact}", actual[i]);
                let share = coarsely(*score);
                let error = (f64::from(coarse[i]) - exact).abs();
                assert!(error <= share * exact + 1e-38, "{name} {len} {i}: {}, not {exact}", coarse[i]);
                total += power;
                bounds[0] += (each(*score) + len as f64) * ulp(power);
                bounds[1] += (share + len as f64 * f64::from(f32::EPSILON)) * power;
            }
            for (sum, bound) in [sum, coarse_sum].into_iter().zip(bounds) {
                assert!((f64::from(sum) - total).abs() <= bound, "{name} {len}: {sum}, not {total}");
            }
        }
    });
}

#[test]
fn the_largest_score_is_found_in_every_place() {
    each(|name, elementwise| {
        for len in [37, SCORES] {
            for place in 0..len {
                let mut x = vec![-3.0; len];
                x[place] = -2.0;
                x[(place + 1) % len] = f32::NAN;
                let mut max = f32::NEG_INFINITY;
                elementwise.weigh(&mut x, None, 1.0, &mut max);
                assert_eq!(max, -2.0, "{name} {place} of {len}");
            }
        }
        let mut max = 7.0;
        elementwise.weigh(&mut [1.0], None, 1.0, &mut max);
        assert_eq!(max, 7.0, "{name}: of an earlier block");
    });
}

#[test]
fn products_are_taken_in_place() {
    each(|name, elementwise| {
        let mut x = [0.5, 1.0];
        elementwise.multiply(&mut x, &[0.0, -3.0]);
        assert_eq!(x, [0.0, -3.0], "{name}");
    });
}

#[test]
fn activations_are_within_eight_ulp() {
    each(|name, elementwise| {
        for activation in [Activation::Silu, Activation::Sigmoid, Activation::GeluTanh] {
            let x: Vec<f32> = inputs().into_iter().filter(|x| x.is_finite()).collect();
            let mut gate = x.clone();
            elementwise.glu(&mut gate, &vec![0.5; x.len()], activation);
            for (x, actual) in x.iter().map(|x| f64::from(*x)).zip(&gate) {
                let argument = match activation {
                    Activation::Silu | Activation::Sigmoid | Activation::Gelu => x,
                    Activation::GeluTanh => (8.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3)),
                };
                let times = if activation == Activation::Sigmoid { 1.0 } else { x };
                let exact = 0.5 * times / (1.0 + (-argument).exp());
                // The argument of exp errs by 3 half ulps, which exp turns into |argument| as many; 1e-36 is where
                // exp overflows and the answer is 0.
                let bound = (8.0 + 2.0 * argument.abs().min(104.0)) * ulp(exact) + 1e-36;
                let error = (f64::from(*actual) - exact).abs();
                assert!(error <= bound, "{name} {activation:?}({x}): {actual}, not {exact}");
            }
        }
    });
}

#[test]
fn gelu_is_within_three_epsilon_of_its_argument() {
    each(|name, elementwise| {
        let x: Vec<f32> = inputs().into_iter().filter(|x| x.is_finite()).collect();
        let mut gate = x.clone();
        elementwise.glu(&mut gate, &vec![0.5; x.len()], Activation::Gelu);
        let mut plain = x.clone();
        elementwise.activate(&mut plain, Activation::Gelu);
        for ((x, gated), plain) in x.iter().map(|x| f64::from(*x)).zip(&gate).zip(&plain) {
            let exact = 0.5 * x * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2);
            // Half of the formula's 1.5e-7 is 0.63 epsilon; its polynomial's and its factors' roundings are the rest.
            let bound = 3.0 * f64::from(f32::EPSILON) * x.abs();
            for (actual, exact) in [(*gated, 0.5 * exact), (*plain, exact)] {
                let error = (f64::from(actual) - exact).abs();
                assert!(error <= bound, "{name} gelu({x}): {actual}, not {exact}");
            }
        }
        let mut nan = [f32::NAN];
        elementwise.activate(&mut nan, Activation::Gelu);
        assert!(nan[0].is_nan(), "{name}");
    });
}

#[test]
fn layer_norm_agrees() {
    each(|name, elementwise| {
        for cols in [1, 15, 16, 17, 64, 172, 576] {
            let mut random = Random::new(cols as u64);
            let (x, weight, bias) = (random.normal(cols), random.normal(cols), random.normal(cols));
            // Far from 0, so that a variance of squares less the mean's square would be noticed.
            let x: Vec<f32> = x.iter().map(|x| x + 100.0).collect();
            let n = cols as f64;
            let mean = x.iter().map(|x| f64::from(*x)).sum::<f64>() / n;
            let variance = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
            let inverse = 1.0 / (variance + 1e-2).sqrt();
            let mut actual = x.clone();
            elementwise.layer_norm(&mut actual, &weight, &bias, 1e-2);
            for (i, actual) in actual.iter().enumerate() {
                let factor = f64::from(weight[i]) * inverse;
                let exact = factor * (f64::from(x[i]) - mean) + f64::from(bias[i]);
                // The mean of numbers near 100 errs by (cols / 16 + 16) / 2 roundings of them; a difference errs by as
                // much, and the variance by less than that squared. The rest is as for the root mean square.
                let shift = (n / 32.0 + 10.0) * f64::from(f32::EPSILON) * 106.0;
                let bound = factor.abs() * shift * (1.0 + inverse * (f64::from(x[i]) - mean).abs())
                    + (n / 4.0 + 8.0) * f64::from(f32::EPSILON) * (exact.abs() + f64::from(bias[i].abs()));
                let error = (f64::from(*actual) - exact).abs();
                assert!(error <= bound, "{name} {cols}: {actual}, not {exact}");
            }
        }
    });
}

#[test]
fn soft_cap_is_within_four_epsilon_of_the_cap() {
    each(|name, elementwise| {
        for cap in [1.0_f32, 20.0, 50.0] {
            for x in inputs().into_iter().chain([f32::INFINITY, 1e30]) {
                let mut actual = [x];
                elementwise.scale_and_cap(&mut actual, 3.0, Some(cap));
                let exact = f64::from(cap) * (3.0 * f64::from(x) / f64::from(cap)).tanh();
                let error = (f64::from(actual[0]) - exact).abs();
                assert!(
                    error <= 4.0 * f64::from(f32::EPSILON * cap),
                    "{name} {cap} {x}: {actual:?}, not {exact}"
                );
            }
        }
        let mut x = [2.0, -3.0];
        elementwise.scale_and_cap(&mut x, 0.5, None);
        assert_eq!(x, [1.0, -1.5]);
    });
}

#[test]
fn rms_norm_agrees() {
    each(|name, elementwise| {
        for cols in [1, 15, 16, 17, 64, 172, 576] {
            let mut random = Random::new(cols as u64);
            let (x, weight) = (random.normal(cols), random.normal(cols));
            let squares: f64 = x.iter().map(|x| f64::from(*x).powi(2)).sum();
            let inverse = 1.0 / (squares / cols as f64 + 1e-5).sqrt();
            let mut actual = x.clone();
            elementwise.rms_norm(&mut actual, &weight, 1e-5);
            for ((actual, x), w) in actual.iter().zip(&x).zip(&weight) {
                let exact = f64::from(*x) * inverse * f64::from(*w);
                // Half of the sum's `cols` roundings, halved by the root, and 6 operations.
                let bound = (cols as f64 / 4.0 + 6.0) * f64::from(f32::EPSILON) * exact.abs();
                assert!((f64::from(*actual) - exact).abs() <= bound, "{name} {cols}: {actual}, not {exact}");
            }
        }
    });
}
