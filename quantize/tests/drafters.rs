//! Drafters against an outside witness: what transformers' generator of candidates computes beside a target
//! (scripts/golden/drafters.py), or a reference made of its layers (scripts/golden/heads.py), and that answers are the same
//! with a drafter and without.

mod compared;
mod converted;

use std::fs;
use std::path::Path;

use muse_kernels::{CacheDtype, Span};
use muse_quantize::inputs;
use muse_quantize::policy::Bits;
use muse_runtime::eval::{self, Input};
use muse_runtime::{BackendChoice, Draft, Engine, LoadOptions, Medium, load};
use serde::Deserialize;

use compared::{mean_error, median_error, stored_rows, worst};
use converted::{converted, converted_head, fixture};
use tempfile::NamedTempFile;

const ASSISTANT: &str = "muse-glimmer-assistant";
/// Fixtures of layers that a target's own checkpoint holds.
const HEADS: [&str; 5] =
    ["qwen3-5-mtp", "qwen3-5-moe-mtp", "qwen3-5-images-mtp", "glm4-moe-mtp", "glm4-moe-lite-mtp"];
/// As of `golden.rs`.
const TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
struct Golden {
    target: String,
    input_ids: Vec<u32>,
    starts: Vec<u32>,
    /// Whether the tokens are the target's prompt with images, and what it answers.
    #[serde(default)]
    images: bool,
}

fn golden(name: &str) -> Golden {
    serde_json::from_slice(&fs::read(fixture(name).join("golden/ids.json")).unwrap()).unwrap()
}

/// A target and what drafts for it.
fn pair(name: &str, golden: &Golden, bits: Bits) -> [NamedTempFile; 2] {
    let own = fixture(name).join("checkpoint").exists();
    let from = if own { name } else { &golden.target };
    let drafter = if HEADS.contains(&name) { converted_head(from, bits) } else { converted(from, bits) };
    [converted(&golden.target, bits), drafter]
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
    let count = engine.info().drafter.as_ref().unwrap().length_max();
    let media = media(golden, engine);
    let (mut rows, mut done) = (Vec::new(), 0);
    for start in &golden.starts {
        if golden.images {
            let (tokens, media) = (&golden.input_ids[..*start as usize], media.as_slice());
            eval::logits(engine, Input { tokens, media }, None).unwrap();
            rows.extend(draft(engine, 0, golden, *start, count));
            continue;
        }
        for tokens in golden.input_ids[done..*start as usize].chunks(chunk) {
            let span = Span { slot: 1, start: done as u32, len: tokens.len() as u32 };
            engine.step(&[span], tokens, &[], &mut []).unwrap();
            engine.step(&[Span { slot: 0, start: 0, len: 1 }], &[7], &[], &mut []).unwrap();
            done += tokens.len();
        }
        rows.extend(draft(engine, 1, golden, *start, count));
    }
    rows
}

/// The logits of what is proposed behind `start`.
fn draft(engine: &mut dyn Engine, slot: u32, golden: &Golden, start: u32, count: u32) -> Vec<Vec<f32>> {
    let (vocab, token) = (engine.info().vocab as usize, golden.input_ids[start as usize]);
    let mut logits = vec![0.0; count as usize * vocab];
    engine.draft(&[Draft { slot, start, token, count }], &mut logits).unwrap();
    logits.chunks_exact(vocab).map(<[f32]>::to_vec).collect()
}

/// The media of a prompt.
fn media(golden: &Golden, engine: &dyn Engine) -> Vec<Medium> {
    if !golden.images {
        return Vec::new();
    }
    let bytes = fs::read(fixture(&golden.target).join("golden/images.safetensors")).unwrap();
    inputs::read(&bytes, engine.info()).unwrap()
}

/// How far what is proposed is from what the reference computes.
fn compare(name: &str, length: usize) {
    let golden = golden(name);
    let count = length * golden.starts.len();
    let expected = stored_rows(&fixture(name).join("golden/logits.safetensors"), "logits", count);
    let mut wrong = Vec::new();
    for bits in [Bits::ThirtyTwo, Bits::Sixteen] {
        let [target, drafter] = pair(name, &golden, bits);
        for (backend, chunk) in [
            (BackendChoice::Reference, 64),
            (BackendChoice::Cpu, 64),
            (BackendChoice::Cpu, 5),
            (BackendChoice::Cpu, 1),
        ] {
            // With images chunks are those of the evaluation, which have room for the rows of a proposal.
            let batch_tokens = if golden.images { chunk.max(length) as u32 } else { 20 };
            let options = LoadOptions { batch_tokens, ..options(Some(drafter.path()), backend) };
            let mut engine = load(target.path(), &options).unwrap();
            let actual = blocks(engine.as_mut(), &golden, chunk);
            let [mean, median] = [mean_error, median_error].map(|error| error(&expected, &actual));
            let error = worst(&expected, &actual);
            let case = format!("{name} {bits:?} {backend:?} in chunks of {chunk}");
            println!("{case}: {error:.1e} of a standard deviation, {mean:.1e} and {median:.1e} on average");
            let fits = error <= TOLERANCE;
            if !fits {
                wrong.push(format!("{case}: error {error:.1e}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn blocks_are_those_of_transformers() {
    compare(ASSISTANT, 6);
}

#[test]
fn chains_are_those_of_the_reference() {
    HEADS.iter().for_each(|name| compare(name, 4));
}

/// Of random weights hardly a token comes; what is drafted must leave no trace all the same.
#[test]
fn greedy_answers_are_the_same() {
    [ASSISTANT].iter().chain(&HEADS).for_each(|name| answers_are_the_same(name));
}

fn answers_are_the_same(name: &str) {
    let golden = golden(name);
    let prompt = &golden.input_ids[..if golden.images { golden.starts[0] as usize } else { 9 }];
    for bits in [Bits::ThirtyTwo, Bits::Four] {
        let [target, drafter] = pair(name, &golden, bits);
        for backend in [BackendChoice::Reference, BackendChoice::Cpu] {
            let generate = |drafter: Option<&Path>| {
                let mut engine = load(target.path(), &options(drafter, backend)).unwrap();
                let media = media(&golden, engine.as_ref());
                eval::generate_drafted(engine.as_mut(), Input { tokens: prompt, media: &media }, 50).unwrap()
            };
            let (alone, with) = (generate(None), generate(Some(drafter.path())));
            println!(
                "{name} {bits:?} {backend:?}: {} of {} came",
                with.accepted_tokens, with.proposed_tokens
            );
            assert_eq!(with.tokens, alone.tokens, "{name} {bits:?} {backend:?}");
            assert!(with.proposed_tokens > 50 && with.steps + with.accepted_tokens == 50, "{with:?}");
        }
    }
}
