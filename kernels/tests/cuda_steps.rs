//! Steps that are captured and launched as graphs against the same operations one by one, to the bit. On a device, or the
//! emulated one of `scripts/cuda.sh`; faults each in a process of its own, with `MUSE_EMULATOR` for that one.

mod child;

use std::ops::Range;

use child::{child, outcomes};
use muse_kernels::{
    AttentionShape, Backend, BackendError, Best, CacheDtype, CacheShape, CudaBackend, CudaBuffer, CudaCache,
    CudaDeltaState, CudaWeight, DeltaShape, Linear, Pass, Span, Step, Tensor, bits,
};

const DIM: usize = 64;
const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const HEAD_DIM: u32 = 16;
const VOCAB: usize = 96;
const CAPACITY: u32 = 640;
const ROWS: usize = 16;
const SLOTS: u32 = 3;

/// A layer of attention between a table and a head, with a cache.
struct Tiny {
    cuda: CudaBackend,
    embed: CudaWeight,
    norm: CudaWeight,
    rope: CudaWeight,
    qkv: [CudaWeight; 3],
    out: CudaWeight,
    cache: CudaCache,
    x: CudaBuffer,
    y: CudaBuffer,
    q: CudaBuffer,
    k: CudaBuffer,
    v: CudaBuffer,
    mix: CudaBuffer,
    logits: CudaBuffer,
    best: CudaBuffer,
}

/// What runs a step's operations.
#[derive(Debug, Clone, Copy, PartialEq)]
enum As {
    Step,
    Operations,
    /// A step with an operation that no graph holds.
    Uncapturable,
}

fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as f32 / (1_u64 << 30) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

impl Tiny {
    fn new() -> Result<Self, BackendError> {
        let mut cuda = CudaBackend::new()?;
        let (width, kv) = ((HEADS * HEAD_DIM) as usize, (KV_HEADS * HEAD_DIM) as usize);
        let mut weight = |seed, rows: usize, cols: usize| {
            cuda.load(Tensor::from_f32(rows, cols, numbers(seed, rows * cols)))
        };
        let (embed, norm, rope) = (weight(1, VOCAB, DIM)?, weight(2, 1, DIM)?, weight(3, 1, 8)?);
        let qkv = [weight(4, width, DIM)?, weight(5, kv, DIM)?, weight(6, kv, DIM)?];
        let out = weight(7, DIM, width)?;
        let shape = CacheShape {
            dtype: CacheDtype::F16,
            slots: SLOTS,
            capacity: CAPACITY,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            values: true,
        };
        let cache = cuda.cache(shape)?;
        cuda.reserve(ROWS, DIM)?;
        let mut buffer = |width: usize| cuda.buffer(ROWS * width);
        Ok(Self {
            x: buffer(DIM)?,
            y: buffer(DIM)?,
            q: buffer(width)?,
            k: buffer(kv)?,
            v: buffer(kv)?,
            mix: buffer(width)?,
            logits: buffer(VOCAB)?,
            best: buffer(Best::WIDTH)?,
            cuda,
            embed,
            norm,
            rope,
            qkv,
            out,
            cache,
        })
    }

