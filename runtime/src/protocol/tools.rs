//! The tools that a caller declared, and arguments as their JSON schemas want them.
//!
//! Of a schema these are read: `type`, `enum`, `properties`, `required`, `additionalProperties: false`, `items`,
//! `anyOf` and `oneOf`. What else it says is the tool's own to check.

use serde_json::{Map, Value};

use super::unique::Unique;

/// Values compared with schemas for one call. A schema with many alternatives, for a list with many items, takes the
/// engine's thread no longer than milliseconds: past this the call is text.
const CHECKS_MAX: u32 = 1 << 18;

/// Declared tools, in the caller's order.
#[derive(Debug, Clone, Default)]
pub(super) struct Tools {
    tools: Vec<(String, Value)>,
}

/// An argument as a model wrote it.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Argument {
    /// Without a type: `<parameter=count>3</parameter>`.
    Untyped(String),
    Json(Value),
}

impl Tools {
    /// From `[{"type": "function", "function": {"name", "parameters"}}]`, or the same without the outer object.
    pub(super) fn new(declared: Option<&Value>) -> Self {
        let all = declared.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let tools = all.iter().filter_map(|tool| {
            let tool = tool.get("function").unwrap_or(tool);
            let name = tool.get("name")?.as_str()?.to_owned();
            Some((name, tool.get("parameters").cloned().unwrap_or(Value::Null)))
        });
        Self { tools: tools.collect() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.tools.is_empty()
    }

    /// The declared name that `name` stands for.
    pub(super) fn resolve(&self, name: &str) -> Option<&str> {
        let declared = |name: &str| self.tools.iter().find(|(tool, _)| tool == name);
        // A template that puts tools into namespaces gives one without a namespace its own name for that.
        let bare = name.split_once('.').and_then(|(space, bare)| (space == bare).then_some(bare));
        let found = declared(name).or_else(|| declared(bare?));
        found.map(|(tool, _)| tool.as_str())
    }

    /// The declared name, and the arguments typed. `None` where there is no such tool or they are not what it takes.
    pub(super) fn call(
        &self,
        name: &str,
        arguments: Vec<(String, Argument)>,
    ) -> Option<(String, Map<String, Value>)> {
        let name = self.resolve(name)?;
        let (_, schema) = self.tools.iter().find(|(tool, _)| tool == name)?;
        let mut checks = CHECKS_MAX;
        let mut typed = Map::new();
        for (key, argument) in arguments {
            let schema = schema.get("properties").and_then(|all| all.get(&key));
            let value = match argument {
                Argument::Untyped(text) => from_text(&text, schema, &mut checks)?,
                Argument::Json(value) => value,
            };
            if typed.insert(key, value).is_some() {
                return None;
            }
        }
        match conform(Value::Object(typed), Some(schema), &mut checks)? {
            Value::Object(typed) => Some((name.into(), typed)),
            _ => None,
        }
    }
}

/// Names of the types that a schema allows, with those of its alternatives; empty where it does not say.
fn types(schema: Option<&Value>) -> Vec<&str> {
    let Some(schema) = schema else { return Vec::new() };
    match schema.get("type") {
        Some(Value::String(name)) => vec![name],
        Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
        _ => {
            let each: Vec<_> = alternatives(schema).map(|schema| types(Some(schema))).collect();
            // One that allows anything makes the whole allow anything.
            if each.iter().any(Vec::is_empty) { Vec::new() } else { each.concat() }
        }
    }
}

fn alternatives(schema: &Value) -> impl Iterator<Item = &Value> {
    ["anyOf", "oneOf"].into_iter().filter_map(|key| schema.get(key)?.as_array()).flatten()
}

/// A value written without quotes.
fn from_text(text: &str, schema: Option<&Value>, checks: &mut u32) -> Option<Value> {
    let types = types(schema);
    let string = || Value::String(text.into());
    if !types.is_empty() && types.iter().all(|name| *name == "string") {
        return Some(string());
    }
    let other = literal(text).filter(|value| !value.is_string());
    let typed = other.and_then(|value| conform(value, schema, checks));
    let may_be_string = types.is_empty() || types.contains(&"string");
    typed.or_else(|| may_be_string.then(string))
}

/// JSON, or what Python calls true, false and null.
fn literal(text: &str) -> Option<Value> {
    match text.trim() {
        "True" => Some(true.into()),
        "False" => Some(false.into()),
        "None" => Some(Value::Null),
        json => serde_json::from_str(json).map(|Unique(value)| value).ok(),
    }
}

/// `value` where it is what `schema` wants, numbers and booleans taken out of strings where that is wanted.
fn conform(value: Value, schema: Option<&Value>, checks: &mut u32) -> Option<Value> {
    let listed = schema.and_then(|schema| schema.get("enum")?.as_array());
    let cost = 1 + listed.map_or(0, Vec::len) + schema.map_or(0, |schema| alternatives(schema).count());
    *checks = checks.checked_sub(u32::try_from(cost).ok()?)?;
    let Some(schema) = schema.filter(|schema| schema.is_object()) else { return Some(value) };
    let mut branches = alternatives(schema).peekable();
    if branches.peek().is_some()
        && !branches.any(|branch| conform(value.clone(), Some(branch), checks).is_some())
    {
        return None;
    }
    let names = types(Some(schema));
    let value = of_type(value, &names)?;
    if listed.is_some_and(|listed| !listed.contains(&value)) {
        return None;
    }
    match value {
        Value::Object(fields) => object(fields, schema, checks).map(Value::Object),
        Value::Array(items) => {
            let items = items.into_iter().map(|item| conform(item, schema.get("items"), checks));
            items.collect::<Option<Vec<_>>>().map(Value::Array)
        }
        scalar => Some(scalar),
    }
}

fn object(fields: Map<String, Value>, schema: &Value, checks: &mut u32) -> Option<Map<String, Value>> {
    let properties = schema.get("properties").and_then(Value::as_object);
    let closed = schema.get("additionalProperties") == Some(&Value::Bool(false));
    let required = schema.get("required").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    if required.iter().filter_map(Value::as_str).any(|name| !fields.contains_key(name)) {
        return None;
    }
    let typed = fields.into_iter().map(|(name, value)| {
        let property = properties.and_then(|all| all.get(&name));
        if property.is_none() && closed {
            return None;
        }
        Some((name, conform(value, property, checks)?))
    });
    typed.collect()
}

/// `value` as one of the types `names`.
fn of_type(value: Value, names: &[&str]) -> Option<Value> {
    if names.is_empty() || names.iter().any(|name| is_type(&value, name)) {
        return Some(value);
    }
    let wants = |name: &str| names.contains(&name);
    match value {
        // 3.0 is an integer to JSON schema. Every whole f64 below 2^53 is exact.
        Value::Number(number) if wants("integer") => {
            let whole = number.as_f64().filter(|n| n.fract() == 0.0 && n.abs() < 9e15)?;
            Some(Value::from(whole as i64))
        }
        Value::String(text) => {
            let inner = literal(&text).filter(|inner| !inner.is_string())?;
            names.iter().any(|name| is_type(&inner, name)).then_some(inner)
        }
        _ => None,
    }
}

fn is_type(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        // A type that is not JSON schema's says nothing.
        _ => true,
    }
}
