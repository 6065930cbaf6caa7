//! An engine without a model: deterministic text for tests of everything above the engine.
//!
//! Tokens are bytes. A chat's last message is echoed (`hi` is answered `echo: hi`); raw text is continued by the
//! alphabet without end. Four messages make it misbehave: [`FOREVER`], [`FAIL`], [`FAIL_FOR_GOOD`] and [`PANIC`];
//! [`SAY`] makes it reason and call tools.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use muse_format::Generation;
use muse_kernels::{BackendError, CudaError, Span};

use crate::decoder::Utf8Stream;
use crate::engine::check_texts;
use crate::protocol::{AddedToken, Protocol};
use crate::{
    ChatOptions, Draft, DrafterInfo, EmbeddingInfo, Engine, Message, ModelInfo, Text, TextDecoder, TextError,
};

/// Numbers of a vector of a text: its tokens, their sum, the first and the last. [`FAIL`] and [`PANIC`] are texts that do
/// as they say.
pub const SIM_WIDTH: usize = 4;
/// As the last message: the echo repeats without end.
pub const FOREVER: &str = "sim:forever";
/// As the last message: the step that would answer it fails.
pub const FAIL: &str = "sim:fail";
/// As the last message: the step that would answer it fails as on a GPU, after which all would.
pub const FAIL_FOR_GOOD: &str = "sim:fail-for-good";
/// As the last message: the step that would answer it panics.
pub const PANIC: &str = "sim:panic";
/// In front of the last message: what follows is the answer, its markers (`<think>`, `<tool_call>`) as tokens. They
/// mean something with [`SimOptions::markers`].
pub const SAY: &str = "sim:say ";

const BEGIN: u32 = 256;
const END: u32 = 257;
/// Ids from 258 on.
const MARKERS: [&str; 4] = ["<think>", "</think>", "<tool_call>", "</tool_call>"];
const VOCAB: u32 = 262;
const ASSISTANT: &[u8] = b"assistant\n";

/// What drafts for the simulated model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SimDrafter {
    /// As [`DrafterInfo::block`].
    pub block: u32,
    /// Of how many tokens one is another than the model's.
    pub wrong: u32,
    /// How long each call takes; `None` where each fails.
    pub delay: Option<Duration>,
    /// As [`DrafterInfo::chain`]: each token of the longest draft takes that long.
    pub chain: bool,
}

/// Where texts wait to be read; clones are one gate. By default nobody has shut it.
#[derive(Debug, Clone, Default)]
pub struct TextGate {
    gate: Arc<(Mutex<Waiting>, Condvar)>,
}

#[derive(Debug, Default)]
struct Waiting {
    shut: bool,
    texts: usize,
}

/// A gate that is shut until this is dropped.
#[derive(Debug)]
pub struct ShutGate(TextGate);

impl TextGate {
    /// Lets no text pass until what is returned is dropped.
    pub fn shut(&self) -> ShutGate {
        self.lock().shut = true;
        ShutGate(self.clone())
    }

    /// How many texts wait.
    pub fn texts(&self) -> usize {
        self.lock().texts
    }

    fn pass(&self) {
        let mut waiting = self.lock();
        waiting.texts += 1;
        while waiting.shut {
            waiting = self.gate.1.wait(waiting).unwrap_or_else(PoisonError::into_inner);
        }
        waiting.texts -= 1;
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.gate.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for ShutGate {
    fn drop(&mut self) {
        self.0.lock().shut = false;
        self.0.gate.1.notify_all();
    }
}

#[derive(Debug, Clone)]
pub struct SimOptions {
    pub context: u32,
    pub slots: u32,
    pub batch_tokens: u32,
    /// As [`ModelInfo::logit_rows`]; by default `slots`, without room for speculation.
    pub logit_rows: Option<u32>,
    /// How long each step takes.
    pub step_delay: Duration,
    /// What each text has to pass to be read.
    pub text_gate: TextGate,
    /// Whether answers may hold reasoning and tool calls; see [`SAY`].
    pub markers: bool,
    /// Whether it makes vectors of texts in place of answers, see [`SIM_WIDTH`].
    pub embeds: bool,
    /// What [`ModelInfo::weight_bytes`] says.
    pub weight_bytes: u64,
    /// What [`ModelInfo::short_of_memory`] says.
    pub short_of_memory: bool,
    pub drafter: Option<SimDrafter>,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            context: 4096,
            slots: 4,
            batch_tokens: 64,
            logit_rows: None,
            step_delay: Duration::ZERO,
            text_gate: TextGate::default(),
            markers: false,
            embeds: false,
            weight_bytes: 0,
            short_of_memory: false,
            drafter: None,
        }
    }
}

