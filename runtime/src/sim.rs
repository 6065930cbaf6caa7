//! An engine without a model: deterministic text for tests of everything above the engine.
//!
//! Tokens are bytes. A chat's last message is echoed (`hi` is answered `echo: hi`); raw text is continued by the
//! alphabet without end. Three messages make it misbehave: [`FOREVER`], [`FAIL`] and [`PANIC`].

use std::sync::Arc;
use std::time::Duration;

use muse_format::Generation;
use muse_kernels::{BackendError, Span};

use crate::decoder::Utf8Stream;
use crate::{ChatOptions, Engine, Message, ModelInfo, Text, TextDecoder, TextError};

/// As the last message: the echo repeats without end.
pub const FOREVER: &str = "sim:forever";
/// As the last message: the step that would answer it fails.
pub const FAIL: &str = "sim:fail";
/// As the last message: the step that would answer it panics.
pub const PANIC: &str = "sim:panic";

const BEGIN: u32 = 256;
const END: u32 = 257;
const VOCAB: u32 = 258;
const ASSISTANT: &[u8] = b"assistant\n";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SimOptions {
    pub context: u32,
    pub slots: u32,
    pub batch_tokens: u32,
    /// As [`ModelInfo::logit_rows`]; by default `slots`, without room for speculation.
    pub logit_rows: Option<u32>,
    /// How long each step takes.
    pub step_delay: Duration,
    /// What [`ModelInfo::weight_bytes`] says.
    pub weight_bytes: u64,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self {
            context: 4096,
            slots: 4,
            batch_tokens: 64,
            logit_rows: None,
            step_delay: Duration::ZERO,
            weight_bytes: 0,
        }
    }
}

#[derive(Debug)]
pub struct SimEngine {
    info: ModelInfo,
    step_delay: Duration,
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
            logit_rows: options.logit_rows.unwrap_or(options.slots),
            weight_bytes: options.weight_bytes,
            working_bytes: 0,
            backend: "sim".into(),
            generation: Generation { stop_ids: vec![END], ..Generation::default() },
        };
        let slots = (0..options.slots).map(|_| Vec::new()).collect();
        Self { info, step_delay: options.step_delay, slots }
    }
}

impl Engine for SimEngine {
    fn info(&self) -> &ModelInfo {
        &self.info
    }

    fn text(&self) -> Arc<dyn Text> {
        Arc::new(SimText)
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

    /// A bounded ring would lose what a longer sequence overwrote; this one holds everything.
    fn keep(&self, len: u32, written: u32) -> u32 {
        assert!(len <= written);
        len
    }
}

/// The token after `sequence`.
fn reply(sequence: &[u32]) -> Result<u32, BackendError> {
    let alphabet = u32::from(b'a') + (sequence.len() % 26) as u32;
    let Some(turn) = sequence.iter().rposition(|&id| id == BEGIN) else { return Ok(alphabet) };
    let said = to_bytes(&sequence[turn + 1..]);
    let Some(said) = said.strip_prefix(ASSISTANT) else { return Ok(alphabet) };
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
    let echo = [b"echo: ", content].concat();
    let at = if content == FOREVER.as_bytes() { said.len() % echo.len() } else { said.len() };
    Ok(echo.get(at).map_or(END, |&byte| byte.into()))
}

fn to_bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect()
}

/// Bytes as tokens, and the template `BEGIN role \n content END`.
#[derive(Debug, Clone, Copy)]
struct SimText;

impl Text for SimText {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TextError> {
        Ok(text.bytes().map(u32::from).collect())
    }

    fn encode_chat(&self, messages: &[Message], _: &ChatOptions) -> Result<Vec<u32>, TextError> {
        let mut ids = Vec::new();
        for Message { role, content } in messages {
            ids.push(BEGIN);
            ids.extend(format!("{role}\n{content}").bytes().map(u32::from));
            ids.push(END);
        }
        ids.push(BEGIN);
        ids.extend(ASSISTANT.iter().copied().map(u32::from));
        Ok(ids)
    }

    fn decoder(&self, _: bool) -> Box<dyn TextDecoder> {
        Box::new(Utf8Stream::default())
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
