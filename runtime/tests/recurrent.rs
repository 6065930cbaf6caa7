//! Models with recurrent layers: what their states have taken in is what the sequence holds, however it came there.

mod support;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};

use muse_format::{DeltaNet, Layer, Layout, Mixer, Spec};
use muse_kernels::Span;
use muse_runtime::{
    BackendChoice, Engine, Event, GenerateOptions, LoadOptions, Mapped, PROPOSED_MAX, Plan, Prompt,
    Scheduler, SchedulerOptions, SinkClosed, Speculation, Usage, load_mapped,
};
use support::sweep::sweep;
use support::{ByteText, Rng, byte_text, difference, naive, recurrent, step, steps, write};

const LAYOUTS: [Layout; 5] = [
    Layout::F32,
    Layout::Bf16,
    Layout::Q8 { group: 64 },
    Layout::Q4 { group: 32 },
    Layout::Q4Asym { group: 128 },
];

fn options(backend: BackendChoice, batch_tokens: u32) -> LoadOptions {
    LoadOptions {
        slots: 3,
        batch_tokens,
        logit_rows: Some(batch_tokens),
        threads: Some(2),
        backend,
        ..LoadOptions::default()
    }
}

fn engine(spec: &Spec, layout: Layout, options: &LoadOptions) -> Box<dyn Engine> {
    let file = write(spec, layout, 11);
    load_mapped(&Mapped::open(&file.path).unwrap(), options, byte_text(spec.vocab)).unwrap()
}

#[test]
fn a_forward_pass_is_the_one_that_the_spec_describes() {
    let spec = recurrent();
    let file = write(&spec, Layout::F32, 11);
    let mapped = Mapped::open(&file.path).unwrap();
    let tokens = Rng(5).tokens(40, spec.vocab);
    let expected = naive::logits(&muse_format::File::parse(mapped.bytes()).unwrap(), &tokens);
    for backend in [BackendChoice::Reference, BackendChoice::Cpu] {
        let mut engine = load_mapped(&mapped, &options(backend, 64), byte_text(spec.vocab)).unwrap();
        let (gap, std) = difference(&step(&mut *engine, 0, 0, &tokens), &expected);
        // As for models of attention alone (see `model.rs`): some twenty stores a layer; on the CPU, sums of f32.
        let bound = if backend == BackendChoice::Cpu { 3e-4 } else { 6e-5 };
        assert!(gap <= bound * std, "{backend:?}: {gap} of {std}");
    }
}

#[test]
fn the_answer_does_not_depend_on_how_a_sequence_is_cut_into_steps() {
    let spec = recurrent();
    for layout in LAYOUTS {
        let tokens = Rng(7).tokens(50, spec.vocab);
        let mut engine = engine(&spec, layout, &options(BackendChoice::Reference, 64));
        let whole = steps(&mut *engine, 0, &tokens, 50);
        for &chunk in sweep(&[7, 1, 2, 33]) {
            // The reference does the same sums in the same order for a row, whatever is beside it.
            assert!(steps(&mut *engine, 1, &tokens, chunk) == whole, "{layout} by {chunk}");
        }
    }
}

#[test]
fn the_cpu_backend_agrees() {
    says_what_the_reference_says(BackendChoice::Cpu);
}

/// On a device, or the emulated one of `scripts/cuda.sh`.
#[cfg(feature = "cuda")]
#[test]
fn the_cuda_backend_agrees() {
    says_what_the_reference_says(BackendChoice::Cuda);
}

fn says_what_the_reference_says(choice: BackendChoice) {
    let spec = recurrent();
    for layout in LAYOUTS {
        let mut reference = engine(&spec, layout, &options(BackendChoice::Reference, 16));
        let mut tuned = engine(&spec, layout, &options(choice, 16));
        let mut gaps = [1, 2, 3, 4, 5].map(|seed| {
            let tokens = Rng(seed).tokens(16, spec.vocab);
            let expected = steps(&mut *reference, 0, &tokens, 16);
            let chunk = if seed % 2 == 0 { 1 } else { 9 };
            let (gap, std) = difference(&steps(&mut *tuned, 0, &tokens, chunk), &expected);
            gap / std
        });
        gaps.sort_by(f64::total_cmp); // NaN last
        // Where something was rounded to fewer bits, an error of f32 may tip it to its neighbour (see `model.rs`).
        let most = if layout == Layout::F32 { 3e-4 } else { 0.3 };
        assert!(gaps[2] <= 3e-4 && gaps[4] <= most, "{layout}: {gaps:?}");
    }
}

