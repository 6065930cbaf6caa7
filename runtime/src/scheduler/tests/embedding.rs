//! Texts become vectors between other requests, and only on models that make them.

use super::*;
use crate::sim::{FAIL, PANIC};
use crate::{Embedded, TextError};

fn embedder(slots: u32, batch_tokens: u32) -> SimOptions {
    SimOptions { embeds: true, context: 64, ..sized(slots, batch_tokens) }
}

fn embed(scheduler: &Scheduler, session: u64, texts: &[&str], options: &EmbedOptions) -> Receiver<EmbedEnd> {
    let (sender, end) = channel();
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    let sink = Box::new(move |end| drop(sender.send(end)));
    scheduler.embed(session, &texts, options, sink).unwrap();
    end
}

fn refused(scheduler: &Scheduler, session: u64, texts: &[&str], options: &EmbedOptions) -> Refusal {
    let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
    scheduler.embed(session, &texts, options, Box::new(|_| ())).unwrap_err()
}

/// What the engine makes of `texts`.
fn done(texts: &[&str]) -> EmbedEnd {
    let vector = |text: &&str| {
        let bytes = text.as_bytes();
        let sum: u32 = bytes.iter().map(|b| u32::from(*b)).sum();
        let ends = [bytes[0], bytes[bytes.len() - 1]].map(f32::from);
        vec![bytes.len() as f32, sum as f32, ends[0], ends[1]]
    };
    let tokens = texts.iter().map(|text| text.len() as u64).sum();
    EmbedEnd::Done(Embedded { vectors: texts.iter().map(vector).collect(), tokens, truncated: 0 })
}

#[test]
fn every_text_gets_its_vector_whatever_a_batch_holds() {
    let texts = ["a", "some words", "b", "a text that alone is longer than a batch has tokens", "c", "dd"];
    let tokens: usize = texts.iter().map(|text| text.len()).sum();
    for slots in [1, 2, 4, 64] {
        let scheduler = service(embedder(slots, 64));
        let session = scheduler.open_session("sim").unwrap();
        let end = embed(&scheduler, session, &texts, &EmbedOptions::default());
        assert_eq!(end.recv(), Ok(done(&texts)), "{slots} slots");
        let status = scheduler.status().models.remove(0);
        assert_eq!((status.running, status.waiting, status.prompt_tokens), (0, 0, tokens as u64));
        let again = embed(&scheduler, session, &["a"], &EmbedOptions::default());
        assert_eq!(again.recv(), Ok(done(&["a"])));
    }
}

#[test]
fn what_a_model_does_not_do_is_refused() {
    let scheduler = service(embedder(2, 64));
    let session = scheduler.open_session("sim").unwrap();
    let (sink, _) = sink();
    let answer = scheduler.respond(session, user("hi"), GenerateOptions::default(), sink);
    assert_eq!(answer, Err(Refusal::MakesVectors));
    let plain = EmbedOptions::default();
    let long = "x".repeat(65);
    assert_eq!(
        refused(&scheduler, session, &["a", &long], &plain),
        Refusal::TextTooLong { index: 1, tokens: 65, limit: 64 }
    );
    assert_eq!(refused(&scheduler, session, &[], &plain), Refusal::NoTexts);
    assert_eq!(refused(&scheduler, session, &[""], &plain), Refusal::EmptyText { index: 0 });
    let passage = EmbedOptions { prompt: Some("passage".into()), ..plain.clone() };
    let unknown = refused(&scheduler, session, &["a"], &passage);
    assert_eq!(unknown, Refusal::UnknownPrompt { name: "passage".into(), known: "query".into() });
    let huge = "x".repeat(9 << 20);
    let huge = refused(&scheduler, session, &[&huge], &plain);
    assert!(matches!(huge, Refusal::TextTooLong { .. } | Refusal::Text(TextError::TooLong { .. })));

    let query = EmbedOptions { prompt: Some("query".into()), ..plain.clone() };
    assert_eq!(embed(&scheduler, session, &["a"], &query).recv(), Ok(done(&["q: a"])));
    let cut = EmbedOptions { truncate: true, ..plain.clone() };
    let EmbedEnd::Done(embedded) = embed(&scheduler, session, &[&long], &cut).recv().unwrap() else {
        panic!("it was cut")
    };
    assert_eq!((embedded.tokens, embedded.truncated, embedded.vectors[0][0]), (64, 1, 64.0));

    let chat = service(SimOptions::default());
    let session = chat.open_session("sim").unwrap();
    assert_eq!(refused(&chat, session, &["a"], &plain), Refusal::WritesText);
}

#[test]
fn an_answer_of_another_model_comes_between_batches() {
    let scheduler = Scheduler::start(SchedulerOptions::default());
    let slow = SimOptions { step_delay: Duration::from_millis(1), ..embedder(1, 64) };
    scheduler.add_model("embed", Box::new(SimEngine::new(slow))).unwrap();
    let (engine, gate) = gated(sized(1, 64));
    scheduler.add_model("chat", Box::new(engine)).unwrap();
    let chat = scheduler.open_session("chat").unwrap();
    let answer = ask(&scheduler, chat, user("hi"), at_most(3));
    // The loop is inside the answer's first step while 10000 texts are queued, one of them a turn of a millisecond.
    gate.entered();
    let embedding = scheduler.open_session("embed").unwrap();
    let texts = vec!["t"; 10_000];
    let end = embed(&scheduler, embedding, &texts, &EmbedOptions::default());
    drop(gate);
    assert_eq!(collect(answer).text, "ech");
    // Three steps, and as many texts or a few more: the rest is still to come.
    scheduler.close_session(embedding);
    assert_eq!(end.recv(), Ok(EmbedEnd::Cancelled));
}

