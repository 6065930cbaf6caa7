//! What clients do wrong, and what they are told. The daemon lives on, and nothing is left open.

mod common;

use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use common::{Client, Options, Simulated, daemon, daemon_with, message, refusal, until, user};
use muse_daemon::service::FileRoom;
use zbus::{Fd, Variant};

/// One wrong call: its name, its messages, its options, the error's name, and words that its text has.
type Case = (&'static str, Vec<Options>, Options, &'static str, &'static [&'static str]);

fn option(name: &'static str, value: impl Into<Variant<'static>>) -> Options {
    Options::from([(name, value.into())])
}

fn with(name: &'static str, value: impl Into<Variant<'static>>) -> Vec<Options> {
    let mut message = message("user", "hi");
    message.insert(name, value.into());
    vec![message]
}

/// Files that have no name any more, their offset at the end.
fn images(contents: &[&[u8]]) -> Vec<Fd<'static>> {
    let file = |content: &&[u8]| {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(content).unwrap();
        Fd::from(OwnedFd::from(file))
    };
    contents.iter().map(file).collect()
}

fn videos(content: &[u8], sizes: &[u64], rate: f64) -> Vec<Options> {
    let file = images(&[content]).remove(0);
    with("videos", vec![(file, sizes.to_vec(), rate)])
}

fn sockets() -> Vec<Fd<'static>> {
    let (one, _) = UnixStream::pair().unwrap();
    vec![Fd::from(OwnedFd::from(one))]
}

fn system_images() -> Vec<Options> {
    let mut message = message("system", "hi");
    message.insert("images", images(&[b"x"]).into());
    vec![message]
}

fn both() -> Options {
    Options::from([("json_schema", Variant::from("{}")), ("tools", Variant::from("[]"))])
}

fn calls(json: &str) -> Vec<Options> {
    let mut message = message("assistant", "");
    message.insert("tool_calls", json.to_owned().into());
    vec![message]
}

