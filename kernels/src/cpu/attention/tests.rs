//! Every variant's kernels against f64 sums. The driver around them is compared as a whole in `tests/agreement/`.

use super::work::Part;
use super::*;
use crate::cache::{HostCache, TILE_POSITIONS};
use crate::cpu::features::Features;
use crate::shape::PROMPT_ROWS;
use crate::test_data::Random;
use crate::{AttentionShape, CacheDtype, CacheShape, Span};

const DIMS: [usize; 8] = [1, 4, 15, 16, 49, 64, 80, 128];

/// What a variant may err by for a product of 1, beside the roundings of f32: two factors rounded to 8 bits.
fn coarseness<E: Element + 'static>(attend: Attend) -> f64 {
    let exact = std::any::TypeId::of::<E>() == std::any::TypeId::of::<f32>();
    if attend.name() == "avx512-bf16" && !exact { 2.0 / 256.0 + 1.0 / 65536.0 } else { 0.0 }
}

/// A run of the numbers that `narrow` makes of normal ones.
fn run_of<E: Element>(random: &mut Random, len: usize, narrow: fn(f32) -> E) -> Vec<E> {
    let mut run = vec![E::default(); E::elements(len)];
    for (i, x) in random.normal(len).into_iter().enumerate() {
        E::set(&mut run, i, narrow(x));
    }
    run
}

/// A score is a sum of `head_dim` products.
fn assert_scores<E: Element + 'static>(attend: Attend, narrow: fn(f32) -> E) {
    let mut random = Random::new(5);
    for head_dim in DIMS {
        for (count, tiles) in [(1, 1), (1, 7), (2, 8), (3, 3), (4, 2), (5, 3), (7, 1), (8, 8), (24, 5)] {
            let mut tile = || run_of(&mut random, head_dim * TILE_POSITIONS, narrow);
            let stored: Vec<Vec<E>> = (0..tiles).map(|_| tile()).collect();
            let keys = stored.concat();
            let q: Vec<Vec<f32>> = (0..count).map(|_| random.normal(head_dim)).collect();
            let q: Vec<&[f32]> = q.iter().map(Vec::as_slice).collect();
            let mut scores = vec![[f32::NAN; BLOCK]; count];
            // SAFETY: a `Supported` exists only for a variant that this CPU can run.
            unsafe { E::scores(attend.kernel.get())(&mut scores, &q, &keys) };
            for (n, q) in q.iter().enumerate() {
                for p in 0..tiles * TILE_POSITIONS {
                    let (tile, place) = (&stored[p / TILE_POSITIONS], p % TILE_POSITIONS);
                    let key = |i| f64::from(E::get(tile, i * TILE_POSITIONS + place));
                    let terms = || q.iter().enumerate().map(|(i, q)| f64::from(*q) * key(i));
                    let each = (head_dim + 1) as f64 * f64::from(f32::EPSILON) + coarseness::<E>(attend);
                    let bound = each * terms().map(f64::abs).sum::<f64>();
                    let error = (f64::from(scores[n][p]) - terms().sum::<f64>()).abs();
                    assert!(error <= bound, "{} {head_dim} {count} {tiles}: ({n}, {p})", attend.name());
                }
            }
        }
    }
}

/// An output is its decayed self plus a sum of products, one a position.
fn assert_mix<E: Element + 'static>(attend: Attend, narrow: fn(f32) -> E) {
    let mut random = Random::new(6);
    for head_dim in DIMS {
        for (count, positions) in [(1, 1), (2, 128), (3, 17), (4, 16), (5, 31), (7, 2), (8, 100), (24, 64)] {
            let stored: Vec<Vec<E>> = (0..positions).map(|_| run_of(&mut random, head_dim, narrow)).collect();
            let values = stored.concat();
            let weights: Vec<Scores> = (0..count).map(|_| random.normal(BLOCK).try_into().unwrap()).collect();
            let decay = random.normal(count);
            let before: Vec<Vec<f32>> = (0..count).map(|_| random.normal(head_dim)).collect();
            let mut after = before.clone();
            let mut out: Vec<&mut [f32]> = after.iter_mut().map(Vec::as_mut_slice).collect();
            // SAFETY: as above.
            unsafe { E::mix(attend.kernel.get())(&mut out, &weights, &decay, &values) };
            for n in 0..count {
                for i in 0..head_dim {
                    let decayed = f64::from(decay[n]) * f64::from(before[n][i]);
                    let product = |p: usize| f64::from(weights[n][p]) * f64::from(E::get(&stored[p], i));
                    let terms = || (0..positions).map(product).chain([decayed]);
                    let each = (positions + 2) as f64 * f64::from(f32::EPSILON) + coarseness::<E>(attend);
                    let bound = each * terms().map(f64::abs).sum::<f64>();
                    let error = (f64::from(after[n][i]) - terms().sum::<f64>()).abs();
                    assert!(error <= bound, "{} {head_dim} {count} {positions}: ({n}, {i})", attend.name());
                }
            }
        }
    }
}

