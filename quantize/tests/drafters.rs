//! Drafters against an outside witness: what transformers' generator of candidates computes beside a target
//! (scripts/golden/drafters.py), and that answers are the same with a drafter and without.

mod compared;
mod converted;

use std::fs;
use std::path::Path;

use muse_kernels::{CacheDtype, Span};
use muse_quantize::policy::Bits;
use muse_runtime::{BackendChoice, Draft, Engine, LoadOptions, eval, load};
use serde::Deserialize;

use compared::{mean_error, median_error, stored_rows, worst};
use converted::{converted, fixture};

const NAME: &str = "muse-glimmer-assistant";
/// As of `golden.rs`.
const TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
struct Golden {
    target: String,
    input_ids: Vec<u32>,
    starts: Vec<u32>,
}

fn golden() -> Golden {
    serde_json::from_slice(&fs::read(fixture(NAME).join("golden/ids.json")).unwrap()).unwrap()
}

fn options(drafter: Option<&Path>, backend: BackendChoice) -> LoadOptions {
    LoadOptions {
        batch_tokens: 20,
        drafter: drafter.map(Path::to_owned),
        cache: Some(CacheDtype::F32),
        backend,
        threads: Some(2),
        slots: 2,
        ..LoadOptions::default()
    }
}

/// The logits of a block behind each start, the tokens between stepped in chunks of at most `chunk`. The other slot is
/// stepped in between.
fn blocks(engine: &mut dyn Engine, golden: &Golden, chunk: usize) -> Vec<Vec<f32>> {
    let (vocab, count) = (engine.info().vocab as usize, engine.info().drafter.as_ref().unwrap().length_max());
    let (mut rows, mut done) = (Vec::new(), 0);
    for start in &golden.starts {
        for tokens in golden.input_ids[done..*start as usize].chunks(chunk) {
            let span = Span { slot: 1, start: done as u32, len: tokens.len() as u32 };
            engine.step(&[span], tokens, &[], &mut []).unwrap();
            engine.step(&[Span { slot: 0, start: 0, len: 1 }], &[7], &[], &mut []).unwrap();
            done += tokens.len();
        }
        let token = golden.input_ids[*start as usize];
        let mut logits = vec![0.0; count as usize * vocab];
        engine.draft(&[Draft { slot: 1, start: *start, token, count }], &mut logits).unwrap();
        rows.extend(logits.chunks_exact(vocab).map(<[f32]>::to_vec));
    }
    rows
}

#[test]
fn blocks_are_those_of_transformers() {
    let golden = golden();
    let count = 6 * golden.starts.len();
    let expected = stored_rows(&fixture(NAME).join("golden/logits.safetensors"), "logits", count);
    let mut wrong = Vec::new();
    for bits in [Bits::ThirtyTwo, Bits::Sixteen] {
        let (target, drafter) = (converted(&golden.target, bits), converted(NAME, bits));
        for (backend, chunk) in [
            (BackendChoice::Reference, 64),
            (BackendChoice::Cpu, 64),
            (BackendChoice::Cpu, 5),
            (BackendChoice::Cpu, 1),
        ] {
            let mut engine = load(target.path(), &options(Some(drafter.path()), backend)).unwrap();
            let actual = blocks(engine.as_mut(), &golden, chunk);
            let [mean, median] = [mean_error, median_error].map(|error| error(&expected, &actual));
            let error = worst(&expected, &actual);
            let case = format!("{bits:?} {backend:?} in chunks of {chunk}");
            println!("{case}: {error:.1e} of a standard deviation, {mean:.1e} and {median:.1e} on average");
            let fits = error <= TOLERANCE;
            if !fits {
                wrong.push(format!("{case}: error {error:.1e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Of random weights hardly a token comes; what is drafted must leave no trace all the same.
#[test]
fn greedy_answers_are_the_same() {
    let golden = golden();
    let prompt = &golden.input_ids[..9];
    for bits in [Bits::ThirtyTwo, Bits::Four] {
        let (target, drafter) = (converted(&golden.target, bits), converted(NAME, bits));
        for backend in [BackendChoice::Reference, BackendChoice::Cpu] {
            let generate = |drafter: Option<&Path>| {
                let mut engine = load(target.path(), &options(drafter, backend)).unwrap();
                eval::generate_drafted(engine.as_mut(), prompt, 50).unwrap()
            };
            let (alone, with) = (generate(None), generate(Some(drafter.path())));
            println!("{bits:?} {backend:?}: {} of {} came", with.accepted_tokens, with.proposed_tokens);
            assert_eq!(with.tokens, alone.tokens, "{bits:?} {backend:?}");
            assert!(with.proposed_tokens > 50 && with.steps + with.accepted_tokens == 50, "{with:?}");
        }
    }
}
