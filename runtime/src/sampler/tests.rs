use muse_kernels::{Backend, ReferenceBackend};
use proptest::prelude::{Just, any, prop, prop_assert, prop_assert_eq, prop_oneof, proptest};
use proptest::strategy::Strategy;

use super::*;

fn draw(options: SamplerOptions, logits: &[f32], history: &[u32]) -> Result<u32, SampleError> {
    Sampler::new(&options).sample(&mut logits.to_vec(), history)
}

fn hot(seed: u64) -> SamplerOptions {
    SamplerOptions { temperature: 1.0, seed, ..SamplerOptions::GREEDY }
}

/// The textbook way: sort everything, renormalise after every filter. Probability of each id.
fn reference(options: SamplerOptions, logits: &[f32]) -> Vec<f64> {
    let mut order: Vec<usize> = (0..logits.len()).collect();
    order.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]).then(a.cmp(&b)));
    let weights: Vec<f64> =
        logits.iter().map(|&x| (f64::from(x) / f64::from(options.temperature)).exp()).collect();
    let sum = |ids: &[usize]| ids.iter().map(|&id| weights[id]).sum::<f64>();
    if options.top_k > 0 {
        order.truncate(options.top_k as usize);
    }
    let total = sum(&order);
    let mut keep = 1;
    while options.top_p < 1.0 && keep < order.len() && sum(&order[..keep]) < f64::from(options.top_p) * total
    {
        keep += 1;
    }
    order.truncate(if options.top_p < 1.0 { keep } else { order.len() });
    let best = weights[order[0]];
    order.retain(|&id| weights[id] >= f64::from(options.min_p) * best);
    let total = sum(&order);
    (0..logits.len()).map(|id| if order.contains(&id) { weights[id] / total } else { 0.0 }).collect()
}

#[test]
fn greedy_takes_the_first_of_the_largest() {
    assert_eq!(draw(SamplerOptions::GREEDY, &[0.0, 2.0, 2.0, -1.0], &[]), Ok(1));
    assert_eq!(draw(SamplerOptions::GREEDY, &[f32::NEG_INFINITY, -3e38], &[]), Ok(1));
}

#[test]
fn what_is_not_a_distribution_is_an_error() {
    for options in [SamplerOptions::GREEDY, hot(0)] {
        let nan = draw(options, &[0.0, f32::NAN], &[]);
        assert!(matches!(nan, Err(SampleError::NotFinite { index: 1, value }) if value.is_nan()), "{nan:?}");
        let infinite = SampleError::NotFinite { index: 0, value: f32::INFINITY };
        assert_eq!(draw(options, &[f32::INFINITY, 0.0], &[]), Err(infinite));
        assert_eq!(draw(options, &[f32::NEG_INFINITY; 3], &[]), Err(SampleError::Empty(3)));
    }
}

#[test]
fn a_penalty_that_overflows_is_an_error() {
    let options = SamplerOptions { repetition_penalty: 0.01, ..SamplerOptions::GREEDY };
    assert_eq!(
        draw(options, &[0.0, f32::MAX], &[1]),
        Err(SampleError::NotFinite { index: 1, value: f32::INFINITY })
    );
}

#[test]
fn the_repetition_penalty_counts_each_token_once() {
    let options = SamplerOptions { repetition_penalty: 2.0, ..SamplerOptions::GREEDY };
    // 4 / 2 = 2 loses to 3, but would win against 4 / 2 / 2 = 1.
    assert_eq!(draw(options, &[4.0, 3.0, 1.5], &[0, 0, 0]), Ok(1));
    assert_eq!(draw(options, &[4.0, 1.5, 1.5], &[0, 0, 0]), Ok(0));
    // Negative logits are multiplied: -1 * 2 loses to -1.5.
    assert_eq!(draw(options, &[-1.0, -1.5], &[0]), Ok(1));
    assert_eq!(draw(options, &[1.0, 0.0], &[7, u32::MAX]), Ok(0), "ids outside the vocabulary");
}

#[test]
fn an_even_nucleus_is_the_smallest_set() {
    let options = SamplerOptions { top_p: 0.5, ..hot(0) };
    // Four equal tokens: two of them sum to one half, and the lowest ids are taken.
    let mut sampler = Sampler::new(&options);
    let mut seen = [0; 4];
    for _ in 0..1000 {
        seen[sampler.sample(&mut [1.0; 4], &[]).unwrap() as usize] += 1;
    }
    assert!(seen[0] > 0 && seen[1] > 0 && seen[2..] == [0, 0], "{seen:?}");
}

#[test]
fn splitmix_gives_the_published_sequence() {
    // The first outputs for seed 1234567 of the authors' reference implementation.
    let mut random = SplitMix64(1234567);
    assert_eq!([random.next(), random.next()], [6457827717110365317, 3203168211198807973]);
}

