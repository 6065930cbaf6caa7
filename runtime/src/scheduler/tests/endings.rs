//! How answers end before their time, and that the service outlives it.

use super::*;
use crate::sim::{FAIL, FAIL_FOR_GOOD, FOREVER, PANIC};

fn works(scheduler: &Scheduler, model: &str) {
    let session = scheduler.open_session(model).unwrap();
    let answer = collect(ask(scheduler, session, user("ok"), GenerateOptions::default()));
    assert_eq!(answer.text, "echo: ok");
}

#[test]
fn cancelling_ends_an_answer_at_the_next_token() {
    let (scheduler, gate) = gated_service(SimOptions::default());
    let session = scheduler.open_session("sim").unwrap();
    let events = ask(&scheduler, session, user(FOREVER), GenerateOptions::default());
    for _ in 0..3 {
        gate.step();
    }
    gate.entered();
    scheduler.cancel(session);
    scheduler.cancel(session);
    gate.permit();
    let answer = collect(events);
    assert_eq!((answer.text.as_str(), answer.finished().0), ("ech", FinishReason::Cancelled));
    drop(gate);
    scheduler.cancel(session);
    let next = collect(ask(&scheduler, session, user("next"), GenerateOptions::default()));
    assert_eq!(next.text, "echo: next", "an old cancel does not end a new answer");
}

#[test]
fn cancelling_takes_an_answer_out_of_the_queue() {
    let (scheduler, gate) = gated_service(sized(1, 64));
    let [a, b] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let first = ask(&scheduler, a, user("one"), GenerateOptions::default());
    gate.entered();
    let second = ask(&scheduler, b, user("two"), GenerateOptions::default());
    scheduler.cancel(b);
    gate.permit();
    let second = collect(second);
    assert_eq!(second.cached, None, "it never started");
    let (reason, usage) = second.finished();
    assert_eq!((reason, usage.completion_tokens), (FinishReason::Cancelled, 0));
    drop(gate);
    assert_eq!(collect(first).text, "echo: one");
}

#[test]
fn closing_a_session_ends_its_answer_and_frees_its_slot() {
    let (scheduler, gate) = gated_service(sized(1, 64));
    let [a, b] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let first = ask(&scheduler, a, user(FOREVER), GenerateOptions::default());
    gate.step();
    gate.entered();
    scheduler.close_session(a);
    scheduler.close_session(a);
    let second = ask(&scheduler, b, user("two"), GenerateOptions::default());
    gate.permit();
    assert_eq!(collect(first).finished().0, FinishReason::Cancelled);
    drop(gate);
    assert_eq!(collect(second).text, "echo: two");
    let refused = scheduler.respond(a, user("x"), GenerateOptions::default(), sink().0);
    assert_eq!(refused, Err(Refusal::NoSession(a)));
    assert_eq!(scheduler.status().sessions, 1);
}

#[test]
fn a_reader_that_is_gone_ends_its_answer_alone() {
    let (scheduler, gate) = gated_service(SimOptions::default());
    let [a, b] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let (dropped, gone) = channel::<()>();
    let mut room = 3;
    let full: Sink = Box::new(move |_| {
        let _until_the_sink_is_dropped = &dropped;
        room -= 1;
        if room == 0 { Err(SinkClosed) } else { Ok(()) }
    });
    scheduler.respond(a, user(FOREVER), GenerateOptions::default(), full).unwrap();
    gate.entered();
    let panicking: Sink = Box::new(|_| panic!("a sink's bug"));
    scheduler.respond(b, user(FOREVER), GenerateOptions::default(), panicking).unwrap();
    drop(gate);
    assert!(gone.recv().is_err(), "the sink is dropped");
    works(&scheduler, "sim");
    for session in [a, b] {
        let next = collect(ask(&scheduler, session, user("next"), GenerateOptions::default()));
        assert_eq!(next.text, "echo: next");
    }
}

#[test]
fn what_is_cancelled_before_it_is_queued_is_refused_and_the_session_keeps_its_tokens() {
    let scheduler = service(SimOptions::default());
    let session = scheduler.open_session("sim").unwrap();
    collect(ask(&scheduler, session, user("one"), GenerateOptions::default()));
    let begun = scheduler.begin(session).unwrap();
    assert!(!scheduler.cancel(session), "nothing is queued");
    let refused = begun.respond(user("two"), GenerateOptions::default(), sink().0);
    assert_eq!(refused, Err(Refusal::Cancelled));
    let again = collect(ask(&scheduler, session, user("one"), GenerateOptions::default()));
    assert_eq!(again.text, "echo: one");
    assert!(again.cached > Some(0), "{again:?}");

    let scheduler = service(SimOptions { embeds: true, ..SimOptions::default() });
    let session = scheduler.open_session("sim").unwrap();
    let begun = scheduler.begin(session).unwrap();
    scheduler.cancel(session);
    let refused = begun.embed(&["a".to_owned()], &EmbedOptions::default(), Box::new(|_| ()));
    assert_eq!(refused, Err(Refusal::Cancelled));
}

