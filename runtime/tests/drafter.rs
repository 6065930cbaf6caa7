//! A drafter of either kind beside a tiny random target: what it proposes follows from the tokens and from nothing else that
//! went through the engine.

mod support;

use std::path::Path;

use muse_format::{BlockDrafter, ChainDrafter, Drafter, Layout, Spec};
use muse_kernels::Span;
use muse_runtime::{
    BackendChoice, Draft, Engine, LoadError, LoadOptions, Mapped, eval, load, load_mapped, open, plan,
};
use support::{
    Rng, byte_text, chain, drafter, encoder, everything, latent_chain, mixture, plain, recurrent, write,
    write_for,
};

const BLOCK: u32 = 7;
const CHAIN: u32 = 4;

fn options(drafter: Option<&Path>, batch_tokens: u32) -> LoadOptions {
    LoadOptions {
        slots: 2,
        batch_tokens,
        logit_rows: Some(14),
        threads: Some(2),
        backend: BackendChoice::Reference,
        drafter: drafter.map(Path::to_owned),
        ..LoadOptions::default()
    }
}

fn engine(target: &Path, options: &LoadOptions) -> Box<dyn Engine> {
    let mapped = open(target, options).unwrap();
    load_mapped(&mapped, options, byte_text(mapped.spec.vocab)).unwrap()
}

/// The logits of as many tokens as are proposed at once behind `tokens[at]`.
fn block(engine: &mut dyn Engine, slot: u32, tokens: &[u32], at: u32) -> Vec<f32> {
    let count = engine.info().drafter.as_ref().unwrap().length_max();
    let mut logits = vec![f32::NAN; (count * engine.info().vocab) as usize];
    let draft = Draft { slot, start: at, token: tokens[at as usize], count };
    engine.draft(&[draft], &mut logits).unwrap();
    logits
}

/// Steps `tokens` from `start` on, of which the last row's logits are wanted or none are.
fn feed(engine: &mut dyn Engine, slot: u32, start: u32, tokens: &[u32]) {
    let len = tokens.len() as u32;
    let wanted = if start.is_multiple_of(2) { vec![len - 1] } else { Vec::new() };
    let mut logits = vec![0.0; wanted.len() * engine.info().vocab as usize];
    engine.step(&[Span { slot, start, len }], tokens, &wanted, &mut logits).unwrap();
}

/// What was rejected, drafted before, or is another sequence's leaves no trace.
#[test]
fn a_block_follows_from_the_tokens_before_it() {
    let (target, file) = (write(&everything(), Layout::F32, 3), write(&drafter(), Layout::F32, 4));
    let tokens = Rng(9).tokens(60, 70);
    let mut fresh = engine(&target.path, &options(Some(&file.path), 64));
    feed(&mut *fresh, 0, 0, &tokens[..40]);
    let expected = block(&mut *fresh, 0, &tokens, 40);
    // The smallest rings that there are for blocks of 7, and larger ones.
    for batch_tokens in [6, 9, 16] {
        let mut engine = engine(&target.path, &options(Some(&file.path), batch_tokens));
        let mut at = 0;
        while at < 40 {
            let rows = batch_tokens.min(40 - at);
            feed(&mut *engine, 1, at, &tokens[at as usize..][..rows as usize]);
            feed(&mut *engine, 0, at, &tokens[20..][..rows as usize]);
            at += 1 + at % rows;
            if at <= 40 {
                block(&mut *engine, 1, &tokens, at);
            }
        }
        assert_eq!(at, 40);
        assert_eq!(block(&mut *engine, 1, &tokens, 40), expected, "batches of {batch_tokens}");
        // What is kept of a longer sequence is enough, or it is not kept.
        for end in 41..60 {
            feed(&mut *engine, 1, end - 1, &tokens[end as usize - 1..][..1]);
            block(&mut *engine, 1, &tokens, end.min(59));
            match engine.keep(1, 40, end) {
                0 => break,
                kept => assert_eq!(kept, 40),
            }
            let again = block(&mut *engine, 1, &tokens, 40);
            assert_eq!(again, expected, "batches of {batch_tokens}, back from {end}");
        }
    }
}

