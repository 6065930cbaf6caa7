//! Calls as GLM 4.5 and later write them, inside `<tool_call>` and `</tool_call>`:
//!
//! ```text
//! get_weather
//! <arg_key>city</arg_key>
//! <arg_value>Paris</arg_value>
//! ```

use serde_json::{Map, Value};

use super::body::Scan;
use super::marker::Kind;
use super::tools::{Argument, Tools};

const NOT_IN_TEXT: [Kind; 5] =
    [Kind::CallOpen, Kind::KeyOpen, Kind::KeyClose, Kind::ValueOpen, Kind::ValueClose];

pub(super) fn calls(mut body: Scan<'_>, tools: &Tools) -> Option<Vec<(String, Map<String, Value>)>> {
    let name = body.take_while(|c| c != '<').trim();
    let mut arguments = Vec::new();
    while !body.is_at_end() {
        body.marker(Kind::KeyOpen)?;
        let key = body.until(Kind::KeyClose, &NOT_IN_TEXT)?;
        body.spaces();
        body.marker(Kind::ValueOpen)?;
        let value = body.until(Kind::ValueClose, &NOT_IN_TEXT)?;
        body.spaces();
        arguments.push((key.trim().to_owned(), Argument::Untyped(value.into())));
    }
    Some(vec![tools.call(name, arguments)?])
}
