//! Gated DeltaNet's operations, every backend against the reference and against what a state may be asked for.

#[macro_use]
mod each;
#[path = "../src/test_data.rs"]
#[allow(dead_code)] // quantized bytes are other tests'
mod test_data;

use muse_kernels::{Backend, CpuBackend, DeltaShape, Held, ReferenceBackend, Span, Tensor};
use test_data::Random;

const EPSILON: f64 = f32::EPSILON as f64;

trait Host: Backend<Weight = Tensor, Buffer = Vec<f32>> {}

impl<B: Backend<Weight = Tensor, Buffer = Vec<f32>>> Host for B {}

const SHAPE: DeltaShape =
    DeltaShape { slots: 3, key_heads: 2, value_heads: 4, key_dim: 6, value_dim: 10, taps: 4, undo: 3 };

fn shapes() -> [DeltaShape; 5] {
    [
        SHAPE,
        DeltaShape { key_heads: 1, value_heads: 1, key_dim: 1, value_dim: 1, taps: 1, undo: 0, ..SHAPE },
        DeltaShape { key_heads: 1, value_heads: 3, key_dim: 17, value_dim: 33, taps: 2, undo: 1, ..SHAPE },
        DeltaShape { key_dim: 128, value_dim: 128, undo: 12, ..SHAPE },
        DeltaShape { key_heads: 3, value_heads: 3, key_dim: 256, value_dim: 64, taps: 16, ..SHAPE },
    ]
}

/// A layer's weights and one long input for each slot, so that every way through it meets the same rows.
struct Layer {
    shape: DeltaShape,
    taps: Tensor,
    rate: Tensor,
    /// `(slots, LEN, channels + 2 * value_heads)`: a row of `x`, of `decay` and of `beta`
    rows: Vec<f32>,
}

const LEN: usize = 48;

impl Layer {
    fn new(shape: DeltaShape) -> Self {
        let mut random = Random::new(u64::from(shape.channels()));
        let (channels, heads) = (shape.channels() as usize, shape.value_heads as usize);
        let mut taps = random.normal(shape.taps as usize * channels);
        taps.iter_mut().for_each(|tap| *tap *= 0.5);
        let taps = Tensor::from_f32(shape.taps as usize, channels, taps);
        // From heads that forget in a row to heads that remember thousands.
        let rates = (0..heads).map(|head| 4.0 * 0.05_f32.powi(head as i32)).collect();
        let rate = Tensor::from_f32(1, heads, rates);
        Self { shape, taps, rate, rows: random.normal(shape.slots as usize * LEN * (channels + 2 * heads)) }
    }

    fn row(&self, slot: u32, position: u32) -> [&[f32]; 3] {
        let (channels, heads) = (self.shape.channels() as usize, self.shape.value_heads as usize);
        let width = channels + 2 * heads;
        let row = &self.rows[(slot as usize * LEN + position as usize) * width..][..width];
        let (x, rest) = row.split_at(channels);
        let (decay, beta) = rest.split_at(heads);
        [x, decay, beta]
    }

    /// The rows of `spans`: `x`, `decay` and `beta`.
    fn inputs(&self, spans: &[Span]) -> [Vec<f32>; 3] {
        let mut inputs = [const { Vec::new() }; 3];
        for span in spans {
            for position in span.start..span.start + span.len {
                let rows = self.row(span.slot, position);
                inputs.iter_mut().zip(rows).for_each(|(to, from)| to.extend_from_slice(from));
            }
        }
        inputs
    }

    fn convolve<B: Host>(&self, backend: &mut B, state: &mut B::DeltaState, spans: &[Span]) -> Vec<f32> {
        let [mut x, ..] = self.inputs(spans);
        x.push(f32::NAN);
        backend.convolve(&mut x, &self.taps, state, spans).unwrap();
        assert!(x.pop().is_some_and(f32::is_nan), "wrote past the batch");
        x
    }

