//! `musectl models`, `load` and `unload`.

use std::collections::HashMap;
use std::io::Write;

use serde_json::Value;
use zbus::Variant;

use super::client::{self, ObjectManagerProxy, Options};
use super::status::to_json;
use super::{Error, human_bytes, table};

const MODEL: &str = "org.museproject.Inference1.Model";

/// Every model as the properties of its object, by name.
pub async fn all(connection: &zbus::Connection) -> Result<Vec<Value>, Error> {
    let objects = ObjectManagerProxy::new(connection).await?.get_managed_objects().await?;
    let models = objects.into_values().filter_map(|mut interfaces| interfaces.remove(MODEL));
    let mut models: Vec<Value> = models.map(|properties| to_json(&snake_case(properties))).collect();
    models.sort_by_key(|model| model["name"].as_str().map(str::to_owned));
    Ok(models)
}

/// `SizeBytes` is `size_bytes` in our JSON.
fn snake_case<V>(properties: HashMap<String, V>) -> HashMap<String, V> {
    let rename = |name: String| {
        let mut snake = String::new();
        for c in name.chars() {
            if c.is_ascii_uppercase() && !snake.is_empty() {
                snake.push('_');
            }
            snake.push(c.to_ascii_lowercase());
        }
        snake
    };
    properties.into_iter().map(|(name, value)| (rename(name), value)).collect()
}

pub async fn list(session: bool, json: bool) -> Result<(), Error> {
    let models = all(&client::connect(session).await?).await?;
    let mut out = std::io::stdout();
    if json {
        return Ok(writeln!(out, "{}", Value::Array(models))?);
    }
    if models.is_empty() {
        writeln!(
            out,
            "There are no models. Make one: muse-quantize convert SOURCE -o /var/lib/muse/models/NAME.muse"
        )?;
        return Ok(());
    }
    let header =
        ["NAME", "STATE", "SIZE", "CONTEXT", "FAMILY", "LAYOUTS", "ALIASES"].map(String::from).to_vec();
    let rows: Vec<_> = [header].into_iter().chain(models.iter().map(row)).collect();
    write!(out, "{}", table(&rows))?;
    for model in &models {
        if let Some(problem) = model["problem"].as_str().filter(|text| !text.is_empty()) {
            writeln!(out, "{}: {problem}", text(model, "name"))?;
        }
    }
    Ok(())
}

fn text(model: &Value, key: &str) -> String {
    model[key].as_str().unwrap_or_default().to_owned()
}

fn row(model: &Value) -> Vec<String> {
    let damaged = !text(model, "problem").is_empty();
    let state = match model["loaded"].as_bool() {
        Some(true) => "loaded",
        _ if damaged => "unusable",
        _ => "-",
    };
    let aliases = model["aliases"].as_array().map(Vec::as_slice).unwrap_or_default();
    let aliases: Vec<_> = aliases.iter().filter_map(Value::as_str).collect();
    let number = |key: &str| model[key].as_u64().unwrap_or(0);
    let known = |value: String| if damaged { String::from("-") } else { value };
    let family = match number("embedding_width") {
        0 => text(model, "family"),
        width => format!("{}, vectors of {width}", text(model, "family")),
    };
    vec![
        text(model, "name"),
        state.into(),
        known(human_bytes(number("size_bytes"))),
        known(number("context").to_string()),
        known(family),
        known(text(model, "layouts")),
        aliases.join(", "),
    ]
}

pub async fn load(session: bool, model: &str) -> Result<(), Error> {
    Ok(client::manager(session).await?.load(model, Options::new()).await?)
}

pub async fn unload(session: bool, model: &str, force: bool) -> Result<(), Error> {
    let options = if force { Options::from([("force", Variant::from(true))]) } else { Options::new() };
    Ok(client::manager(session).await?.unload(model, options).await?)
}
