//! `musectl status`: the service in a few lines.

use std::collections::HashMap;
use std::io::Write;

use serde_json::{Map, Value};
use zbus::{OwnedVariant, Variant};

use super::{Error, client, human_bytes, models, table};

pub async fn run(session: bool, json: bool) -> Result<(), Error> {
    let manager = client::manager(session).await?;
    let mut status = to_json(&manager.get_status().await?);
    status["version"] = manager.version().await?.into();
    status["default_model"] = manager.default_model().await?.into();
    let mut loaded = models::all(manager.inner().connection()).await?;
    loaded.retain(|model| model["loaded"] == true);
    let mut out = std::io::stdout();
    if json {
        status["loaded"] = loaded.into();
        return Ok(writeln!(out, "{status}")?);
    }
    let number = |key: &str| status[key].as_u64().unwrap_or(0);
    let of_budget = status["budget_bytes"].as_u64().map(|b| format!(" of {}", human_bytes(b)));
    let mut rows = vec![
        ("service", format!("mused {}", status["version"].as_str().unwrap_or_default())),
        ("up", human_seconds(number("uptime_seconds"))),
        (
            "default model",
            status["default_model"].as_str().filter(|s| !s.is_empty()).unwrap_or("none").into(),
        ),
        ("models", format!("{}, {} loaded", number("models"), number("models_loaded"))),
        ("memory", human_bytes(number("loaded_bytes")) + &of_budget.unwrap_or_default()),
        ("sessions", format!("{} of {} clients", number("sessions"), number("clients"))),
        ("answers", format!("{} running, {} waiting", number("running"), number("waiting"))),
    ];
    for model in &loaded {
        let field = |key: &str| model[key].as_str().unwrap_or_default();
        rows.push(("loaded", format!("{} on {}", field("name"), field("backend"))));
    }
    let rows: Vec<_> = rows.into_iter().map(|(name, value)| vec![name.to_owned(), value]).collect();
    Ok(write!(out, "{}", table(&rows))?)
}

fn human_seconds(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min"),
        (0, ..) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

/// A dictionary of the bus as a JSON object. A type that JSON has no word for becomes null.
pub fn to_json(dictionary: &HashMap<String, OwnedVariant>) -> Value {
    let mut keys: Vec<_> = dictionary.iter().collect();
    keys.sort_by_key(|(key, _)| *key);
    let object: Map<_, _> =
        keys.into_iter().map(|(key, value)| (key.clone(), value_to_json(value))).collect();
    object.into()
}

fn value_to_json(value: &Variant<'_>) -> Value {
    match value {
        Variant::Bool(value) => (*value).into(),
        Variant::U32(value) => (*value).into(),
        Variant::U64(value) => (*value).into(),
        Variant::F64(value) => (*value).into(),
        Variant::Str(value) => value.as_str().into(),
        Variant::Array(array) => array.inner().iter().map(value_to_json).collect(),
        _ => Value::Null,
    }
}
