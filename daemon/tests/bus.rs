//! The daemon over a socketpair, with simulated engines: no bus, no model, no board.

mod common;

use std::sync::Arc;

use common::{Options, Simulated, daemon, daemon_with, message, refusal, until, user};
use muse_runtime::sim::{FAIL, FAIL_FOR_GOOD, FOREVER, PANIC, SAY};
use tokio::task::JoinHandle;
use zbus::Variant;

#[tokio::test]
async fn an_answer_is_start_then_text_then_done() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let mut stream = session.respond("grüße 🚀").await;
    let start = stream.next().await.unwrap();
    assert_eq!(start["event"], "start");
    assert!(start["prompt_tokens"].as_u64().unwrap() > 8);
    let (text, done) = stream.finish().await;
    assert_eq!(text, "echo: grüße 🚀");
    assert_eq!(done["event"], "done");
    assert_eq!(done["finish_reason"], "stop");
    assert_eq!(done["usage"]["prompt_tokens"], start["prompt_tokens"]);
    assert!(done["usage"]["completion_tokens"].as_u64().unwrap() >= "echo: grüße 🚀".len() as u64);
    let timing = &done["timing"];
    let times = ["queued_ms", "first_token_ms", "total_ms"].map(|name| timing[name].as_f64().unwrap());
    assert!(times.is_sorted() && times[0] >= 0.0, "{timing}");
}

#[tokio::test]
async fn the_second_turn_reuses_the_first() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let (answer, _) = session.respond("one").await.finish().await;
    let conversation = [message("user", "one"), message("assistant", &answer), message("user", "two")];
    let (text, done) = session.try_respond(&conversation, Options::new()).await.unwrap().finish().await;
    assert_eq!(text, "echo: two");
    assert!(done["usage"]["cached_tokens"].as_u64().unwrap() > 0, "{done}");
}

#[tokio::test]
async fn options_reach_the_sampler() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let options = Options::from([("max_tokens", Variant::from(3u32))]);
    let (text, done) = session.try_respond(&user("hello"), options).await.unwrap().finish().await;
    assert_eq!((text.as_str(), done["finish_reason"].as_str()), ("ech", Some("length")));
    let options = Options::from([("stop", Variant::from(vec!["lo".to_owned()]))]);
    let (text, done) = session.try_respond(&user("hello"), options).await.unwrap().finish().await;
    assert_eq!((text.as_str(), done["finish_reason"].as_str()), ("echo: hel", Some("stop")));
}

/// One model whose answers may hold reasoning and tool calls.
async fn daemon_with_markers() -> common::Daemon {
    let mut source = Simulated::new(&[("sim", 0)]);
    Arc::get_mut(&mut source).unwrap().options.markers = true;
    daemon_with("", source, None).await
}

const TOOLS: &str = r#"[{"type": "function", "function": {"name": "get_weather", "description": "Now",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
    "required": ["city"]}}}]"#;

/// Each kind of frame in the order of their coming, texts of one kind as one, and the last frame.
async fn frames(mut stream: common::Stream) -> (Vec<serde_json::Value>, serde_json::Value) {
    let mut frames: Vec<serde_json::Value> = Vec::new();
    loop {
        let frame = stream.next().await.expect("a last frame");
        match frame["event"].as_str().unwrap() {
            "start" => {}
            "done" | "error" => return (frames, frame),
            "delta" | "reasoning" if frames.last().is_some_and(|last| last["event"] == frame["event"]) => {
                let last = frames.last_mut().unwrap();
                last["text"] =
                    format!("{}{}", last["text"].as_str().unwrap(), frame["text"].as_str().unwrap()).into();
            }
            _ => frames.push(frame),
        }
    }
}

