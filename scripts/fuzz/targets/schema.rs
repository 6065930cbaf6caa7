//! Any JSON schema: it is refused, or an answer of it is JSON or cut off.
#![no_main]

#[path = "shared/bytes.rs"]
mod bytes;
#[path = "shared/edit.rs"]
mod edit;

use std::sync::{LazyLock, mpsc};

use muse_runtime::{
    Event, FinishReason, GenerateOptions, Prompt, Scheduler, SchedulerOptions, SimEngine, SimOptions,
    SinkClosed,
};
use serde_json::{Value, json};

use bytes::Bytes;
use edit::edit;

/// What is changed; text that is JSON is taken as it is.
static SCHEMAS: LazyLock<[Value; 5]> = LazyLock::new(|| {
    [
        json!({"type": "object", "properties": {"a": {"type": "integer", "minimum": 1, "maximum": 90, "multipleOf": 3},
            "b": {"type": "array", "items": {"enum": ["x", 2, null]}, "minItems": 1, "maxItems": 3}},
            "required": ["b"], "additionalProperties": false}),
        json!({"$defs": {"t": {"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#/$defs/t"}}]}},
            "$ref": "#/$defs/t"}),
        json!({"type": "string", "pattern": "^(a|b[c-e]{2,5})+$", "minLength": 1, "maxLength": 9}),
        json!({"allOf": [{"type": "object"}, {"properties": {"d": {"type": "string", "format": "date-time"}}}],
            "patternProperties": {"^x": {"type": "number", "exclusiveMinimum": 0.5}}}),
        json!({"oneOf": [{"const": {"k": [1, {"l": true}]}}, {"type": ["boolean", "string"]}], "not": {"type": "null"}}),
    ]
});

fn schema(bytes: &[u8]) -> Option<Value> {
    if bytes.first() == Some(&b'{') {
        return serde_json::from_slice(bytes).ok();
    }
    let mut bytes = Bytes(bytes);
    let mut schema = SCHEMAS[usize::from(bytes.next()) % SCHEMAS.len()].clone();
    for _ in 0..6 {
        if bytes.0.is_empty() {
            break;
        }
        edit(&mut schema, &mut bytes);
    }
    Some(schema)
}

static SCHEDULER: LazyLock<Scheduler> = LazyLock::new(|| {
    // A panic of the library is an error here, which the fuzzer's own hook would not let be.
    drop(std::panic::take_hook());
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("sim", Box::new(SimEngine::new(SimOptions::default()))).unwrap();
    scheduler
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some(schema) = schema(bytes) else { return };
    let session = SCHEDULER.open_session("sim").unwrap();
    let (sender, events) = mpsc::channel();
    let sink = Box::new(move |event| sender.send(event).map_err(|_| SinkClosed));
    let options = GenerateOptions {
        max_tokens: Some(24),
        temperature: Some(1.0),
        seed: Some(7),
        json_schema: Some(schema),
        ..GenerateOptions::default()
    };
    let (mut text, mut ended) = (String::new(), false);
    if SCHEDULER.respond(session, Prompt::Text("x".into()), options, sink).is_ok() {
        for event in events {
            ended = matches!(event, Event::Done { .. } | Event::Error { .. });
            match event {
                Event::Delta { text: delta } => text.push_str(&delta),
                // A schema may come to its bounds; the model may not break.
                Event::Error { message } => assert!(!message.starts_with("the model"), "{message}"),
                Event::Done { finish_reason: FinishReason::Stop, .. } => {
                    // A number may be larger than any that the parser holds.
                    let problem = serde_json::from_str::<Value>(&text).err().map(|e| e.to_string());
                    let fine = problem.is_none_or(|problem| problem.contains("number out of range"));
                    assert!(fine, "{text:?} is not JSON");
                }
                _ => {}
            }
        }
        assert!(ended, "the scheduler died");
    }
    SCHEDULER.close_session(session);
});
