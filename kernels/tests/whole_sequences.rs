//! What models that read whole sequences ask for beside the operations of `agreement/`: attention to both sides, means
//! over sequences, norms by mean and variance. Every backend against the reference.

#[macro_use]
mod each;
#[allow(dead_code)] // other tests use the rest
#[path = "../src/test_data.rs"]
mod test_data;

use muse_format::Activation;
use muse_kernels::{AttentionShape, Backend, CacheDtype, CacheShape, ReferenceBackend, Span, Tensor};
use test_data::Random;

const EPSILON: f64 = f32::EPSILON as f64;

/// Sequences of these lengths, one after another, each in a slot of its own.
fn spans(lens: &[u32]) -> Vec<Span> {
    lens.iter().zip(0..).map(|(len, slot)| Span { slot, start: 0, len: *len }).collect()
}

fn shape(heads: u32, kv_heads: u32, head_dim: u32, window: Option<u32>) -> AttentionShape {
    let scale = 1.0 / (head_dim as f32).sqrt();
    AttentionShape {
        heads,
        kv_heads,
        head_dim,
        scale,
        window,
        chunk: None,
        softcap: None,
        bidirectional: true,
        until: None,
    }
}

fn attend<B: Backend<Buffer = Vec<f32>>>(
    backend: &mut B,
    dtype: CacheDtype,
    shape: &AttentionShape,
    spans: &[Span],
) -> Vec<f32> {
    let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
    let mut random = Random::new(20);
    let tokens: usize = spans.iter().map(|span| span.len as usize).sum();
    let capacity = spans.iter().map(|span| span.len).max().unwrap();
    let slots = spans.len() as u32;
    let mut cache =
        backend.cache(CacheShape { dtype, slots, capacity, kv_heads, head_dim, values: true }).unwrap();
    backend.reserve(tokens, (heads * head_dim) as usize).unwrap();
    let width = (kv_heads * head_dim) as usize;
    let (k, v) = (random.normal(tokens * width), random.normal(tokens * width));
    backend.store(&mut cache, &k, &v, spans).unwrap();
    let size = tokens * (heads * head_dim) as usize;
    let (q, mut out) = (random.normal(size), vec![f32::NAN; size]);
    backend.attention(&mut out, &q, &cache, spans, shape).unwrap();
    out
}

#[test]
fn a_query_sees_both_sides_within_its_sequence() {
    let span = Span { slot: 0, start: 0, len: 10 };
    let sees = |window, position| shape(1, 1, 2, window).sees(&span, position);
    assert_eq!(sees(None, 0), 0..=9);
    assert_eq!(sees(None, 9), 0..=9);
    assert_eq!(sees(Some(1), 4), 4..=4);
    assert_eq!(sees(Some(3), 0), 0..=2);
    assert_eq!(sees(Some(3), 4), 2..=6);
    assert_eq!(sees(Some(3), 8), 6..=9);
    let causal = AttentionShape { bidirectional: false, ..shape(1, 1, 2, Some(3)) };
    assert_eq!((causal.sees(&span, 1), causal.sees(&span, 8)), (0..=1, 6..=8));
    let chunked = AttentionShape { chunk: Some(4), window: None, ..causal };
    let seen = [0, 3, 4, 7, 8].map(|position| *chunked.sees(&span, position).start());
    assert_eq!(seen, [0, 0, 4, 4, 8]);
}