#[tokio::test]
async fn reasoning_text_and_tool_calls_are_frames_of_their_own() {
    let daemon = daemon_with_markers().await;
    let session = daemon.open().await;
    let script = "<think>\nRain?\n</think>\n\nI look. <tool_call>\n{\"name\": \"get_weather\", \
                  \"arguments\": {\"city\": \"Zürich\", \"days\": \"2\"}}\n</tool_call>";
    let asked = user(&format!("{SAY}{script}"));
    let options = || Options::from([("tools", Variant::from(TOOLS))]);
    let (frames, done) = frames(session.try_respond(&asked, options()).await.unwrap()).await;
    let id = frames[2]["id"].as_str().unwrap().to_owned();
    let expected = serde_json::json!([
        {"event": "reasoning", "text": "Rain?"},
        {"event": "delta", "text": "I look."},
        {"event": "tool_call", "id": id, "name": "get_weather", "arguments": {"city": "Zürich", "days": 2}},
    ]);
    assert_eq!(serde_json::Value::from(frames.clone()), expected);
    assert_eq!(done["finish_reason"], "tool_call");

    // The result goes back, and the answer is about it.
    let mut said = message("assistant", "I look.");
    said.insert("reasoning", Variant::from("Rain?"));
    said.insert("tool_calls", Variant::from(serde_json::json!([frames[2]]).to_string()));
    let mut result = message("tool", "sunny");
    result.insert("tool_call_id", Variant::from(id.clone()));
    result.insert("name", Variant::from("get_weather"));
    let conversation = [asked[0].clone(), said, result];
    let (text, done) = session.try_respond(&conversation, options()).await.unwrap().finish().await;
    assert_eq!(text, format!("echo: get_weather: {id}: sunny"));
    assert_eq!(done["finish_reason"], "stop");
    assert!(done["usage"]["cached_tokens"].as_u64().unwrap() > 0, "{done}");
}

#[tokio::test]
async fn an_answer_of_a_schema_is_json_of_it() {
    let daemon = daemon_with_markers().await;
    let session = daemon.open().await;
    let schema = r#"{"type": "object", "properties": {"rain": {"type": "boolean"}}, "required": ["rain"], "additionalProperties": false}"#;
    let options = || Options::from([("json_schema", Variant::from(schema))]);
    for (script, expected) in [
        ("<think>wet</think>{\"rain\": true}", "{\"rain\": true}"),
        ("<think>wet</think>It rains.", "{\"rain\": false}"),
    ] {
        let stream = session.try_respond(&user(&format!("{SAY}{script}")), options()).await.unwrap();
        let (frames, done) = frames(stream).await;
        let wanted = serde_json::json!([
            {"event": "reasoning", "text": "wet"},
            {"event": "delta", "text": expected},
        ]);
        assert_eq!((serde_json::Value::from(frames), &done["finish_reason"]), (wanted, &"stop".into()));
    }
}

