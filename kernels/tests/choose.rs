//! Choosing positions, and attention over those chosen alone, every backend against the reference.

#[macro_use]
mod each;
#[path = "../src/test_data.rs"]
#[allow(dead_code)] // another test's
mod test_data;

use muse_kernels::{AttentionShape, Backend, CacheDtype, CacheShape, IndexShape, ReferenceBackend, Span};
use test_data::Random;

const EXACT: [CacheDtype; 3] = [CacheDtype::F32, CacheDtype::F16, CacheDtype::Int8];

/// Calls `test` with each backend and a cache of it that holds `keys`, `(positions, head_dim)`, in slot 1.
fn with_each(
    shape: CacheShape,
    keys: &Vec<f32>,
    mut test: impl FnMut(&mut dyn FnMut(Run<'_>) -> Vec<f32>, &str),
) {
    let span = Span { slot: 1, start: 0, len: (keys.len() / shape.head_dim as usize) as u32 };
    macro_rules! run {
        ($backend:expr, $name:expr) => {{
            let backend = $backend;
            backend.reserve_choose(shape.capacity as usize).unwrap();
            // Room for the sums of parts.
            backend.reserve(64, 1024).unwrap();
            let mut cache = backend.cache(shape).unwrap();
            backend.store(&mut cache, keys, keys, &[span]).unwrap();
            let mut call = |run: Run<'_>| match run {
                Run::Choose(q, weights, span, index) => {
                    let mut out = vec![f32::NAN; (span.len * index.top) as usize];
                    backend.choose(&mut out, q, weights, &cache, &[span], &index).unwrap();
                    out
                }
                Run::Attend(q, span, attention, chosen, top) => {
                    let mut out = vec![f32::NAN; q.len()];
                    backend.attention_chosen(&mut out, q, &cache, &[span], &attention, chosen, top).unwrap();
                    out
                }
            };
            test(&mut call, $name);
        }};
    }
    run!(&mut ReferenceBackend::new(), "reference");
    each_backend!(|backend| {
        let name = backend.describe();
        run!(backend, &name);
    });
}

enum Run<'a> {
    Choose(&'a Vec<f32>, &'a Vec<f32>, Span, IndexShape),
    Attend(&'a Vec<f32>, Span, AttentionShape, &'a Vec<f32>, u32),
}

/// Whole numbers up to `most`, of which one in each `head_dim` is `most`: an 8-bit row of such has a scale of 1.
fn whole(random: &mut Random, len: usize, head_dim: usize, most: i32) -> Vec<f32> {
    let number = |i: usize, random: &mut Random| {
        if i.is_multiple_of(head_dim) { most } else { random.int(-most, most) }
    };
    (0..len).map(|i| number(i, random) as f32).collect()
}

#[test]
fn the_best_positions_are_chosen_and_of_equals_the_first() {
    let (heads, head_dim) = (2, 3);
    let shape = CacheShape {
        dtype: CacheDtype::F32,
        slots: 2,
        capacity: 16,
        kv_heads: 1,
        head_dim: head_dim as u32,
        values: false,
    };
    // Position p has the key (p % 4, 0, -1): for the first head (1, 0, 0) it scores p % 4, for the second (0, 0, -1) it is 1.
    let keys: Vec<f32> = (0..10).flat_map(|p| [(p % 4) as f32, 0.0, -1.0]).collect();
    let q = [1.0, 0.0, 0.0, 0.0, 0.0, -1.0].repeat(2);
    // The second row has the opposite order.
    let weights = vec![1.0, 5.0, -1.0, 5.0];
    let index = IndexShape { heads, head_dim: head_dim as u32, top: 3 };
    with_each(shape, &keys, |run, name| {
        let span = Span { slot: 1, start: 8, len: 2 };
        let chosen = run(Run::Choose(&q, &weights, span, index));
        // 3 and 7 score 3, and 2 is the first that scores 2; 0, 4 and 8 score 0.
        assert_eq!(chosen, [2.0, 3.0, 7.0, 0.0, 4.0, 8.0], "{name}");
        let chosen = run(Run::Choose(&q, &weights, Span { slot: 1, start: 1, len: 2 }, index));
        assert_eq!(chosen, [0.0, 1.0, -1.0, 0.0, 1.0, 2.0], "{name}: all there are");
    });
}