#[test]
fn attention_to_both_sides_agrees() {
    let cases = [
        (shape(4, 4, 16, None), vec![1]),
        (shape(4, 4, 16, None), vec![5, 1, 17]),
        (shape(12, 12, 32, None), vec![40, 3]),
        (shape(3, 1, 64, None), vec![130, 20]),
        (shape(4, 2, 16, Some(4)), vec![23, 4, 5]),
        (shape(3, 1, 10, Some(20)), vec![150, 33]),
        (shape(2, 1, 8, Some(129)), vec![300]),
    ];
    for (i, (shape, lens)) in cases.iter().enumerate() {
        let spans = spans(lens);
        for dtype in CacheDtype::ALL {
            let expected = attend(&mut ReferenceBackend::new(), dtype, shape, &spans);
            each_backend!(|cpu| {
                let actual = attend(cpu, dtype, shape, &spans);
                let name = format!("case {i} {dtype} {}", cpu.describe());
                // As in `agreement/`; the rows of long sequences are rounded as those of prompts are.
                let head_dim = f64::from(shape.head_dim);
                let positions = f64::from(*lens.iter().max().unwrap());
                let score = (head_dim + 4.0) * EPSILON * head_dim.sqrt();
                let exact = (2.0 * score + 2.0 * (positions + 12.0) * EPSILON) * 6.0;
                let coarse = each::coarseness(&cpu.describe()).filter(|_| dtype != CacheDtype::F32);
                let bound = coarse.map_or(exact, |coarse| 8.0 * coarse);
                for (n, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                    let error = (f64::from(*actual) - f64::from(*expected)).abs();
                    assert!(error <= bound, "{name}: {n} is {actual}, not {expected}");
                }
            });
        }
    }
}

/// As [`attend`], over one slot after another, of which the rows of some spans see each other, behind `past` positions of the
/// first.
fn attend_jointly<B: Backend<Buffer = Vec<f32>>>(
    backend: &mut B,
    dtype: CacheDtype,
    shape: &AttentionShape,
    past: u32,
    pieces: &[(Span, bool)],
) -> Vec<f32> {
    let AttentionShape { heads, kv_heads, head_dim, .. } = *shape;
    let mut random = Random::new(22);
    let (spans, joint): (Vec<Span>, Vec<bool>) = pieces.iter().copied().unzip();
    let tokens: usize = spans.iter().map(|span| span.len as usize).sum();
    let capacity = spans.iter().map(|span| span.start + span.len).max().unwrap();
    let slots = spans.iter().map(|span| span.slot).max().unwrap() + 1;
    let mut cache =
        backend.cache(CacheShape { dtype, slots, capacity, kv_heads, head_dim, values: true }).unwrap();
    backend.reserve(tokens, (heads * head_dim) as usize).unwrap();
    let width = (kv_heads * head_dim) as usize;
    let mut store = |rows: usize, spans: &[Span]| {
        let (k, v) = (random.normal(rows * width), random.normal(rows * width));
        backend.store(&mut cache, &k, &v, spans).unwrap();
    };
    if past > 0 {
        store(past as usize, &[Span { slot: 0, start: 0, len: past }]);
    }
    store(tokens, &spans);
    let size = tokens * (heads * head_dim) as usize;
    let (q, mut out) = (random.normal(size), vec![f32::NAN; size]);
    backend.attention_joint(&mut out, &q, &cache, &spans, shape, &joint).unwrap();
    out
}

#[test]
fn rows_of_a_piece_see_each_other_and_its_past() {
    let piece = Span { slot: 0, start: 10, len: 6 };
    let causal = |window| AttentionShape { bidirectional: false, ..shape(3, 1, 10, window) };
    let sees = |window, position, joint| causal(window).sees_jointly(&piece, position, joint);
    assert_eq!(sees(Some(4), 10, false), 7..=10);
    // The window counts back from the row, and ends nothing that lies ahead.
    assert_eq!((sees(Some(4), 10, true), sees(Some(4), 15, true)), (7..=15, 12..=15));
    assert_eq!(sees(None, 12, true), 0..=15);
    let span = |slot, start, len| Span { slot, start, len };
    // Text, an image longer than the window, text, and another sequence that is an image.
    let pieces =
        [(span(0, 0, 7), false), (span(0, 7, 37), true), (span(0, 44, 3), false), (span(1, 0, 5), true)];
    // A small image and text far behind: positions are split into parts.
    let behind = [(span(0, 600, 9), true), (span(0, 609, 1), false)];
    let cases = [
        (0, &pieces[..], Some(4)),
        (0, &pieces[..], Some(20)),
        (0, &pieces[..], None),
        (600, &behind[..], Some(550)),
        (600, &behind[..], None),
    ];
    for (past, pieces, window) in cases {
        let positions = pieces.iter().map(|(span, _)| span.start + span.len).max().unwrap();
        let rounded = pieces.iter().any(|(span, _)| span.len >= 32);
        let shape = causal(window);
        for dtype in CacheDtype::ALL {
            let expected = attend_jointly(&mut ReferenceBackend::new(), dtype, &shape, past, pieces);
            each_backend!(|cpu| {
                let actual = attend_jointly(cpu, dtype, &shape, past, pieces);
                let name = format!("{window:?} {dtype} {}", cpu.describe());
                // As above.
                let score = 14.0 * EPSILON * 10_f64.sqrt();
                let exact = (2.0 * score + 2.0 * (f64::from(positions) + 12.0) * EPSILON) * 6.0;
                let coarse =
                    each::coarseness(&cpu.describe()).filter(|_| rounded && dtype != CacheDtype::F32);
                let bound = coarse.map_or(exact, |coarse| 8.0 * coarse);
                for (n, (actual, expected)) in actual.iter().zip(&expected).enumerate() {
                    let error = (f64::from(*actual) - f64::from(*expected)).abs();
                    assert!(error <= bound, "{name}: {n} is {actual}, not {expected}");
                }
            });
        }
    }
}

