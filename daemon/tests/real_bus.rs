//! The service on a private `dbus-daemon`, and clients as people use them: `busctl`, `musectl`.

mod common;

use std::process::Command;
use std::sync::Arc;

use common::dbus::{Bus, run, text};
use common::{Options, Simulated, config, refusal, scheduler, until, user};
use muse_daemon::service::Service;
use muse_daemon::{BUS_NAME, bus, clients};
use muse_runtime::sim::FOREVER;

/// Serves simulated models under the real name.
async fn serve(bus: &Bus) -> Arc<Service> {
    let config = config("");
    let scheduler = scheduler(&config);
    let mut source = Simulated::new(&[("sim", 0)]);
    Arc::get_mut(&mut source).unwrap().options.markers = true;
    let service = Service::new(config, source, scheduler, Some(1 << 30));
    service.models.refresh().await;
    let connection = bus.connect().await;
    let published = bus::publish(&connection, &service).await.unwrap();
    let watcher = clients::watcher(&connection).await.unwrap();
    connection.request_name(BUS_NAME).await.unwrap();
    let served = service.clone();
    tokio::spawn(async move {
        tokio::select! {
            ended = published.follow(&connection, &served) => ended,
            ended = watcher.follow(&connection, &served) => ended,
        }
    });
    service
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_belongs_to_the_client_that_made_it() {
    let bus = Bus::start();
    let service = serve(&bus).await;
    let (owner, other) = (bus.caller().await, bus.caller().await);
    let session = owner.open("sim").await.unwrap();
    let stranger = common::Client { caller: other, path: session.path.clone() };
    for method in ["Cancel", "Close"] {
        let error = stranger.call(method, &()).await.unwrap_err();
        assert_eq!(refusal(&error).0, "NotYourSession", "{method}");
    }
    let error = stranger.try_respond(&user("hi"), Options::new()).await.map(|_| ()).unwrap_err();
    assert_eq!(refusal(&error).0, "NotYourSession");
    assert_eq!(session.respond("mine").await.finish().await.0, "echo: mine");
    let user = rustix::process::getuid().as_raw();
    assert_eq!(service.session(1).unwrap().user, Some(user), "the bus says whose it is");
    assert_eq!(service.status().sessions, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_may_end_his_own_answers() {
    let bus = Bus::start();
    let _service = serve(&bus).await;
    let session = bus.caller().await.open("sim").await.unwrap();
    let mut stream = session.respond(FOREVER).await;
    stream.first_delta().await;
    let refused = bus.musectl(&["unload", "sim"], "").await;
    assert!(!refused.status.success() && text(&refused.stderr).contains("1 answers are running"));
    let forced = bus.musectl(&["unload", "sim", "--force"], "").await;
    assert!(forced.status.success(), "{}", text(&forced.stderr));
    assert_eq!(stream.finish().await.1["event"], "error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_the_bus_takes_its_sessions_along() {
    let bus = Bus::start();
    let service = serve(&bus).await;
    let (leaver, stayer) = (bus.caller().await, bus.caller().await);
    let kept = stayer.open("sim").await.unwrap();
    let session = leaver.open("sim").await.unwrap();
    let mut stream = session.respond(FOREVER).await;
    stream.first_delta().await;
    drop(session);
    leaver.connection.close().await.unwrap();
    assert_eq!(stream.finish().await.1["finish_reason"], "cancelled");
    until(|| service.status().sessions == 1).await;
    assert_eq!(kept.respond("still").await.finish().await.0, "echo: still");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_property_is_set() {
    let bus = Bus::start();
    let _service = serve(&bus).await;
    let caller = bus.caller().await;
    let properties = "org.freedesktop.DBus.Properties";
    let set = ("org.museproject.Inference1.Manager", "Version", zbus::Variant::from("2"));
    let error = caller.call(muse_daemon::ROOT, properties, "Set", &set).await.unwrap_err();
    assert_eq!(refusal(&error).0, "org.freedesktop.DBus.Error.AccessDenied", "{error}");
    caller.property(muse_daemon::ROOT, set.0, set.1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generate_works_from_plain_busctl() {
    let bus = Bus::start();
    let _service = serve(&bus).await;
    let mut command = Command::new("busctl");
    command.arg(format!("--address={}", bus.address)).args(["call", BUS_NAME, "/org/museproject/Inference1"]);
    command.args(["org.museproject.Inference1.Manager", "Generate", "sa{sv}", "What is gravity?"]);
    command.args(["1", "max_tokens", "u", "40"]);
    let output = run(command, String::new()).await;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let answer = text(&output.stdout);
    assert!(answer.starts_with("sa{sv} \"echo: What is gravity?\""), "{answer}");
    assert!(answer.contains("\"finish_reason\" s \"stop\""), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn musectl_does_what_its_help_says() {
    let bus = Bus::start();
    let _service = serve(&bus).await;
    // Arguments, standard input, exit code, and what one of the outputs has.
    let cases: [(&[&str], &str, i32, &[&str]); 15] = [
        (&["generate", "hi"], "", 0, &["echo: hi\n"]),
        (&["generate"], "from stdin", 0, &["echo: from stdin"]),
        (
            &["generate", "--json", "hi"],
            "",
            0,
            &["\"text\":\"echo: hi\"", "\"finish_reason\":\"stop\"", "total_ms"],
        ),
        (&["generate", "--raw", "--max-tokens", "3", "ab"], "", 0, &["cde\n"]),
        (&["generate", "--max-tokens", "0", "hi"], "", 1, &["max_tokens", "at least 1", "InvalidOption"]),
        (&["generate", "--model", "nope", "hi"], "", 1, &["\"nope\"", "there are: sim"]),
        (&["generate", "  "], "", 1, &["the prompt is empty"]),
        (&["generate", "--max-tokens", "many", "hi"], "", 2, &["invalid value 'many'"]),
        (&["sing"], "", 2, &["unrecognized subcommand"]),
        (
            &["chat"],
            "one\n/reset\n/sing\ntwo\n/quit\n",
            0,
            &["echo: one\n", "no command /sing", "echo: two\n"],
        ),
        (&["load", "sim"], "", 0, &[]),
        (&["models"], "", 0, &["NAME", "sim   loaded"]),
        (&["models", "--json"], "", 0, &["\"name\":\"sim\"", "\"loaded\":true", "\"size_bytes\":0"]),
        (&["status"], "", 0, &["service", "1, 1 loaded", "of 1.0 GiB"]),
        (&["unload", "sim"], "", 0, &[]),
    ];
    for (arguments, input, code, words) in cases {
        let output = bus.musectl(arguments, input).await;
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {all}");
        assert!(words.iter().all(|word| all.contains(word)), "{arguments:?}: {all}");
    }
    let status = bus.musectl(&["status", "--json"], "").await;
    let status: serde_json::Value = serde_json::from_slice(&status.stdout).unwrap();
    assert_eq!((&status["models"], &status["models_loaded"]), (&1.into(), &0.into()));
    assert_eq!(status["sessions"], 0, "every command left nothing behind: {status}");
    let doctor = bus.musectl(&["doctor", "--selftest", "--json"], "").await;
    let checks: Vec<serde_json::Value> = serde_json::from_slice(&doctor.stdout).unwrap();
    for name in ["service", "kernels"] {
        let check = checks.iter().find(|check| check["name"] == name).unwrap();
        assert_eq!(check["state"], "ok", "{check}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn musectl_shows_calls_and_sends_their_results() {
    let bus = Bus::start();
    let _service = serve(&bus).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let tools =
        file("tools.json", r#"[{"name": "add", "parameters": {"properties": {"a": {"type": "integer"}}}}]"#);
    let conversation = file(
        "conversation.json",
        r#"[{"role": "user", "content": "1 and 1?"},
            {"role": "assistant", "tool_calls": [{"id": "c1", "name": "add", "arguments": {"a": 1}}]},
            {"role": "tool", "name": "add", "tool_call_id": "c1", "content": "2"}]"#,
    );
    let broken = file("broken.json", "[{");
    let schema = file("schema.json", r#"{"enum": ["red", "blue"]}"#);
    let script =
        r#"sim:say <think>so</think>Wait.<tool_call>{"name": "add", "arguments": {"a": "1"}}</tool_call>"#;
    let chat = format!("{script}\n2\n/quit\n");
    /// Arguments, standard input, exit code, and what the outputs have and do not have.
    type Case<'a> = (&'a [&'a str], &'a str, i32, &'a [&'a str], &'a [&'a str]);
    let cases: [Case<'_>; 11] = [
        (&["generate", "--json-schema", &schema, "a colour"], "", 0, &["\"blue\"\n"], &["echo"]),
        (&["generate", "--raw", "--json-schema", &schema, "a colour"], "", 0, &["\"blue\"\n"], &[]),
        (
            &["generate", "--tools", &tools, script],
            "",
            0,
            &["Wait.\n[call] add {\"a\":1}\n"],
            &["so", "think"],
        ),
        (
            &["generate", "--json", "--tools", &tools, script],
            "",
            0,
            &[
                "\"reasoning\":\"so\"",
                "\"arguments\":{\"a\":1}",
                "\"finish_reason\":\"tool_call\"",
                "\"text\":\"Wait.\"",
            ],
            &["<"],
        ),
        (
            &["generate", "--json", "--hide-reasoning", script],
            "",
            0,
            &["Wait."],
            &["reasoning", "tool_calls"],
        ),
        (&["generate", "--tools", &tools, "--messages", &conversation], "", 0, &["echo: add: c1: 2\n"], &[]),
        (
            &["chat", "--tools", &tools],
            &chat,
            0,
            &["[call] add {\"a\":1}\n", "echo: add: call_", ": 2\n"],
            &["so\n"],
        ),
        (&["generate", "--tools", &broken, "hi"], "", 1, &["broken.json is not JSON: EOF"], &[]),
        (&["generate", "--tools", "/none.json", "hi"], "", 1, &["/none.json: No such file"], &[]),
        (&["generate", "--messages", &tools], "", 1, &["InvalidMessage", "no role"], &[]),
        (&["generate", "--messages", &conversation, "hi"], "", 2, &["cannot be used with"], &[]),
    ];
    for (arguments, input, code, words, absent) in cases {
        let output = bus.musectl(arguments, input).await;
        let all = text(&output.stdout) + &text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {all}");
        assert!(words.iter().all(|word| all.contains(word)), "{arguments:?}: {all}");
        assert!(!absent.iter().any(|word| all.contains(word)), "{arguments:?}: {all}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn musectl_without_a_service_says_so() {
    let bus = Bus::start();
    let output = bus.musectl(&["status"], "").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("the service is not running"), "{}", text(&output.stderr));
    let output = bus.musectl(&["doctor"], "").await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("FAIL  service"), "{}", text(&output.stdout));
    let mut command = Command::new(env!("CARGO_BIN_EXE_musectl"));
    command.args(["--session", "status"]).env("DBUS_SESSION_BUS_ADDRESS", "unix:path=/nonexistent/bus");
    let output = run(command, String::new()).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("cannot reach the session bus"), "{}", text(&output.stderr));
}
