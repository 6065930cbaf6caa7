//! Calls written as JSON: `{"name": "get_weather", "arguments": {"city": "Paris"}}`.
//!
//! Hermes and Qwen put one into `<tool_call>` and `</tool_call>`; Llama 3 and 4 write `parameters`, put nothing or
//! `<|python_tag|>` in front, and may write several, with `;` between.

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Map, Value};

use super::tools::{Argument, Tools};
use super::unique::Unique;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    #[serde(default, alias = "parameters")]
    arguments: Option<Unique>,
    #[serde(rename = "type")]
    _type: Option<IgnoredAny>,
    #[serde(rename = "id")]
    _id: Option<IgnoredAny>,
}

impl Written {
    fn typed(self, tools: &Tools) -> Option<(String, Map<String, Value>)> {
        let mut arguments = self.arguments.map_or(Value::Null, |Unique(arguments)| arguments);
        // As the API of another vendor has it.
        if let Value::String(text) = &arguments {
            arguments = serde_json::from_str(text).map(|Unique(arguments)| arguments).ok()?;
        }
        let arguments = match arguments {
            Value::Null => Map::new(),
            Value::Object(arguments) => arguments,
            _ => return None,
        };
        tools.call(
            &self.name,
            arguments.into_iter().map(|(key, value)| (key, Argument::Json(value))).collect(),
        )
    }
}

/// The one call that `text` is.
pub(super) fn one(text: &str, tools: &Tools) -> Option<Vec<(String, Map<String, Value>)>> {
    let written: Written = serde_json::from_str(text).ok()?;
    Some(vec![written.typed(tools)?])
}

/// The calls that all of `text` is.
pub(super) fn several(text: &str, tools: &Tools) -> Option<Vec<(String, Map<String, Value>)>> {
    let mut calls = Vec::new();
    let mut rest = text.trim();
    while !rest.is_empty() {
        let mut stream = serde_json::Deserializer::from_str(rest).into_iter::<Written>();
        calls.push(stream.next()?.ok()?.typed(tools)?);
        let after = rest[stream.byte_offset()..].trim_start();
        rest = after.strip_prefix(';').unwrap_or(after).trim_start();
    }
    Some(calls)
}

/// Whether a text that starts with `start` may be a call.
pub(super) fn may_start(start: &str) -> bool {
    let Some(inside) = start.trim_start().strip_prefix('{') else { return start.trim_start().is_empty() };
    let inside = inside.trim_start();
    ["\"name\"", "\"type\"", "\"id\"", "\"parameters\"", "\"arguments\""]
        .into_iter()
        .any(|key| key.starts_with(inside) || inside.starts_with(key))
}