#[test]
fn requests_take_turns_and_background_ones_wait() {
    let scheduler = service(SimOptions { step_delay: Duration::from_millis(1), ..embedder(1, 64) });
    let [slow, quick, later] = [(); 3].map(|()| scheduler.open_session("sim").unwrap());
    let many = vec!["t"; 3000];
    let background = EmbedOptions { priority: Priority::Background, ..EmbedOptions::default() };
    let waits = embed(&scheduler, later, &["b"], &background);
    let slow_end = embed(&scheduler, slow, &many, &EmbedOptions::default());
    let quick_end = embed(&scheduler, quick, &["a", "b"], &EmbedOptions::default());
    assert_eq!(quick_end.recv(), Ok(done(&["a", "b"])));
    assert_eq!(slow_end.try_recv().ok(), None, "one of 3000 texts of a millisecond a turn");
    scheduler.cancel(slow);
    assert_eq!(slow_end.recv(), Ok(EmbedEnd::Cancelled));
    assert_eq!(waits.recv(), Ok(done(&["b"])));
}

#[test]
fn requests_share_a_batch_where_there_is_room() {
    let (scheduler, gate) = gated_service(embedder(4, 64));
    let begin = || {
        let session = scheduler.open_session("sim").unwrap();
        embed(&scheduler, session, &["t"], &EmbedOptions::default())
    };
    let first = begin();
    assert_eq!(gate.entered().len(), 1);
    // Eight others wait while the first one's step runs.
    let others = [(); 8].map(|()| begin());
    gate.permit();
    assert_eq!([(); 2].map(|()| gate.step().len()), [4, 4]);
    others.iter().chain([&first]).for_each(|end| assert_eq!(end.recv(), Ok(done(&["t"]))));
    assert_eq!(scheduler.status().models[0].running, 0);
}

#[test]
fn a_text_that_fails_does_not_fail_those_beside_it() {
    let scheduler = service(SimOptions { step_delay: Duration::from_millis(20), ..embedder(4, 64) });
    let sessions = [(); 4].map(|()| scheduler.open_session("sim").unwrap());
    let texts = ["a", "b", FAIL, "c"];
    let ends: Vec<_> = sessions
        .iter()
        .zip(texts)
        .map(|(session, text)| embed(&scheduler, *session, &[text], &EmbedOptions::default()))
        .collect();
    for (end, text) in ends.iter().zip(texts) {
        match end.recv().unwrap() {
            EmbedEnd::Failed(message) => assert!(text == FAIL && message.contains(FAIL), "{text}: {message}"),
            end => assert_eq!(end, done(&[text])),
        }
    }
}

#[test]
fn a_full_queue_and_a_busy_session_are_errors() {
    let options = SchedulerOptions { queue_max: 1, ..SchedulerOptions::default() };
    let scheduler = Scheduler::start(options);
    let engine = SimEngine::new(SimOptions { step_delay: Duration::from_millis(1), ..embedder(1, 64) });
    scheduler.add_model("sim", Box::new(engine)).unwrap();
    let [a, b, c] = [(); 3].map(|()| scheduler.open_session("sim").unwrap());
    let plain = EmbedOptions::default();
    let first = embed(&scheduler, a, &vec!["t"; 60_000], &plain);
    while scheduler.status().models[0].running == 0 {
        std::thread::yield_now();
    }
    assert_eq!(refused(&scheduler, a, &["x"], &plain), Refusal::Busy);
    let background = EmbedOptions { priority: Priority::Background, ..plain.clone() };
    let _second = embed(&scheduler, b, &["x"], &background);
    assert_eq!(refused(&scheduler, c, &["x"], &plain), Refusal::QueueFull { queued: 1 });
    scheduler.remove_model("sim");
    assert_eq!(first.recv(), Ok(EmbedEnd::Failed("the model was unloaded".into())));
    assert_eq!(refused(&scheduler, c, &["x"], &plain), Refusal::NoSession(c));
}

#[test]
fn a_failure_ends_its_request_and_a_panic_the_model() {
    let scheduler = service(embedder(1, 64));
    let [a, b] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let plain = EmbedOptions::default();
    let EmbedEnd::Failed(message) = embed(&scheduler, a, &["x", FAIL], &plain).recv().unwrap() else {
        panic!("it was asked to fail")
    };
    assert!(message.contains(FAIL), "{message}");
    assert_eq!(embed(&scheduler, a, &["x"], &plain).recv(), Ok(done(&["x"])));
    let ended = embed(&scheduler, b, &[PANIC], &plain).recv().unwrap();
    assert!(matches!(&ended, EmbedEnd::Failed(message) if message.contains("crashed")), "{ended:?}");
    assert_eq!(scheduler.open_session("sim"), Err(Refusal::NoModel("sim".into())));
}
