//! Any tools, and any answer of them: no call but of a tool that is declared.
#![no_main]

#[path = "shared/bytes.rs"]
mod bytes;
#[path = "shared/edit.rs"]
mod edit;

use std::sync::LazyLock;

use muse_runtime::protocol::{AddedToken, Part, Protocol};
use serde_json::{Value, json};

use bytes::Bytes;
use edit::edit;

const TEMPLATES: [&str; 3] = ["<think> <tool_call>", "<think> <tool_call> <function=", "to=self"];
/// An answer of each, in which something is changed too.
const ANSWERS: [[&str; 2]; 3] = [
    ["<tool_call>", "</tool_call>"],
    ["<tool_call><function=f><parameter=a>", "</parameter></function></tool_call>"],
    [
        "<atem:function_calls><atem:invoke name=\"f\"><atem:parameter name=\"a\">",
        "</atem:parameter></atem:invoke></atem:function_calls>",
    ],
];

static TOOLS: LazyLock<Value> = LazyLock::new(|| {
    json!([
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {
            "a": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"type": ["string", "null"]}}]},
            "b": {"enum": [1, "1", true, {"c": []}]},
        }, "required": ["a"], "additionalProperties": false}}},
        {"name": "g.g", "parameters": {"oneOf": [{"properties": {"a": {"type": "object"}}}, {"type": "null"}]}},
    ])
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let kind = usize::from(bytes.next()) % TEMPLATES.len();
    let mut tools = TOOLS.clone();
    for _ in 0..bytes.next() % 6 {
        edit(&mut tools, &mut bytes);
    }
    let mut call = json!({"name": "f", "arguments": {"a": [1, "2"], "b": "1"}});
    for _ in 0..bytes.next() % 4 {
        edit(&mut call, &mut bytes);
    }
    let [open, close] = ANSWERS[kind];
    let argument = if kind == 0 { call.to_string() } else { call["arguments"]["a"].to_string() };
    let answer = format!("{open}{argument}{}{close}", String::from_utf8_lossy(bytes.0));
    let known = |text: &str| (text == "<tool_call>").then_some(AddedToken { id: 0, special: true });
    let protocol = Protocol::declared(TEMPLATES[kind], |text| known(text).filter(|_| answer.len() % 2 == 0));
    let mut parser = protocol.parser(Some(&tools), 0);
    parser.text(&answer);
    parser.finish(true);
    for part in parser.take() {
        if let Part::Call(call) = part {
            let declares = |tool: &Value| tool.get("function").unwrap_or(tool)["name"] == *call.name;
            assert!(tools.as_array().is_some_and(|tools| tools.iter().any(declares)), "{call:?} of {tools}");
        }
    }
});