    /// What the rule makes of rows that were convolved to `x`.
    fn rule<B: Host>(
        &self,
        backend: &mut B,
        state: &mut B::DeltaState,
        spans: &[Span],
        mut x: Vec<f32>,
    ) -> Vec<f32> {
        let [_, mut decay, mut beta] = self.inputs(spans);
        let rows = decay.len() / self.shape.value_heads as usize;
        let mut out = vec![f32::NAN; rows * (self.shape.value_heads * self.shape.value_dim) as usize + 1];
        backend.delta_rule(&mut out, &mut x, &mut decay, &mut beta, &self.rate, state, spans).unwrap();
        assert!(out.pop().is_some_and(f32::is_nan), "wrote past the batch");
        out
    }

    fn step<B: Host>(&self, backend: &mut B, state: &mut B::DeltaState, spans: &[Span]) -> Vec<f32> {
        let x = self.convolve(backend, state, spans);
        self.rule(backend, state, spans, x)
    }
}

fn span(slot: u32, start: u32, len: u32) -> Span {
    Span { slot, start, len }
}

/// Batches that bring two sequences along, together and alone, in steps of many rows and of one.
fn batches() -> Vec<Vec<Span>> {
    vec![
        vec![span(0, 0, 9), span(2, 0, 1)],
        vec![span(2, 1, 1)],
        vec![span(2, 2, 2), span(0, 9, 2)],
        vec![span(0, 11, 1)],
        vec![span(0, 12, 20), span(2, 4, 3)],
        vec![span(2, 7, 1), span(0, 32, 1)],
        vec![span(1, 0, 16)],
    ]
}

/// The largest magnitude.
fn largest(x: &[f32]) -> f64 {
    x.iter().map(|x| f64::from(x.abs())).fold(0.0, f64::max)
}

/// Of [`Layer::convolve`]: a sum rounds twice a term, the terms within 6 and a tap; silu makes no error larger by more than
/// a tenth, and adds 8 ulp and twice its argument's.
fn convolved_bound(layer: &Layer) -> f64 {
    let taps = f64::from(layer.shape.taps);
    let sum = 6.0 * largest(layer.taps.f32()) * taps;
    (1.1 * 2.0 * taps + 8.0 + 2.0 * 104.0_f64.min(sum)) * EPSILON * sum
}

/// Of [`Layer::rule`] for equal `x`, its values within `v`, up to position `n`. Keys have length 1, so a row adds a value along one and takes
/// out what was there: after `n` rows a column of the state is no longer than `sqrt(n) * v`. Of that, a row errs by a sum
/// along the key, by the key's own error twice (as an RMS norm's), by a factor's: an exponent within 4 * 7, and the gate's;
/// what rows before erred does not grow. Queries have length `key_dim^-0.5`.
fn ruled_bound(shape: &DeltaShape, v: f64, n: u32) -> f64 {
    let (n, key_dim) = (f64::from(n), f64::from(shape.key_dim));
    let norm = key_dim / 4.0 + 7.0;
    let a_row = (key_dim + 2.0 * norm + 2.0 * 28.0 + 8.0) * EPSILON;
    (n * a_row + (key_dim + norm) * EPSILON) * n.sqrt() * v / key_dim.sqrt()
}

