//! Any answer of any format: the same parts however it is cut, only calls of declared tools with arguments of their
//! types, and nothing made up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use muse_runtime::protocol::{AddedToken, Call, Part, Protocol};
use serde_json::{Value, json};

/// The markers of every format; bytes below their number stand for them.
const MARKERS: [&str; 24] = [
    "<|start|>",
    "<|message|>",
    "<|eom|>",
    "<|eot|>",
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|\"|>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<|python_tag|>",
    "<function=f>",
    "<parameter=n>",
    "</parameter></function>",
    "<atem:function_calls><atem:invoke name=\"f\"><atem:parameter name=\"n\">",
    "</atem:parameter></atem:invoke></atem:function_calls>",
    "{\"name\": \"f\", \"arguments\": {\"n\": ",
];
const TEMPLATES: [&str; 7] = [
    "",
    "to=self",
    "<|channel> <|tool_call>",
    "<think> <tool_call>",
    "<think> <tool_call> <function=",
    "<think> <tool_call> <arg_key>",
    "tool_calls \"parameters\":",
];
/// The first of [`MARKERS`] may be tokens; the others are always typed.
const TOKENS: usize = 18;

enum Piece {
    Text(String),
    Token(u32),
}

fn pieces(bytes: &[u8], tokens: bool) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut rest = bytes;
    while let Some(&byte) = rest.first() {
        let marker = MARKERS.get(usize::from(byte));
        let len = match marker {
            Some(_) => 1,
            None => rest.iter().position(|&b| usize::from(b) < MARKERS.len()).unwrap_or(rest.len()),
        };
        let (head, tail) = rest.split_at(len);
        pieces.push(match marker {
            Some(_) if tokens && usize::from(byte) < TOKENS => Piece::Token(byte.into()),
            Some(text) => Piece::Text((*text).into()),
            None => Piece::Text(String::from_utf8_lossy(head).into_owned()),
        });
        rest = tail;
    }
    pieces
}

/// All parts, neighbours of one kind as one.
fn run(protocol: &Protocol, tools: &Value, pieces: &[Piece], cut: bool, complete: bool) -> Vec<Part> {
    let mut parser = protocol.parser(Some(tools), 0);
    for piece in pieces {
        match piece {
            Piece::Text(text) if cut => text.chars().for_each(|c| parser.text(c.encode_utf8(&mut [0; 4]))),
            Piece::Text(text) => parser.text(text),
            Piece::Token(id) => drop(parser.token(*id)),
        }
    }
    parser.finish(complete);
    let mut merged: Vec<Part> = Vec::new();
    for part in parser.take() {
        match (merged.last_mut(), part) {
            (Some(Part::Text(last)), Part::Text(text)) => last.push_str(&text),
            (Some(Part::Reasoning(last)), Part::Reasoning(text)) => last.push_str(&text),
            (_, part) => merged.push(part),
        }
    }
    merged
}

fuzz_target!(|bytes: &[u8]| {
    let [choice, bytes @ ..] = bytes else { return };
    let (tokens, complete) = (choice & 0x40 == 0, choice & 0x80 == 0);
    let protocol = Protocol::declared(TEMPLATES[usize::from(choice & 0x3f) % TEMPLATES.len()], |text| {
        let id = MARKERS[..TOKENS].iter().position(|marker| *marker == text).filter(|_| tokens)?;
        Some(AddedToken { id: id as u32, special: text.contains('|') })
    });
    let tools = json!([{"name": "f", "parameters": {
        "type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"], "additionalProperties": false,
    }}]);
    let pieces = pieces(bytes, tokens);
    let parts = run(&protocol, &tools, &pieces, false, complete);
    assert_eq!(parts, run(&protocol, &tools, &pieces, true, complete), "the cut matters");
    let shown = parts.iter().map(|part| match part {
        Part::Text(text) | Part::Reasoning(text) => text.len(),
        Part::Call(Call { name, arguments, .. }) => {
            let fits =
                name == "f" && arguments.len() == 1 && (arguments["n"].is_i64() || arguments["n"].is_u64());
            assert!(fits, "{name} {arguments:?}");
            0
        }
    });
    let read: usize = pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => text.len(),
            Piece::Token(id) => MARKERS[*id as usize].len(),
        })
        .sum();
    assert!(shown.sum::<usize>() <= read, "more is shown than was read");
});