#[test]
fn a_failed_step_ends_the_answers_in_it() {
    let (scheduler, gate) = gated_service(SimOptions::default());
    let [a, b] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let first = ask(&scheduler, a, user("one"), GenerateOptions::default());
    gate.entered();
    let second = ask(&scheduler, b, user(FAIL), GenerateOptions::default());
    gate.permit();
    drop(gate);
    for answer in [collect(first), collect(second)] {
        assert!(answer.failure().contains(FAIL), "{answer:?}");
    }
    let again = collect(ask(&scheduler, a, user("one"), GenerateOptions::default()));
    assert_eq!((again.text.as_str(), again.cached), ("echo: one", Some(0)), "the slot is not trusted");
}

#[test]
fn logits_that_are_not_numbers_end_the_answer() {
    let (mut engine, gate) = gated(SimOptions::default());
    engine.poisoned = true;
    drop(gate);
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("sim", Box::new(engine)).unwrap();
    let session = scheduler.open_session("sim").unwrap();
    let answer = collect(ask(&scheduler, session, user("hi"), GenerateOptions::default()));
    assert!(answer.failure().contains("logit 0 is NaN"), "{answer:?}");
}

#[test]
fn an_engine_that_is_broken_for_good_is_removed_and_the_others_live_on() {
    // What the answer that broke it is told.
    for (message, told) in [(PANIC, "crashed"), (FAIL_FOR_GOOD, "CUDA: sim failed: sim:fail-for-good")] {
        removed_after(message, told);
    }
}

fn removed_after(message: &str, told: &str) {
    let (scheduler, gate) = gated_service(sized(1, 64));
    scheduler.add_model("other", Box::new(SimEngine::new(SimOptions::default()))).unwrap();
    let [a, b] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let first = ask(&scheduler, a, user(message), GenerateOptions::default());
    gate.entered();
    let waiting = ask(&scheduler, b, user("hi"), GenerateOptions::default());
    gate.permit();
    drop(gate);
    assert!(collect(first).failure().contains(told));
    assert!(collect(waiting).failure().contains("unloaded"));
    assert_eq!(scheduler.open_session("sim"), Err(Refusal::NoModel("sim".into())));
    assert_eq!(scheduler.status().sessions, 0);
    works(&scheduler, "other");
    scheduler.add_model("sim", Box::new(SimEngine::new(SimOptions::default()))).unwrap();
    works(&scheduler, "sim");
}

#[test]
fn removing_a_model_ends_its_answers_and_its_name_is_free_at_once() {
    let (scheduler, gate) = gated_service(sized(1, 64));
    let [a, b] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let running = ask(&scheduler, a, user(FOREVER), GenerateOptions::default());
    gate.entered();
    let queued = ask(&scheduler, b, user("hi"), GenerateOptions::default());
    scheduler.remove_model("sim");
    scheduler.remove_model("sim");
    assert_eq!(scheduler.status().models, []);
    scheduler.add_model("sim", Box::new(SimEngine::new(SimOptions::default()))).unwrap();
    gate.permit();
    for answer in [collect(running), collect(queued)] {
        assert!(answer.failure().contains("unloaded"), "{answer:?}");
    }
    works(&scheduler, "sim");
}

#[test]
fn stopping_ends_everything() {
    let (scheduler, gate) = gated_service(sized(1, 64));
    let [a, b] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let running = ask(&scheduler, a, user(FOREVER), GenerateOptions::default());
    gate.entered();
    let queued = ask(&scheduler, b, user("hi"), GenerateOptions::default());
    scheduler.stop();
    let refused = scheduler.respond(b, user("hi"), GenerateOptions::default(), sink().0);
    assert_eq!(refused, Err(Refusal::ShuttingDown));
    assert_eq!(scheduler.open_session("sim"), Err(Refusal::ShuttingDown));
    gate.permit();
    for answer in [collect(running), collect(queued)] {
        assert!(answer.failure().contains("shutting down"), "{answer:?}");
    }
    scheduler.join();
    assert!(gate.entered.recv().is_err(), "the engine is freed");
    scheduler.stop();
    scheduler.join();
    assert_eq!(scheduler.status().models, []);
}

#[test]
fn the_service_stops_with_its_last_handle() {
    let (scheduler, gate) = gated_service(SimOptions::default());
    let session = scheduler.open_session("sim").unwrap();
    let events = ask(&scheduler, session, user(FOREVER), GenerateOptions::default());
    gate.entered();
    drop(scheduler);
    gate.permit();
    assert!(collect(events).failure().contains("shutting down"));
    assert!(gate.entered.recv().is_err(), "the engine is freed");
}
