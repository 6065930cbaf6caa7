use half::f16;
use muse_format::{CODEBOOK, Layout};

use super::group;

const Q8: Layout = Layout::Q8 { group: 32 };
const Q4: Layout = Layout::Q4 { group: 32 };
const Q4_ASYM: Layout = Layout::Q4Asym { group: 32 };
const Q4_CODEBOOK: Layout = Layout::Q4Codebook { group: 32 };

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
        let weights: Vec<f32> = (0..32).map(|i| f32::from(CODEBOOK[i % 16]) * step).collect();
        let (quants, error) = stored(Q4_CODEBOOK, &weights);
        assert_eq!((error, quants[0], quants[15]), (0.0, -127, 113), "q4 by codebook, step {step}");
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
        let unit = extreme(&weights) / 113.0;
        let range = f64::from(high) - f64::from(low);
        let bounds = [
            // Half a step inside the range, a whole one for what would be +8 and is stored as +7.
            (Q4, step4 + 8.0 * half_ulp(step4)),
            (Q8, step8 / 2.0 + 127.0 * half_ulp(step8)),
            (Q4_ASYM, range / 30.0 + 15.0 * half_ulp(range / 15.0) + half_ulp(low.into())),
            // Half of the widest gap, 24 levels, where the largest weight is at the nearer end, 113.
            (Q4_CODEBOOK, 12.0 * unit + 113.0 * half_ulp(unit)),
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
fn the_search_is_never_worse_than_a_plain_scale_and_better_over_all() {
    // The level on which a plain scale puts the weight of largest magnitude.
    for (layout, ends) in [(Q4, [-8].as_slice()), (Q4_CODEBOOK, &[113, -127])] {
        let levels = layout.levels();
        let (mut searched, mut plain) = (0.0, 0.0);
        for weights in cases() {
            let extreme = weights.iter().copied().fold(0.0f32, |m, w| if w.abs() > m.abs() { w } else { m });
            let of_end = |end: &i8| -> f64 {
                let scale = f16::from_f32(extreme / f32::from(*end)).to_f64();
                let error = |w: &f32, level: &i8| (f64::from(*w) - f64::from(*level) * scale).powi(2);
                let nearest =
                    |w: &f32| levels.iter().map(|level| error(w, level)).fold(f64::INFINITY, f64::min);
                weights.iter().map(nearest).sum()
            };
            let simple = ends.iter().map(of_end).fold(f64::INFINITY, f64::min);
            let (_, error) = stored(layout, &weights);
            // As above; plus a weight whose nearest step differs in f32 and f64 because it lies between two.
            assert!(error <= simple * (1.0 + 1e-4) + 1e-30, "{layout}: {error} > {simple}: {weights:?}");
            let norm: f64 = weights.iter().map(|w| f64::from(*w).powi(2)).sum();
            (searched, plain) = (searched + error / norm, plain + simple / norm);
        }
        assert!(searched < plain, "{layout}: {searched} against {plain}: the search gains nothing");
    }
}

/// Sums of 12 uniform numbers: near enough to how weights are spread.
fn bell(groups: usize) -> Vec<f32> {
    let parts: Vec<Vec<f32>> = (0..12).map(|seed| noise(seed + 100, 32 * groups)).collect();
    (0..32 * groups).map(|i| parts.iter().map(|part| part[i]).sum()).collect()
}

#[test]
fn uneven_levels_lose_less_of_bell_shaped_weights() {
    let weights = bell(1000);
    let loss = |layout| -> f64 { weights.chunks(32).map(|group| stored(layout, group).1).sum() };
    let (even, uneven) = (loss(Q4), loss(Q4_CODEBOOK));
    // Normal weights: 0.0813 and 0.0736 of their size, by a search in another language; a sum of 12 has lighter tails.
    assert!(uneven < 0.87 * even, "{uneven} against {even}");
}

#[test]
fn a_weight_takes_the_nearest_level() {
    for tenths in -1400..1300 {
        let x = tenths as f32 / 10.0;
        // The first weight fixes the scale: with 32 of it, nothing else decides.
        let weights: Vec<f32> = [vec![-127.0; 16], vec![113.0; 15], vec![x]].concat();
        let (quants, _) = stored(Q4_CODEBOOK, &weights);
        let scale = group(Q4_CODEBOOK, &weights, &mut [0; 32]).map(|s| f16::from_bits(s.scale).to_f32());
        let scale = scale.expect("the weights fit f16");
        let far = |level: i8| (x - f32::from(level) * scale).abs();
        let least = CODEBOOK.into_iter().map(far).fold(f32::INFINITY, f32::min);
        assert!(far(quants[31]) <= least * (1.0 + 1e-5), "{x} became {}", quants[31]);
    }
}

#[test]
fn zeros_constants_and_tiny_weights_are_stored() {
    for layout in [Q8, Q4, Q4_ASYM, Q4_CODEBOOK] {
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
    let large = [(Q4, 6e5), (Q8, 9e6), (Q4_ASYM, 7e4), (Q4_CODEBOOK, 8e6)];
    let cases = [Q4, Q8, Q4_ASYM, Q4_CODEBOOK].map(|layout| (layout, f32::MAX)).into_iter().chain(large);
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
