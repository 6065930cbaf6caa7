//! Vectors of texts over a socketpair, with simulated engines.

mod common;

use std::collections::HashMap;
use std::time::Duration;

use common::{Daemon, HANGS, Options, Simulated, daemon, daemon_with, refusal, user};
use muse_runtime::sim::{FAIL, PANIC};
use zbus::{OwnedVariant, Variant};

type Embedded = (Vec<Vec<f64>>, HashMap<String, OwnedVariant>);

/// One model that embeds texts of up to `context` bytes.
async fn embedder(configuration: &str, context: u32, step: Duration) -> Daemon {
    let mut source = Simulated::new(&[("sim", 0)]);
    let options = &mut std::sync::Arc::get_mut(&mut source).unwrap().options;
    (options.embeds, options.context, options.batch_tokens, options.step_delay) =
        (true, context, context, step);
    options.slots = 2;
    daemon_with(configuration, source, None).await
}

async fn embed(daemon: &Daemon, texts: &[&str], options: Options) -> zbus::Result<Embedded> {
    let reply = daemon.caller().manager("Embed", &("sim", texts, options)).await?;
    reply.body().deserialize()
}

fn number<T: TryFrom<OwnedVariant>>(info: &HashMap<String, OwnedVariant>, key: &str) -> T {
    T::try_from(info[key].try_clone().unwrap()).ok().unwrap_or_else(|| panic!("{key}"))
}

#[tokio::test]
async fn every_text_has_a_vector_and_the_call_its_numbers() {
    let daemon = embedder("", 64, Duration::ZERO).await;
    let (vectors, info) = embed(&daemon, &["ab", "c", "ab"], Options::new()).await.unwrap();
    assert_eq!(vectors[0], [2.0, 195.0, 97.0, 98.0]);
    assert_eq!((vectors.len(), &vectors[2]), (3, &vectors[0]));
    assert_eq!((number::<u64>(&info, "tokens"), number::<u32>(&info, "truncated")), (5, 0));
    assert_eq!(number::<String>(&info, "model"), "sim");
    assert!(number::<f64>(&info, "total_ms") >= 0.0);

    let options = Options::from([("prompt", Variant::from("query"))]);
    let (vectors, _) = embed(&daemon, &["ab"], options).await.unwrap();
    assert_eq!(vectors[0][0], 5.0, "the prompt is in front");
    let options =
        Options::from([("truncate", Variant::from(true)), ("priority", Variant::from("background"))]);
    let (vectors, info) = embed(&daemon, &[&"x".repeat(100)], options).await.unwrap();
    assert_eq!((vectors[0][0], number::<u32>(&info, "truncated")), (64.0, 1));
    assert_eq!(daemon.service.status().sessions, 0, "a call leaves no session");
}

#[tokio::test]
async fn what_is_refused_has_a_name_and_numbers() {
    let daemon = embedder("[limits]\nmessages = 3\ntext_kib = 1", 64, Duration::ZERO).await;
    let (long, large) = ("x".repeat(65), "x".repeat(1025));
    let cases: [(&[&str], Options, &str, &str); 8] = [
        (&["a", &long], Options::new(), "PromptTooLong", "text 1 is 65 tokens; this model reads 64"),
        (&["a"; 4], Options::new(), "LimitExceeded", "the call has 4 texts; this service takes 3"),
        (&[&large], Options::new(), "LimitExceeded", "the texts have 1025 bytes"),
        (&[], Options::new(), "EmptyPrompt", "there are no texts"),
        (&["a", ""], Options::new(), "EmptyPrompt", "text 1 is empty"),
        (&["a"], Options::from([("prompt", Variant::from("x"))]), "InvalidOption", "this model has: query"),
        (
            &["a"],
            Options::from([("model", Variant::from("x"))]),
            "UnknownOption",
            "this call has: prompt, truncate",
        ),
        (&[FAIL], Options::new(), "Failed", FAIL),
    ];
    for (texts, options, name, text) in cases {
        let error = embed(&daemon, texts, options).await.unwrap_err();
        let (actual, message) = refusal(&error);
        assert!(actual == name && message.contains(text), "{name}, {text}: {actual}, {message}");
    }
    // The model that crashed is loaded again.
    let crashed = refusal(&embed(&daemon, &[PANIC], Options::new()).await.unwrap_err());
    assert_eq!(crashed.0, "Failed");
    assert_eq!(embed(&daemon, &["a"], Options::new()).await.unwrap().0.len(), 1);
}

#[tokio::test]
async fn a_model_embeds_or_answers() {
    let embedder = embedder("", 64, Duration::ZERO).await;
    let session = embedder.open().await;
    let error = session.try_respond(&user("hi"), Options::new()).await.err().unwrap();
    let (name, message) = refusal(&error);
    assert!(name == "Unsupported" && message.contains("call Embed"), "{name}: {message}");
    let error = embedder.caller().manager("Generate", &("hi", Options::new())).await.unwrap_err();
    assert_eq!(refusal(&error).0, "Unsupported");

    let chat = daemon().await;
    let (name, message) = refusal(&embed(&chat, &["a"], Options::new()).await.unwrap_err());
    assert!(name == "Unsupported" && message.contains("take a model that embeds"), "{name}: {message}");
}

#[tokio::test]
async fn texts_are_forgotten_when_their_session_ends() {
    let daemon = embedder("", 64, Duration::from_millis(5)).await;
    let texts = vec!["t"; 1000];
    let (ended, _) = tokio::join!(embed(&daemon, &texts, Options::new()), async {
        daemon.until(|status| status.running == 1).await;
        let client = daemon.service.sessions_of(&None).remove(0);
        daemon.service.close(&client).await;
    });
    assert_eq!(refusal(&ended.unwrap_err()).0, "Cancelled");
    let quick = tokio::time::timeout(HANGS, embed(&daemon, &["a"], Options::new())).await.unwrap();
    assert_eq!(quick.unwrap().0.len(), 1);
    assert_eq!(daemon.service.status().running, 0);
}