/// A chain's rows are made by the step, or the proposal, behind the one that gave what they read.
#[test]
fn a_chain_follows_from_the_tokens_before_it() {
    for (name, target) in [("plain", plain()), ("everything", everything()), ("recurrent", recurrent())] {
        let (target, file) = (write(&target, Layout::F32, 3), write(&chain(), Layout::F32, 4));
        let tokens = Rng(9).tokens(60, 70);
        let mut fresh = engine(&target.path, &options(Some(&file.path), 64));
        feed(&mut *fresh, 0, 0, &tokens[..40]);
        let expected = block(&mut *fresh, 0, &tokens, 40);
        for batch_tokens in [4, 9, 13] {
            let case = format!("{name}, batches of {batch_tokens}");
            let mut engine = engine(&target.path, &options(Some(&file.path), batch_tokens));
            let mut at = 0;
            while at < 40 {
                // As many as a state takes back and one.
                let rows = (batch_tokens - 1).min(40 - at);
                // Tokens of which all behind the first are others than those that come.
                let wrong: Vec<u32> =
                    tokens[at as usize..][..rows as usize].iter().map(|t| (t + 1) % 70).collect();
                feed(&mut *engine, 1, at, &[&tokens[at as usize..][..1], &wrong[1..]].concat());
                feed(&mut *engine, 0, 0, &tokens[20..][..rows as usize]);
                at += 1;
                block(&mut *engine, 1, &tokens, at);
            }
            assert_eq!(block(&mut *engine, 1, &tokens, 40), expected, "{case}");
            // Another answer in the place of one, from wherever the engine says that it goes on.
            for end in [41, 45, 53, 58] {
                for at in 40..end {
                    feed(&mut *engine, 1, at, &[(tokens[at as usize] + 1) % 70]);
                }
                let kept = engine.keep(1, 40, end);
                assert!(name != "plain" || kept >= 39, "{case}, back from {end}: {kept}");
                for at in kept..40 {
                    feed(&mut *engine, 1, at, &tokens[at as usize..][..1]);
                }
                assert_eq!(block(&mut *engine, 1, &tokens, 40), expected, "{case}, back from {end}");
            }
        }
    }
}

#[test]
fn chains_of_several_sequences_are_those_of_each() {
    let mut experts = chain();
    experts.layers[0].experts = mixture().layers[0].experts.clone();
    for drafter in [chain(), experts, latent_chain()] {
        let (target, file) = (write(&plain(), Layout::F32, 3), write(&drafter, Layout::F32, 4));
        let tokens = Rng(9).tokens(40, 70);
        let mut engine = engine(&target.path, &options(Some(&file.path), 8));
        for (slot, len) in [(0, 11), (1, 20)] {
            support::steps(&mut *engine, slot, &tokens[..len], 8);
        }
        let each = [(0, 11), (1, 20)].map(|(slot, at)| block(&mut *engine, slot, &tokens, at));
        let drafts = [(1, 20, 2), (0, 11, CHAIN)].map(|(slot, start, count)| Draft {
            slot,
            start,
            token: tokens[start as usize],
            count,
        });
        let mut logits = vec![f32::NAN; 6 * 70];
        engine.draft(&drafts, &mut logits).unwrap();
        assert_eq!(logits, [&each[1][..2 * 70], &each[0]].concat());
    }
}

/// Each pass reads what the one before gave: a token proposed is what the next one follows.
#[test]
fn a_shorter_chain_is_the_beginning_of_a_longer_one() {
    let (target, file) = (write(&plain(), Layout::F32, 3), write(&chain(), Layout::F32, 4));
    let tokens = Rng(9).tokens(20, 70);
    let mut engine = engine(&target.path, &options(Some(&file.path), 8));
    support::steps(&mut *engine, 0, &tokens[..12], 8);
    let whole = block(&mut *engine, 0, &tokens, 12);
    for count in 1..=CHAIN {
        let mut logits = vec![f32::NAN; count as usize * 70];
        engine.draft(&[Draft { slot: 0, start: 12, token: tokens[12], count }], &mut logits).unwrap();
        assert_eq!(logits, whole[..count as usize * 70], "{count}");
    }
    let mut other = vec![f32::NAN; 70];
    engine.draft(&[Draft { slot: 0, start: 12, token: tokens[12] ^ 1, count: 1 }], &mut other).unwrap();
    assert_ne!(other, whole[..70], "the token is read");
}

#[test]
fn blocks_of_several_sequences_are_those_of_each() {
    let (target, file) = (write(&plain(), Layout::F32, 3), write(&drafter(), Layout::F32, 4));
    let tokens = Rng(9).tokens(40, 70);
    // Room for one block at a time, and for both.
    for batch_tokens in [8, 32] {
        let mut engine = engine(&target.path, &options(Some(&file.path), batch_tokens));
        for (slot, len) in [(0, 11), (1, 20)] {
            support::steps(&mut *engine, slot, &tokens[..len], 8);
        }
        let each = [(0, 11), (1, 20)].map(|(slot, at)| block(&mut *engine, slot, &tokens, at));
        let drafts = [(1, 20, 2), (0, 11, 6)].map(|(slot, start, count)| Draft {
            slot,
            start,
            token: tokens[start as usize],
            count,
        });
        let mut logits = vec![f32::NAN; 8 * 70];
        engine.draft(&drafts, &mut logits).unwrap();
        assert_eq!(logits, [&each[1][..2 * 70], &each[0]].concat(), "batches of {batch_tokens}");
    }
}

