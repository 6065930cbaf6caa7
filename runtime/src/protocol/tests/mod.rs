//! Answers are written as scripts: `«<think>»` is the token, `<think>` the same text typed.

mod cases;
mod declared;
mod properties;
mod typed;

use serde_json::{Value, json};

use super::{AddedToken, Call, Part, Protocol};

/// Every text that is a token of some vocabulary here; ids are the places in this list.
const VOCABULARY: [&str; 20] = [
    "<|start|>",
    "<|message|>",
    "<|eom|>",
    "<|eot|>",
    "<|channel>",
    "<channel|>",
    "<|tool_call>",
    "<tool_call|>",
    "<|\"|>",
    "<|tool_response>",
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<arg_key>",
    "</arg_key>",
    "<arg_value>",
    "</arg_value>",
    "<|python_tag|>",
    "<|im_start|>",
];

/// What templates write of each format, as much as declares it.
const MUSE: &str = "<|start|>assistant to=self<|message|> <atem:function_calls>";
const GEMMA: &str = "<|channel>thought <|tool_call>call:";
const HERMES: &str = "<think> </think> <tool_call>{\"name\": }</tool_call>";
const FUNCTION_TAGS: &str = "<think> <tool_call><function=";
const GLM: &str = "<think> <tool_call> <arg_key>";
const LLAMA: &str = "message.tool_calls {\"name\": , \"parameters\": }";
const FORMATS: [&str; 6] = [MUSE, GEMMA, HERMES, FUNCTION_TAGS, GLM, LLAMA];

fn special(text: &str) -> bool {
    text.contains('|')
}

fn token(text: &str) -> Option<AddedToken> {
    let id = VOCABULARY.iter().position(|token| *token == text)?;
    Some(AddedToken { id: id as u32, special: special(text) })
}

/// The tools of most tests.
fn tools() -> Value {
    json!([
        {"type": "function", "function": {"name": "weather.get", "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "metric": {"type": "boolean"},
                "at": {"type": "object"},
            },
            "required": ["city"],
        }}},
        {"name": "stop", "parameters": {"type": "object", "properties": {}}},
    ])
}

/// A script's pieces: typed text, and tokens.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Typed(String),
    Token(String),
}

fn pieces(script: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    for (at, part) in script.split('«').enumerate() {
        let (token, typed) =
            if at == 0 { (None, part) } else { part.split_once('»').map(|(t, s)| (Some(t), s)).unwrap() };
        pieces.extend(token.map(|token| Piece::Token(token.into())));
        pieces.extend((!typed.is_empty()).then(|| Piece::Typed(typed.into())));
    }
    pieces
}

/// The parts of an answer, those of one kind that follow each other as one.
fn run(protocol: &Protocol, tools: &Value, pieces: &[Piece], complete: bool) -> Vec<Part> {
    let mut parser = protocol.parser(Some(tools), 7);
    let mut parts: Vec<Part> = Vec::new();
    for piece in pieces {
        match piece {
            _ if parser.ended() => break,
            Piece::Typed(text) => parser.text(text),
            Piece::Token(text) => {
                let known = token(text).unwrap_or_else(|| panic!("{text} is no token"));
                if !parser.token(known.id) && !known.special {
                    parser.text(text);
                }
            }
        }
        parts.extend(parser.take());
    }
    parser.finish(complete || parser.ended());
    parts.extend(parser.take());
    let calls = parts.iter().filter(|part| matches!(part, Part::Call(_))).count();
    assert_eq!(parser.calls(), calls as u32);
    merged(parts)
}

fn merged(parts: Vec<Part>) -> Vec<Part> {
    let mut out: Vec<Part> = Vec::new();
    for part in parts {
        match (out.last_mut(), part) {
            (Some(Part::Text(last)), Part::Text(text)) => last.push_str(&text),
            (Some(Part::Reasoning(last)), Part::Reasoning(text)) => last.push_str(&text),
            (_, part) => out.push(part),
        }
    }
    out
}

/// `R(so) T(Yes) C(f {"a":1})`
fn shown(parts: &[Part]) -> String {
    let one = |part: &Part| match part {
        Part::Text(text) => format!("T({text})"),
        Part::Reasoning(text) => format!("R({text})"),
        Part::Call(Call { name, arguments, .. }) => {
            format!("C({name} {})", Value::Object(arguments.clone()))
        }
    };
    parts.iter().map(one).collect::<Vec<_>>().join(" ")
}
