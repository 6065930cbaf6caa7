//! Loading on demand, eviction, idle time, and the objects that show it.

mod common;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use common::{Caller, Daemon, Options, Simulated, daemon, daemon_with, refusal, until};
use muse_runtime::sim::FOREVER;
use zbus::Variant;

const MODEL: &str = "org.museproject.Inference1.Model";

fn path(escaped: &str) -> String {
    format!("/org/museproject/Inference1/models/{escaped}")
}

fn is_loaded(daemon: &Daemon, name: &str) -> bool {
    daemon.service.models.get(name).unwrap().loaded.is_some()
}

async fn ask(caller: &Caller, method: &str, model: &str) -> Result<(), (String, String)> {
    caller.manager(method, &(model, Options::new())).await.map(|_| ()).map_err(|e| refusal(&e))
}

#[tokio::test]
async fn loading_and_unloading_twice_is_success() {
    let daemon = daemon().await;
    let caller = daemon.caller();
    for _ in 0..2 {
        ask(&caller, "Load", "sim").await.unwrap();
        assert!(is_loaded(&daemon, "sim"));
    }
    assert_eq!(*daemon.source.loads.lock().unwrap(), ["sim"], "the second load had nothing to do");
    for _ in 0..2 {
        ask(&caller, "Unload", "sim").await.unwrap();
        assert!(!is_loaded(&daemon, "sim"));
    }
}

#[tokio::test]
async fn a_session_outlives_its_models_memory() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    assert_eq!(session.respond("one").await.finish().await.0, "echo: one");
    daemon.until(|status| status.streams == 0).await;
    ask(&daemon.caller(), "Unload", "sim").await.unwrap();
    assert_eq!(session.respond("two").await.finish().await.0, "echo: two");
    assert_eq!(daemon.source.loads.lock().unwrap().len(), 2);
}

#[tokio::test]
async fn a_model_in_use_is_unloaded_by_force_only() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let mut stream = session.respond(FOREVER).await;
    stream.first_delta().await;
    let (name, text) = ask(&daemon.caller(), "Unload", "sim").await.unwrap_err();
    assert_eq!(name, "ModelInUse");
    assert!(text.starts_with("1 answers are running on model sim"), "{text}");
    let force = Options::from([("force", Variant::from(true))]);
    daemon.caller().manager("Unload", &("sim", force)).await.unwrap();
    assert_eq!(stream.finish().await.1["event"], "error");
}

#[tokio::test]
async fn nobody_but_root_ends_the_answers_of_others() {
    let daemon = daemon().await;
    let models = &daemon.service.models;
    let (mine, theirs) = (Some(1000), Some(1001));
    let answers = [models.lease("sim", mine).await.unwrap(), models.lease("sim", theirs).await.unwrap()];
    let refused = models.unload("sim", mine, true).await.unwrap_err().to_string();
    assert!(refused.starts_with("1 answers of other users are running on model sim"), "{refused}");
    assert!(is_loaded(&daemon, "sim"));
    let [_, answer] = answers;
    drop(answer);
    models.unload("sim", mine, true).await.expect("only his own answer is left");
    assert!(!is_loaded(&daemon, "sim"));
    let _answer = models.lease("sim", theirs).await.unwrap();
    models.unload("sim", Some(0), true).await.expect("root may");
    assert!(!is_loaded(&daemon, "sim"));
}

#[tokio::test]
async fn the_least_recently_used_model_makes_room() {
    let source = Simulated::new(&[("a", 40), ("b", 40), ("c", 40), ("huge", 101)]);
    let daemon = daemon_with("", source, Some(100)).await;
    let caller = daemon.caller();
    for model in ["a", "b", "a"] {
        ask(&caller, "Load", model).await.unwrap();
    }
    ask(&caller, "Load", "c").await.unwrap();
    assert_eq!(["a", "b", "c"].map(|name| is_loaded(&daemon, name)), [true, false, true]);

    let (in_use, other) = (caller.open("a").await.unwrap(), caller.open("c").await.unwrap());
    let (mut one, mut two) = (in_use.respond(FOREVER).await, other.respond(FOREVER).await);
    one.first_delta().await;
    two.first_delta().await;
    let (name, text) = ask(&caller, "Load", "b").await.unwrap_err();
    assert_eq!(name, "OutOfMemory");
    assert!(text.contains("it takes 40 bytes; 20 are left"), "{text}");
    let (name, _) = ask(&caller, "Load", "huge").await.unwrap_err();
    assert_eq!(name, "OutOfMemory");
    assert!(is_loaded(&daemon, "a") && is_loaded(&daemon, "c"), "what is in use stays");
}