#[test]
fn every_variant_agrees() {
    for attend in Attend::all(Features::detect()) {
        assert_scores::<f32>(attend, |x| x);
        assert_scores::<f16>(attend, f16::from_f32);
        assert_scores::<i8>(attend, |x| (x * 20.0) as i8);
        assert_scores::<Nibbles>(attend, |x| Nibbles((x * 2.0 + 8.0) as u8 & 15));
        assert_mix::<f32>(attend, |x| x);
        assert_mix::<f16>(attend, f16::from_f32);
        assert_mix::<i8>(attend, |x| (x * 20.0) as i8);
        assert_mix::<Nibbles>(attend, |x| Nibbles((x * 2.0 + 8.0) as u8 & 15));
    }
}

/// Into how many parts positions are split for one row each of `slots` sequences at `position`.
fn parts(slots: u32, position: u32, threads: usize, room: usize) -> usize {
    parts_of_rows(1, slots, position, threads, room)
}

/// The same for `len` rows each.
fn parts_of_rows(len: u32, slots: u32, position: u32, threads: usize, room: usize) -> usize {
    let stored =
        CacheShape { dtype: CacheDtype::F16, slots, capacity: 16, kv_heads: 2, head_dim: 8, values: true };
    let cache = HostCache::new(stored).unwrap();
    let shape = AttentionShape {
        heads: 6,
        kv_heads: 2,
        head_dim: 8,
        scale: 1.0,
        window: None,
        chunk: None,
        softcap: None,
        bidirectional: false,
        until: None,
    };
    let spans: Vec<_> = (0..slots).map(|slot| Span { slot, start: position, len }).collect();
    Work::new(&vec![0.0; (slots * len) as usize * 48], &cache, &spans, &shape).parts(
        FEW_QUERIES,
        threads,
        room,
    )
}

#[test]
fn positions_are_split_where_threads_would_have_nothing_to_do() {
    let room = partial_len(48);
    assert_eq!(parts(1, 8191, 1, room), 1, "nobody to share with");
    assert_eq!(parts(1, 8191, 4, room), 4, "two heads make eight pieces for four threads");
    assert_eq!(parts(3, 8191, 4, room), 2);
    assert_eq!(parts(4, 8191, 4, room), 1, "eight heads are enough");
    assert_eq!(parts(1, 600, 4, room), 2, "a part has 256 positions");
    assert_eq!(parts(1, 8191, 4, 3 * 6 * 10), 3, "no more than there is room for");
    assert_eq!(parts(1, 8191, 4, 0), 1);
    assert_eq!(parts_of_rows(5, 1, 8191, 4, room), 4, "a proposal's rows");
    assert_eq!(parts_of_rows(5, 1, 8191, 4, 5 * 3 * 6 * 10), 3, "each row has its sums");
    assert_eq!(parts_of_rows(PROMPT_ROWS, 1, 8191, 4, room), 1, "a prompt's");
}

#[test]
fn parts_cover_a_range_once() {
    for (whole, of) in [(3..50, 7), (0..1, 4), (5..6, 1), (2..11, 4)] {
        let all = (0..of).flat_map(|index| Part { index, of }.of(whole.clone()));
        assert!(all.eq(whole.clone()), "{whole:?} in {of}");
    }
}
