//! What speculation costs and what it gains: how long a step of several rows takes beside one of one row, and whole
//! answers through the scheduler, with and without.

use std::fmt;
use std::path::Path;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use muse_kernels::{BackendError, Span};
use muse_runtime::{
    Draft, Engine, Event, GenerateOptions, LoadOptions, Message, PROPOSED_MAX, Prompt, Scheduler,
    SchedulerOptions, SinkClosed, Speculation, load, load_mapped, open, place, random,
};
use serde::Serialize;

use crate::measure::{go_back, median, token};
use crate::report::BenchError;

/// Position of the rows that are timed.
pub const POSITION: u32 = 128;
/// Most tokens of an answer.
const ANSWER: u32 = 128;

const CODE: &str = "\
def mean(values):
    total = 0
    for value in values:
        total = total + value
    return total / len(values)

def variance(values):
    center = mean(values)
    total = 0
    for value in values:
        total = total + (value - center) ** 2
    return total / len(values)
";

const LETTER: &str = "\
Dear Ms. Okafor, thank you for your order of twelve oak shelves. The carrier will bring them on Thursday between \
nine and eleven in the morning. Please make sure that someone can sign for the delivery, and keep the packaging \
until you have checked every shelf. With kind regards, Jonas Lindqvist.";

/// Name, whether the answer repeats the request, and the request.
const REQUESTS: [(&str, bool, &str, &str); 9] = [
    ("repeat a letter", true, "Repeat this text exactly, word for word:\n\n", LETTER),
    ("correct a letter", true, "Correct the spelling of this letter and give it back whole:\n\n", LETTER),
    ("repeat code", true, "Give me this code again without changing it:\n\n", CODE),
    ("edit code", true, "Rename `total` to `sum` in this Python code and show all of it:\n\n", CODE),
    ("explain", false, "Why is the sky blue?", ""),
    ("advise", false, "Give me three ideas for a rainy afternoon with children.", ""),
    ("tell", false, "Tell me a short story about a lighthouse keeper.", ""),
    ("write", false, "Write a polite note to my neighbour about her barking dog.", ""),
    ("compare", false, "What is the difference between a violin and a cello?", ""),
];

/// A step whose rows all belong to one answer and whose logits are all wanted.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Cost {
    pub rows: u32,
    pub step_ms: f64,
    /// Steps of one row that take as long.
    pub steps_of_one: f64,
}

/// Everything that a run prints.
#[derive(Debug, Serialize)]
pub struct Report {
    pub backend: String,
    /// At position [`POSITION`].
    pub costs: Vec<Cost>,
    /// Of a block of a drafter behind it, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_ms: Option<f64>,
    /// Of a model that has a tokenizer.
    pub answers: Option<Vec<Answered>>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}, at position {POSITION}", self.backend)?;
        writeln!(f, "{:>5} {:>9} {:>13}", "rows", "step ms", "steps of one")?;
        for Cost { rows, step_ms, steps_of_one } in &self.costs {
            writeln!(f, "{rows:>5} {step_ms:>9.2} {steps_of_one:>13.2}")?;
        }
        if let Some(ms) = self.block_ms {
            writeln!(f, "{:>5} {ms:>9.2}", "block")?;
        }
        let Some(answers) = &self.answers else { return Ok(()) };
        writeln!(
            f,
            "{:<18} {:>5} {:>6} {:>11} {:>10} {:>8} {:>9} {:>9}  same",
            "answer", "temp.", "tokens", "plain tok/s", "with tok/s", "speedup", "proposed", "accepted"
        )?;
        for a in answers {
            writeln!(
                f,
                "{:<18} {:>5.1} {:>6} {:>11.1} {:>10.1} {:>8.3} {:>9} {:>9}  {}",
                a.request,
                a.temperature,
                a.completion_tokens,
                a.plain_tok_per_s,
                a.speculated_tok_per_s,
                a.speedup,
                a.proposed_tokens,
                a.accepted_tokens,
                if a.same { "yes" } else { "NO" }
            )?;
        }
        Ok(())
    }
}