#[tokio::test]
async fn what_is_no_call_is_text() {
    let daemon = daemon_with_markers().await;
    let session = daemon.open().await;
    let cases = [
        ("not declared", r#"<tool_call>{"name": "rm", "arguments": {}}</tool_call>"#, None, "stop"),
        (
            "cut off",
            r#"<tool_call>{"name": "get_weather", "arguments": {"city": "Z"}}</tool_call>"#,
            Some(50),
            "length",
        ),
        (
            "a wrong type",
            r#"<tool_call>{"name": "get_weather", "arguments": {"city": 5}}</tool_call>"#,
            None,
            "stop",
        ),
        ("broken", r#"<tool_call>{"name": "get_weather", "argum</tool_call>"#, None, "stop"),
    ];
    for (case, script, max_tokens, reason) in cases {
        let mut options = Options::from([("tools", Variant::from(TOOLS))]);
        options.extend(max_tokens.map(|n: u32| ("max_tokens", Variant::from(n))));
        let stream = session.try_respond(&user(&format!("{SAY}{script}")), options).await.unwrap();
        let (frames, done) = frames(stream).await;
        let body = script.trim_start_matches("<tool_call>").trim_end_matches("</tool_call>");
        let body = max_tokens.map_or(body, |n| &body[..n as usize - 1]);
        let text = serde_json::json!([{"event": "delta", "text": body}]);
        assert_eq!(
            (serde_json::Value::from(frames), &done["finish_reason"]),
            (text, &reason.into()),
            "{case}"
        );
    }
}

#[tokio::test]
async fn generate_tells_reasoning_and_calls() {
    let daemon = daemon_with_markers().await;
    let script = "<think>so</think>Yes<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"city\": \"a\"}}</tool_call>";
    let options = Options::from([("tools", Variant::from(TOOLS))]);
    let reply = daemon.caller().manager("Generate", &(format!("{SAY}{script}"), options)).await.unwrap();
    let body = reply.body();
    let (text, info): (String, std::collections::HashMap<String, zbus::OwnedVariant>) =
        body.deserialize().unwrap();
    assert_eq!((text.as_str(), &*info["reasoning"]), ("Yes", &Variant::from("so")));
    assert_eq!(*info["finish_reason"], Variant::from("tool_call"));
    let Variant::Str(calls) = &*info["tool_calls"] else { panic!("{info:?}") };
    let calls: serde_json::Value = serde_json::from_str(calls).unwrap();
    assert_eq!((&calls[0]["name"], &calls[0]["arguments"]["city"]), (&"get_weather".into(), &"a".into()));
}

#[tokio::test]
async fn cancel_ends_the_answer_and_keeps_the_session() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    session.call("Cancel", &()).await.expect("cancelling nothing is success");
    let mut stream = session.respond(FOREVER).await;
    stream.first_delta().await;
    let busy = session.try_respond(&user("again"), Options::new()).await.map(|_| ()).unwrap_err();
    assert_eq!(refusal(&busy).0, "Busy");
    session.call("Cancel", &()).await.unwrap();
    let (_, done) = stream.finish().await;
    assert_eq!(done["finish_reason"], "cancelled");
    assert_eq!(session.respond("still here").await.finish().await.0, "echo: still here");
}

/// A Respond on its way.
fn asked(session: &Arc<common::Client>, content: &'static str) -> JoinHandle<zbus::Result<common::Stream>> {
    let session = session.clone();
    tokio::spawn(async move { session.try_respond(&user(content), Options::new()).await })
}

#[tokio::test]
async fn a_text_that_takes_long_to_be_read_keeps_nobody() {
    let daemon = daemon_with("", Simulated::new(&[("sim", 0), ("gated", 0)]), None).await;
    let caller = daemon.caller();
    let mut sessions = Vec::new();
    for _ in 0..3 {
        sessions.push(Arc::new(caller.open("gated").await.unwrap()));
    }
    let other = daemon.open().await;
    let shut = daemon.source.gate.shut();
    let mut calls = Vec::new();
    for (before, session) in sessions.iter().enumerate() {
        calls.push(asked(session, "hi"));
        // Two of a model's texts are read at once, and the third waits for them.
        let reads = (before + 1).min(2);
        let is_asked = || daemon.service.session(before as u64 + 1).unwrap().ask().is_err();
        until(|| is_asked() && daemon.source.gate.texts() == reads).await;
    }
    assert_eq!(other.respond("hi").await.finish().await.0, "echo: hi", "another model's text is read");
    for (session, method) in sessions.iter().zip(["Cancel", "Close", "Close"]) {
        session.call(method, &()).await.unwrap();
    }
    let mut ended = Vec::new();
    for call in calls {
        ended.push(refusal(&call.await.unwrap().map(drop).unwrap_err()).0);
    }
    assert_eq!(ended, ["Cancelled", "SessionClosed", "SessionClosed"]);
    assert_eq!(daemon.source.gate.texts(), 2, "nobody waited for a text, and the third is not read");
    drop(shut);
    // What was read behind the caller's back answers nobody, and the session goes on.
    assert_eq!(sessions[0].respond("now").await.finish().await.0, "echo: now");
}

#[tokio::test]
async fn a_session_keeps_what_it_has_read_when_the_next_text_is_given_up() {
    let daemon = daemon_with("", Simulated::new(&[("gated", 0)]), None).await;
    let session = Arc::new(daemon.caller().open("gated").await.unwrap());
    let (answer, _) = session.respond("one").await.finish().await;
    let shut = daemon.source.gate.shut();
    let call = asked(&session, "two");
    until(|| daemon.source.gate.texts() == 1).await;
    session.call("Cancel", &()).await.unwrap();
    assert_eq!(refusal(&call.await.unwrap().map(drop).unwrap_err()).0, "Cancelled");
    drop(shut);
    // The thread has come to the end of what nobody waits for.
    let readers = daemon.service.models.lease("gated", None).await.unwrap().readers.texts.clone();
    until(|| readers.available_permits() == 2).await;
    let conversation = [message("user", "one"), message("assistant", &answer), message("user", "three")];
    let (text, done) = session.try_respond(&conversation, Options::new()).await.unwrap().finish().await;
    assert_eq!(text, "echo: three");
    assert!(done["usage"]["cached_tokens"].as_u64().unwrap() > 0, "{done}");
}

#[tokio::test]
async fn who_is_answered_is_busy_at_once_while_others_texts_are_read() {
    let daemon = daemon_with("", Simulated::new(&[("gated", 0)]), None).await;
    let open = async || Arc::new(daemon.caller().open("gated").await.unwrap());
    let (session, others) = (open().await, [open().await, open().await]);
    let mut stream = session.respond(FOREVER).await;
    stream.first_delta().await;
    let _shut = daemon.source.gate.shut();
    let _calls = others.each_ref().map(|other| asked(other, "hi"));
    until(|| daemon.source.gate.texts() == 2).await;
    let busy = session.try_respond(&user("again"), Options::new()).await.map(drop).unwrap_err();
    assert_eq!(refusal(&busy).0, "Busy");
    // Its stream is still its own to hang up.
    drop(stream);
    daemon.until(|status| status.running + status.waiting == 0).await;
}

#[tokio::test]
async fn close_ends_the_answer_and_removes_the_object() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let mut stream = session.respond(FOREVER).await;
    stream.first_delta().await;
    session.call("Close", &()).await.unwrap();
    assert_eq!(stream.finish().await.1["finish_reason"], "cancelled");
    let gone = session.call("Cancel", &()).await.unwrap_err();
    assert_eq!(refusal(&gone).0, "org.freedesktop.DBus.Error.UnknownObject");
    assert_eq!(daemon.service.status().sessions, 0);
}