#[test]
fn the_cpu_agrees_with_the_reference() {
    for shape in shapes() {
        let layer = Layer::new(shape);
        let mut reference = ReferenceBackend::new();
        let mut state = reference.delta_state(shape).unwrap();
        let mut step = |spans: &Vec<Span>| {
            let x = layer.convolve(&mut reference, &mut state, spans);
            let out = layer.rule(&mut reference, &mut state, spans, x.clone());
            (spans.clone(), x, out)
        };
        let expected: Vec<_> = batches().iter().map(&mut step).collect();
        let (_, x, out) = &expected[4];
        let size = (out.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / out.len() as f64).sqrt();
        let bound = ruled_bound(&shape, largest(x), 32);
        assert!(bound < 0.5 * size, "{shape:?}: a bound of {bound} on numbers of {size} says little");
        each_backend!(|backend| {
            let name = backend.describe();
            let mut state = backend.delta_state(shape).unwrap();
            for (spans, convolved, out) in &expected {
                let actual = layer.convolve(backend, &mut state, spans);
                close(&format!("{name} {shape:?} {spans:?}: x"), &actual, convolved, convolved_bound(&layer));
                let actual = layer.rule(backend, &mut state, spans, convolved.clone());
                let n = spans.iter().map(|span| span.start + span.len).max().unwrap();
                let bound = ruled_bound(&shape, largest(convolved), n);
                close(&format!("{name} {shape:?} {spans:?}: out"), &actual, out, bound);
            }
        });
    }
}

fn close(case: &str, actual: &[f32], expected: &[f32], bound: f64) {
    assert_eq!(actual.len(), expected.len());
    for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(*actual) - f64::from(*expected)).abs();
        assert!(error <= bound, "{case}: {i} is {actual}, not {expected}; {bound} are allowed");
    }
}

/// Steps of any sizes, and what was taken back in between, leave the bits that one row after another leaves.
fn any_way_gives_the_same<B: Host>(name: &str, backend: &mut B) {
    for shape in shapes() {
        let layer = Layer::new(shape);
        let width = (shape.value_heads * shape.value_dim) as usize;
        let mut state = backend.delta_state(shape).unwrap();
        let one = |backend: &mut B, state: &mut B::DeltaState, position| {
            layer.step(backend, state, &[span(1, position, 1)])
        };
        let expected: Vec<f32> = (0..40).flat_map(|position| one(backend, &mut state, position)).collect();
        for seed in 0..6 {
            // The state of another sequence is in the slot: a span at 0 begins anew.
            let mut random = Random::new(seed);
            let mut at = 0;
            while at < 40 {
                let len = random.int(1, 12).min(40 - at as i32) as u32;
                let out = layer.step(backend, &mut state, &[span(1, at, len)]);
                let own = &expected[at as usize * width..][..out.len()];
                assert_eq!(out, own, "{name} {shape:?} seed {seed}: {len} rows from {at}");
                let held = Held::after(span(1, at, len), shape.undo);
                // On from the end, or from any row that can be taken back.
                let from: Vec<u32> = (at + 1..=at + len).filter(|position| held.reaches(*position)).collect();
                at = from[random.int(0, from.len() as i32 - 1) as usize];
            }
        }
    }
}

#[test]
fn rows_that_are_taken_back_leave_nothing() {
    any_way_gives_the_same("reference", &mut ReferenceBackend::new());
    each_backend!(|backend| { any_way_gives_the_same(&backend.describe(), backend) });
}

/// A step of one row that is right and others that are not, and on behind the right ones.
#[test]
fn proposals_are_rejected_at_any_place() {
    let layer = Layer::new(SHAPE);
    let width = (SHAPE.value_heads * SHAPE.value_dim) as usize;
    each_backend!(|backend| {
        let name = backend.describe();
        let mut state = backend.delta_state(SHAPE).unwrap();
        let expected = layer.step(backend, &mut state, &[span(0, 0, 30)]);
        for accepted in 0..=SHAPE.undo {
            layer.step(backend, &mut state, &[span(0, 0, 20)]);
            // One row, and as many proposals as can be taken back: the first `accepted` are right.
            let mut wrong = Layer::new(SHAPE);
            let all = wrong.rows.len() / (SHAPE.slots as usize * LEN);
            wrong.rows[(21 + accepted as usize) * all..LEN * all].reverse();
            wrong.step(backend, &mut state, &[span(0, 20, 1 + SHAPE.undo)]);
            let start = 21 + accepted;
            let out = layer.step(backend, &mut state, &[span(0, start, 30 - start)]);
            assert_eq!(out, expected[start as usize * width..], "{name}: {accepted} accepted");
        }
    });
}

