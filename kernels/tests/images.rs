//! What models that look at images ask for beside the operations of `agreement/`: rotations on a plane, attention of a
//! part of an image's patches to all of them, rows put in places. Every backend against the reference.

#[macro_use]
mod each;
#[allow(dead_code)] // other tests use the rest
#[path = "../src/test_data.rs"]
mod test_data;

use std::ops::Range;

use muse_kernels::{AttentionShape, Backend, CacheDtype, CacheShape, ReferenceBackend, Span, Tensor};
use test_data::Random;

const EPSILON: f64 = f32::EPSILON as f64;

/// Puts rows of 7 in places and takes them back, and writes 5 numbers.
fn moves<B: Backend<Buffer = Vec<f32>>>(backend: &mut B, x: &Vec<f32>, order: &[u32]) {
    let [mut there, mut back, mut written] = std::array::from_fn(|_| vec![f32::NAN; x.len()]);
    backend.scatter(&mut there, x, order, 7).unwrap();
    backend.gather(&mut back, &there, order, 7).unwrap();
    assert_eq!(back, *x);
    let first = order[0] as usize * 7;
    assert_eq!(there[first..first + 7], x[..7]);
    backend.write(&mut written, &x[..5]).unwrap();
    assert!(written[..5] == x[..5] && written[5..].iter().all(|x| x.is_nan()));
}

#[test]
fn rows_come_back_from_where_they_were_put() {
    let x = Random::new(30).normal(9 * 7);
    let order: Vec<u32> = (0..9).map(|i| (i * 4 + 2) % 9).collect();
    moves(&mut ReferenceBackend::new(), &x, &order);
    each_backend!(|cpu| { moves(cpu, &x, &order) });
}

#[test]
fn rotations_on_a_plane_agree() {
    let mut random = Random::new(31);
    let places: Vec<[u32; 2]> = (0..21).map(|i| [i % 5 + 1, i / 5 * 40]).collect();
    // A whole head, and one of which the last pair stays.
    for (frequencies, head_dim) in [(vec![1.0, 0.3], 8), (vec![1.0, 0.3, 0.01], 14)] {
        let table = Tensor::from_f32(1, frequencies.len(), frequencies);
        let x = random.normal(places.len() * 3 * head_dim as usize);
        let mut expected = x.clone();
        ReferenceBackend::new().rope_2d(&mut expected, &table, &places, 3, head_dim).unwrap();
        // By the definition, of one element: row 6 is at (2, 40); head 1, the second pair of the second coordinate.
        let (n, half) = (table.cols(), head_dim as usize / 2);
        let at = (6 * 3 + 1) * head_dim as usize + n + 1;
        let (sin, cos) = f64::from(40.0 * table.f32()[1]).sin_cos();
        let exact = f64::from(x[at]) * cos - f64::from(x[at + half]) * sin;
        assert!((f64::from(expected[at]) - exact).abs() <= 12.0 * EPSILON, "{} is not {exact}", expected[at]);
        each_backend!(|cpu| {
            let mut actual = x.clone();
            cpu.rope_2d(&mut actual, &table, &places, 3, head_dim).unwrap();
            for (i, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                // A sine, a product and a sum each round once; inputs are within 6.
                let error = (f64::from(*actual) - f64::from(*expected)).abs();
                assert!(error <= 4.0 * EPSILON * 12.0, "{i} is {actual}, not {expected}");
            }
        });
    }
}

#[test]
fn rotations_along_three_axes_agree() {
    let mut random = Random::new(32);
    // Pairs that turn by time, row and column, at most 2 by a row and 1 by a column; the last element stays.
    let (axes, head_dim, by) = ([2, 1], 15, [0, 1, 2, 0, 1, 0, 0]);
    let turns: Vec<[u32; 3]> = (0..21).map(|i| [i * 100, i % 5 + 1, i / 5 * 40]).collect();
    let table = Tensor::from_f32(1, 7, (0..7).map(|i| 0.5_f32.powi(i)).collect());
    let x = random.normal(turns.len() * 3 * head_dim as usize);
    let mut expected = x.clone();
    ReferenceBackend::new().rope_axes(&mut expected, &table, &turns, axes, 3, head_dim).unwrap();
    for (i, axis) in by.into_iter().enumerate() {
        let at = (6 * 3 + 1) * head_dim as usize + i;
        let (sin, cos) = f64::from(turns[6][axis] as f32 * table.f32()[i]).sin_cos();
        let exact = f64::from(x[at]) * cos - f64::from(x[at + 7]) * sin;
        assert!(
            (f64::from(expected[at]) - exact).abs() <= 12.0 * EPSILON,
            "{i}: {} is not {exact}",
            expected[at]
        );
    }
    // A text's three numbers are one: as by its positions, to the last bit.
    let text: Vec<[u32; 3]> = (40..61).map(|at| [at; 3]).collect();
    let span = [Span { slot: 0, start: 40, len: 21 }];
    let same = |by_axes: Vec<f32>, by_position: Vec<f32>| {
        let bits = |x: Vec<f32>| x.into_iter().map(f32::to_bits).collect::<Vec<_>>();
        assert_eq!(bits(by_axes), bits(by_position));
    };
    let mut reference = ReferenceBackend::new();
    let (mut by_axes, mut by_position) = (x.clone(), x.clone());
    reference.rope_axes(&mut by_axes, &table, &text, axes, 3, head_dim).unwrap();
    reference.rope(&mut by_position, &table, &span, 3, head_dim).unwrap();
    same(by_axes, by_position);
    each_backend!(|cpu| {
        let mut actual = x.clone();
        cpu.rope_axes(&mut actual, &table, &turns, axes, 3, head_dim).unwrap();
        for (i, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
            // A sine, a product and a sum each round once; inputs are within 6.
            let error = (f64::from(*actual) - f64::from(*expected)).abs();
            assert!(error <= 4.0 * EPSILON * 12.0, "{i} is {actual}, not {expected}");
        }
        let (mut by_axes, mut by_position) = (x.clone(), x.clone());
        cpu.rope(&mut by_position, &table, &span, 3, head_dim).unwrap();
        cpu.rope_axes(&mut by_axes, &table, &text, axes, 3, head_dim).unwrap();
        same(by_axes, by_position);
    });
}