/// Measures the model in `file`, and its answers where it has a tokenizer.
///
/// # Errors
/// What loading, steps and answers give.
pub fn measure(
    file: &Path,
    has_text: bool,
    options: &LoadOptions,
    rounds: u32,
) -> Result<Report, BenchError> {
    let answers = has_text.then(|| answers(load(file, options)?, rounds)).transpose()?;
    let mut engine = load_mapped(&place(open(file, options)?, options)?, options, random::no_text())?;
    let costs = costs(&mut *engine, rounds)?;
    let block_ms = block_ms(&mut *engine, rounds)?;
    Ok(Report { backend: engine.info().backend.clone(), costs, block_ms, answers })
}

/// Median time of a drafter's block of as many tokens as a step verifies; `None` where there is no drafter.
///
/// # Errors
/// What drafts give.
fn block_ms(engine: &mut dyn Engine, rounds: u32) -> Result<Option<f64>, BackendError> {
    let Some(drafter) = &engine.info().drafter else { return Ok(None) };
    let (count, vocab) = (drafter.length_max().min(PROPOSED_MAX), engine.info().vocab);
    let draft = Draft { slot: 0, start: POSITION, token: token(POSITION, vocab), count };
    let mut logits = vec![0.0; (count * vocab) as usize];
    let mut times = Vec::new();
    go_back(engine, 0, POSITION)?;
    for round in 0..=rounds {
        let began = Instant::now();
        engine.draft(&[draft], &mut logits)?;
        if round > 0 {
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    Ok(median(times))
}

/// Medians over `rounds`, the sizes in turn in each of them.
///
/// # Errors
/// What the engine's steps give.
fn costs(engine: &mut dyn Engine, rounds: u32) -> Result<Vec<Cost>, BackendError> {
    let vocab = engine.info().vocab;
    let tokens: Vec<u32> = (0..POSITION + PROPOSED_MAX + 1).map(|i| token(i, vocab)).collect();
    for (at, chunk) in tokens.chunks(engine.info().batch_tokens as usize).enumerate() {
        let start = at as u32 * engine.info().batch_tokens;
        engine.step(&[Span { slot: 0, start, len: chunk.len() as u32 }], chunk, &[], &mut [])?;
    }
    let sizes: Vec<u32> = (1..=PROPOSED_MAX + 1).collect();
    let mut logits = vec![0.0; (vocab * (PROPOSED_MAX + 1)) as usize];
    let mut times = vec![Vec::new(); sizes.len()];
    for round in 0..=rounds {
        for (&rows, times) in sizes.iter().zip(&mut times) {
            let tokens = &tokens[POSITION as usize..][..rows as usize];
            let wanted: Vec<u32> = (0..rows).collect();
            let logits = &mut logits[..(rows * vocab) as usize];
            go_back(engine, 0, POSITION)?;
            let began = Instant::now();
            engine.step(&[Span { slot: 0, start: POSITION, len: rows }], tokens, &wanted, logits)?;
            if round > 0 {
                times.push(began.elapsed().as_secs_f64() * 1e3);
            }
        }
    }
    let medians: Vec<f64> = times.into_iter().filter_map(median).collect();
    let one = medians[0];
    let rows = sizes.into_iter().zip(medians);
    Ok(rows.map(|(rows, step_ms)| Cost { rows, step_ms, steps_of_one: step_ms / one }).collect())
}

/// One request, answered with and without.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answered {
    pub request: &'static str,
    /// Whether the answer should repeat what the request has.
    pub copies: bool,
    pub temperature: f32,
    pub completion_tokens: u32,
    /// After the first token.
    pub plain_tok_per_s: f64,
    pub speculated_tok_per_s: f64,
    /// Median of the rounds' own quotients.
    pub speedup: f64,
    pub proposed_tokens: u32,
    pub accepted_tokens: u32,
    /// Every answer had the same text.
    pub same: bool,
}

/// One whole answer.
struct Run {
    text: String,
    tokens: u32,
    proposed: u32,
    accepted: u32,
    rate: f64,
}

/// Every request `rounds` times each way, greedy and, where nothing is copied, drawn as well. The order changes with
/// every round, and every answer has a session of its own, so that none finds the other's cache.
///
/// # Errors
/// The message of an answer that failed.
fn answers(engine: Box<dyn Engine>, rounds: u32) -> Result<Vec<Answered>, BenchError> {
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("model", engine).map_err(|refusal| BenchError::Answer(refusal.to_string()))?;
    let mut rows = Vec::new();
    for (request, copies, task, text) in REQUESTS {
        for temperature in [0.0, 0.8] {
            if copies && temperature > 0.0 {
                continue;
            }
            let prompt = [task, text].concat();
            let (mut plain, mut speculated) = (Vec::new(), Vec::new());
            for round in 0..=rounds {
                let order = [(Speculation::Off, &mut plain), (Speculation::Auto, &mut speculated)];
                let mut order = Vec::from(order);
                if round % 2 == 1 {
                    order.reverse();
                }
                for (how, runs) in order {
                    let run = run(&scheduler, &prompt, temperature, how).map_err(BenchError::Answer)?;
                    // The round before the first is not counted.
                    if round > 0 {
                        runs.push(run);
                    }
                }
            }
            rows.push(row(request, copies, temperature, &plain, &speculated));
        }
    }
    // So that its memory is free for what is measured next.
    scheduler.stop();
    scheduler.join();
    Ok(rows)
}

fn row(request: &'static str, copies: bool, temperature: f32, plain: &[Run], speculated: &[Run]) -> Answered {
    let rates = |runs: &[Run]| median(runs.iter().map(|run| run.rate).collect()).unwrap_or(f64::NAN);
    let pairs = speculated.iter().zip(plain);
    let first = &speculated[0];
    Answered {
        request,
        copies,
        temperature,
        completion_tokens: first.tokens,
        plain_tok_per_s: rates(plain),
        speculated_tok_per_s: rates(speculated),
        speedup: median(pairs.map(|(with, without)| with.rate / without.rate).collect()).unwrap_or(f64::NAN),
        proposed_tokens: first.proposed,
        accepted_tokens: first.accepted,
        same: plain.iter().chain(speculated).all(|run| run.text == first.text && run.tokens == first.tokens),
    }
}

fn run(scheduler: &Scheduler, prompt: &str, temperature: f32, how: Speculation) -> Result<Run, String> {
    let session = scheduler.open_session("model").map_err(|refusal| refusal.to_string())?;
    let (sender, events) = channel();
    let sink = Box::new(move |event| sender.send(event).map_err(|_| SinkClosed));
    let options = GenerateOptions {
        max_tokens: Some(ANSWER),
        temperature: Some(temperature),
        seed: Some(1),
        speculation: how,
        ..GenerateOptions::default()
    };
    let prompt = Prompt::Chat(vec![Message::new("user", prompt)]);
    scheduler.respond(session, prompt, options, sink).map_err(|refusal| refusal.to_string())?;
    let mut text = String::new();
    let mut run = Err("the answer ended without a reason".to_owned());
    for event in events {
        match event {
            Event::Start { .. } => {}
            Event::Delta { text: delta } | Event::Reasoning { text: delta } => text.push_str(&delta),
            Event::ToolCall { .. } => {}
            Event::Error { message } => run = Err(message),
            Event::Done { usage, timing, .. } => {
                let time: Duration = timing.total - timing.first_token;
                let tokens = usage.completion_tokens;
                run = Ok(Run {
                    text: std::mem::take(&mut text),
                    tokens,
                    proposed: usage.proposed_tokens,
                    accepted: usage.accepted_tokens,
                    rate: f64::from(tokens - 1) / time.as_secs_f64(),
                });
            }
        }
    }
    scheduler.close_session(session);
    run
}