#[test]
fn sequences_in_other_slots_change_nothing() {
    let spec = recurrent();
    let mut engine = engine(&spec, Layout::F32, &options(BackendChoice::Cpu, 16));
    let mut rng = Rng(9);
    let texts: Vec<Vec<u32>> = (0..3).map(|_| rng.tokens(24, spec.vocab)).collect();
    let alone: Vec<Vec<f32>> = texts.iter().map(|text| steps(&mut *engine, 2, text, 4)).collect();
    let vocab = spec.vocab as usize;
    for start in (0..24).step_by(4) {
        let spans = [1, 0, 2].map(|slot| Span { slot, start, len: 4 });
        let rows = |slot: u32| &texts[slot as usize][start as usize..start as usize + 4];
        let tokens = [rows(1), rows(0), rows(2)].concat();
        let mut logits = vec![f32::NAN; 12 * vocab];
        engine.step(&spans, &tokens, &(0..12).collect::<Vec<_>>(), &mut logits).unwrap();
        for (span, logits) in spans.iter().zip(logits.chunks_exact(4 * vocab)) {
            let expected = &alone[span.slot as usize][start as usize * vocab..][..4 * vocab];
            let (gap, std) = difference(logits, expected);
            // Rows beside a row may change the order of its sums.
            assert!(gap <= 3e-4 * std, "slot {} at {start}: {gap} of {std}", span.slot);
        }
    }
}

#[test]
fn what_is_kept_is_what_a_state_can_go_on_from() {
    let spec = recurrent();
    let mut engine = engine(&spec, Layout::F32, &options(BackendChoice::Reference, 16));
    let tokens = Rng(3).tokens(40, spec.vocab);
    let expected = steps(&mut *engine, 1, &tokens, 1);
    let vocab = spec.vocab as usize;
    assert_eq!((0..=41).filter(|len| engine.keep(1, *len, 40) > 0).collect::<Vec<_>>(), [40]);
    assert_eq!((engine.keep(0, 0, 0), engine.keep(0, 1, 1)), (0, 0), "nothing was ever there");
    // A step of 16 rows leaves 12 of them open.
    step(&mut *engine, 1, 0, &tokens[..16]);
    let undo = PROPOSED_MAX.min(13);
    for len in 0..=16 {
        assert_eq!(engine.keep(1, len, 16), if len >= 16 - undo { len } else { 0 }, "{len}");
    }
    for len in (16 - undo..16).rev() {
        let actual = step(&mut *engine, 1, len, &tokens[len as usize..][..1]);
        assert!(actual == expected[len as usize * vocab..][..vocab], "on from {len}");
        assert_eq!((engine.keep(1, len, 16), engine.keep(1, len + 1, 16)), (0, len + 1));
        step(&mut *engine, 1, 0, &tokens[..16]);
    }
}

#[test]
fn states_are_planned() {
    let spec = recurrent();
    let options = options(BackendChoice::Cpu, 16);
    let plan = Plan::new(&spec, 1000, [Layout::F32], &options).unwrap();
    let items: Vec<_> = plan.items.iter().filter(|item| item.what == "state").collect();
    // For each of three slots, as it is and as it is remembered: a state of columns in 32s; of 12 open rows keys, what they add and how much they keep; and
    // the convolution's last rows. Then the rows before a span, two norms' weights and a cache line, for all slots.
    let layer = |key_heads: u64, heads: u64, key_dim: u64, columns: u64, channels: u64, taps: u64| {
        let open = 12 * (key_heads * key_dim + heads * columns + heads);
        let slot = heads * key_dim * columns + open + (taps - 1 + 12) * channels;
        4 * (2 * 3 * slot + (taps - 1) * channels + 2 * key_dim + 16)
    };
    let expected = [layer(2, 6, 9, 32, 78, 4), layer(1, 1, 33, 64, 106, 1), layer(2, 6, 9, 32, 78, 2)];
    assert_eq!(items.iter().map(|item| item.bytes).collect::<Vec<_>>(), expected);
    assert!(
        items[0].shape.starts_with("1 recurrent layers: 2 x 3 slots x 6 heads x 9 x 7 f32"),
        "{}",
        items[0].shape
    );
    let caches: Vec<_> = plan.caches.iter().map(|cache| cache.byte_len() > 0).collect();
    assert_eq!(caches, [false, true, false, false]);
    // A step of one row proposes nothing and takes nothing back.
    let single =
        Plan::new(&spec, 1000, [Layout::F32], &LoadOptions { slots: 1, batch_tokens: 1, ..options }).unwrap();
    assert!(single.delta_states.iter().flatten().all(|state| state.undo == 0));
}

