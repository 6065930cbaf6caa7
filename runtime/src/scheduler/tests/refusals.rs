//! What is not taken, and the limits of what is.

use super::*;

#[test]
fn a_full_queue_is_an_error() {
    let options = SchedulerOptions { queue_max: 1, ..SchedulerOptions::default() };
    let scheduler = Scheduler::start(options);
    let (engine, gate) = gated(sized(1, 64));
    scheduler.add_model("sim", Box::new(engine)).unwrap();
    let [a, b, c] = [(); 3].map(|()| scheduler.open_session("sim").unwrap());
    let first = ask(&scheduler, a, user("one"), GenerateOptions::default());
    gate.entered();
    let second = ask(&scheduler, b, user("two"), GenerateOptions::default());
    let refused = scheduler.respond(c, user("three"), GenerateOptions::default(), sink().0);
    assert_eq!(refused, Err(Refusal::QueueFull { queued: 1 }));
    let status = scheduler.status();
    assert_eq!((status.queued, status.models[0].running, status.models[0].idle), (1, 1, None));
    gate.permit();
    drop(gate);
    assert_eq!((collect(first).text, collect(second).text), ("echo: one".into(), "echo: two".into()));
    assert_eq!(collect(ask(&scheduler, c, user("three"), GenerateOptions::default())).text, "echo: three");
}

#[test]
fn sessions_are_limited() {
    let scheduler = Scheduler::start(SchedulerOptions { sessions_max: 2, ..SchedulerOptions::default() });
    scheduler.add_model("sim", Box::new(SimEngine::new(SimOptions::default()))).unwrap();
    let first = scheduler.open_session("sim").unwrap();
    scheduler.open_session("sim").unwrap();
    assert_eq!(scheduler.open_session("sim"), Err(Refusal::TooManySessions { open: 2 }));
    assert_eq!(scheduler.open_session("none"), Err(Refusal::NoModel("none".into())));
    scheduler.close_session(first);
    assert!(scheduler.open_session("sim").is_ok());
}

#[test]
fn a_session_gives_one_answer_at_a_time() {
    let (scheduler, gate) = gated_service(SimOptions::default());
    let session = scheduler.open_session("sim").unwrap();
    let events = ask(&scheduler, session, user("one"), GenerateOptions::default());
    let refused = scheduler.respond(session, user("two"), GenerateOptions::default(), sink().0);
    assert_eq!(refused, Err(Refusal::Busy));
    drop(gate);
    assert_eq!(collect(events).text, "echo: one");
}

#[test]
fn unusable_requests_are_refused_with_numbers() {
    let scheduler = service(SimOptions { context: 30, ..SimOptions::default() });
    let session = scheduler.open_session("sim").unwrap();
    let with = |change: fn(&mut GenerateOptions)| {
        let mut options = GenerateOptions::default();
        change(&mut options);
        options
    };
    let plain = || Prompt::Text("x".into());
    let cases = [
        (
            "too long",
            Prompt::Text("x".repeat(30)),
            with(|_| {}),
            "30 tokens; this model's context has room for 29",
        ),
        ("empty", Prompt::Text(String::new()), with(|_| {}), "empty"),
        ("no tokens", plain(), with(|o| o.max_tokens = Some(0)), "max_tokens is 0"),
        ("cold", plain(), with(|o| o.temperature = Some(-1.0)), "temperature is -1"),
        ("not a number", plain(), with(|o| o.temperature = Some(f32::NAN)), "temperature is NaN"),
        ("no nucleus", plain(), with(|o| o.top_p = Some(0.0)), "top_p is 0"),
        ("min_p", plain(), with(|o| o.min_p = Some(1.5)), "min_p is 1.5"),
        (
            "penalty",
            plain(),
            with(|o| o.repetition_penalty = Some(f32::INFINITY)),
            "repetition_penalty is inf",
        ),
        ("empty stop", plain(), with(|o| o.stop = vec![String::new()]), "stop is a text of 0 bytes"),
        ("many stops", plain(), with(|o| o.stop = vec!["x".into(); 17]), "stop is 17 texts"),
    ];
    for (name, prompt, options, expected) in cases {
        let refused = scheduler.respond(session, prompt, options, sink().0).unwrap_err().to_string();
        assert!(refused.contains(expected), "{name}: {refused}");
    }
    assert_eq!(scheduler.status().queued, 0);
    let unknown = scheduler.respond(999, plain(), GenerateOptions::default(), sink().0);
    assert_eq!(unknown, Err(Refusal::NoSession(999)));
}

#[test]
fn answers_end_at_their_limit_and_at_the_context() {
    let scheduler = service(SimOptions { context: 30, ..SimOptions::default() });
    let session = scheduler.open_session("sim").unwrap();
    // The first letter after 20 tokens is u.
    let text = |max_tokens| {
        let options = GenerateOptions { max_tokens, ..GenerateOptions::default() };
        let answer = collect(ask(&scheduler, session, Prompt::Text("x".repeat(20)), options));
        assert_eq!(answer.finished().0, FinishReason::Length);
        answer.text
    };
    assert_eq!(text(Some(3)), "uvw");
    assert_eq!(text(None), "uvwxyzabcd");
    assert_eq!(text(Some(u32::MAX)), "uvwxyzabcd");
}

#[test]
fn stop_texts_end_an_answer_and_are_not_in_it() {
    let scheduler = service(SimOptions::default());
    let session = scheduler.open_session("sim").unwrap();
    for (stop, expected) in [("def", "abc"), ("a", ""), ("gone", "abcdefghij")] {
        let options = GenerateOptions { stop: vec![stop.into()], ..at_most(10) };
        let answer = collect(ask(&scheduler, session, Prompt::Text("x".repeat(26)), options));
        assert_eq!(answer.text, expected);
        let reason = if stop == "gone" { FinishReason::Length } else { FinishReason::Stop };
        assert_eq!(answer.finished().0, reason, "{stop}");
    }
}

#[test]
fn loading_a_name_twice_keeps_the_first() {
    let scheduler = service(SimOptions { context: 100, ..SimOptions::default() });
    scheduler.add_model("sim", Box::new(SimEngine::new(SimOptions::default()))).unwrap();
    assert_eq!(scheduler.status().models[0].info.context, 100);
}