#[test]
fn greedy_tokens_are_the_same_in_fewer_steps() {
    for (target, drafter) in [(everything(), drafter()), (everything(), chain()), (recurrent(), chain())] {
        let (target, file) = (write(&target, Layout::F32, 3), write(&drafter, Layout::F32, 4));
        let prompt = Rng(2).tokens(9, 70);
        let mut alone = engine(&target.path, &options(None, 16));
        let alone = eval::generate_drafted(&mut *alone, &prompt, 80).unwrap();
        assert_eq!((alone.steps, alone.proposed_tokens), (80, 0));
        let mut drafted = engine(&target.path, &options(Some(&file.path), 16));
        let with = eval::generate_drafted(&mut *drafted, &prompt, 80).unwrap();
        assert_eq!(with.tokens, alone.tokens);
        assert!(with.proposed_tokens > 100, "{with:?}");
        assert_eq!(with.steps + with.accepted_tokens, 80);
    }
}

#[test]
fn more_than_a_step_takes_back_is_not_proposed() {
    let mut long = chain();
    long.drafter = Some(Drafter::Chain(ChainDrafter { chain: 16 }));
    for target in [everything(), recurrent()] {
        let (target, file) = (write(&target, Layout::F32, 3), write(&long, Layout::F32, 4));
        let prompt = Rng(2).tokens(9, 70);
        let tokens = |drafter| {
            let options = LoadOptions { logit_rows: Some(32), ..options(drafter, 64) };
            eval::generate_drafted(&mut *engine(&target.path, &options), &prompt, 30).unwrap().tokens
        };
        assert_eq!(tokens(Some(file.path.as_path())), tokens(None));
    }
}

#[test]
fn a_drafter_is_planned_and_budgeted() {
    let (target, file) = (write(&plain(), Layout::F16, 3), write(&drafter(), Layout::F16, 4));
    let of = |options: &LoadOptions| plan(&open(&target.path, options)?, options);
    let [alone, with] = [None, Some(file.path.as_path())].map(|drafter| of(&options(drafter, 8)).unwrap());
    let weights = Mapped::open(&file.path).unwrap().weight_bytes();
    assert_eq!(with.weight_bytes, alone.weight_bytes + weights);
    // Rows of 8: x, y, q and what attention gives of 40, k and v of 20, gate and up of 36, and two layers' outputs.
    let buffers = 4 * 8 * (4 * 40 + 2 * 20 + 2 * 36 + 80);
    // Two slots of 96, of a ring of 5 and of one of 9 and 7 rows, keys and values of 2 x 10 f16.
    let cache = 2 * (96 + 16 + 16) * 2 * 20 * 2;
    assert_eq!(with.working_bytes, alone.working_bytes + buffers + cache);
    let sum: u64 = with.items.iter().map(|item| item.bytes).sum();
    assert_eq!(sum, with.weight_bytes + with.working_bytes);
    let bytes = with.weight_bytes + with.working_bytes;
    let within = |budget| LoadOptions { memory_budget: Some(budget), ..options(Some(&file.path), 8) };
    of(&within(bytes)).unwrap();
    assert!(matches!(of(&within(bytes - 1)), Err(LoadError::Budget(_))));
}

#[test]
fn a_chain_is_planned_and_budgeted() {
    let (target, file) = (write(&plain(), Layout::F16, 3), write(&chain(), Layout::F16, 4));
    let of = |options: &LoadOptions| plan(&open(&target.path, options)?, options);
    let [alone, with] = [None, Some(file.path.as_path())].map(|drafter| of(&options(drafter, 8)).unwrap());
    assert_eq!(with.weight_bytes, alone.weight_bytes + Mapped::open(&file.path).unwrap().weight_bytes());
    // Rows of 8: x, y, q, its gate or the feed-forward's, what attention gives of 40, k and v of 20, up of 36.
    let buffers = 4 * 8 * (5 * 40 + 2 * 20 + 36);
    // What was given of a step, and of 14 rows of each of two slots; pairs of that and of embeddings; two rows of logits.
    let read = 4 * ((8 + 2 * 14) * 40 + 8 * 80 + 2 * 70);
    // Two slots of 96, keys and values of 2 x 10 f16.
    let cache = 2 * 96 * 2 * 20 * 2;
    // Four lists of 8 rows; of each slot a span, a token, what is kept, and what 14 rows turned by.
    let lists = 4 * 4 * 8 + 2 * (12 + 4 + 8 + 14 * 12);
    assert_eq!(with.working_bytes, alone.working_bytes + buffers + read + cache + lists);
    let sum: u64 = with.items.iter().map(|item| item.bytes).sum();
    assert_eq!(sum, with.weight_bytes + with.working_bytes);
    let within = |budget| LoadOptions { memory_budget: Some(budget), ..options(Some(&file.path), 8) };
    of(&within(sum)).unwrap();
    assert!(matches!(of(&within(sum - 1)), Err(LoadError::Budget(_))));
}

