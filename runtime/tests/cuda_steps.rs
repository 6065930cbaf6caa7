//! Models whose steps are graphs of a GPU against the same models launch by launch, to the bit: each in a process of its
//! own, with `MUSE_EMULATOR` for the emulated driver of `scripts/cuda.sh`.

#[path = "../../kernels/tests/child/mod.rs"]
mod child;
mod support;

use std::thread;

use child::{child, outcomes};
use muse_format::{Layout, Spec};
use muse_kernels::{Backend, BackendError, Best, ReferenceBackend, Span};
use muse_runtime::{
    BackendChoice, Draft, Engine, LoadOptions, LogitRows, Mapped, MediaRows, load_mapped, open,
};
use support::{
    Rng, byte_text, chain, chunked, drafter, everything, latent, mixture, plain, recurrent, shared, sparse,
    write,
};

/// Layers of each kind: attention with all of its options, experts, vectors of tokens for each layer, chunks, latents,
/// recurrent states, and positions that are chosen.
fn models() -> [(&'static str, Spec); 8] {
    [
        ("plain", plain()),
        ("everything", everything()),
        ("mixture", mixture()),
        ("shared", shared()),
        ("chunked", chunked()),
        ("latent", latent()),
        ("recurrent", recurrent()),
        ("sparse", sparse()),
    ]
}

fn options() -> LoadOptions {
    LoadOptions {
        backend: BackendChoice::Cuda,
        slots: 3,
        batch_tokens: 24,
        context: Some(96),
        ..LoadOptions::default()
    }
}

fn engine(spec: &Spec, layout: Layout) -> Box<dyn Engine> {
    let file = write(spec, layout, 11);
    load_mapped(&Mapped::open(&file.path).unwrap(), &options(), byte_text(spec.vocab)).unwrap()
}

/// Sessions of one engine, and a number for all bits of all logits.
struct Talk {
    engine: Box<dyn Engine>,
    at: [u32; 3],
    random: Rng,
    hash: u64,
    drawn: LogitRows,
}

impl Talk {
    fn new(engine: Box<dyn Engine>) -> Self {
        let drawn = LogitRows::new(engine.info().logit_rows, engine.info().vocab);
        Self { engine, at: [0; 3], random: Rng(5), hash: 0xcbf2_9ce4_8422_2325, drawn }
    }

    fn note(&mut self, logits: &[f32]) {
        assert!(logits.iter().all(|logit| logit.is_finite()));
        for logit in logits {
            self.hash = (self.hash ^ u64::from(logit.to_bits())).wrapping_mul(0x100_0000_01b3);
        }
    }

    /// So many rows of each of `slots`; the logits of all of them, or of the last of each, and their best where tokens are drawn
    /// of them: of one slot's rows.
    fn step(&mut self, slots: &[(u32, u32)], all: bool) -> Result<(), BackendError> {
        let vocab = self.engine.info().vocab;
        let span = |(slot, len): &(u32, u32)| Span { slot: *slot, start: self.at[*slot as usize], len: *len };
        let spans: Vec<Span> = slots.iter().map(span).collect();
        let rows: u32 = spans.iter().map(|span| span.len).sum();
        let tokens = self.random.tokens(rows as usize, vocab);
        let ends = spans.iter().scan(0, |end, span| {
            *end += span.len;
            Some(*end - 1)
        });
        let wanted: Vec<u32> = if all { (0..rows).collect() } else { ends.collect() };
        let mut logits = vec![f32::NAN; wanted.len() * vocab as usize];
        if let [_] = slots {
            let drawn = &mut self.drawn;
            drawn.temperatures.clear();
            drawn.temperatures.extend(wanted.iter().map(|row| (tokens[*row as usize] % 4) as f32 / 2.0));
            self.engine.step_to_draw(&spans, &tokens, MediaRows::default(), &wanted, drawn)?;
            self.engine.read_logits(&mut logits)?;
            assert!(!drawn.whole);
            check_best(&drawn.best[..wanted.len() * Best::WIDTH], &logits, &drawn.temperatures);
            let sums: Vec<f32> = drawn.best.chunks(Best::WIDTH).map(|row| Best::new(row).sum()).collect();
            self.note(&sums[..wanted.len()]);
        } else {
            self.engine.step(&spans, &tokens, &wanted, &mut logits)?;
        }
        self.note(&logits);
        spans.iter().for_each(|span| self.at[span.slot as usize] += span.len);
        Ok(())
    }

    /// Proposals of so many tokens for each of `slots`, where there is a drafter.
    fn draft(&mut self, slots: &[(u32, u32)]) -> Result<(), BackendError> {
        let vocab = self.engine.info().vocab;
        if self.engine.info().drafter.is_none() {
            return Ok(());
        }
        let random = &mut self.random;
        let drafts: Vec<Draft> = slots
            .iter()
            .map(|(slot, count)| Draft {
                slot: *slot,
                start: self.at[*slot as usize],
                token: random.tokens(1, vocab)[0],
                count: *count,
            })
            .collect();
        let rows: u32 = slots.iter().map(|(_, count)| count).sum();
        let mut logits = vec![f32::NAN; (rows * vocab) as usize];
        self.engine.draft(&drafts, &mut logits)?;
        self.note(&logits);
        Ok(())
    }

    /// Prompts of three sessions, then `rounds` of answers: one at a time, two together, and several rows of one, of which
    /// some are taken back as where proposals are rejected. Then another answer takes the place of one.
    fn run(&mut self, rounds: u32) -> Result<u64, BackendError> {
        self.step(&[(0, 20)], false)?;
        self.step(&[(1, 3), (2, 17)], false)?;
        for round in 0..rounds {
            self.step(&[(0, 1)], false)?;
            self.step(&[(1, 1), (2, 1)], false)?;
            self.step(&[(1, 1)], false)?;
            self.draft(&[(0, 2)])?;
            self.step(&[(0, 4)], true)?;
            self.at[0] -= (round + 1) % 4;
            self.draft(&[(2, 3)])?;
            self.step(&[(0, 1), (2, 3)], true)?;
            self.at[2] -= round % 3;
            self.draft(&[(1, 2), (0, 1)])?;
            if round % 3 == 2 {
                self.at[0] = 20;
            }
        }
        Ok(self.hash)
    }
}

/// The best are those of the logits.
fn check_best(best: &[f32], logits: &[f32], temperatures: &[f32]) {
    let (mut expected, vocab) = (vec![f32::NAN; best.len()], logits.len() / temperatures.len());
    ReferenceBackend::new().best(&mut expected, &logits.to_vec(), vocab, temperatures).unwrap();
    for (best, expected) in best.chunks(Best::WIDTH).zip(expected.chunks(Best::WIDTH)) {
        let (best, expected) = (Best::new(best), Best::new(expected));
        assert!(best.pairs().eq(expected.pairs()));
        let (sum, expected) = (f64::from(best.sum()), f64::from(expected.sum()));
        assert!((sum - expected).abs() <= Best::SUM_ERROR * expected, "{sum}, not {expected}");
    }
}

/// How many rounds a child takes.
const ROUNDS: &str = "MUSE_ROUNDS";

fn rounds() -> u32 {
    std::env::var(ROUNDS).map_or(4, |rounds| rounds.parse().unwrap())
}

fn say(name: &str, done: Result<u64, BackendError>) {
    match done {
        Ok(hash) => println!("outcome: {name}: {hash:x}"),
        Err(error) => println!("outcome: {name}: {error}"),
    }
}

#[test]
#[ignore = "the process that the other tests start"]
fn alone() {
    for (name, spec) in models() {
        let layout = if name == "mixture" { Layout::Q4 { group: 32 } } else { Layout::F32 };
        say(name, Talk::new(engine(&spec, layout)).run(rounds()));
    }
}

#[test]
#[ignore = "the process that the other tests start"]
fn drafted() {
    for (name, spec, drafter) in [
        ("a block", everything(), drafter()),
        ("a chain", plain(), chain()),
        ("a chain behind recurrent layers", recurrent(), chain()),
    ] {
        let (target, drafter) = (write(&spec, Layout::F32, 3), write(&drafter, Layout::F32, 4));
        let options = LoadOptions { drafter: Some(drafter.path.clone()), ..options() };
        let mapped = open(&target.path, &options).unwrap();
        let engine = load_mapped(&mapped, &options, byte_text(spec.vocab)).unwrap();
        say(name, Talk::new(engine).run(rounds()));
    }
}

#[test]
#[ignore = "the process that the other tests start"]
fn two_engines() {
    let spec = plain();
    let mut engines = [(); 2].map(|()| engine(&spec, Layout::F32));
    let mut alive = [true; 2];
    for at in 0..6 {
        for (i, (engine, alive)) in engines.iter_mut().zip(&mut alive).enumerate() {
            let mut logits = vec![f32::NAN; spec.vocab as usize];
            let span = Span { slot: 0, start: at, len: 1 };
            match engine.step(&[span], &[at], &[0], &mut logits) {
                Ok(()) => assert!(logits.iter().all(|logit| logit.is_finite())),
                Err(error) if *alive => {
                    *alive = false;
                    println!("outcome: {i} at {at}: {error}");
                }
                Err(_) => {}
            }
        }
    }
}

#[test]
fn cuda_graphs_say_what_launches_one_by_one_do() {
    for (test, count) in [("alone", models().len()), ("drafted", 3)] {
        let started = ["", "capture=0", "graphs=0"].map(|plan| thread::spawn(|| outcomes(child(test, plan))));
        let [graphs, plain, refused] = started.map(|process| process.join().unwrap());
        assert_eq!(graphs, plain);
        // All of them are graphs.
        for (refused, plain) in refused.iter().zip(&plain) {
            let name = plain.split(':').next().unwrap();
            let expected = format!("{name}: CUDA: cuGraphLaunch failed: CUDA_ERROR_OUT_OF_MEMORY");
            assert_eq!(*refused, expected);
        }
        assert_eq!([graphs.len(), refused.len()], [count; 2]);
    }
}

/// Once each shape has come, a step, or a pass of a drafter, is one launch.
#[test]
fn cuda_launches_nothing_by_itself_once_shapes_are_known() {
    // Of the fifth round on no shape is new: where a chain goes on behind another answer's beginning is one as well.
    let counts = ["4", "7"].map(|rounds| {
        thread::spawn(move || {
            let mut child = child("drafted", "count=1");
            child.env(ROUNDS, rounds);
            let counts = outcomes(child).pop().unwrap();
            let number = |count: &str| count.split(' ').nth(1).unwrap().parse().unwrap();
            counts.split(", ").map(number).collect::<Vec<u64>>()
        })
    });
    let [few, many] = counts.map(|process| process.join().unwrap());
    assert_eq!(few[0], many[0], "{few:?} {many:?}");
    // Five steps a round; proposals of one pass for a block, of 2, 3 and 2 for a chain.
    assert_eq!(many[1] - few[1], 3 * (3 * 5 + 3 + 7 + 7), "{few:?} {many:?}");
}

#[test]
fn a_cuda_graph_that_fails_is_the_error_of_its_engine_alone() {
    // Each engine's second step and those behind it are graphs.
    let expected = ["1 at 2: CUDA: cuGraphLaunch failed: CUDA_ERROR_OUT_OF_MEMORY"];
    assert_eq!(outcomes(child("two_engines", "graph_memory=4")), expected);
    assert!(outcomes(child("two_engines", "")).is_empty());
}