    fn step(
        &mut self,
        run: As,
        spans: &[Span],
        tokens: &[u32],
        wanted: &[u32],
    ) -> Result<Vec<u32>, BackendError> {
        let Self {
            cuda,
            embed,
            norm,
            rope,
            qkv: [on_q, on_k, on_v],
            out,
            cache,
            x,
            y,
            q,
            k,
            v,
            mix,
            logits,
            best,
        } = self;
        let rows = tokens.len();
        // Steps of two sessions or more are not drawn from. Temperatures differ between steps of one shape.
        let temperature = |row: &u32| 0.5 + ((spans[0].start + row) % 7) as f32;
        let temperatures: Vec<f32> = wanted.iter().filter(|_| spans.len() == 1).map(temperature).collect();
        let shape = AttentionShape {
            heads: HEADS,
            kv_heads: KV_HEADS,
            head_dim: HEAD_DIM,
            scale: 0.25,
            window: None,
            chunk: None,
            softcap: None,
            bidirectional: false,
            until: None,
        };
        let mut operations = |cuda: &mut CudaBackend| {
            cuda.embed(x, embed, tokens, 1.0)?;
            cuda.rms_norm(y, x, norm, rows, 1e-5)?;
            cuda.linear(
                y,
                rows,
                &mut [
                    Linear { out: &mut *q, weight: on_q, bias: None },
                    Linear { out: &mut *k, weight: on_k, bias: None },
                    Linear { out: &mut *v, weight: on_v, bias: None },
                ],
            )?;
            cuda.rope(q, rope, spans, HEADS, HEAD_DIM)?;
            cuda.rope(k, rope, spans, KV_HEADS, HEAD_DIM)?;
            cuda.store(cache, k, v, spans)?;
            if run == As::Uncapturable {
                cuda.write(mix, &[0.0; 4])?;
            }
            cuda.attention(mix, q, cache, spans, &shape)?;
            cuda.linear(mix, rows, &mut [Linear { out: &mut *y, weight: out, bias: None }])?;
            cuda.add(x, y, rows * DIM)?;
            cuda.gather(y, x, wanted, DIM)?;
            // As the graph of a model does: the next step finds them the other way round.
            std::mem::swap(x, y);
            cuda.linear(x, wanted.len(), &mut [Linear { out: &mut *logits, weight: embed, bias: None }])?;
            if temperatures.is_empty() { Ok(()) } else { cuda.best(best, logits, VOCAB, &temperatures) }
        };
        match run {
            As::Operations => operations(cuda)?,
            As::Step | As::Uncapturable => {
                let lists = &[tokens, bits(&temperatures)];
                let step = Step { pass: Pass::Forward, spans: &[spans], lists, fixed: &[wanted] };
                cuda.step(&step, &mut operations)?;
            }
        }
        let mut read = vec![f32::NAN; wanted.len() * VOCAB];
        cuda.read(logits, &mut read)?;
        assert!(read.iter().all(|logit| logit.is_finite()));
        let drawn_from = read.len();
        read.resize(drawn_from + temperatures.len() * Best::WIDTH, f32::NAN);
        cuda.read(best, &mut read[drawn_from..])?;
        Ok(read.into_iter().map(f32::to_bits).collect())
    }
}

fn span(slot: u32, start: u32, len: u32) -> Span {
    Span { slot, start, len }
}

/// Steps at growing positions, over where the number of blocks changes that attention is split over, of several sessions in
/// turns, of shapes in turns.
fn steps() -> Vec<(Vec<Span>, Vec<u32>)> {
    let mut steps = Vec::new();
    for start in [0, 1, 2, 126, 127, 128, 129, 254, 255, 256, 257, 511, 512, 513, 130, 3, 600] {
        steps.push((vec![span(0, start, 1)], vec![0]));
        steps.push((vec![span(1, start, 1), span(2, start / 2, 1)], vec![0, 1]));
        steps.push((vec![span(2, start + 1, 1)], vec![0]));
        steps.push((vec![span(0, start + 1, 4)], vec![0, 1, 2, 3]));
        steps.push((vec![span(0, start + 1, 4)], vec![3]));
        steps.push((vec![span(1, start, 2), span(0, start, 1)], vec![]));
    }
    steps
}

#[test]
fn graphs_compute_what_their_operations_do() {
    let (mut graphs, mut plain) = (Tiny::new().unwrap(), Tiny::new().unwrap());
    for (i, (spans, wanted)) in steps().iter().enumerate() {
        let rows: u32 = spans.iter().map(|span| span.len).sum();
        let tokens: Vec<u32> = (0..rows).map(|row| (7 * i as u32 + 13 * row) % VOCAB as u32).collect();
        // What no graph holds is found out once, and runs by itself.
        let run = if spans.len() == 2 && i % 5 == 0 { As::Uncapturable } else { As::Step };
        let expected = plain.step(As::Operations, spans, &tokens, wanted).unwrap();
        assert_eq!(graphs.step(run, spans, &tokens, wanted).unwrap(), expected, "step {i}: {spans:?}");
        if i == 40 {
            // Memory that a graph may name is given back, and other memory takes its place.
            graphs.mix = graphs.cuda.buffer(ROWS * DIM).unwrap();
        }
    }
}

#[test]
#[should_panic(expected = "a token outside the table")]
fn a_graph_is_no_way_around_the_table() {
    let mut tiny = Tiny::new().unwrap();
    for (start, token) in [(0, 1), (1, 2), (2, 3), (3, VOCAB as u32)] {
        tiny.step(As::Step, &[span(0, start, 1)], &[token], &[0]).unwrap();
    }
}