#[test]
fn what_is_remembered_comes_back_whole() {
    for shape in shapes() {
        let layer = Layer::new(shape);
        let width = (shape.value_heads * shape.value_dim) as usize;
        each_backend!(|backend| {
            let name = backend.describe();
            let mut state = backend.delta_state(shape).unwrap();
            let other = layer.step(backend, &mut state, &[span(1, 0, 9)]);
            let expected = layer.step(backend, &mut state, &[span(2, 0, 40)]);
            layer.step(backend, &mut state, &[span(2, 0, 20)]);
            backend.remember(&mut state, 2).unwrap();
            layer.step(backend, &mut state, &[span(2, 20, 9), span(1, 9, 4)]);
            for at in 20 - shape.undo..=20 {
                backend.recall(&mut state, 2).unwrap();
                let out = layer.step(backend, &mut state, &[span(2, at, 40 - at)]);
                assert_eq!(out, expected[at as usize * width..], "{name} {shape:?} from {at}");
            }
            // The other slot has gone on meanwhile.
            layer.step(backend, &mut state, &[span(1, 13, 1)]);
            assert_eq!(layer.step(backend, &mut state, &[span(1, 0, 9)]), other, "{name} {shape:?}");
        });
    }
}

#[test]
fn slots_do_not_meet_and_a_gate_is_a_rows_own() {
    let layer = Layer::new(SHAPE);
    each_backend!(|backend| {
        let name = backend.describe();
        let mut state = backend.delta_state(SHAPE).unwrap();
        let alone: Vec<_> = [0, 1].map(|slot| layer.step(backend, &mut state, &[span(slot, 0, 7)])).into();
        let both = layer.step(backend, &mut state, &[span(1, 0, 7), span(0, 0, 7)]);
        assert_eq!(both, [&alone[1][..], &alone[0][..]].concat(), "{name}");
        let mut x = vec![1.0, -2.0, 3.0, 4.0, 5.0];
        backend.gate_rows(&mut x, &vec![0.0, f32::INFINITY], 2, 2).unwrap();
        assert_eq!(x, [0.5, -1.0, 3.0, 4.0, 5.0], "{name}");
    });
}

#[test]
#[should_panic(expected = "of a state that holds")]
fn a_state_does_not_go_back_further() {
    let (layer, mut backend) = (Layer::new(SHAPE), CpuBackend::new(1));
    let mut state = backend.delta_state(SHAPE).unwrap();
    layer.step(&mut backend, &mut state, &[span(0, 0, 20)]);
    layer.step(&mut backend, &mut state, &[span(0, 16, 1)]);
}

#[test]
#[should_panic(expected = "two spans of slot 1")]
fn a_slot_is_in_a_batch_once() {
    let (layer, mut backend) = (Layer::new(SHAPE), CpuBackend::new(1));
    let mut state = backend.delta_state(SHAPE).unwrap();
    layer.step(&mut backend, &mut state, &[span(1, 0, 2), span(1, 0, 3)]);
}

#[test]
fn bytes_are_those_of_the_buffers() {
    for shape in shapes() {
        let columns = u64::from(shape.value_dim.next_multiple_of(32));
        let [slots, undo, key_dim, heads] =
            [shape.slots, shape.undo, shape.key_dim, shape.value_heads].map(u64::from);
        let keys = u64::from(shape.key_heads) * key_dim;
        let channels = 2 * keys + heads * u64::from(shape.value_dim);
        let history = u64::from(shape.taps) - 1;
        let open = undo * (keys + heads * columns + heads);
        let expected = 2 * slots * (heads * key_dim * columns + open + (history + undo) * channels)
            + history * channels
            + 2 * key_dim
            + 16;
        assert_eq!(shape.byte_len(), 4 * expected, "{shape:?}");
    }
}