#[test]
fn files_that_do_not_go_together_are_refused_with_both_numbers() {
    let refusal = |target: &Spec, drafter: &Spec| {
        let files = [target, drafter].map(|spec| write(spec, Layout::F32, 3));
        let options = options(Some(&files[1].path), 8);
        open(&files[0].path, &options).map(drop).expect_err("they differ").to_string()
    };
    let narrow = Spec { dim: 38, ..plain() };
    let few = Spec { vocab: 69, ..plain() };
    let mut deep = drafter();
    deep.drafter = Some(Drafter::Block(BlockDrafter { reads: vec![0, 1], block: BLOCK, mask: 69 }));
    for (target, drafter, expected) in [
        (narrow.clone(), drafter(), &["width of 40", "has 38", "take the drafter"][..]),
        (narrow.clone(), chain(), &["width of 40", "has 38", "take the drafter"]),
        (few.clone(), chain(), &["a vocabulary of at least 70", "has 69"]),
        (few, drafter(), &["a vocabulary of at least 70", "has 69"]),
        (plain(), deep, &["layers of at least 3", "has 2"]),
        (plain(), plain(), &["is no drafter", "(tiny)"]),
        (encoder(), drafter(), &["can have no drafter"]),
    ] {
        let message = refusal(&target, &drafter);
        assert!(expected.iter().all(|part| message.contains(part)), "{message}");
    }
    let (model, alone) = (write(&plain(), Layout::F32, 3), write(&drafter(), Layout::F32, 3));
    let error = load(&alone.path, &options(None, 8)).map(drop).unwrap_err();
    assert!(matches!(&error, LoadError::Drafter { family, .. } if family == "drafter"), "{error}");
    assert!(error.to_string().contains("name this file as its drafter"), "{error}");
    let elsewhere = write_for(&drafter(), Layout::F32, 3, "rknn");
    let options = options(Some(&elsewhere.path), 8);
    let mapped = open(&model.path, &options).unwrap();
    let error = load_mapped(&mapped, &options, byte_text(70)).map(drop).unwrap_err();
    assert!(matches!(&error, LoadError::Target { path, .. } if *path == elsewhere.path), "{error}");
}

/// On a device, or the emulated one of `scripts/cuda.sh`.
#[cfg(feature = "cuda")]
#[test]
fn the_cuda_backend_drafts_the_same() {
    for drafter in [drafter(), chain(), latent_chain()] {
        let (target, file) = (write(&everything(), Layout::F32, 3), write(&drafter, Layout::F32, 4));
        let tokens = Rng(9).tokens(24, 70);
        let [expected, actual] = [BackendChoice::Reference, BackendChoice::Cuda].map(|backend| {
            let mut engine = engine(&target.path, &LoadOptions { backend, ..options(Some(&file.path), 9) });
            support::steps(&mut *engine, 0, &tokens[..20], 9);
            block(&mut *engine, 0, &tokens, 20)
        });
        let (error, deviation) = support::difference(&actual, &expected);
        assert!(error <= 1e-4 * deviation, "{error} of {deviation}");
        // Over and over, where steps of a few rows are launched as one.
        let [expected, actual] = [BackendChoice::Reference, BackendChoice::Cuda].map(|backend| {
            let mut engine = engine(&target.path, &LoadOptions { backend, ..options(Some(&file.path), 9) });
            eval::generate_drafted(&mut *engine, &tokens[..9], 40).unwrap()
        });
        assert_eq!(actual, expected);
    }
}

/// A model without a drafter says so.
#[test]
fn nobody_drafts_without_a_drafter() {
    let target = write(&plain(), Layout::F32, 3);
    let mut engine = engine(&target.path, &options(None, 8));
    engine.step(&[Span { slot: 0, start: 0, len: 1 }], &[1], &[], &mut []).unwrap();
    let draft = Draft { slot: 0, start: 1, token: 2, count: 1 };
    assert!(engine.draft(&[draft], &mut [0.0; 70]).is_err());
    assert_eq!(engine.info().drafter, None);
}