#[test]
#[ignore = "the process that `faults_of_graphs_are_named_and_stay_with_their_backend` starts"]
fn alone() {
    let mut both = [Tiny::new().unwrap(), Tiny::new().unwrap()];
    let expected: Vec<_> = {
        let mut plain = Tiny::new().unwrap();
        (0..6).map(|at| plain.step(As::Operations, &[span(0, at, 1)], &[at], &[0]).unwrap()).collect()
    };
    let mut alive = [true; 2];
    for at in 0..6 {
        for (i, (tiny, alive)) in
            both.iter_mut().zip(&mut alive).enumerate().filter(|(_, (_, alive))| **alive)
        {
            match tiny.step(As::Step, &[span(0, at, 1)], &[at], &[0]) {
                Ok(bits) => assert_eq!(bits, expected[at as usize]),
                Err(error) => {
                    *alive = false;
                    assert!(error.is_final());
                    println!("outcome: {i} at {at}: {error}");
                }
            }
        }
    }
    println!("outcome: {alive:?}");
}

#[test]
#[ignore = "the process that `graphs_take_no_more_memory_than_is_left_to_them` starts"]
fn several_shapes() {
    let (mut graphs, mut plain) = (Tiny::new().unwrap(), Tiny::new().unwrap());
    let shapes: [&[Span]; 5] = [
        &[span(0, 1, 1)],
        &[span(0, 2, 2)],
        &[span(1, 1, 1), span(0, 3, 1)],
        &[span(2, 0, 3)],
        &[span(2, 1, 1), span(1, 2, 2)],
    ];
    for round in 0..4 {
        for (i, spans) in shapes.iter().enumerate() {
            let tokens = [round, i as u32, 5];
            let rows = spans.iter().map(|span| span.len as usize).sum();
            let expected = plain.step(As::Operations, spans, &tokens[..rows], &[0]).unwrap();
            assert_eq!(graphs.step(As::Step, spans, &tokens[..rows], &[0]).unwrap(), expected);
        }
    }
}

/// What a driver takes for a graph, 64 MiB of which are left to all, and how many are launched and at most resident.
#[test]
fn graphs_take_no_more_memory_than_is_left_to_them() {
    let counts = |bytes: u64| {
        let counts = outcomes(child("several_shapes", &format!("count=1 graph_bytes={bytes}"))).remove(0);
        let number =
            |what| counts.split(", ").find_map(|count| count.strip_prefix(what)).unwrap().trim().parse();
        [number("graphs").unwrap(), number("peak").unwrap()]
    };
    let [launched, beside]: [u64; 2] = counts(0);
    // Each shape runs once, and comes three times more.
    assert_eq!(launched, 15);
    let mib = |mib: u64| mib << 20;
    for (bytes, launched, resident) in [
        (mib(12), 15, mib(60)),
        // Two are kept, and one more is made before one is dropped.
        (mib(30), 15, mib(90)),
        // Each is alone, beside the next that is made.
        (mib(64), 15, mib(128)),
        // Each shape is captured once and runs launch by launch from then on.
        (mib(65), 0, mib(65)),
        (mib(9000), 0, 0),
    ] {
        assert_eq!(counts(bytes), [launched, beside + resident], "{bytes}");
    }
}

#[test]
fn faults_of_graphs_are_named_and_stay_with_their_backend() {
    let lost = |call: &str| {
        format!(
            "CUDA: {call} failed: CUDA_ERROR_LAUNCH_FAILED, after which the GPU does nothing more for this process: start it \
             again"
        )
    };
    for (plan, expected) in [
        ("", vec!["[true, true]".to_owned()]),
        // Without captures, or room for a graph, steps run launch by launch.
        ("capture=0", vec!["[true, true]".to_owned()]),
        ("instantiate=1", vec!["[true, true]".to_owned()]),
        ("upload=1", vec!["[true, true]".to_owned()]),
        // A context that is lost is lost to all that share it, each with its own error.
        (
            "graph=3",
            vec![
                format!("0 at 2: {}", lost("cuGraphLaunch")),
                format!("1 at 2: {}", lost("cuMemcpyHtoDAsync")),
                "[false, false]".into(),
            ],
        ),
        (
            "graph_memory=4",
            vec![
                "1 at 2: CUDA: cuGraphLaunch failed: CUDA_ERROR_OUT_OF_MEMORY".into(),
                "[true, false]".into(),
            ],
        ),
    ] {
        assert_eq!(outcomes(child("alone", plan)), expected, "{plan}");
    }
}

/// Two recurrent layers, that two of three slots go through in steps.
struct Layers {
    cuda: CudaBackend,
    states: [CudaDeltaState; 2],
    taps: CudaWeight,
    rate: CudaWeight,
    x: CudaBuffer,
    decay: CudaBuffer,
    beta: CudaBuffer,
    out: CudaBuffer,
}

