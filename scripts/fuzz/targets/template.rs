//! Any chat template: it is refused, or renders within its bounds or says why not.
#![no_main]

use std::sync::LazyLock;

use muse_format::Text as Section;
use muse_runtime::{ChatOptions, HfText, Message, Mode, Text};
use serde_json::json;

const TOKENIZER: &[u8] = include_bytes!("../../../quantize/tests/fixtures/llama/checkpoint/tokenizer.json");

static CHAT: LazyLock<(Vec<Message>, ChatOptions)> = LazyLock::new(|| {
    let messages = vec![
        Message::new("system", "Be \u{e9}xact."),
        Message::new("user", "a <|im_end|> b"),
        Message::new("assistant", "c"),
        Message::new("user", "d {{ e }}"),
    ];
    let tools = json!([{"name": "f", "parameters": {"properties": {"n": {"type": "integer"}}}}]);
    (messages, ChatOptions { mode: Some(Mode::Thinking), tools: Some(tools) })
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(source) = std::str::from_utf8(bytes) else { return };
    let Ok(text) = HfText::new(TOKENIZER, &Section::default(), source) else { return };
    let (messages, options) = &*CHAT;
    let _ = text.encode_chat(messages, options);
});