#[derive(Debug)]
pub struct SimEngine {
    info: ModelInfo,
    step_delay: Duration,
    drafter: Option<SimDrafter>,
    text: SimText,
    /// What a cache would hold: the tokens of each slot.
    slots: Vec<Vec<u32>>,
}

impl SimEngine {
    pub fn new(options: SimOptions) -> Self {
        let info = ModelInfo {
            family: "sim".into(),
            hash: [0; 32],
            vocab: VOCAB,
            context: options.context,
            slots: options.slots,
            batch_tokens: options.batch_tokens,
            logit_rows: if options.embeds { 0 } else { options.logit_rows.unwrap_or(options.slots) },
            weight_bytes: options.weight_bytes,
            short_of_memory: options.short_of_memory,
            working_bytes: 0,
            backend: "sim".into(),
            generation: Generation { stop_ids: vec![END], ..Generation::default() },
            vision: None,
            audio: None,
            embedding: options.embeds.then(|| EmbeddingInfo {
                width: SIM_WIDTH as u32,
                prompts: [("query".to_owned(), "q: ".to_owned())].into(),
                default_prompt: None,
            }),
            drafter: options.drafter.map(|SimDrafter { block, chain, .. }| DrafterInfo {
                family: "sim-drafter".into(),
                block,
                chain,
            }),
        };
        let slots = (0..options.slots).map(|_| Vec::new()).collect();
        let SimOptions { step_delay, text_gate, drafter, markers, .. } = options;
        Self { info, step_delay, drafter, text: SimText { gate: text_gate, markers }, slots }
    }
}

impl Engine for SimEngine {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn text(&self) -> Arc<dyn Text> {
        Arc::new(self.text.clone())
    }

    fn step(
        &mut self,
        spans: &[Span],
        tokens: &[u32],
        wanted: &[u32],
        logits: &mut [f32],
    ) -> Result<(), BackendError> {
        assert!(tokens.len() <= self.info.batch_tokens as usize, "more rows than the batch holds");
        assert!(wanted.len() <= self.info.logit_rows as usize && wanted.is_sorted(), "rows wanted");
        assert_eq!(logits.len(), wanted.len() * VOCAB as usize);
        std::thread::sleep(self.step_delay);
        let mut row = 0;
        let mut wanted = wanted.iter().peekable();
        let mut logits = logits.chunks_mut(VOCAB as usize);
        for span in spans {
            let slot = &mut self.slots[span.slot as usize];
            assert!(span.start as usize <= slot.len(), "positions before {} were never written", span.start);
            slot.truncate(span.start as usize);
            for &token in &tokens[row as usize..][..span.len as usize] {
                slot.push(token);
                if wanted.next_if_eq(&&row).is_some() {
                    let next = reply(slot)?;
                    let out = logits.next().expect("one row of logits for each wanted row");
                    out.fill(0.0);
                    out[next as usize] = 20.0;
                }
                row += 1;
            }
            assert!(slot.len() <= self.info.context as usize, "past the context");
        }
        assert!(row as usize == tokens.len() && wanted.peek().is_none(), "spans cover the rows");
        Ok(())
    }

    fn draft(&mut self, drafts: &[Draft], logits: &mut [f32]) -> Result<(), BackendError> {
        let drafter = self.drafter.expect("a drafter is asked where there is one");
        let delay = drafter.delay.ok_or_else(|| BackendError::Unsupported("drafts".into()))?;
        let longest = drafts.iter().map(|draft| draft.count).max().unwrap_or(0);
        std::thread::sleep(delay * if drafter.chain { longest } else { 1 });
        let rows: u32 = drafts.iter().map(|draft| draft.count).sum();
        assert!(rows <= self.info.logit_rows && logits.len() == (rows * VOCAB) as usize);
        let mut logits = logits.chunks_mut(VOCAB as usize);
        for Draft { slot, start, token, count } in drafts {
            assert!((1..drafter.block).contains(count) && start + drafter.block <= self.info.context);
            let mut sequence = self.slots[*slot as usize][..*start as usize].to_vec();
            sequence.push(*token);
            for out in logits.by_ref().take(*count as usize) {
                let next = reply(&sequence)?;
                let is_wrong = (sequence.len() as u32).is_multiple_of(drafter.wrong);
                out.fill(0.0);
                out[(if is_wrong { (next + 1) % VOCAB } else { next }) as usize] = 20.0;
                sequence.push(next);
            }
        }
        Ok(())
    }