#[test]
fn the_largest_states_that_a_spec_may_ask_for_are_refused_without_overflow() {
    let mut spec = recurrent();
    let most = DeltaNet { key_heads: 4096, value_heads: 4096, key_dim: 256, value_dim: 4096, taps: 16 };
    spec.layers = vec![Layer { mixer: Mixer::DeltaNet(most), ..spec.layers[0].clone() }; 1024];
    spec.validate().expect("these are the format's own bounds");
    let options = LoadOptions { slots: 1024, batch_tokens: 1 << 16, ..options(BackendChoice::Cpu, 1 << 16) };
    let error = Plan::new(&spec, 1, [], &options).unwrap_err().to_string();
    // The states alone are twice 2^54 bytes, 2^35 MiB; open rows and the convolutions' inputs are a sixth of that.
    assert!(error.contains("cache 40149377026 for") && error.contains("no context fits"), "{error}");
}

/// A prompt of the alphabet that [`ByteText`] has for 70 ids.
const PROMPT: &str = "the cat and the dog and the cat and the bird";

/// A model, its sessions, and what they said so far.
struct Service {
    scheduler: Scheduler,
}

impl Service {
    fn new(backend: BackendChoice, slots: u32, batch_tokens: u32) -> Self {
        let spec = recurrent();
        let file = write(&spec, Layout::F32, 11);
        let text = Arc::new(ByteText { vocab: spec.vocab, bos: None });
        let options =
            LoadOptions { slots, batch_tokens, threads: Some(2), backend, ..LoadOptions::default() };
        let engine = load_mapped(&Mapped::open(&file.path).unwrap(), &options, text).unwrap();
        let scheduler = Scheduler::start(SchedulerOptions::default());
        scheduler.add_model("tiny", engine).unwrap();
        Self { scheduler }
    }

    fn session(&self) -> u64 {
        self.scheduler.open_session("tiny").unwrap()
    }

    fn start(&self, session: u64, prompt: &str, options: &GenerateOptions) -> Receiver<Event> {
        let (sender, events) = channel();
        let sink = Box::new(move |event| sender.send(event).map_err(|_| SinkClosed));
        let prompt = Prompt::Text(prompt.to_owned());
        self.scheduler.respond(session, prompt, options.clone(), sink).unwrap();
        events
    }

    fn ask(&self, session: u64, prompt: &str, options: &GenerateOptions) -> (String, Usage) {
        finish(self.start(session, prompt, options))
    }
}

fn finish(events: Receiver<Event>) -> (String, Usage) {
    let mut text = String::new();
    for event in events {
        match event {
            Event::Delta { text: delta } => text.push_str(&delta),
            Event::Done { usage, .. } => return (text, usage),
            Event::Error { message } => panic!("{message}"),
            _ => {}
        }
    }
    panic!("the answer has no end");
}

fn greedy(tokens: u32, speculation: Speculation) -> GenerateOptions {
    GenerateOptions {
        temperature: Some(0.0),
        max_tokens: Some(tokens),
        speculation,
        ..GenerateOptions::default()
    }
}

/// What a model that holds nothing answers.
fn fresh(prompt: &str, options: &GenerateOptions) -> String {
    let service = Service::new(BackendChoice::Reference, 1, 16);
    service.ask(service.session(), prompt, options).0
}