const DELTA: DeltaShape =
    DeltaShape { slots: 3, key_heads: 1, value_heads: 2, key_dim: 6, value_dim: 10, taps: 3, undo: 3 };

impl Layers {
    fn new() -> Self {
        let mut cuda = CudaBackend::new().unwrap();
        let (channels, heads) = (DELTA.channels() as usize, DELTA.value_heads as usize);
        let mut weight = |seed, rows: usize, cols: usize| {
            cuda.load(Tensor::from_f32(rows, cols, numbers(seed, rows * cols))).unwrap()
        };
        let (taps, rate) = (weight(1, 3, channels), weight(2, 1, heads));
        let states = [cuda.delta_state(DELTA).unwrap(), cuda.delta_state(DELTA).unwrap()];
        cuda.reserve(ROWS, channels).unwrap();
        let mut buffer = |width: usize| cuda.buffer(ROWS * width).unwrap();
        let (x, decay, beta) = (buffer(channels), buffer(heads), buffer(heads));
        Self { out: buffer(heads * DELTA.value_dim as usize), x, decay, beta, cuda, states, taps, rate }
    }

    /// What the last of the layers `of` makes of rows that are written before the step.
    fn step(&mut self, run: As, spans: &[Span], of: Range<usize>) -> Vec<u32> {
        let Self { cuda, states, taps, rate, x, decay, beta, out } = self;
        let rows: usize = spans.iter().map(|span| span.len as usize).sum();
        let seed = u64::from(spans[0].start);
        for (seed, buffer, width) in
            [(seed, &mut *x, 32), (seed + 99, &mut *decay, 2), (seed + 98, &mut *beta, 2)]
        {
            cuda.write(buffer, &numbers(seed, rows * width)).unwrap();
        }
        let mut operations = |cuda: &mut CudaBackend| {
            states[of.clone()].iter_mut().try_for_each(|state| {
                cuda.convolve(x, taps, state, spans)?;
                cuda.delta_rule(out, x, decay, beta, rate, state, spans)
            })
        };
        let layers = [of.start as u32, of.end as u32];
        let step = Step { pass: Pass::Forward, spans: &[spans], lists: &[], fixed: &[&layers] };
        match run {
            As::Operations => operations(cuda).unwrap(),
            As::Step | As::Uncapturable => cuda.step(&step, &mut operations).unwrap(),
        }
        let mut read = vec![f32::NAN; rows * 20];
        cuda.read(out, &mut read).unwrap();
        assert!(read.iter().all(|number| number.is_finite()));
        read.into_iter().map(f32::to_bits).collect()
    }
}

/// What states hold is known on the host, which a graph does not ask.
#[test]
fn graphs_bring_states_along_that_take_back_and_remember() {
    let mut layers = [Layers::new(), Layers::new()];
    let both = |layers: &mut [Layers; 2], slot: u32, start: u32, len: u32, of: Range<usize>| {
        let [graphs, plain] = layers;
        let spans = [span(slot, start, len)];
        let expected = plain.step(As::Operations, &spans, of.clone());
        assert_eq!(graphs.step(As::Step, &spans, of), expected, "{spans:?}");
    };
    for at in 0..4 {
        both(&mut layers, 0, at, 1, 0..2);
        both(&mut layers, 2, 4 * at, 4, 0..2);
    }
    // The last three of four are taken back, then one, then none.
    for start in [13, 16, 20] {
        both(&mut layers, 2, start, 4, 0..2);
    }
    for Layers { cuda, states, .. } in &mut layers {
        states.iter_mut().for_each(|state| cuda.remember(state, 2).unwrap());
    }
    // Layers that hold different things, though they go on from the same position.
    both(&mut layers, 2, 24, 4, 0..1);
    both(&mut layers, 2, 24, 1, 1..2);
    both(&mut layers, 2, 25, 3, 1..2);
    for start in [28, 29, 32] {
        both(&mut layers, 2, start, 4, 0..2);
    }
    for Layers { cuda, states, .. } in &mut layers {
        states.iter_mut().for_each(|state| cuda.recall(state, 2).unwrap());
    }
    both(&mut layers, 2, 23, 1, 0..2);
    both(&mut layers, 0, 4, 1, 0..2);
    both(&mut layers, 2, 24, 1, 0..2);
}

#[test]
#[should_panic(expected = "of a state that holds")]
fn a_graph_is_no_way_around_what_a_state_holds() {
    let mut layers = Layers::new();
    for start in [0, 1, 2, 3, 2] {
        layers.step(As::Step, &[span(0, start, 1)], 0..2);
    }
}