#[tokio::test]
async fn an_idle_model_is_unloaded_and_one_in_use_is_not() {
    let daemon = daemon().await;
    let session = daemon.open().await;
    let (idle, later) = (Duration::from_secs(600), Instant::now() + Duration::from_secs(3600));
    let mut stream = session.respond(FOREVER).await;
    stream.first_delta().await;
    let next = daemon.service.models.unload_idle(idle, later).await;
    assert!(next.is_some() && is_loaded(&daemon, "sim"), "it answers");
    session.call("Cancel", &()).await.unwrap();
    stream.finish().await;
    daemon.until(|status| status.streams == 0).await;
    daemon.service.models.unload_idle(idle, Instant::now()).await;
    assert!(is_loaded(&daemon, "sim"), "it is not idle for long enough");
    assert_eq!(daemon.service.models.unload_idle(idle, later).await, None);
    assert!(!is_loaded(&daemon, "sim"));
}

#[tokio::test]
async fn models_are_objects_that_follow_the_folder() {
    let source = Simulated::new(&[("qwen3-4b.v2", 7), ("damaged", 9)]);
    let daemon =
        daemon_with("default_model = \"chat\"\n[aliases]\nchat = \"qwen3-4b.v2\"", source, None).await;
    let caller = daemon.caller();
    let object = path("qwen3_2d4b_2ev2");
    let text = |value: &'static str| Variant::from(value);
    assert_eq!(*caller.property(&object, MODEL, "Name").await, text("qwen3-4b.v2"));
    assert_eq!(*caller.property(&object, MODEL, "SizeBytes").await, Variant::from(7u64));
    assert_eq!(*caller.property(&object, MODEL, "Aliases").await, Variant::from(vec!["chat"]));
    assert_eq!(*caller.property(&object, MODEL, "Loaded").await, Variant::from(false));
    assert_eq!(*caller.property(&path("damaged"), MODEL, "Problem").await, text("its header is damaged"));
    // By alias, by the default, and by name: one model.
    for name in ["chat", "", "qwen3-4b.v2"] {
        ask(&caller, "Load", name).await.unwrap();
    }
    assert_eq!(*daemon.source.loads.lock().unwrap(), ["qwen3-4b.v2"]);
    assert_eq!(*caller.property(&object, MODEL, "Loaded").await, Variant::from(true));
    assert_eq!(*caller.property(&object, MODEL, "Backend").await, text("sim"));

    daemon.source.models.lock().unwrap().insert("new".into(), 1);
    caller.open("new").await.expect("a name that is not known is looked for again");
    daemon.source.models.lock().unwrap().clear();
    daemon.service.models.refresh().await;
    let names: Vec<_> = daemon.service.models.snapshot().into_iter().map(|m| m.name).collect();
    assert_eq!(names, ["new", "qwen3-4b.v2"], "what is loaded stays until it is unloaded");
    ask(&caller, "Unload", "new").await.unwrap();
    until(|| daemon.service.models.get("new").is_none()).await;
}

#[tokio::test]
async fn a_load_is_signalled() {
    use futures_util::StreamExt;
    let daemon = daemon().await;
    let mut messages = zbus::MessageStream::from(&daemon.client);
    ask(&daemon.caller(), "Load", "sim").await.unwrap();
    let signal = async {
        loop {
            let message = messages.next().await.unwrap().unwrap();
            let header = message.header();
            if header.member().is_some_and(|member| member == "PropertiesChanged") {
                assert_eq!(header.path().unwrap().as_str(), path("sim"));
                let body = message.body();
                let (_, changed, _): (String, HashMap<String, zbus::OwnedVariant>, Vec<String>) =
                    body.deserialize().unwrap();
                if let Some(loaded) = changed.get("Loaded") {
                    return loaded.clone();
                }
            }
        }
    };
    let loaded = tokio::time::timeout(common::HANGS, signal).await.expect("no signal came");
    assert_eq!(*loaded, Variant::from(true));
}

#[tokio::test]
async fn experts_get_the_memory_of_models_that_nobody_uses() {
    let source = Simulated::new(&[("small", 300), ("experts", 1000)]);
    let daemon = daemon_with("", source, Some(1000)).await;
    let caller = daemon.caller();
    ask(&caller, "Load", "small").await.unwrap();
    ask(&caller, "Load", "experts").await.unwrap();
    assert!(is_loaded(&daemon, "experts") && !is_loaded(&daemon, "small"));
    assert_eq!(*daemon.source.loads.lock().unwrap(), ["small", "experts", "experts"]);
}

#[tokio::test]
async fn experts_take_what_a_model_in_use_leaves() {
    let source = Simulated::new(&[("small", 300), ("experts", 1000)]);
    let daemon = daemon_with("", source, Some(1000)).await;
    let session = daemon.caller().open("small").await.unwrap();
    let mut stream = session.respond(FOREVER).await;
    stream.first_delta().await;
    ask(&daemon.caller(), "Load", "experts").await.unwrap();
    assert!(is_loaded(&daemon, "experts") && is_loaded(&daemon, "small"));
    assert_eq!(*daemon.source.loads.lock().unwrap(), ["small", "experts"]);
}