#[tokio::test]
async fn closing_the_stream_cancels_its_answer() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let mut stream = session.respond(FOREVER).await;
    stream.first_delta().await;
    drop(stream);
    daemon.until(|status| status.running + status.waiting == 0).await;
    assert_eq!(session.respond("next").await.finish().await.0, "echo: next");
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_sessions_along() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let mut stream = session.respond(FOREVER).await;
    stream.first_delta().await;
    assert_eq!(daemon.service.status().sessions, 1);
    let service = daemon.service.clone();
    drop(session);
    daemon.client.close().await.unwrap();
    common::until(|| {
        service.status().sessions == 0 && service.status().running + service.status().waiting == 0
    })
    .await;
    assert_eq!(stream.finish().await.1["finish_reason"], "cancelled");
}

#[tokio::test]
async fn two_sessions_are_served_in_turn() {
    let daemon = daemon().await;
    let (one, two) = (daemon.open().await, daemon.open().await);
    assert_ne!(one.path, two.path);
    let (mut first, mut second) = (one.respond(FOREVER).await, two.respond(FOREVER).await);
    // Neither ends by itself: if one had to wait for the other, its deltas would never come.
    for _ in 0..100 {
        first.first_delta().await;
        second.first_delta().await;
    }
    one.call("Cancel", &()).await.unwrap();
    assert_eq!(first.finish().await.1["finish_reason"], "cancelled");
    for _ in 0..100 {
        second.first_delta().await;
    }
}