#[test]
fn rejected_proposals_leave_nothing_behind() {
    let service = Service::new(BackendChoice::Reference, 3, 32);
    let (mut rejected, mut accepted) = (0, 0);
    let session = service.session();
    for temperature in [0.0, 1.2, 2.0, 3.0] {
        for (seed, prompt) in
            [PROMPT, "aaaaaaaaaaaaaaaa", &PROMPT[4..], "abcabcabcabcabc"].into_iter().enumerate()
        {
            let options = GenerateOptions {
                temperature: Some(temperature),
                seed: Some(seed as u64),
                max_tokens: Some(30),
                ..GenerateOptions::default()
            };
            let with = |speculation| GenerateOptions { speculation, ..options.clone() };
            let expected = fresh(prompt, &with(Speculation::Off));
            let (text, usage) = service.ask(session, prompt, &with(Speculation::Always));
            assert_eq!(text, expected, "{prompt} at {temperature}");
            rejected += usage.proposed_tokens - usage.accepted_tokens;
            accepted += usage.accepted_tokens;
        }
    }
    assert!(rejected > 20 && accepted > 20, "{accepted} accepted, {rejected} rejected");
}

#[test]
fn a_conversation_goes_on_from_its_state_and_a_change_begins_anew() {
    for speculation in [Speculation::Off, Speculation::Always] {
        let service = Service::new(BackendChoice::Reference, 2, 16);
        let session = service.session();
        let (options, more) = (greedy(9, speculation), greedy(12, speculation));
        let (first, _) = service.ask(session, PROMPT, &options);
        // Ids of the prompts below 70 are letters; answers come back as characters behind 0x4e00.
        let said: String = first.chars().map(|c| char::from((c as u32 - 0x4e00) as u8)).collect();
        let on = format!("{PROMPT}{said} and on");
        let (text, usage) = service.ask(session, &on, &more);
        assert_eq!(text, fresh(&on, &more), "{speculation:?}");
        // All but the answer's last token, which was never computed, or what was proposed behind it.
        let known = PROMPT.len() + said.len();
        assert_eq!(usage.cached_tokens as usize, known - 1, "{speculation:?}");
        // Another text in the place of that answer: on from the prompt before it.
        let instead = format!("{on} or not");
        let (text, usage) = service.ask(session, &instead, &more);
        assert_eq!(
            (text, usage.cached_tokens as usize),
            (fresh(&instead, &more), on.len()),
            "{speculation:?}"
        );
        // And of some of the prompt's last rows as well.
        let shorter = format!("{}, or", &on[..on.len() - 5]);
        let (text, _) = service.ask(session, &shorter, &more);
        assert_eq!(text, fresh(&shorter, &more), "{speculation:?}");
        // A prompt that leaves the old one in its middle: the state cannot go back there.
        let other = format!("{}?{}", &PROMPT[..20], &PROMPT[20..]);
        let (text, usage) = service.ask(session, &other, &more);
        assert_eq!((text, usage.cached_tokens), (fresh(&other, &more), 0), "{speculation:?}");
        // The same once more: its last token is computed again, which the state has not left open.
        let (text, _) = service.ask(session, &other, &more);
        assert_eq!(text, fresh(&other, &more), "{speculation:?}");
    }
}

#[test]
fn a_cancelled_answer_leaves_a_state_to_go_on_from() {
    for speculation in [Speculation::Off, Speculation::Always] {
        let service = Service::new(BackendChoice::Cpu, 2, 16);
        let session = service.session();
        for cut in [1, 3, 7] {
            let events = service.start(session, PROMPT, &greedy(40, speculation));
            let deltas = events.iter().filter(|event| matches!(event, Event::Delta { .. }));
            assert_eq!(deltas.take(cut).count(), cut);
            service.scheduler.cancel(session);
            events.iter().for_each(drop);
            // Something else on the way: the slot's state may be anywhere.
            let options = greedy(20, speculation);
            let prompt = format!("{PROMPT} again {cut}");
            let (text, _) = service.ask(session, &prompt, &options);
            assert_eq!(text, fresh(&prompt, &options), "{speculation:?}, cut after {cut}");
        }
    }
}

#[test]
fn sessions_take_turns_in_one_slot() {
    let service = Service::new(BackendChoice::Reference, 1, 16);
    let sessions = [service.session(), service.session()];
    let options = greedy(12, Speculation::Auto);
    let prompts = [PROMPT.to_owned(), format!("{PROMPT} too")];
    for round in 0..3 {
        // The second prompt shares the first one's tokens, but not its session.
        let started: Vec<_> =
            sessions.iter().zip(&prompts).map(|(s, prompt)| service.start(*s, prompt, &options)).collect();
        for (events, prompt) in started.into_iter().zip(&prompts) {
            assert_eq!(finish(events).0, fresh(prompt, &options), "round {round}");
        }
    }
}
