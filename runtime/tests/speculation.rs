//! Whole answers of tiny random models through the scheduler: the same with and without proposals.

mod support;

use std::sync::Arc;
use std::sync::mpsc::channel;

use muse_format::{Layout, Spec};
use muse_runtime::{
    BackendChoice, Event, FinishReason, GenerateOptions, LoadOptions, Prompt, Scheduler, SchedulerOptions,
    SinkClosed, Speculation, Usage, load_mapped, open,
};
use support::sweep::sweep;
use support::{ByteText, chain, drafter, everything, plain, recurrent, write};

/// A prompt of the alphabet that [`ByteText`] has for 70 ids.
const PROMPT: &str = "the cat and the dog and the cat and the bird";

#[derive(Debug, PartialEq)]
struct Answer {
    text: String,
    reason: FinishReason,
    prompt_tokens: u32,
    completion_tokens: u32,
}

fn serve(spec: &Spec, options: &LoadOptions) -> Scheduler {
    let file = write(spec, Layout::F32, 11);
    let text = Arc::new(ByteText { vocab: spec.vocab, bos: None });
    let engine = load_mapped(&open(&file.path, options).unwrap(), options, text).unwrap();
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("tiny", engine).unwrap();
    scheduler
}

/// Answers in each of `sessions` at once.
fn ask(scheduler: &Scheduler, sessions: &[u64], options: &GenerateOptions) -> (Vec<Answer>, Usage) {
    let started: Vec<_> = sessions
        .iter()
        .enumerate()
        .map(|(at, session)| {
            let (sender, events) = channel();
            let sink = Box::new(move |event| sender.send(event).map_err(|_| SinkClosed));
            let options = GenerateOptions { seed: Some(at as u64), ..options.clone() };
            let prompt = Prompt::Text(PROMPT[at..].to_owned());
            scheduler.respond(*session, prompt, options, sink).unwrap();
            events
        })
        .collect();
    let (mut answers, mut sum) = (Vec::new(), Usage::default());
    for events in started {
        let mut text = String::new();
        for event in events {
            match event {
                Event::Start { .. } => {}
                Event::Delta { text: delta } => text.push_str(&delta),
                Event::Done { finish_reason: reason, usage, .. } => {
                    sum.proposed_tokens += usage.proposed_tokens;
                    sum.accepted_tokens += usage.accepted_tokens;
                    answers.push(Answer {
                        text: std::mem::take(&mut text),
                        reason,
                        prompt_tokens: usage.prompt_tokens,
                        completion_tokens: usage.completion_tokens,
                    });
                }
                Event::Error { message } => panic!("{message}"),
                other @ (Event::Reasoning { .. } | Event::ToolCall { .. }) => panic!("{other:?}"),
            }
        }
    }
    assert_eq!(answers.len(), sessions.len());
    (answers, sum)
}

/// Every session answers three times, so that later prompts find a cache whose proposals were rejected.
fn all(spec: &Spec, load: &LoadOptions, options: &GenerateOptions, how: Speculation) -> (Vec<Answer>, Usage) {
    let scheduler = serve(spec, load);
    let options = GenerateOptions { speculation: how, ..options.clone() };
    let (mut answers, mut sum) = (Vec::new(), Usage::default());
    let sessions: Vec<u64> = (0..3).map(|_| scheduler.open_session("tiny").unwrap()).collect();
    for at_once in [1, 3, 3] {
        let (more, usage) = ask(&scheduler, &sessions[..at_once], &options);
        answers.extend(more);
        sum.proposed_tokens += usage.proposed_tokens;
        sum.accepted_tokens += usage.accepted_tokens;
    }
    (answers, sum)
}

fn load(backend: BackendChoice, batch_tokens: u32) -> LoadOptions {
    LoadOptions { slots: 3, batch_tokens, threads: Some(1), backend, ..LoadOptions::default() }
}

/// Compares answers with proposals, by each of `loads`, with those of the first without any; how many tokens each proposed.
fn compare(name: &str, spec: &Spec, loads: &[LoadOptions], temperatures: &[f32]) -> Vec<u32> {
    let (mut proposed, mut accepted) = (vec![0; loads.len()], vec![0; loads.len()]);
    for &temperature in temperatures {
        for repetition_penalty in [1.0, 1.2] {
            let options = GenerateOptions {
                temperature: Some(temperature),
                repetition_penalty: Some(repetition_penalty),
                top_p: Some(0.9),
                ..GenerateOptions::default()
            };
            let (plain, none) = all(spec, &loads[0], &options, Speculation::Off);
            assert_eq!(none.proposed_tokens, 0);
            for (i, load) in loads.iter().enumerate() {
                // Turned off where there is something to turn off, a drafter too.
                let off = (i > 0 && repetition_penalty > 1.0).then_some(Speculation::Off);
                for how in [Speculation::Always, Speculation::Auto].into_iter().chain(off) {
                    let (speculated, usage) = all(spec, load, &options, how);
                    assert!(how != Speculation::Off || usage.proposed_tokens == 0);
                    assert_eq!(
                        speculated, plain,
                        "{name}, {i}, {temperature}, {repetition_penalty}, {how:?}"
                    );
                    proposed[i] += usage.proposed_tokens;
                    accepted[i] += usage.accepted_tokens;
                }
            }
        }
    }
    for (proposed, accepted) in proposed.iter().zip(&accepted) {
        let rejected = proposed - accepted;
        assert!(*accepted > 20 && rejected > 20, "{name}: {accepted} accepted, {rejected} rejected");
    }
    proposed
}