#[test]
fn options_take_the_callers_value_then_the_models_then_greedy() {
    let model = Generation { temperature: Some(0.7), top_k: Some(5), ..Generation::default() };
    let caller = GenerateOptions { temperature: Some(0.0), seed: Some(3), ..GenerateOptions::default() };
    let resolved = SamplerOptions::resolve(&caller, &model, 9).unwrap();
    assert_eq!(resolved, SamplerOptions { top_k: 5, seed: 3, ..SamplerOptions::GREEDY });
    let resolved = SamplerOptions::resolve(&GenerateOptions::default(), &model, 9).unwrap();
    assert_eq!(resolved, SamplerOptions { temperature: 0.7, top_k: 5, seed: 9, ..SamplerOptions::GREEDY });
}

#[test]
fn frequencies_are_the_probabilities() {
    let logits = [1.0, 0.0, -0.5, 2.0, 0.3, -2.0, 1.2, 0.9];
    let cases = [
        hot(1),
        SamplerOptions { temperature: 0.6, ..hot(2) },
        SamplerOptions { top_k: 4, ..hot(3) },
        SamplerOptions { top_p: 0.8, temperature: 1.5, ..hot(4) },
        SamplerOptions { min_p: 0.2, ..hot(5) },
        SamplerOptions { top_k: 6, top_p: 0.9, min_p: 0.1, temperature: 2.0, ..hot(6) },
    ];
    const DRAWS: usize = 20_000;
    for options in cases {
        let mut sampler = Sampler::new(&options);
        let mut counts = [0u32; 8];
        for _ in 0..DRAWS {
            counts[sampler.sample(&mut logits.clone(), &[]).unwrap() as usize] += 1;
        }
        for (count, p) in counts.iter().zip(reference(options, &logits)) {
            // A binomial count is within five standard deviations but for once in two million; the seed is fixed.
            let bound = 5.0 * (DRAWS as f64 * p * (1.0 - p)).sqrt();
            let distance = (f64::from(*count) - DRAWS as f64 * p).abs();
            assert!(distance <= bound, "{options:?}: {counts:?}, {p}");
        }
    }
}

fn some_options() -> impl Strategy<Value = SamplerOptions> {
    let filters = (0u32..700, 0.01f32..=1.0, 0.0f32..=1.0);
    (0.05f32..4.0, filters, proptest::num::u64::ANY).prop_map(|(temperature, (top_k, top_p, min_p), seed)| {
        SamplerOptions { temperature, top_k, top_p, min_p, repetition_penalty: 1.0, seed }
    })
}

/// Flat or peaked, with and without equals, -inf and zeros of both signs, more and fewer than a row's best are.
fn some_logits() -> impl Strategy<Value = Vec<f32>> {
    let step = prop_oneof![Just(0.0_f64), Just(0.5), Just(2.0)];
    (any::<u64>(), 1_usize..1500, 0.0_f64..12.0, step).prop_map(|(seed, len, scale, step)| {
        let mut random = SplitMix64(seed);
        let logit = |_| match random.unit() {
            x if x < 0.01 => f32::NEG_INFINITY,
            x if x < 0.02 => -0.0,
            x => {
                // Three in a row are as peaked as a normal distribution is.
                let logit = scale * (x + random.unit() + random.unit() - 1.5);
                (if step > 0.0 { (logit / step).round() * step } else { logit }) as f32
            }
        };
        (0..len).map(logit).collect()
    })
}

/// What an engine that finds the best gives of a row; the sum errs as much as it may, up or down.
fn best_of(logits: &[f32], temperature: f32, up: bool) -> Vec<f32> {
    let mut out = vec![f32::NAN; Best::WIDTH];
    ReferenceBackend::new().best(&mut out, &logits.to_vec(), logits.len(), &[temperature]).unwrap();
    let error = if up { Best::SUM_ERROR } else { -Best::SUM_ERROR };
    out[Best::WIDTH - 1] *= (1.0 + 0.999 * error) as f32;
    out
}

/// The next token from the best, and whether those said it.
fn from_best(sampler: &mut Sampler, logits: &[f32], history: &[u32]) -> (Result<u32, SampleError>, bool) {
    let temperature = sampler.temperature_of_best().unwrap_or(0.0);
    let best = best_of(logits, temperature, history.len().is_multiple_of(2));
    match sampler.sample_best(Best::new(&best)) {
        Some(token) => (Ok(token), true),
        None => (sampler.sample(&mut logits.to_vec(), history), false),
    }
}

