//! Evaluations, on tiny models and against sums done by hand.

mod support;

use std::sync::Arc;

use muse_format::{Layout, Spec};
use muse_runtime::eval::{self, EvalError};
use muse_runtime::{BackendChoice, Engine, LoadOptions, Mapped, load_mapped};
use support::{ByteText, Rng, byte_text, plain, step, write};

fn engine_with(spec: &Spec, layout: Layout, batch_tokens: u32, bos: Option<u32>) -> Box<dyn Engine> {
    let file = write(spec, layout, 29);
    let options = LoadOptions {
        batch_tokens,
        logit_rows: Some(batch_tokens),
        backend: BackendChoice::Reference,
        ..LoadOptions::default()
    };
    let text = Arc::new(ByteText { vocab: spec.vocab, bos });
    load_mapped(&Mapped::open(&file.path).unwrap(), &options, text).unwrap()
}

fn engine(batch_tokens: u32) -> Box<dyn Engine> {
    engine_with(&plain(), Layout::F32, batch_tokens, None)
}

/// `-ln p` of each next token of one window, from the engine's own rows.
fn nlls(engine: &mut dyn Engine, window: &[u32]) -> Vec<f64> {
    let vocab = engine.info().vocab as usize;
    let rows = step(engine, 0, 0, window);
    let nll = |(row, next): (&[f32], &u32)| {
        let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        sum.ln() - f64::from(row[*next as usize])
    };
    rows.chunks_exact(vocab).zip(&window[1..]).map(nll).collect()
}

#[test]
fn logits_are_those_of_the_position_whatever_the_batch() {
    let tokens = Rng(31).tokens(20, 70);
    let all = step(&mut *engine(32), 0, 0, &tokens);
    for batch in [1, 3, 32] {
        let mut engine = engine(batch);
        for position in [0, 2, 3, 19] {
            let row = eval::logits(&mut *engine, &tokens, Some(position)).unwrap();
            assert!(row == all[position as usize * 70..][..70], "position {position} by {batch}");
        }
        assert!(eval::logits(&mut *engine, &tokens, None).unwrap() == all[19 * 70..]);
        let mut rows = Vec::new();
        eval::every_position(&mut *engine, &tokens, |position, row| {
            assert_eq!(position as usize * 70, rows.len());
            rows.extend_from_slice(row);
        })
        .unwrap();
        assert!(rows == all, "every position by {batch}");
    }
}

#[test]
fn greedy_tokens_are_the_tops_of_their_rows() {
    let prompt = Rng(37).tokens(5, 70);
    let mut engine = engine(4);
    let generated = eval::generate(&mut *engine, &prompt, 12).unwrap();
    assert_eq!(generated.len(), 12);
    let mut tokens = prompt;
    for token in generated {
        let row = eval::logits(&mut *engine, &tokens, None).unwrap();
        assert!(row.iter().all(|x| *x <= row[token as usize]));
        tokens.push(token);
    }
    assert_eq!(eval::generate(&mut *engine, &tokens, 0), Ok(vec![]));
}

#[test]
fn perplexity_is_the_sum_over_windows() {
    let text = "A page of text, long enough for three windows of sixteen.";
    let tokens: Vec<u32> = text.bytes().map(|b| u32::from(b) % 70).collect();
    for bos in [None, Some(1)] {
        let mut engine = engine_with(&plain(), Layout::F32, 16, bos);
        let room = if bos.is_some() { 15 } else { 16 };
        let mut expected = Vec::new();
        for window in tokens.chunks(room) {
            let window: Vec<u32> = bos.iter().chain(window).copied().collect();
            expected.extend(nlls(&mut *engine, &window));
        }
        let result = eval::perplexity(&mut *engine, text, 16).unwrap();
        let nll = expected.iter().sum::<f64>() / expected.len() as f64;
        // Two orders of the same f64 sums.
        assert!((result.nll - nll).abs() <= 1e-12, "{} vs {nll}", result.nll);
        assert!((result.perplexity - nll.exp()).abs() <= 1e-10 * nll.exp());
        assert_eq!((result.tokens, result.windows), (expected.len() as u64, 4));
        let by_three = eval::perplexity(&mut *engine_with(&plain(), Layout::F32, 3, bos), text, 16).unwrap();
        assert_eq!(by_three, result, "the batch does not matter");
    }
}

#[test]
fn divergence_is_zero_from_itself_and_grows_with_the_error() {
    let text = "The same text for all of them, in two windows or so.";
    let spec = plain();
    let mut exact = engine_with(&spec, Layout::F32, 8, None);
    let own = eval::kl(&mut *engine_with(&spec, Layout::F32, 5, None), &mut *exact, text, 32).unwrap();
    assert_eq!((own.mean_kl, own.max_kl, own.top1_agreement), (0.0, 0.0, 1.0));
    assert_eq!(own.positions, text.len() as u64 - 2);
    let half = eval::kl(&mut *exact, &mut *engine_with(&spec, Layout::F16, 8, None), text, 32).unwrap();
    let coarse = eval::kl(&mut *exact, &mut *engine_with(&spec, Layout::Bf16, 8, None), text, 32).unwrap();
    assert!(half.mean_kl > 0.0 && half.mean_kl < coarse.mean_kl, "{half:?} {coarse:?}");
    assert!(coarse.mean_kl <= coarse.max_kl && coarse.max_kl < 1e-2);
}

#[test]
fn what_cannot_be_evaluated_is_an_error() {
    let mut engine = engine(8);
    let engine = &mut *engine;
    let cases: [(Result<(), EvalError>, EvalError); 9] = [
        (eval::logits(engine, &[], None).map(drop), EvalError::Empty),
        (eval::logits(engine, &[70], None).map(drop), EvalError::Token { token: 70, vocab: 70 }),
        (eval::logits(engine, &[1; 97], None).map(drop), EvalError::TooLong { tokens: 97, context: 96 }),
        (eval::logits(engine, &[1, 2], Some(2)).map(drop), EvalError::Position { position: 2, tokens: 2 }),
        (eval::generate(engine, &[1; 90], 7).map(drop), EvalError::TooLong { tokens: 97, context: 96 }),
        (
            eval::generate(engine, &[1], u32::MAX).map(drop),
            EvalError::TooLong { tokens: 1 << 32, context: 96 },
        ),
        (eval::perplexity(engine, "text", 1).map(drop), EvalError::Window { context: 1 }),
        (eval::perplexity(engine, "text", 97).map(drop), EvalError::TooLong { tokens: 97, context: 96 }),
        (eval::perplexity(engine, "t", 8).map(drop), EvalError::TooShort { tokens: 1 }),
    ];
    for (actual, expected) in cases {
        assert_eq!(actual, Err(expected));
    }
    let mut wider = plain();
    wider.vocab = 71;
    let file = write(&wider, Layout::F32, 1);
    let mapped = Mapped::open(&file.path).unwrap();
    let mut wider = load_mapped(&mapped, &LoadOptions::default(), byte_text(71)).unwrap();
    let error = eval::kl(engine, &mut *wider, "some text", 8).unwrap_err();
    assert_eq!(error, EvalError::Vocab { reference: 70, other: 71 });
}