#[test]
fn the_reference_answers_the_same() {
    for (name, spec) in sweep(&[("everything", everything()), ("plain", plain())]) {
        compare(name, spec, &[load(BackendChoice::Reference, 32)], sweep(&[0.0, 0.7, 1.2]));
    }
}

/// Windows of 5 and 13: the smallest batches make the smallest rings, which proposals fill to the last position.
#[test]
fn rings_lose_nothing_that_is_needed() {
    let mut spec = plain();
    spec.layers[0].attention_mut().unwrap().window = Some(5);
    spec.layers[1].attention_mut().unwrap().window = Some(13);
    for &batch_tokens in sweep(&[4, 6, 8, 16]) {
        compare("rings", &spec, &[load(BackendChoice::Reference, batch_tokens)], &[0.7, 1.2, 2.0]);
    }
}

/// Where rows beside a row may change the last bits of its logits, the token that is taken is the same.
#[test]
fn the_cpu_backend_answers_the_same() {
    for (name, spec) in [("plain", plain()), ("everything", everything())] {
        compare(name, &spec, &[load(BackendChoice::Cpu, 32)], &[0.0, 0.7]);
    }
}

/// A drafter of random weights is mostly wrong; it fills every room that a step has, and rings to the last position.
#[test]
fn drafters_change_nothing_but_the_time() {
    change_nothing(&everything(), &[drafter(), chain()], &[0.0, 0.8]);
}

#[test]
fn a_chain_of_a_recurrent_model_changes_nothing_but_the_time() {
    // It says one token over and over unless it is drawn by far.
    change_nothing(&recurrent(), &[chain()], &[2.0, 6.0]);
}

fn change_nothing(target: &Spec, drafters: &[Spec], temperatures: &[f32]) {
    let files: Vec<_> = drafters.iter().map(|drafter| write(drafter, Layout::F32, 5)).collect();
    for &(backend, batch_tokens) in
        sweep(&[(BackendChoice::Cpu, 16), (BackendChoice::Reference, 6), (BackendChoice::Reference, 32)])
    {
        let alone = load(backend, batch_tokens);
        let with = files.iter().map(|file| LoadOptions { drafter: Some(file.path.clone()), ..alone.clone() });
        let loads: Vec<_> = [alone.clone()].into_iter().chain(with).collect();
        let proposed = compare(&target.family, target, &loads, sweep(temperatures));
        assert!(
            proposed[1..].iter().all(|with| *with > proposed[0]),
            "alone and with a drafter: {proposed:?}"
        );
    }
}

/// Tokens are drawn from the best of each row there, and from all of its logits where the best do not say.
#[cfg(feature = "cuda")]
#[test]
fn cuda_draws_the_tokens_of_the_reference() {
    let spec = Spec { vocab: 700, ..plain() };
    let [reference, cuda] = [BackendChoice::Reference, BackendChoice::Cuda].map(|backend| {
        let scheduler = serve(&spec, &load(backend, 16));
        let sessions: Vec<u64> = (0..3).map(|_| scheduler.open_session("tiny").unwrap()).collect();
        (scheduler, sessions)
    });
    let drawn = |temperature| GenerateOptions {
        temperature: Some(temperature),
        max_tokens: Some(12),
        speculation: Speculation::Always,
        ..GenerateOptions::default()
    };
    for options in [
        drawn(0.0),
        GenerateOptions { top_k: Some(20), top_p: Some(0.95), ..drawn(0.7) },
        GenerateOptions { top_k: Some(300), ..drawn(1.0) },
        GenerateOptions { top_p: Some(0.8), ..drawn(0.3) },
        GenerateOptions { top_p: Some(0.99), ..drawn(3.0) },
        GenerateOptions { min_p: Some(0.2), ..drawn(0.6) },
        GenerateOptions { repetition_penalty: Some(1.3), ..drawn(0.5) },
        drawn(1.0),
    ] {
        let (expected, _) = ask(&reference.0, &reference.1, &options);
        let (answers, _) = ask(&cuda.0, &cuda.1, &options);
        assert_eq!(answers, expected, "{options:?}");
        assert!(answers.iter().all(|answer| answer.completion_tokens > 1), "{answers:?}");
    }
}