    fn embed(&mut self, texts: &[&[u32]], out: &mut [f32]) -> Result<(), BackendError> {
        check_texts(&self.info, texts, out);
        std::thread::sleep(self.step_delay);
        for (text, out) in texts.iter().zip(out.as_chunks_mut::<SIM_WIDTH>().0) {
            match to_bytes(text) {
                said if said == PANIC.as_bytes() => panic!("asked to panic by {PANIC}"),
                said if said == FAIL.as_bytes() => return Err(BackendError::Unsupported(FAIL.into())),
                _ => {}
            }
            let sum: u32 = text.iter().sum();
            *out = [text.len() as u32, sum, text[0], text[text.len() - 1]].map(|number| number as f32);
        }
        Ok(())
    }

    /// A bounded ring would lose what a longer sequence overwrote; this one holds everything.
    fn keep(&self, _slot: u32, len: u32, written: u32) -> u32 {
        assert!(len <= written);
        len
    }
}

/// The token after `sequence`.
fn reply(sequence: &[u32]) -> Result<u32, BackendError> {
    let alphabet = u32::from(b'a') + (sequence.len() % 26) as u32;
    let Some(turn) = sequence.iter().rposition(|&id| id == BEGIN) else { return Ok(alphabet) };
    let said = &sequence[turn + 1..];
    if !to_bytes(said).starts_with(ASSISTANT) {
        return Ok(alphabet);
    }
    let said = said.len() - ASSISTANT.len();
    let before = &sequence[..turn];
    let message = before.iter().rposition(|&id| id == BEGIN).map_or(&[][..], |begin| &before[begin + 1..]);
    let message = to_bytes(message);
    let content = message.iter().position(|&b| b == b'\n').map_or(&[][..], |at| &message[at + 1..]);
    if content == PANIC.as_bytes() {
        panic!("asked to panic by {PANIC}");
    }
    if content == FAIL.as_bytes() {
        return Err(BackendError::Unsupported(FAIL.into()));
    }
    if content == FAIL_FOR_GOOD.as_bytes() {
        return Err(CudaError::Call { call: "sim", problem: FAIL_FOR_GOOD.into() }.into());
    }
    let answer = match content.strip_prefix(SAY.as_bytes()) {
        Some(script) => marked(script),
        None => [b"echo: ", content].concat().into_iter().map(u32::from).collect(),
    };
    let at = if content == FOREVER.as_bytes() { said % answer.len() } else { said };
    Ok(answer.get(at).copied().unwrap_or(END))
}

/// Ids of a text whose markers are tokens.
fn marked(mut text: &[u8]) -> Vec<u32> {
    let mut ids = Vec::new();
    while let Some(&byte) = text.first() {
        let marker = (END + 1..VOCAB).zip(MARKERS).find(|(_, marker)| text.starts_with(marker.as_bytes()));
        let (id, len) = marker.map_or((byte.into(), 1), |(id, marker)| (id, marker.len()));
        ids.push(id);
        text = &text[len..];
    }
    ids
}

fn to_bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect()
}

/// Bytes as tokens, and the template `BEGIN role \n content END`. A tool's result has its name and the id of its call
/// in front.
#[derive(Debug, Clone)]
struct SimText {
    gate: TextGate,
    markers: bool,
}

impl Text for SimText {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        self.gate.pass();
        Ok(text.bytes().map(u32::from).collect())
    }

    fn encode_chat(&self, messages: &[Message], _: &ChatOptions) -> Result<Vec<u32>, TextError> {
        self.gate.pass();
        let mut ids = Vec::new();
        for Message { role, content, name, tool_call_id, .. } in messages {
            let of: String =
                [name, tool_call_id].into_iter().flatten().map(|text| format!("{text}: ")).collect();
            ids.push(BEGIN);
            ids.extend(format!("{role}\n{of}{content}").bytes().map(u32::from));
            ids.push(END);
        }
        ids.push(BEGIN);
        ids.extend(ASSISTANT.iter().copied().map(u32::from));
        Ok(ids)
    }

    fn decoder(&self, _: bool) -> Box<dyn TextDecoder> {
        Box::new(Utf8Stream::default())
    }

    fn piece(&self, id: u32) -> Vec<u8> {
        u8::try_from(id).into_iter().collect()
    }

    fn protocol(&self) -> Protocol {
        let token = |text: &str| {
            let (id, _) = (END + 1..VOCAB).zip(MARKERS).find(|(_, marker)| *marker == text)?;
            Some(AddedToken { id, special: false })
        };
        let template = if self.markers { MARKERS.concat() } else { String::new() };
        Protocol::declared(&template, |text| token(text).filter(|_| self.markers))
    }
}

impl TextDecoder for Utf8Stream {
    fn push(&mut self, id: u32) -> String {
        u8::try_from(id).map_or_else(|_| String::new(), |byte| self.push_bytes(&[byte]))
    }

    fn finish(&mut self) -> String {
        self.take()
    }
}