fn cases() -> Vec<Case> {
    let none = Options::new;
    let hi = || user("hi");
    let without = |key| {
        let mut message = message("user", "hi");
        message.remove(key);
        vec![message]
    };
    vec![
        ("unknown option", hi(), option("max_token", 1u32), "UnknownOption", &["max_token\"", "max_tokens"]),
        (
            "signed number",
            hi(),
            option("max_tokens", 1i32),
            "InvalidOption",
            &["max_tokens", "type i", "u ("],
        ),
        (
            "text for a number",
            hi(),
            option("temperature", "hot"),
            "InvalidOption",
            &["temperature", "type s", "d ("],
        ),
        ("no tokens", hi(), option("max_tokens", 0u32), "InvalidOption", &["max_tokens", "at least 1"]),
        ("negative", hi(), option("temperature", -1.0f64), "InvalidOption", &["temperature", "-1"]),
        ("not a number", hi(), option("temperature", f64::NAN), "InvalidOption", &["temperature", "NaN"]),
        ("above one", hi(), option("top_p", 1.5f64), "InvalidOption", &["top_p", "1.5"]),
        ("empty stop", hi(), option("stop", vec![String::new()]), "InvalidOption", &["stop", "0 bytes"]),
        (
            "mode",
            hi(),
            option("mode", "fast"),
            "InvalidOption",
            &["\"fast\"", "instant, thinking, contemplating"],
        ),
        (
            "priority",
            hi(),
            option("priority", "high"),
            "InvalidOption",
            &["\"high\"", "interactive, background"],
        ),
        ("tools text", hi(), option("tools", "{"), "InvalidOption", &["tools", "not JSON", "line 1"]),
        ("tools object", hi(), option("tools", "{}"), "InvalidOption", &["tools", "array"]),
        ("schema text", hi(), option("json_schema", "{"), "InvalidOption", &["json_schema", "not JSON"]),
        ("schema list", hi(), option("json_schema", "[]"), "InvalidOption", &["schema", "not a JSON object"]),
        (
            "schema type",
            hi(),
            option("json_schema", r#"{"type": "date"}"#),
            "InvalidOption",
            &["schema", "date"],
        ),
        ("schema and tools", hi(), both(), "InvalidOption", &["json_schema", "tools", "one of them"]),
        ("images", with("images", Vec::<u32>::new()), none(), "InvalidMessage", &["message 0", "au", "ah"]),
        ("a model for text", with("images", images(&[b"x"])), none(), "Unsupported", &["no images"]),
        ("a socket", with("images", sockets()), none(), "InvalidMessage", &["image 0", "not a file"]),
        (
            "sounds",
            with("audio", Vec::<u32>::new()),
            none(),
            "InvalidMessage",
            &["message 0", "audio", "au", "ah"],
        ),
        ("a deaf model", with("audio", images(&[b"x"])), none(), "Unsupported", &["no sounds"]),
        ("no sound", with("audio", sockets()), none(), "InvalidMessage", &["sound 0", "not a file"]),
        ("images of a system", system_images(), none(), "InvalidMessage", &["images", "role user"]),
        (
            "too many bytes",
            with("images", images(&[&[0; 700 << 10], &[0; 700 << 10]])),
            none(),
            "LimitExceeded",
            &["bytes of images", "1048576"],
        ),
        (
            "videos",
            with("videos", images(&[b"x"])),
            none(),
            "InvalidMessage",
            &["message 0", "ah", "a(hatd)"],
        ),
        ("a model without videos", videos(b"xy", &[1, 1], 2.0), none(), "Unsupported", &["no videos"]),
        (
            "bytes of frames",
            videos(b"xy", &[1, 2], 2.0),
            none(),
            "InvalidMessage",
            &["video 0", "3 bytes", "2"],
        ),
        ("no frames", videos(b"", &[], 2.0), none(), "InvalidMessage", &["video 0", "0 frames", "65536"]),
        (
            "no rate",
            videos(b"xy", &[2], 0.0),
            none(),
            "InvalidMessage",
            &["video 0", "0 frames a second", "1000"],
        ),
        (
            "a long video",
            videos(&[0; 1100 << 10], &[1100 << 10], 2.0),
            none(),
            "LimitExceeded",
            &["bytes of images, sounds and videos", "1048576"],
        ),
        (
            "unknown key",
            with("nickname", "bob"),
            none(),
            "InvalidMessage",
            &["message 0", "\"nickname\"", "role, content"],
        ),
        (
            "calls of a user",
            with("tool_calls", "[]"),
            none(),
            "InvalidMessage",
            &["tool_calls", "role user", "assistant"],
        ),
        ("a user's name", with("name", "bob"), none(), "InvalidMessage", &["name", "role user", "tool"]),
        (
            "thoughts of a user",
            with("reasoning", "hm"),
            none(),
            "InvalidMessage",
            &["reasoning", "assistant"],
        ),
        (
            "calls that are text",
            calls("hi"),
            none(),
            "InvalidMessage",
            &["message 0", "tool_calls", "line 1"],
        ),
        (
            "calls without a name",
            calls(r#"[{"id": "1"}]"#),
            none(),
            "InvalidMessage",
            &["tool_calls", "`name`"],
        ),
        (
            "calls with text",
            calls(r#"[{"id": "1", "name": "f", "arguments": "{}"}]"#),
            none(),
            "InvalidMessage",
            &["map"],
        ),
        (
            "long calls",
            calls(&format!(r#"[{{"id": "1", "name": "{}"}}]"#, "x".repeat(2049))),
            none(),
            "LimitExceeded",
            &["2048 at most"],
        ),
        ("no role", without("role"), none(), "InvalidMessage", &["message 0 has no role"]),
        ("no content", without("content"), none(), "InvalidMessage", &["message 0 has no content"]),
        ("role", vec![message("robot", "x")], none(), "InvalidMessage", &["\"robot\"", "assistant"]),
        ("content type", with("content", 7u32), none(), "InvalidMessage", &["content of D-Bus type u"]),
        ("no messages", vec![], none(), "EmptyPrompt", &["empty"]),
        (
            "many messages",
            vec![message("user", "x"); 9],
            none(),
            "LimitExceeded",
            &["9 messages", "8 at most"],
        ),
        ("much text", user(&"x".repeat(2049)), none(), "LimitExceeded", &["2049 bytes", "2048 at most"]),
        ("long prompt", user(&"x".repeat(600)), none(), "PromptTooLong", &["tokens", "511"]),
    ]
}

async fn refused(session: &Client, messages: &[Options], options: Options) -> (String, String) {
    let error = session.try_respond(messages, options).await.map(|_| ()).expect_err("it is refused");
    refusal(&error)
}

#[tokio::test]
async fn every_mistake_has_a_name_and_says_what_is_right() {
    let mut source = Simulated::new(&[("sim", 0), ("damaged", 0)]);
    std::sync::Arc::get_mut(&mut source).unwrap().options.context = 512;
    let text = "[limits]\nmessages = 8\ntext_kib = 2\nimages_mib = 1\nsessions_per_client = 2";
    let daemon = daemon_with(text, source, None).await;
    let session = daemon.caller().open("sim").await.unwrap();
    let mut wrong = Vec::new();
    for (case, messages, options, name, words) in cases() {
        let (found, text) = refused(&session, &messages, options).await;
        if found != name || !words.iter().all(|word| text.contains(word)) {
            wrong.push(format!("{case}: {found}: {text}; expected {name} with {words:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(session.respond("well").await.finish().await.0, "echo: well", "the session is as it was");
}

#[tokio::test]
async fn the_manager_names_its_errors_too() {
    let source = Simulated::new(&[("sim", 0), ("damaged", 0)]);
    let daemon = daemon_with("[limits]\nsessions_per_client = 2", source, None).await;
    let caller = daemon.caller();
    let none = Options::new;
    type Case<'a> = (&'a str, &'a str, &'a str, Options, &'a str, &'a [&'a str]);
    let cases: [Case<'_>; 8] = [
        ("unknown model", "CreateSession", "nope", none(), "UnknownModel", &["\"nope\"", "damaged, sim"]),
        ("no default", "CreateSession", "", none(), "UnknownModel", &["default_model", "damaged, sim"]),
        ("a path", "CreateSession", "../../etc/passwd", none(), "UnknownModel", &["passwd"]),
        ("an option", "CreateSession", "sim", option("x", 1u32), "UnknownOption", &["\"x\"", "has none"]),
        ("damaged", "Load", "damaged", none(), "LoadFailed", &["damaged", "its header"]),
        ("unload option", "Unload", "sim", option("forced", true), "UnknownOption", &["force"]),
        (
            "generate option",
            "Generate",
            "hi",
            option("tokens", 1u32),
            "UnknownOption",
            &["tokens", "max_tokens"],
        ),
        ("generate model", "Generate", "hi", option("model", "nope"), "UnknownModel", &["nope"]),
    ];
    for (case, method, argument, options, name, words) in cases {
        let error = caller.manager(method, &(argument, options)).await.expect_err(case);
        let (found, text) = refusal(&error);
        assert_eq!(found, name, "{case}: {text}");
        assert!(words.iter().all(|word| text.contains(word)), "{case}: {text}");
    }
    let open = [caller.open("sim").await.unwrap(), caller.open("sim").await.unwrap()];
    let third = caller.open("sim").await.map(|_| ()).unwrap_err();
    assert_eq!(refusal(&third).0, "LimitExceeded");
    assert!(refusal(&third).1.starts_with("2 sessions"), "{}", refusal(&third).1);
    open[0].call("Close", &()).await.unwrap();
    caller.open("sim").await.expect("closing made room");
}

#[tokio::test]
async fn a_message_of_too_many_parts_is_refused_as_it_is_read() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let (name, text) = refused(&session, &vec![Options::new(); (1 << 19) + 1], Options::new()).await;
    assert_eq!(name, "org.freedesktop.DBus.Error.InvalidArgs");
    assert!(text.contains("more than 524288 dictionaries"), "{text}");
    assert_eq!(session.respond("well").await.finish().await.0, "echo: well");
}

#[tokio::test]
async fn one_user_leaves_room_for_others() {
    let daemon =
        daemon_with("[limits]\nsessions = 4\nsessions_per_user = 2", Simulated::new(&[("sim", 0)]), None)
            .await;
    let open = async |client: &str, user| daemon.service.open(Some(client.into()), Some(user), "sim").await;
    let first = open(":1.1", 1000).await.unwrap();
    open(":1.2", 1000).await.unwrap();
    let third = open(":1.3", 1000).await.map(|_| ()).unwrap_err();
    assert!(third.to_string().starts_with("2 sessions of this user"), "{third}");
    open(":1.4", 1001).await.expect("another user has room");
    daemon.service.close(&first).await;
    open(":1.3", 1000).await.expect("closing made room");
}

#[tokio::test]
async fn a_full_queue_is_an_error() {
    let mut source = Simulated::new(&[("sim", 0)]);
    std::sync::Arc::get_mut(&mut source).unwrap().options.slots = 1;
    let daemon = daemon_with("[limits]\nqueue = 1", source, None).await;
    let sessions = [daemon.open().await, daemon.open().await, daemon.open().await];
    let mut running = sessions[0].respond(muse_runtime::sim::FOREVER).await;
    running.first_delta().await;
    let _waiting = sessions[1].respond("wait").await;
    let (name, text) = refused(&sessions[2], &user("no room"), Options::new()).await;
    assert_eq!(name, "QueueFull");
    assert!(text.starts_with("1 requests are waiting"), "{text}");
}

#[tokio::test]
async fn a_session_reads_one_request_at_a_time() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let asking = daemon.service.session(1).unwrap();
    let held = asking.ask().unwrap();
    // Many calls may come at once, each with files: none but the first is read.
    for messages in [user("hi"), with("images", images(&[b"x"]))] {
        assert_eq!(refused(&session, &messages, Options::new()).await.0, "Busy");
    }
    drop(held);
    assert_eq!(session.respond("hi").await.finish().await.0, "echo: hi");
}

/// All the room that there is for files, held by two other models than `sim`.
async fn all_room(daemon: &common::Daemon) -> Vec<FileRoom> {
    let mut room = Vec::new();
    for model in ["one", "two"] {
        let session = daemon.service.open(None, None, model).await.unwrap();
        room.push(daemon.service.room_for_files(&session).await.unwrap());
    }
    room
}

#[tokio::test]
async fn files_of_few_requests_are_in_memory_at_once() {
    let daemon = daemon_with("", Simulated::new(&[("one", 0), ("sim", 0), ("two", 0)]), None).await;
    let (shown, told) = (daemon.open().await, daemon.open().await);
    let room = all_room(&daemon).await;
    let messages = with("images", images(&[b"x"]));
    let mut waits = std::pin::pin!(refused(&shown, &messages, Options::new()));
    let text = async { told.respond("hi").await.finish().await.0 };
    tokio::select! {
        biased;
        (name, _) = &mut waits => panic!("it was read without room: {name}"),
        text = text => assert_eq!(text, "echo: hi", "text needs no room"),
    }
    drop(room);
    assert_eq!(waits.await.0, "Unsupported");
}

#[tokio::test]
async fn files_of_one_request_of_a_model_are_in_memory_at_once() {
    let daemon = daemon().await;
    let (shown, told) = (daemon.open().await, daemon.open().await);
    let session = daemon.service.session(1).unwrap();
    let room = daemon.service.room_for_files(&session).await;
    let messages = with("images", images(&[b"x"]));
    let mut waits = std::pin::pin!(refused(&shown, &messages, Options::new()));
    let text = async { told.respond("hi").await.finish().await.0 };
    tokio::select! {
        biased;
        (name, _) = &mut waits => panic!("it was read beside another: {name}"),
        text = text => assert_eq!(text, "echo: hi", "text waits for no files"),
    }
    drop(room);
    assert_eq!(waits.await.0, "Unsupported");
}

#[tokio::test]
async fn a_model_whose_texts_take_long_leaves_room_for_files_of_others() {
    let daemon = daemon_with("", Simulated::new(&[("gated", 0), ("sim", 0)]), None).await;
    let _shut = daemon.source.gate.shut();
    // Two texts that are read, and behind them two requests with files.
    for number in 1..=4 {
        let session = daemon.caller().open("gated").await.unwrap();
        let messages = if number <= 2 { user("hi") } else { with("images", images(&[b"x"])) };
        tokio::spawn(async move { session.try_respond(&messages, Options::new()).await.map(drop) });
        let is_asked = || daemon.service.session(number).unwrap().ask().is_err();
        until(|| is_asked() && daemon.source.gate.texts() as u64 >= number.min(2)).await;
    }
    let shown = daemon.open().await;
    assert_eq!(refused(&shown, &with("images", images(&[b"x"])), Options::new()).await.0, "Unsupported");
    until(|| daemon.source.gate.texts() == 3).await;
}

#[tokio::test]
async fn nobody_has_room_for_files_while_his_model_is_loaded() {
    let models = [("one", 0), ("other", 0), ("sim", 0), ("two", 0)];
    let daemon = daemon_with("", Simulated::new(&models), None).await;
    let shown = daemon.caller().open("other").await.unwrap();
    daemon.service.models.unload("other", None, false).await.unwrap();
    let room = all_room(&daemon).await;
    let loads = daemon.source.loads.lock().unwrap().len();
    let messages = with("images", images(&[b"x"]));
    let mut waits = std::pin::pin!(refused(&shown, &messages, Options::new()));
    tokio::select! {
        biased;
        (name, _) = &mut waits => panic!("it was read without room: {name}"),
        () = until(|| daemon.source.loads.lock().unwrap().len() == loads + 1) => {}
    }
    drop(room);
    assert_eq!(waits.await.0, "Unsupported");
}
