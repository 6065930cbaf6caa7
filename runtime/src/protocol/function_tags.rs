//! Calls in the tags of Qwen3-Coder and Qwen 3.5, inside `<tool_call>` and `</tool_call>`:
//!
//! ```text
//! <function=get_weather>
//! <parameter=city>
//! Paris
//! </parameter>
//! </function>
//! ```
//!
//! Nothing is escaped, so a value that holds one of the tags cannot be told from two values: it is no call.

use serde_json::{Map, Value};

use super::body::Scan;
use super::marker::Kind;
use super::tools::{Argument, Tools};

const TAGS: [&str; 4] = ["<function=", "</function", "<parameter=", "</parameter"];

pub(super) fn calls(mut body: Scan<'_>, tools: &Tools) -> Option<Vec<(String, Map<String, Value>)>> {
    body.spaces();
    body.literal("<function=")?;
    let name = body.until_text(">", &[])?;
    let mut arguments = Vec::new();
    loop {
        body.spaces();
        if body.literal("</function>").is_some() {
            break;
        }
        body.literal("<parameter=")?;
        let key = body.until_text(">", &[])?;
        let value = body.until_text("</parameter>", &[Kind::CallOpen])?;
        if [key, value].iter().any(|text| TAGS.iter().any(|tag| text.contains(tag))) {
            return None;
        }
        // One line break on either side is the layout's.
        let value = value.strip_prefix('\n').unwrap_or(value);
        let value = value.strip_suffix('\n').unwrap_or(value);
        arguments.push((key.trim().to_owned(), Argument::Untyped(value.into())));
    }
    body.spaces();
    body.is_at_end().then(|| tools.call(name.trim(), arguments)).flatten().map(|call| vec![call])
}
