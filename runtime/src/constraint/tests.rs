use std::sync::mpsc::channel;

use proptest::prelude::{ProptestConfig, any, prop_assert, prop_assert_eq, proptest};
use serde_json::{Value, json};

use super::*;
use crate::sim::{FOREVER, SAY};
use crate::{
    Engine, Event, FinishReason, GenerateOptions, Message, Prompt, Refusal, Scheduler, SchedulerOptions,
    SimEngine, SimOptions, Speculation,
};

/// Reasoning and text of an answer to `content`, and how it ended; or why it was refused.
fn answer(
    content: &str,
    options: GenerateOptions,
) -> Result<(String, String, Result<FinishReason, String>), Refusal> {
    answer_of(true, content, options)
}

fn answer_of(
    markers: bool,
    content: &str,
    options: GenerateOptions,
) -> Result<(String, String, Result<FinishReason, String>), Refusal> {
    let scheduler = Scheduler::start(SchedulerOptions::default());
    let logit_rows = Some(16);
    let engine = SimEngine::new(SimOptions { markers, logit_rows, ..SimOptions::default() });
    scheduler.add_model("sim", Box::new(engine)).unwrap();
    let session = scheduler.open_session("sim").unwrap();
    let (sender, events) = channel();
    let sink = Box::new(move |event| sender.send(event).map_err(|_| crate::SinkClosed));
    let prompt = Prompt::Chat(vec![Message::new("user", content)]);
    scheduler.respond(session, prompt, options, sink)?;
    let (mut reasoning, mut text, mut end) = (String::new(), String::new(), Err("no end".to_owned()));
    for event in events {
        match event {
            Event::Start { .. } => {}
            Event::Reasoning { text } => reasoning.push_str(&text),
            Event::Delta { text: delta } => text.push_str(&delta),
            Event::Done { finish_reason, .. } => end = Ok(finish_reason),
            Event::Error { message } => end = Err(message),
            Event::ToolCall { .. } => panic!("{event:?}"),
        }
    }
    Ok((reasoning, text, end))
}

fn schema(schema: Value) -> GenerateOptions {
    GenerateOptions { json_schema: Some(schema), max_tokens: Some(400), ..GenerateOptions::default() }
}

fn person() -> Value {
    json!({
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 6},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["new", "old"]}, "maxItems": 2},
            "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/point"}]},
        },
        "required": ["name", "age", "next"],
        "additionalProperties": false,
        "$defs": {"point": {"type": "array", "items": {"type": "number", "minimum": 0, "maximum": 1}, "minItems": 2, "maxItems": 2}},
    })
}

/// Whether `value` is of [`person`], in words of its own.
fn is_person(value: &Value) -> bool {
    let known = ["name", "age", "tags", "next"];
    let fraction = |n: &Value| n.as_f64().is_some_and(|n| (0.0..=1.0).contains(&n));
    let numbers = |list: &Vec<Value>| list.len() == 2 && list.iter().all(fraction);
    let words = |list: &Vec<Value>| list.len() <= 2 && list.iter().all(|tag| *tag == "new" || *tag == "old");
    value.as_object().is_some_and(|fields| fields.keys().all(|key| known.contains(&key.as_str())))
        && value["name"].as_str().is_some_and(|name| name.chars().count() <= 6)
        && value["age"].as_u64().is_some_and(|age| age <= 150)
        && value.get("tags").is_none_or(|tags| tags.as_array().is_some_and(words))
        && value.get("next").is_some_and(|next| next.is_null() || next.as_array().is_some_and(numbers))
}

#[test]
fn the_answer_is_what_the_schema_allows_and_ends_with_it() {
    let cases = [
        ("one value", json!({"const": "só"}), "hi", "\"só\""),
        ("a choice", json!({"enum": ["echo", "other"]}), "hi", "\"echo\""),
        ("nothing to choose", json!({"type": "null"}), FOREVER, "null"),
        (
            "what the model would say",
            json!({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}),
            "sim:say {\"a\": 17}",
            "{\"a\": 17}",
        ),
        (
            "what it would not say",
            json!({"type": "object", "properties": {"a": {"enum": [17]}}, "required": ["a"], "additionalProperties": false}),
            "sim:say Sure! {\"a\": 17}",
            "{\"a\": 17}",
        ),
    ];
    for (name, wanted, content, expected) in cases {
        for speculation in [Speculation::Off, Speculation::Always] {
            let options = GenerateOptions { speculation, ..schema(wanted.clone()) };
            let (reasoning, text, end) = answer(content, options).unwrap();
            assert_eq!((reasoning.as_str(), text.as_str()), ("", expected), "{name}");
            assert_eq!(end, Ok(FinishReason::Stop), "{name}");
        }
    }
}

