//! Attention over caches of every type.

use muse_kernels::{AttentionShape, Backend, BackendError, CacheDtype, CacheShape, ReferenceBackend, Span};

use crate::test_data::Random;
use crate::{EPSILON, each, spans};

#[derive(Debug)]
struct AttentionCase {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    start: u32,
    len: u32,
    window: Option<u32>,
    chunk: Option<u32>,
    softcap: Option<f32>,
    capacity: u32,
}

impl AttentionCase {
    fn shape(&self) -> AttentionShape {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let Self { heads, kv_heads, head_dim, window, chunk, softcap, .. } = *self;
        AttentionShape {
            heads,
            kv_heads,
            head_dim,
            scale,
            window,
            chunk,
            softcap,
            bidirectional: false,
            until: None,
        }
    }

    /// The numbers that [`Self::run`] takes.
    fn inputs(&self) -> Vec<f32> {
        let Self { heads, kv_heads, head_dim, start, len, .. } = *self;
        let (before, batch) = (4 * (start + len), (len + 1) * 2);
        Random::new(12).normal((((before + batch) * kv_heads + (len + 1) * heads) * head_dim) as usize)
    }

    /// Fills a cache up to the batch, stores the batch and attends.
    fn run<B: Backend<Buffer = Vec<f32>>>(
        &self,
        backend: &mut B,
        dtype: CacheDtype,
        inputs: &[f32],
    ) -> Result<Vec<f32>, BackendError> {
        let mut inputs = inputs.iter().copied();
        let mut next = |count: usize| inputs.by_ref().take(count).collect::<Vec<f32>>();
        let Self { heads, kv_heads, head_dim, capacity, start, len, .. } = *self;
        let mut cache =
            backend.cache(CacheShape { dtype, slots: 3, capacity, kv_heads, head_dim, values: true })?;
        backend.reserve(len as usize + 1, (heads * head_dim) as usize).unwrap();
        let width = (kv_heads * head_dim) as usize;
        for p in 0..start + len {
            let (k, v) = (next(2 * width), next(2 * width));
            let span = |slot, start| Span { slot, start, len: 1 };
            let both = [span(2, p), span(0, p)];
            backend.store(&mut cache, &k, &v, if p < start { &both } else { &both[1..] }).unwrap();
        }
        let spans = spans(start, len);
        let tokens = len as usize + 1;
        let (k, v) = (next(tokens * width), next(tokens * width));
        backend.store(&mut cache, &k, &v, &spans).unwrap();
        let size = tokens * (heads * head_dim) as usize;
        let (q, mut out) = (next(size), vec![f32::NAN; size]);
        backend.attention(&mut out, &q, &cache, &spans, &self.shape())?;
        Ok(out)
    }

    /// [`Self::inputs`] whose scores are a quarter of a position, or fall by as much.
    fn steep(&self, falls: bool) -> Vec<f32> {
        let Self { heads, kv_heads, head_dim, start, len, .. } = *self;
        let mut inputs = self.inputs();
        let mut rest = &mut inputs[..];
        let mut set = |rows: u32, value: &dyn Fn(u32) -> Option<f32>| {
            for row in 0..rows {
                let (own, others) = std::mem::take(&mut rest).split_at_mut(head_dim as usize);
                if let Some(value) = value(row) {
                    own.fill(0.0);
                    own[0] = value;
                }
                rest = others;
            }
        };
        let end = start + len;
        let key = |position: u32| Some(if falls { end - position } else { position } as f32 / 4.0);
        for position in 0..end {
            set(2 * kv_heads, &|_| key(position));
            set(2 * kv_heads, &|_| None);
        }
        set((len + 1) * kv_heads, &|row| key(start + row / kv_heads));
        set((len + 1) * kv_heads, &|_| None);
        set((len + 1) * heads, &|_| Some((head_dim as f32).sqrt()));
        inputs
    }

    /// # Panics
    /// Where a backend's results are not the reference's.
    fn agrees(&self, inputs: &[f32]) {
        for dtype in CacheDtype::ALL {
            let expected = self.run(&mut ReferenceBackend::new(), dtype, inputs).unwrap();
            each_backend!(|cpu| {
                let name = cpu.describe();
                let actual = self.run(cpu, dtype, inputs).unwrap();
                self.compare(dtype, &name, &actual, &expected);
            });
        }
    }