#[test]
fn backends_choose_alike() {
    let mut random = Random::new(51);
    for (heads, head_dim, positions, top) in [(1, 4, 40, 3), (3, 33, 300, 17), (40, 32, 290, 128)] {
        for dtype in EXACT {
            let capacity = positions as u32;
            let shape = CacheShape {
                dtype,
                slots: 2,
                capacity,
                kv_heads: 1,
                head_dim: head_dim as u32,
                values: false,
            };
            // Sums of whole numbers below 2^24 are exact in any order.
            let keys = whole(&mut random, positions * head_dim, head_dim, 127);
            let rows = 5;
            let q = whole(&mut random, rows * heads * head_dim, head_dim, 3);
            let weights = whole(&mut random, rows * heads, heads.max(2), 2);
            let index = IndexShape { heads: heads as u32, head_dim: head_dim as u32, top };
            let mut expected = Vec::new();
            with_each(shape, &keys, |run, name| {
                for start in [0, top - 2, capacity - 5] {
                    let span = Span { slot: 1, start, len: rows as u32 };
                    let chosen = run(Run::Choose(&q, &weights, span, index));
                    let case = format!("{heads} x {head_dim} {dtype} at {start}, {name}");
                    match name {
                        "reference" => expected.push((start, chosen)),
                        _ => {
                            let same = expected.iter().any(|(s, e)| *s == start && *e == chosen);
                            assert!(same, "{case}: {chosen:?}");
                        }
                    }
                }
            });
        }
    }
}

#[test]
fn attention_reads_what_was_chosen_alone() {
    let mut random = Random::new(52);
    let (heads, head_dim, positions, top) = (5_u32, 24_u32, 700_u32, 9_u32);
    let attention = AttentionShape {
        heads,
        kv_heads: 1,
        head_dim,
        scale: 0.2,
        window: None,
        chunk: None,
        softcap: None,
        bidirectional: false,
        until: None,
    };
    for (dtype, start, rows) in [
        (CacheDtype::F32, 0, 40),
        (CacheDtype::F32, 650, 50),
        (CacheDtype::F16, 690, 7),
        (CacheDtype::Int8, 699, 1),
    ] {
        let shape = CacheShape { dtype, slots: 2, capacity: positions, kv_heads: 1, head_dim, values: true };
        let keys = random.normal((positions * head_dim) as usize);
        let q = random.normal((rows * heads * head_dim) as usize);
        let mut chosen = Vec::new();
        for row in 0..rows {
            let seen = start + row + 1;
            let mut own: Vec<u32> = (0..top).map(|_| random.int(0, seen as i32 - 1) as u32).collect();
            own.sort_unstable();
            own.dedup();
            let places = (0..top as usize).map(|i| own.get(i).map_or(-1.0, |p| *p as f32));
            chosen.extend(places);
        }
        let mut expected = Vec::new();
        with_each(shape, &keys, |run, name| {
            let span = Span { slot: 1, start, len: rows };
            let out = run(Run::Attend(&q, span, attention, &chosen, top));
            if name == "reference" {
                expected = out;
                return;
            }
            // A score, of 24 products of at most 5 by 5 in magnitude, times 0.2, errs by 26 half ulps of up to 120: so much
            // does the logarithm of a weight, twice, and what 9 of them add is no more than 5.
            let bound = (2.0 * 26.0 * 120.0 + 9.0 + 8.0) * f64::from(f32::EPSILON) * 5.0;
            for (i, (a, e)) in out.iter().zip(&expected).enumerate() {
                let error = (f64::from(*a) - f64::from(*e)).abs();
                assert!(error <= bound, "{dtype} {name}: {i} is {a}, not {e}");
            }
        });
        // Others have another answer: what is hidden is not read.
        let mut all = ReferenceBackend::new();
        let mut cache = all.cache(shape).unwrap();
        all.store(&mut cache, &keys, &keys, &[Span { slot: 1, start: 0, len: positions }]).unwrap();
        let mut dense = vec![f32::NAN; q.len()];
        all.attention(&mut dense, &q, &cache, &[Span { slot: 1, start, len: rows }], &attention).unwrap();
        let largest = dense.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(largest > 0.3, "{largest}");
    }
}

#[test]
fn keys_alone_take_half_and_are_their_own_values() {
    let attention = AttentionShape {
        heads: 2,
        kv_heads: 1,
        head_dim: 6,
        scale: 0.4,
        window: None,
        chunk: None,
        softcap: None,
        bidirectional: false,
        until: None,
    };
    for dtype in EXACT {
        let both = CacheShape { dtype, slots: 2, capacity: 32, kv_heads: 1, head_dim: 6, values: true };
        let alone = CacheShape { values: false, ..both };
        assert_eq!(2 * alone.byte_len(), both.byte_len());
        let mut random = Random::new(53);
        let (keys, q) = (random.normal(20 * 6), random.normal(3 * 12));
        let out = [both, alone].map(|shape| {
            let mut backend = ReferenceBackend::new();
            let mut cache = backend.cache(shape).unwrap();
            backend.store(&mut cache, &keys, &keys, &[Span { slot: 0, start: 0, len: 20 }]).unwrap();
            let mut out = vec![f32::NAN; 36];
            backend
                .attention(&mut out, &q, &cache, &[Span { slot: 0, start: 17, len: 3 }], &attention)
                .unwrap();
            out
        });
        assert_eq!(out[0], out[1], "{dtype}");
    }
}
