//! Calls as Gemma 4 writes them, inside `<|tool_call>` and `<tool_call|>`: `call:get_weather{city:<|"|>Paris<|"|>}`.
//! Strings stand between quote tokens and nothing is escaped; keys are bare.

use serde_json::{Map, Value};

use super::body::Scan;
use super::marker::Kind;
use super::tools::{Argument, Tools};

/// Levels of lists and objects in an argument, as `serde_json` has it.
const DEPTH_MAX: usize = 128;

pub(super) fn calls(mut body: Scan<'_>, tools: &Tools) -> Option<Vec<(String, Map<String, Value>)>> {
    body.spaces();
    body.literal("call:")?;
    let name = body.take_while(|c| c != '{' && !c.is_control()).trim();
    let fields = fields(&mut body, DEPTH_MAX)?;
    body.spaces();
    let arguments = fields.into_iter().map(|(key, value)| (key, Argument::Json(value))).collect();
    body.is_at_end().then(|| tools.call(name, arguments)).flatten().map(|call| vec![call])
}

/// `{key:value,...}`
fn fields(body: &mut Scan<'_>, depth: usize) -> Option<Vec<(String, Value)>> {
    let mut fields: Vec<(String, Value)> = Vec::new();
    list(body, '}', |body| {
        let key = match body.marker(Kind::Quote) {
            Some(()) => body.until(Kind::Quote, &[Kind::CallOpen])?,
            None => body.take_while(|c| !matches!(c, ':' | ',' | '{' | '}' | '[' | ']')).trim(),
        };
        body.spaces();
        body.literal(":")?;
        let value = value(body, depth)?;
        fields.push((key.to_owned(), value));
        (!key.is_empty()).then_some(())
    })?;
    Some(fields)
}

fn value(body: &mut Scan<'_>, depth: usize) -> Option<Value> {
    let depth = depth.checked_sub(1)?;
    body.spaces();
    if body.marker(Kind::Quote).is_some() {
        return Some(Value::String(body.until(Kind::Quote, &[Kind::CallOpen])?.into()));
    }
    if body.starts_with('{') {
        let mut object = Map::new();
        let fields = fields(body, depth)?;
        let distinct = fields.into_iter().all(|(key, value)| object.insert(key, value).is_none());
        return distinct.then_some(Value::Object(object));
    }
    if body.starts_with('[') {
        let mut items = Vec::new();
        list(body, ']', |body| {
            items.push(value(body, depth)?);
            Some(())
        })?;
        return Some(Value::Array(items));
    }
    let bare = body.take_while(|c| !matches!(c, ',' | '}' | ']')).trim();
    match bare {
        "None" => Some(Value::Null),
        json => {
            serde_json::from_str(json).ok().filter(|value: &Value| !value.is_object() && !value.is_array())
        }
    }
}

/// What `item` reads between brackets, with commas between.
fn list(body: &mut Scan<'_>, close: char, mut item: impl FnMut(&mut Scan<'_>) -> Option<()>) -> Option<()> {
    let (open, close) = if close == '}' { ("{", "}") } else { ("[", "]") };
    body.literal(open)?;
    body.spaces();
    if body.literal(close).is_some() {
        return Some(());
    }
    loop {
        body.spaces();
        item(body)?;
        body.spaces();
        if body.literal(close).is_some() {
            return Some(());
        }
        body.literal(",")?;
    }
}
