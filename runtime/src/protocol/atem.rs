//! The calls of Muse models, in a message to the tool:
//!
//! ```text
//! <atem:function_calls>
//! <atem:invoke name="weather.get">
//! <atem:parameter name="city">Paris</atem:parameter>
//! </atem:invoke>
//! </atem:function_calls>
//! ```
//!
//! This is not XML: nothing is escaped and white space in a value is the value's. A value that holds one of the tags
//! cannot be told from two values: it is no call.

use serde_json::{Map, Value};

use super::body::Scan;
use super::tools::{Argument, Tools};

/// All calls of one message; each must be of the tool that the message is to.
pub(super) fn calls(
    mut body: Scan<'_>,
    recipient: &str,
    tools: &Tools,
) -> Option<Vec<(String, Map<String, Value>)>> {
    body.spaces();
    body.literal("<atem:function_calls>")?;
    let mut calls = Vec::new();
    loop {
        body.spaces();
        if body.literal("</atem:function_calls>").is_some() {
            break;
        }
        let (name, arguments) = invoke(&mut body)?;
        let call = tools.call(name, arguments)?;
        if tools.resolve(recipient) != Some(&call.0) {
            return None;
        }
        calls.push(call);
    }
    body.spaces();
    (body.is_at_end() && !calls.is_empty()).then_some(calls)
}

fn invoke<'a>(body: &mut Scan<'a>) -> Option<(&'a str, Vec<(String, Argument)>)> {
    let name = open(body, "<atem:invoke")?;
    let mut arguments = Vec::new();
    loop {
        body.spaces();
        if body.literal("</atem:invoke>").is_some() {
            return Some((name, arguments));
        }
        let key = open(body, "<atem:parameter")?;
        let value = body.until_text("</atem:parameter>", &[])?;
        if value.contains("<atem:") || value.contains("</atem:") {
            return None;
        }
        arguments.push((key.to_owned(), Argument::Untyped(value.into())));
    }
}

/// `<atem:invoke name="NAME">`, from its start.
fn open<'a>(body: &mut Scan<'a>, tag: &str) -> Option<&'a str> {
    body.literal(tag)?;
    body.spaces();
    body.literal("name=\"")?;
    let name = body.take_while(|c| !matches!(c, '"' | '<' | '>') && !c.is_control());
    body.literal("\"")?;
    body.spaces();
    body.literal(">")?;
    (!name.is_empty()).then_some(name)
}