    /// # Panics
    /// Where `actual` is not what is `expected`, within what the order of sums and the rounding of prompts may do.
    fn compare(&self, dtype: CacheDtype, name: &str, actual: &[f32], expected: &[f32]) {
        let error = |(actual, expected): (&f32, &f32)| (f64::from(*actual) - f64::from(*expected)).abs();
        let errors: Vec<f64> = actual.iter().zip(expected).map(error).collect();
        // The other sequence's row is an answer's, which nothing rounds.
        let mut rounded = 0;
        let coarse = each::coarseness(name).filter(|_| self.len >= 32 && dtype != CacheDtype::F32);
        if let Some(coarse) = coarse {
            rounded = (self.len * self.heads * self.head_dim) as usize;
            let mean = (errors[..rounded].iter().map(|e| e * e).sum::<f64>() / rounded as f64).sqrt();
            assert!(mean <= coarse, "{self:?} {dtype:?} {name}: {mean} in the mean");
            assert!(errors[..rounded].iter().all(|e| *e <= 8.0 * coarse), "{self:?} {dtype:?} {name}");
        }
        let bound = attention_bound(self, dtype);
        for (n, error) in errors.iter().enumerate().skip(rounded) {
            let (actual, expected) = (actual[n], expected[n]);
            assert!(*error <= bound, "{self:?} {dtype:?} {name}: {n} is {actual}, not {expected}");
        }
    }
}

/// Inputs are within 6 of 0 (a sum of 12 uniform ones), also as 8 bits. A score is a sum of `head_dim` terms, each within
/// 36 and 1 in the mean, times two scales, so it errs by less than `(head_dim + 4) * eps * head_dim * scale`; with a soft
/// cap by `4 * eps * cap` more. The weights then err by twice that, relatively, and by the `positions + 9` roundings of
/// their sum and of the values' sum, and by 3 where parts are put together; the values are within 6.
///
/// Rotating `n` numbers rounds each `log2(n) + 1` times, and leaves errors that are each for itself as large as they were:
/// once for a query, once for an output.
fn attention_bound(case: &AttentionCase, dtype: CacheDtype) -> f64 {
    let head_dim = f64::from(case.head_dim);
    let positions = f64::from(case.start + case.len + 1);
    let rotation = match dtype {
        CacheDtype::Int4 | CacheDtype::Int8Int4 => f64::from(case.head_dim.trailing_zeros() + 1),
        _ => 0.0,
    };
    let score = (head_dim + 4.0 + rotation) * EPSILON * head_dim.sqrt()
        + case.softcap.map_or(0.0, |cap| 4.0 * EPSILON * f64::from(cap));
    (2.0 * score + 2.0 * (positions + 12.0 + rotation) * EPSILON) * 6.0
}