#[tokio::test]
async fn a_slow_reader_loses_its_answer_and_nobody_waits_for_it() {
    let daemon = daemon_with("[limits]\nstream_frames = 16", Simulated::new(&[("sim", 0)]), None).await;
    let (slow, quick) = (daemon.open().await, daemon.open().await);
    let mut unread = slow.respond(FOREVER).await;
    daemon.until(|status| status.running + status.waiting == 0).await;
    assert_eq!(quick.respond("hi").await.finish().await.0, "echo: hi");
    let (text, error) = unread.finish().await;
    assert!(text.starts_with("echo: "), "what was sent is there");
    assert_eq!(error["event"], "error");
    assert_eq!(error["name"], "org.museproject.Inference1.Error.SlowReader");
    assert!(error["message"].as_str().unwrap().contains("16 frames"), "{error}");
}

#[tokio::test]
async fn a_reader_that_takes_nothing_is_let_go() {
    let text = "[limits]\nstream_frames = 1000\nstream_stall_seconds = 1";
    let daemon = daemon_with(text, Simulated::new(&[("sim", 0)]), None).await;
    let session = daemon.open().await;
    let mut unread = session.respond(FOREVER).await;
    daemon.until(|status| status.running + status.waiting == 0).await;
    daemon.until(|status| status.streams == 0).await;
    let mut last = None;
    while let Some(frame) = unread.next().await {
        last = Some(frame);
    }
    assert_eq!(last.unwrap()["event"], "delta", "the file ends without a last frame");
}

#[tokio::test]
async fn a_failing_engine_ends_its_answer_only() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    for bad in [FAIL, FAIL_FOR_GOOD, PANIC] {
        let (_, error) = session.respond(bad).await.finish().await;
        assert_eq!(error["event"], "error", "{bad}");
        assert_eq!(error["name"], "org.museproject.Inference1.Error.Failed", "{bad}");
    }
    let other = daemon.open().await;
    assert_eq!(other.respond("alive").await.finish().await.0, "echo: alive");
}

#[tokio::test]
async fn stopping_ends_every_stream_with_a_last_frame() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let mut stream = session.respond(FOREVER).await;
    stream.first_delta().await;
    let service = daemon.service.clone();
    let (frame, ()) = tokio::join!(stream.finish(), service.stop(common::HANGS));
    assert_eq!(frame.1["event"], "error");
    let late = daemon.caller().open("sim").await.map(|_| ()).unwrap_err();
    assert_eq!(refusal(&late).0, "ShuttingDown");
}

#[tokio::test]
async fn generate_answers_in_one_call() {
    let daemon = daemon().await;
    let options =
        Options::from([("system", Variant::from("be brief")), ("max_tokens", Variant::from(100u32))]);
    let reply = daemon.caller().manager("Generate", &("hi", options)).await.unwrap();
    let body = reply.body();
    let (text, info): (String, std::collections::HashMap<String, zbus::OwnedVariant>) =
        body.deserialize().unwrap();
    assert_eq!(text, "echo: hi");
    assert_eq!(*info["finish_reason"], Variant::from("stop"));
    assert_eq!(*info["model"], Variant::from("sim"));
    let raw = Options::from([("raw", Variant::from(true)), ("max_tokens", Variant::from(5u32))]);
    let reply = daemon.caller().manager("Generate", &("ab", raw)).await.unwrap();
    let body = reply.body();
    let (text, _): (String, std::collections::HashMap<String, zbus::OwnedVariant>) =
        body.deserialize().unwrap();
    assert_eq!(text, "cdefg");
    assert_eq!(daemon.service.status().sessions, 0, "nothing stays open");
}

#[tokio::test]
async fn a_client_that_leaves_ends_its_generate() {
    let daemon = daemon().await;
    let caller = daemon.caller();
    let call =
        tokio::spawn(async move { caller.manager("Generate", &(FOREVER, Options::new())).await.map(|_| ()) });
    daemon.until(|status| status.running == 1).await;
    daemon.client.clone().close().await.unwrap();
    daemon.until(|status| status.running + status.waiting == 0 && status.sessions == 0).await;
    assert!(call.await.unwrap().is_err());
}
