//! Answers of an engine that gives the best of each row: those of one that gives all logits.

use std::sync::atomic::{AtomicU32, Ordering};

use muse_kernels::{Backend, Best, ReferenceBackend};
use serde_json::json;

use super::*;
use crate::{LogitRows, MediaRows, SimDrafter, Speculation};

/// A [`SimEngine`] that finds the best, and counts how often it is asked for all.
struct Choosing {
    inner: SimEngine,
    logits: Vec<f32>,
    reads: Arc<AtomicU32>,
}

impl Engine for Choosing {
    fn info(&self) -> &ModelInfo {
        self.inner.info()
    }

    fn text(&self) -> Arc<dyn Text> {
        self.inner.text()
    }

    fn step(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        wanted: &[u32],
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        self.inner.step(spans, tokens, wanted, logits)
    }

    fn step_to_draw(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        _: MediaRows<'_>,
        wanted: &[u32],
        rows: &mut LogitRows,
    ) -> Result<(), BackendError> {
        let vocab = self.info().vocab as usize;
        self.logits.resize(wanted.len() * vocab, 0.0);
        self.inner.step(spans, tokens, wanted, &mut self.logits)?;
        rows.whole = false;
        assert_eq!(rows.temperatures.len(), wanted.len());
        let mut best = vec![f32::NAN; wanted.len() * Best::WIDTH];
        ReferenceBackend::new().best(&mut best, &self.logits, vocab, &rows.temperatures)?;
        rows.best[..best.len()].copy_from_slice(&best);
        Ok(())
    }

    fn read_logits(&mut self, logits: &mut [f32]) -> Result<(), BackendError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        logits.copy_from_slice(&self.logits);
        Ok(())
    }

    fn draft(&mut self, drafts: &[Draft], logits: &mut [f32]) -> Result<(), BackendError> {
        self.inner.draft(drafts, logits)
    }

    fn keep(&self, slot: u32, len: u32, written: u32) -> u32 {
        self.inner.keep(slot, len, written)
    }
}

fn options() -> SimOptions {
    let drafter = SimDrafter { block: 4, wrong: 5, delay: Some(Duration::ZERO), chain: false };
    SimOptions { logit_rows: Some(16), drafter: Some(drafter), ..sized(3, 16) }
}

/// Texts of three answers at once.
fn texts(engine: Box<dyn Engine>, each: &[GenerateOptions; 3]) -> Vec<String> {
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("sim", engine).unwrap();
    let started = each.iter().zip(["abc abc", "xyz", "sim:forever"]).map(|(options, said)| {
        let session = scheduler.open_session("sim").unwrap();
        ask(&scheduler, session, user(said), options.clone())
    });
    let started: Vec<_> = started.collect();
    started.into_iter().map(|events| collect(events).text).collect()
}

#[test]
fn the_best_of_rows_make_the_answers_that_all_logits_make() {
    let hot = |seed| GenerateOptions {
        temperature: Some(5.0),
        seed: Some(seed),
        speculation: Speculation::Always,
        ..at_most(40)
    };
    let top_k = GenerateOptions { top_k: Some(40), ..hot(1) };
    let top_p = |top_p| GenerateOptions { top_p: Some(top_p), ..hot(2) };
    let greedy = GenerateOptions { temperature: Some(0.0), ..hot(0) };
    let penalty = GenerateOptions { repetition_penalty: Some(1.2), ..greedy.clone() };
    let schema =
        GenerateOptions { json_schema: Some(json!({"type": "string", "maxLength": 9})), ..greedy.clone() };
    // Whether all are read; where only some of three need them, that is a matter of who is beside whom.
    let cases = [
        ("alike", [greedy.clone(), top_k.clone(), top_k.clone()], Some(false)),
        ("a nucleus", [greedy.clone(), top_p(0.3), top_k.clone()], Some(false)),
        ("a nucleus wider than the best", [greedy.clone(), top_p(0.995), top_k.clone()], Some(true)),
        ("one that needs all", [hot(4), top_k.clone(), greedy.clone()], None),
        ("a penalty and a schema", [penalty.clone(), schema.clone(), top_k], None),
        ("none from the best", [penalty, schema, hot(5)], Some(false)),
    ];
    for (name, each, reads_all) in cases {
        let reads = Arc::new(AtomicU32::new(0));
        let inner = SimEngine::new(options());
        let choosing = Choosing { inner, logits: Vec::new(), reads: Arc::clone(&reads) };
        let expected = texts(Box::new(SimEngine::new(options())), &each);
        assert_eq!(texts(Box::new(choosing), &each), expected, "{name}");
        assert!(expected.iter().all(|text| !text.is_empty()), "{name}: {expected:?}");
        let read = reads.load(Ordering::Relaxed) > 0;
        assert!(reads_all.is_none_or(|all| all == read), "{name}: {read}");
    }
}