const PATCHES: u32 = 70;
const HEADS: u32 = 3;
const HEAD_DIM: u32 = 24;
const WIDTH: usize = (HEADS * HEAD_DIM) as usize;

/// Attention of `rows` of the patches, all of which see `seen`.
fn attend<B: Backend<Buffer = Vec<f32>>>(
    backend: &mut B,
    [q, k, v]: &[Vec<f32>; 3],
    rows: Range<u32>,
    seen: Range<u32>,
    dtype: CacheDtype,
) -> Vec<f32> {
    let shape =
        CacheShape { dtype, slots: 1, capacity: 80, kv_heads: HEADS, head_dim: HEAD_DIM, values: true };
    let mut cache = backend.cache(shape).unwrap();
    backend.reserve(PATCHES as usize, WIDTH).unwrap();
    backend.store(&mut cache, k, v, &[Span { slot: 0, start: 0, len: PATCHES }]).unwrap();
    let shape = AttentionShape {
        heads: HEADS,
        kv_heads: HEADS,
        head_dim: HEAD_DIM,
        scale: (HEAD_DIM as f32).powf(-0.5),
        window: Some(seen.end - seen.start),
        chunk: None,
        softcap: None,
        bidirectional: false,
        until: Some(seen.end - 1),
    };
    let q = q[rows.start as usize * WIDTH..rows.end as usize * WIDTH].to_vec();
    let mut out = vec![f32::NAN; q.len()];
    let spans = [Span { slot: 0, start: rows.start, len: rows.end - rows.start }];
    backend.attention(&mut out, &q, &cache, &spans, &shape).unwrap();
    out
}

#[test]
fn attention_of_a_part_of_an_image_agrees() {
    let mut random = Random::new(32);
    let draws: [Vec<f32>; 3] = std::array::from_fn(|_| random.normal(PATCHES as usize * WIDTH));
    let cases =
        [(0..70, 0..70), (0..5, 0..70), (33..34, 20..60), (20..60, 20..60), (69..70, 69..70), (5..45, 0..50)];
    for (rows, seen) in cases {
        for dtype in CacheDtype::ALL {
            let mut reference = ReferenceBackend::new();
            let expected = attend(&mut reference, &draws, rows.clone(), seen.clone(), dtype);
            // A row's answer does not depend on which others are asked with it.
            let alone = attend(&mut reference, &draws, rows.start..rows.start + 1, seen.clone(), dtype);
            assert_eq!(alone, expected[..WIDTH]);
            each_backend!(|cpu| {
                let name = format!("{rows:?} of {seen:?} {dtype} {}", cpu.describe());
                let actual = attend(cpu, &draws, rows.clone(), seen.clone(), dtype);
                // As in `agreement/`; many rows are rounded as those of prompts are.
                let head_dim = f64::from(HEAD_DIM);
                let score = (head_dim + 4.0) * EPSILON * head_dim.sqrt();
                let exact = (2.0 * score + 2.0 * (f64::from(PATCHES) + 12.0) * EPSILON) * 6.0;
                let coarse = each::coarseness(&cpu.describe())
                    .filter(|_| rows.len() >= 32 && dtype != CacheDtype::F32);
                let bound = coarse.map_or(exact, |coarse| 8.0 * coarse);
                for (n, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                    let error = (f64::from(*actual) - f64::from(*expected)).abs();
                    assert!(error <= bound, "{name}: {n} is {actual}, not {expected}");
                }
            });
        }
    }
}