#[test]
fn reasoning_is_free_and_what_follows_is_json() {
    let wanted = || schema(json!({"enum": ["yes", "no"]}));
    for (script, reasoning) in [
        ("<think>\nHm: {\n</think>\n\n\"no\"", "Hm: {"),
        ("<think>so</think>no idea", "so"),
        ("no idea <think>so</think>", ""),
        ("<think>a</think><think>b</think>\"no\"", "a"),
    ] {
        let (thought, text, end) = answer(&format!("{SAY}{script}"), wanted()).unwrap();
        assert_eq!((thought.as_str(), &end), (reasoning, &Ok(FinishReason::Stop)), "{script}");
        assert!(["\"yes\"", "\"no\""].contains(&text.as_str()), "{script}: {text}");
    }
    let (_, text, end) = answer(&format!("{SAY}<think>so"), wanted()).unwrap();
    assert_eq!(text, "");
    assert!(end.unwrap_err().contains("before the JSON"));
}

#[test]
fn a_stop_text_and_the_length_limit_end_it_as_ever() {
    let long = json!({"type": "string", "minLength": 50});
    let options = GenerateOptions { max_tokens: Some(10), ..schema(long.clone()) };
    let (_, text, end) = answer("hi", options).unwrap();
    assert_eq!((text.len(), end), (10, Ok(FinishReason::Length)));
    let options = GenerateOptions { stop: vec!["ab".into()], ..schema(json!({"const": "xxabxx"})) };
    assert_eq!(answer("hi", options).unwrap().1, "\"xx");
}

#[test]
fn a_schema_that_cannot_be_kept_is_refused() {
    let deep = (0..60).fold(json!({}), |inner, _| json!({"type": "array", "items": inner, "minItems": 1}));
    let cases = [
        ("text", json!("object"), "not a JSON object"),
        ("true", json!(true), "not a JSON object"),
        ("an unknown type", json!({"type": "date"}), ""),
        ("no such definition", json!({"$ref": "#/$defs/none"}), ""),
        ("from the network", json!({"$ref": "http://localhost/schema"}), ""),
        ("what is not known here", json!({"not": {"type": "string"}}), ""),
        ("nothing fits", json!({"type": "integer", "minimum": 5, "maximum": 3}), ""),
        ("a bad pattern", json!({"type": "string", "pattern": "("}), ""),
    ];
    for (name, wanted, words) in cases {
        match answer("hi", schema(wanted)) {
            Err(Refusal::Text(TextError::Schema(problem))) => {
                assert!(problem.contains(words) && !problem.contains("backtrace"), "{name}: {problem}");
            }
            other => panic!("{name}: {other:?}"),
        }
    }
    assert!(answer("hi", schema(deep)).is_ok(), "depth alone is no harm");
    let ways: Vec<_> = (0..3000).map(|n| json!({"required": [format!("p{n}")], "type": "object"})).collect();
    let (_, _, end) = answer("hi", schema(json!({"anyOf": ways}))).unwrap();
    assert!(end.unwrap_err().contains("max is 2000"), "a step is bounded");
    let mut both = schema(json!({}));
    both.chat.tools = Some(json!([]));
    assert!(matches!(answer("hi", both), Err(Refusal::Option { name: "json_schema", .. })));
}

#[test]
fn the_layout_is_not_the_callers_to_change() {
    let wanted = json!({"type": "array", "items": {"const": 1}, "minItems": 2, "maxItems": 2,
                        "x-guidance": {"whitespace_flexible": true, "item_separator": ";"}});
    assert_eq!(answer("sim:say [1;1]", schema(wanted)).unwrap().1, "[1, 1]");
}

#[test]
fn a_model_without_text_has_no_grammars() {
    struct Silent;
    impl Text for Silent {
        fn encode(&self, _: &str) -> Result<Vec<u32>, TextError> {
            Ok(Vec::new())
        }
        fn encode_chat(&self, _: &[Message], _: &crate::ChatOptions) -> Result<Vec<u32>, TextError> {
            Ok(Vec::new())
        }
        fn decoder(&self, _: bool) -> Box<dyn crate::TextDecoder> {
            unreachable!("nothing is decoded")
        }
    }
    let engine = SimEngine::new(SimOptions::default());
    assert!(matches!(Grammars::new(engine.info(), &Silent), Err(TextError::Schema(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever is drawn, even at random, is JSON of the schema.
    #[test]
    fn drawn_at_random_it_is_of_the_schema(seed in any::<u64>(), echo in "[a-z{}\":,0-9]{0,20}") {
        let options = GenerateOptions { seed: Some(seed), temperature: Some(20.0), ..schema(person()) };
        let (_, text, end) = answer_of(false, &echo, options).unwrap();
        match end {
            Ok(FinishReason::Stop) => {
                let value: Result<Value, _> = serde_json::from_str(&text);
                prop_assert!(value.as_ref().is_ok_and(is_person), "{text}");
            }
            // A number may have any number of digits.
            end => prop_assert_eq!(end, Ok(FinishReason::Length)),
        }
    }
}
