use half::f16;
use muse_format::Layout;

use super::group;

const Q8: Layout = Layout::Q8 { group: 32 };
const Q4: Layout = Layout::Q4 { group: 32 };
const Q4_ASYM: Layout = Layout::Q4Asym { group: 32 };

/// Numbers of a linear congruential generator, in -1..1.
fn noise(seed: u64, n: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..n).map(next).collect()
}

/// Groups of many shapes: sizes of whole groups and of tails, magnitudes, offsets and outliers.
fn cases() -> Vec<Vec<f32>> {
    let mut cases = Vec::new();
    for (seed, n) in [1, 7, 12, 31, 32, 44, 64, 128].into_iter().enumerate() {
        for (scale, offset) in [(1.0, 0.0), (0.02, 0.0), (3e-4, 0.0), (0.05, 0.2), (0.05, -1.0), (20.0, 7.0)]
        {
            let plain: Vec<f32> = noise(seed as u64 + 1, n).iter().map(|w| w * scale + offset).collect();
            let mut spiked = plain.clone();
            spiked[n / 2] *= 6.0;
            let cubed: Vec<f32> = plain.iter().map(|w| w * w * w).collect();
            cases.extend([plain, spiked, cubed]);
        }
    }
    cases
}

/// What a group stores, and the sum of squared errors.
fn stored(layout: Layout, weights: &[f32]) -> (Vec<i8>, f64) {
    let mut quants = vec![0; weights.len()];
    let scale = group(layout, weights, &mut quants).expect("the cases fit f16");
    let (s, o) = (f16::from_bits(scale.scale).to_f64(), f16::from_bits(scale.offset).to_f64());
    let error = |(w, q): (&f32, &i8)| (f64::from(*w) - (f64::from(*q) * s + o)).powi(2);
    let total = weights.iter().zip(&quants).map(error).sum();
    (quants, total)
}

fn extreme(weights: &[f32]) -> f64 {
    weights.iter().map(|w| f64::from(w.abs())).fold(0.0, f64::max)
}

#[test]
fn a_group_of_whole_steps_is_stored_exactly() {
    for step in [0.25f32, -0.5, 1.0] {
        let weights: Vec<f32> = (0..32).map(|i| (i % 16 - 8) as f32 * step).collect();
        let (quants, error) = stored(Q4, &weights);
        assert_eq!((error, quants[0], quants[15]), (0.0, -8, 7), "q4, step {step}");
        let weights: Vec<f32> = (0..32).map(|i| (i % 16) as f32 * step.abs() - 3.0).collect();
        let (quants, error) = stored(Q4_ASYM, &weights);
        assert_eq!((error, quants[0], quants[15]), (0.0, 0, 15), "q4 asymmetric, step {step}");
        let weights: Vec<f32> = (0..32).map(|i| (i * 8 - 127) as f32 * step).collect();
        let (quants, error) = stored(Q8, &weights);
        let sign = if step < 0.0 { -1 } else { 1 };
        assert_eq!((error, quants[0]), (0.0, -127 * sign), "q8, step {step}");
    }
}

#[test]
fn the_error_is_within_what_the_step_allows() {
    // f16 holds a scale or offset to one part in 2^11, except below 2^-14, where the spacing is 2^-24.
    let half_ulp = |x: f64| (x.abs() / 2048.0).max(2f64.powi(-25));
    let mut failures = Vec::new();
    for weights in cases() {
        let n = weights.len() as f64;
        let low = weights.iter().copied().fold(f32::INFINITY, f32::min);
        let high = weights.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let step4 = extreme(&weights) / 8.0;
        let step8 = extreme(&weights) / 127.0;
        let range = f64::from(high) - f64::from(low);
        let bounds = [
            // Half a step inside the range, a whole one for what would be +8 and is stored as +7.
            (Q4, step4 + 8.0 * half_ulp(step4)),
            (Q8, step8 / 2.0 + 127.0 * half_ulp(step8)),
            (Q4_ASYM, range / 30.0 + 15.0 * half_ulp(range / 15.0) + half_ulp(low.into())),
        ];
        for (layout, each) in bounds {
            let (_, error) = stored(layout, &weights);
            // The search compares f32 sums: it may prefer a line that is worse by their rounding, n * 2^-23 parts.
            let bound = n * each * each * (1.0 + n * 2f64.powi(-23));
            let within = error <= bound;
            if !within {
                failures.push(format!("{layout}, {n} weights to {}: {error} > {bound}", extreme(&weights)));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_search_is_never_worse_than_the_plain_scale_and_better_over_all() {
    let (mut searched, mut plain) = (0.0, 0.0);
    for weights in cases() {
        let extreme = weights.iter().copied().fold(0.0f32, |m, w| if w.abs() > m.abs() { w } else { m });
        let scale = f16::from_f32(-extreme / 8.0).to_f64();
        let one = |w: &f32| {
            let w = f64::from(*w);
            (w - (w / scale).round_ties_even().clamp(-8.0, 7.0) * scale).powi(2)
        };
        let simple: f64 = weights.iter().map(one).sum();
        let (_, error) = stored(Q4, &weights);
        // As above; plus a weight whose nearest step differs in f32 and f64 because it lies between two.
        assert!(error <= simple * (1.0 + 1e-4) + 1e-30, "{error} > {simple}: {weights:?}");
        let norm: f64 = weights.iter().map(|w| f64::from(*w).powi(2)).sum();
        (searched, plain) = (searched + error / norm, plain + simple / norm);
    }
    assert!(searched < plain, "{searched} against {plain}: the search gains nothing");
}

#[test]
fn zeros_constants_and_tiny_weights_are_stored() {
    for layout in [Q8, Q4, Q4_ASYM] {
        assert_eq!(stored(layout, &[0.0; 32]).1, 0.0, "{layout}");
        // f16's least step is 2^-24: what is below half of it becomes zero.
        let (_, error) = stored(layout, &[1e-9; 32]);
        assert!(error <= 32.0 * 1e-18 * 1.0001, "{layout}: {error}");
        // A scale of 0.5 / 127 is rounded to one part in 2^11 at most.
        let (_, error) = stored(layout, &[0.5; 32]);
        assert!(error <= 32.0 * (0.5f64 / 2048.0).powi(2), "{layout}: {error}");
    }
}

#[test]
fn weights_beyond_f16_are_refused() {
    let cases = [(Q4, 6e5), (Q8, 9e6), (Q4_ASYM, 7e4), (Q4, f32::MAX), (Q8, f32::MAX), (Q4_ASYM, f32::MAX)];
    for (layout, large) in cases {
        for sign in [1.0, -1.0] {
            let mut weights = [1.0; 32];
            weights[3] = large * sign;
            // An asymmetric group puts a large positive end on its 15th step; a negative one is its offset.
            let holds = layout == Q4_ASYM && large == 7e4 && sign == 1.0;
            assert_eq!(group(layout, &weights, &mut [0; 32]).is_some(), holds, "{layout} {large} {sign}");
        }
    }
}