#[test]
fn attention_agrees() {
    let base = AttentionCase {
        heads: 4,
        kv_heads: 2,
        head_dim: 16,
        start: 0,
        len: 5,
        window: None,
        chunk: None,
        softcap: None,
        capacity: 400,
    };
    let cases = [
        AttentionCase { len: 1, ..base },
        AttentionCase { len: 16, ..base },
        AttentionCase { start: 127, len: 33, ..base },
        AttentionCase { heads: 9, kv_heads: 3, head_dim: 64, start: 255, len: 1, ..base },
        AttentionCase { heads: 9, kv_heads: 3, head_dim: 64, start: 3, len: 40, ..base },
        AttentionCase { heads: 1, kv_heads: 1, head_dim: 80, start: 300, len: 17, ..base },
        AttentionCase { heads: 2, kv_heads: 1, head_dim: 2, start: 20, len: 17, ..base },
        AttentionCase { heads: 10, kv_heads: 1, head_dim: 6, start: 20, len: 3, softcap: Some(2.0), ..base },
        AttentionCase { start: 90, len: 20, window: Some(7), ..base },
        AttentionCase { heads: 4, kv_heads: 1, head_dim: 128, start: 60, len: 65, ..base },
        AttentionCase { heads: 3, kv_heads: 1, head_dim: 7, start: 60, len: 65, window: Some(50), ..base },
        AttentionCase { heads: 1, kv_heads: 1, head_dim: 272, start: 60, len: 33, ..base },
        AttentionCase { start: 90, len: 20, window: Some(17), capacity: 36, ..base },
        AttentionCase { start: 777, len: 5, window: Some(150), capacity: 160, softcap: Some(20.0), ..base },
        AttentionCase { start: 10, len: 1, window: Some(1), ..base },
        AttentionCase { start: 90, len: 20, chunk: Some(7), ..base },
        AttentionCase { heads: 3, kv_heads: 1, head_dim: 7, start: 60, len: 65, chunk: Some(50), ..base },
        AttentionCase { start: 84, len: 20, chunk: Some(17), capacity: 36, ..base },
        AttentionCase { start: 749, len: 5, chunk: Some(150), capacity: 160, softcap: Some(20.0), ..base },
        AttentionCase { start: 3, len: 270, chunk: Some(130), ..base },
        AttentionCase { start: 10, len: 2, chunk: Some(1), ..base },
        // Prompts of heads that are whole pieces of a cache.
        AttentionCase { heads: 2, kv_heads: 1, head_dim: 80, start: 30, len: 37, ..base },
        AttentionCase {
            heads: 3,
            kv_heads: 1,
            head_dim: 256,
            start: 50,
            len: 33,
            softcap: Some(4.0),
            ..base
        },
        AttentionCase {
            heads: 2,
            head_dim: 96,
            start: 201,
            len: 70,
            window: Some(90),
            capacity: 160,
            ..base
        },
        AttentionCase {
            heads: 5,
            kv_heads: 1,
            head_dim: 64,
            start: 40,
            len: 34,
            chunk: Some(17),
            capacity: 51,
            ..base
        },
        // Prompts of many queries, which CUDA's kernels take 128 at a time where that makes two blocks a processor or more, of
        // which the emulated device has 8; parts of a block at the end.
        AttentionCase {
            heads: 8,
            kv_heads: 8,
            head_dim: 64,
            start: 40,
            len: 130,
            window: Some(20),
            capacity: 160,
            ..base
        },
        AttentionCase {
            heads: 32,
            kv_heads: 8,
            head_dim: 80,
            start: 20,
            len: 33,
            softcap: Some(5.0),
            ..base
        },
        AttentionCase { heads: 56, kv_heads: 8, head_dim: 128, len: 33, ..base },
        AttentionCase { heads: 32, head_dim: 96, start: 10, len: 57, chunk: Some(40), ..base },
        // Few rows and long: positions are split into parts.
        AttentionCase { heads: 2, kv_heads: 1, start: 1023, len: 1, capacity: 1040, ..base },
        AttentionCase { heads: 30, kv_heads: 1, head_dim: 6, start: 777, len: 1, capacity: 780, ..base },
        AttentionCase { start: 1999, len: 1, window: Some(800), capacity: 816, softcap: Some(9.0), ..base },
        AttentionCase { start: 1598, len: 1, chunk: Some(800), capacity: 816, ..base },
        AttentionCase { heads: 2, kv_heads: 1, start: 1019, len: 9, capacity: 1040, ..base },
        AttentionCase { start: 1995, len: 5, window: Some(800), capacity: 816, softcap: Some(9.0), ..base },
        // Some rows see none of most parts.
        AttentionCase { kv_heads: 1, start: 1597, len: 6, chunk: Some(800), capacity: 816, ..base },
    ];
    for case in cases {
        case.agrees(&case.inputs());
    }
}

/// Scores that grow from one position to the next, so that what came before counts for less and less, and that fall.
///
/// A query is one number, exact in f16 and bf16, a key too: what rounds is the query's factor, by which scores of up to 16 err
/// by a like part of them, and so the weights that are not next to 0 as little as in the bound of `coarseness`. Rotated to 4
/// bits, scores err each for itself by less than `16 * 2^-12`, of which a sum over 8 positions or more, in the mean, evens out
/// two thirds.
#[test]
fn attention_agrees_where_scores_grow() {
    let base = AttentionCase {
        heads: 2,
        kv_heads: 1,
        head_dim: 64,
        start: 30,
        len: 33,
        window: None,
        chunk: None,
        softcap: None,
        capacity: 80,
    };
    let cases = [
        (AttentionCase { ..base }, true),
        (AttentionCase { ..base }, false),
        (AttentionCase { heads: 48, kv_heads: 16, ..base }, false),
        (AttentionCase { heads: 1, head_dim: 256, ..base }, false),
    ];
    for (case, falls) in cases {
        case.agrees(&case.steep(falls));
    }
}