#[test]
fn row_operations_agree() {
    let mut random = Random::new(21);
    for (rows, cols) in [(1, 1), (3, 17), (40, 576)] {
        let len = rows * cols;
        let vector = |random: &mut Random| Tensor::from_f32(1, cols, random.normal(cols));
        let (weight, bias, x) = (vector(&mut random), vector(&mut random), random.normal(len + 1));
        let lens = if rows == 1 { vec![1] } else { vec![1, rows as u32 - 1] };
        let spans = spans(&lens);
        each_backend!(|cpu| {
            let mut reference = ReferenceBackend::new();
            let name = format!("{rows} x {cols} {}", cpu.describe());
            let close = |actual: &[f32], expected: &[f32], bound: f64, what: &str| {
                for (n, (a, e)) in actual.iter().zip(expected).enumerate() {
                    let error = (f64::from(*a) - f64::from(*e)).abs();
                    assert!(error <= bound, "{what} {name}: {n} is {a}, not {e}");
                }
                assert_eq!(actual[len..], x[len..], "{what} {name}: wrote past the rows");
            };
            let (mut a, mut e) = (x.clone(), x.clone());
            cpu.layer_norm_in_place(&mut a, &weight, &bias, rows, 1e-2).unwrap();
            reference.layer_norm_in_place(&mut e, &weight, &bias, rows, 1e-2).unwrap();
            // Weights, biases and numbers are within 6, of a deviation of 1 or, where there is one column, none.
            close(&a, &e, (cols as f64 / 4.0 + 20.0) * EPSILON * 42.0, "layer norm");
            for activation in [Activation::Gelu, Activation::GeluTanh] {
                let (mut a, mut e) = (x.clone(), x.clone());
                cpu.activate(&mut a, len, activation).unwrap();
                reference.activate(&mut e, len, activation).unwrap();
                // 48 epsilon of the result by the tanh formula, 3 of the argument by the other.
                close(&a, &e, 48.0 * EPSILON * 6.0, "activate");
            }
            let (mut a, mut e) = (x.clone(), x.clone());
            cpu.clip(&mut a, len, [-0.5, 0.25]).unwrap();
            reference.clip(&mut e, len, [-0.5, 0.25]).unwrap();
            assert_eq!(a, e, "clip {name}");
            assert!(a[..len].iter().zip(&x).all(|(a, x)| *a == x.clamp(-0.5, 0.25)) && a[len..] == x[len..]);
            let (mut a, mut e) = (vec![f32::NAN; lens.len() * cols], vec![f32::NAN; lens.len() * cols]);
            cpu.mean(&mut a, &x, &spans, cols).unwrap();
            reference.mean(&mut e, &x, &spans, cols).unwrap();
            assert_eq!(a, e, "mean {name}");
            assert_eq!(a[..cols], x[..cols], "the mean of one row is the row");
            if rows > 1 {
                let sum: f64 = (1..rows).map(|row| f64::from(x[row * cols])).sum();
                assert_eq!(a[cols], (sum / (rows - 1) as f64) as f32);
            }
        });
    }
}
