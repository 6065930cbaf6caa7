//! Reasoning and tool calls on their way from tokens to events.

use serde_json::json;

use super::*;
use crate::sim::SAY;

/// The events of an answer with `script`, deltas of one kind as one, in short: `R(so) T(Yes) C(f {"a":1})`.
fn say(script: &str, options: GenerateOptions) -> (String, FinishReason) {
    let scheduler = service(SimOptions { context: 1 << 16, markers: true, ..SimOptions::default() });
    let session = scheduler.open_session("sim").unwrap();
    let events = ask(&scheduler, session, user(&format!("{SAY}{script}")), options);
    let (mut shown, mut reason, mut kind) = (String::new(), None, "");
    for event in events {
        let (next, text) = match event {
            Event::Start { .. } => continue,
            Event::Reasoning { text } => ("R", text),
            Event::Delta { text } => ("T", text),
            Event::ToolCall { name, arguments, .. } => ("C", format!("{name} {}", json!(arguments))),
            Event::Done { finish_reason, .. } => {
                reason = Some(finish_reason);
                continue;
            }
            Event::Error { message } => panic!("{message}"),
        };
        match next == kind {
            true => shown.insert_str(shown.len() - 1, &text),
            false => shown.push_str(&format!("{}{next}({text})", if kind.is_empty() { "" } else { " " })),
        }
        kind = next;
    }
    (shown, reason.expect("it is done"))
}

fn with_tools() -> GenerateOptions {
    let mut options = GenerateOptions::default();
    options.chat.tools =
        Some(json!([{"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}]));
    options
}

const CALL: &str = "<think>\nsum\n</think>\n\nHm.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": \"2\"}}\n</tool_call>";

#[test]
fn reasoning_text_and_calls_are_told_apart() {
    let stopped = |stop: &str| GenerateOptions { stop: vec![stop.into()], ..with_tools() };
    let cut = |max_tokens| GenerateOptions { max_tokens: Some(max_tokens), ..with_tools() };
    let length = CALL.replace("<think>", "1").replace("</think>", "1").replace("<tool_call>", "1");
    let length = length.replace("</tool_call>", "1").len() as u32;
    let cases = [
        ("all", CALL, with_tools(), "R(sum) T(Hm.) C(add {\"a\":2})", FinishReason::ToolCall),
        (
            "no tools",
            CALL,
            GenerateOptions::default(),
            "R(sum) T(Hm.{\"name\": \"add\", \"arguments\": {\"a\": \"2\"}})",
            FinishReason::Stop,
        ),
        ("text", "Hm.", with_tools(), "T(Hm.)", FinishReason::Stop),
        ("no text", "<think>sum</think>", with_tools(), "R(sum)", FinishReason::Stop),
        (
            "a stop text in reasoning",
            CALL,
            stopped("sum"),
            "R(sum) T(Hm.) C(add {\"a\":2})",
            FinishReason::ToolCall,
        ),
        ("a stop text", CALL, stopped("m."), "R(sum) T(H)", FinishReason::Stop),
        (
            "the start of a stop text",
            CALL,
            stopped("m.!"),
            "R(sum) T(Hm.) C(add {\"a\":2})",
            FinishReason::ToolCall,
        ),
        (
            "a stop text behind a call",
            &format!("{CALL}end"),
            stopped("nd"),
            "R(sum) T(Hm.) C(add {\"a\":2}) T(e)",
            FinishReason::Stop,
        ),
        ("cut in reasoning", CALL, cut(4), "R(su)", FinishReason::Length),
        (
            "cut in a call",
            CALL,
            cut(length - 2),
            "R(sum) T(Hm.{\"name\": \"add\", \"arguments\": {\"a\": \"2\"}})",
            FinishReason::Length,
        ),
        // The call is whole, though the model did not say that the answer is.
        ("cut after a call", CALL, cut(length), "R(sum) T(Hm.) C(add {\"a\":2})", FinishReason::Length),
    ];
    for (name, script, options, shown, reason) in cases {
        let speculative = GenerateOptions { speculation: crate::Speculation::Always, ..options.clone() };
        for options in [options, speculative] {
            assert_eq!(say(script, options), (shown.to_owned(), reason), "{name}");
        }
    }
}

#[test]
fn raw_text_has_no_markers() {
    let scheduler = service(SimOptions { markers: true, ..SimOptions::default() });
    let session = scheduler.open_session("sim").unwrap();
    let answer = collect(ask(&scheduler, session, Prompt::Text("<think>".into()), at_most(3)));
    assert_eq!(answer.text, "hij");
}