#[test]
fn the_best_say_enough_of_what_is_asked_for_most() {
    let mut random = SplitMix64(3);
    let mut normal = || (0..12).map(|_| random.unit()).sum::<f64>() - 6.0;
    let logits: Vec<f32> =
        (0..20_000).map(|i| (normal() + if i % 4000 == 7 { 14.0 } else { 0.0 }) as f32).collect();
    let cases = [
        (SamplerOptions::GREEDY, true),
        (SamplerOptions { top_k: 1, ..hot(0) }, true),
        (SamplerOptions { top_k: 256, ..hot(0) }, true),
        (SamplerOptions { top_k: 20, top_p: 0.95, temperature: 0.6, min_p: 0.01, ..hot(1) }, true),
        (SamplerOptions { top_p: 0.9, temperature: 0.6, ..hot(2) }, true),
        (SamplerOptions { min_p: 0.05, ..hot(3) }, true),
        (SamplerOptions { top_k: 257, ..hot(0) }, false),
        (hot(4), false),
        (SamplerOptions { repetition_penalty: 1.1, ..SamplerOptions::GREEDY }, false),
    ];
    for (options, enough) in cases {
        let (mut all, mut best) = (Sampler::new(&options), Sampler::new(&options));
        for n in 0..20 {
            let expected = all.sample(&mut logits.clone(), &[]);
            assert_eq!(from_best(&mut best, &logits, &vec![0; n]), (expected, enough), "{options:?}");
        }
    }
    // As flat as can be, the best are no nucleus.
    let flat = SamplerOptions { top_p: 0.9, ..hot(2) };
    let (token, enough) = from_best(&mut Sampler::new(&flat), &vec![1.0; 20_000], &[]);
    assert!(!enough && token == draw(flat, &vec![1.0; 20_000], &[]));
}

proptest! {
    /// One token after another, so that neither may have drawn more than the other.
    #[test]
    fn the_best_give_the_token_that_all_logits_give(
        options in some_options(),
        off in (any::<bool>(), any::<bool>(), any::<bool>(), 0..8, 0..8),
        rows in prop::collection::vec(some_logits(), 1..4),
    ) {
        let options = SamplerOptions {
            top_k: if off.0 { 0 } else { options.top_k },
            top_p: if off.1 { 1.0 } else { options.top_p },
            min_p: if off.2 { 0.0 } else { options.min_p * options.min_p },
            temperature: if off.3 == 0 { 0.0 } else { options.temperature },
            repetition_penalty: if off.4 == 0 { 1.3 } else { 1.0 },
            ..options
        };
        let (mut all, mut best) = (Sampler::new(&options), Sampler::new(&options));
        let mut history = Vec::new();
        for logits in rows.iter().cycle().take(6) {
            let expected = all.sample(&mut logits.clone(), &history);
            prop_assert_eq!(from_best(&mut best, logits, &history).0, expected.clone());
            history.extend(expected);
        }
    }

    /// What is no distribution is the same error.
    #[test]
    fn the_best_hide_no_damage(
        options in some_options(),
        logits in some_logits(),
        at in any::<prop::sample::Index>(),
        damage in prop_oneof![Just(f32::NAN), Just(-f32::NAN), Just(f32::INFINITY)],
    ) {
        let mut logits = logits;
        let at = at.index(logits.len());
        logits[at] = damage;
        let (drawn, _) = from_best(&mut Sampler::new(&options), &logits, &[]);
        let named = matches!(drawn, Err(SampleError::NotFinite { index, .. }) if index == at);
        prop_assert!(named, "{:?}", drawn);
    }

    /// Up to 600 logits, so that the nucleus is found in more than one chunk.
    #[test]
    fn only_kept_tokens_are_drawn(
        options in some_options(),
        logits in prop::collection::vec(-8.0f32..8.0, 1..600),
    ) {
        let kept = reference(options, &logits);
        let mut sampler = Sampler::new(&options);
        let best = largest(&logits).unwrap();
        sampler.filter(&logits, best);
        let ours: Vec<u32> = sampler.candidates.iter().map(|c| c.id).collect();
        // Both sum in f64 but in another order; a sum within rounding of `top_p` may go either way.
        let theirs = kept.iter().filter(|p| **p > 0.0).count();
        prop_assert!(ours.len().abs_diff(theirs) <= 1, "{} and {}", ours.len(), theirs);
        let wrong = ours.iter().filter(|&&id| kept[id as usize] == 0.0).count();
        prop_assert!(wrong <= ours.len().saturating_sub(theirs));
        for _ in 0..8 {
            let token = sampler.sample(&mut logits.clone(), &[]).unwrap();
            prop_assert!(ours.contains(&token));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_tokens(
        options in some_options(),
        logits in prop::collection::vec(-8.0f32..8.0, 1..300),
        penalty in 0.5f32..2.0,
    ) {
        let options = SamplerOptions { repetition_penalty: penalty, ..options };
        let run = || {
            let mut sampler = Sampler::new(&options);
            let mut history = Vec::new();
            for _ in 0..8 {
                history.push(sampler.sample(&mut logits.clone(), &history).unwrap());
            }
            history
        };
        prop_assert_eq!(run(), run());
    }

    /// Any bit pattern is a token of the vocabulary or an error, never a panic.
    #[test]
    fn any_logits_are_survived(
        options in some_options(),
        bits in prop::collection::vec(proptest::num::u32::ANY, 1..50),
    ) {
        let logits: Vec<f32> = bits.iter().map(|&bits| f32::from_bits(bits)).collect();
        if let Ok(token) = draw(options, &logits, &[0]) {
            prop_assert!((token as usize) < logits.len());
        }
    }
}
