//! Who is served when, and what is not computed twice.

use super::*;

#[test]
fn an_answer_is_echoed_and_counted() {
    let scheduler = service(SimOptions::default());
    let session = scheduler.open_session("sim").unwrap();
    let answer = collect(ask(&scheduler, session, user("hi"), GenerateOptions::default()));
    assert_eq!(answer.text, "echo: hi");
    let (reason, usage) = answer.finished();
    assert_eq!(reason, FinishReason::Stop);
    // The stop token is computed, too.
    let expected = Usage { prompt_tokens: user_len("hi"), completion_tokens: 9, ..Usage::default() };
    assert_eq!(usage, expected);
    let Event::Done { timing, .. } = answer.last else { unreachable!() };
    assert!(timing.queued <= timing.first_token && timing.first_token <= timing.total, "{timing:?}");
    let status = scheduler.status();
    assert!(status.models[0].idle.is_some() && status.queued == 0, "{status:?}");
    assert_eq!((status.models[0].prompt_tokens, status.models[0].completion_tokens), (20, 9));
}

#[test]
fn two_sessions_are_served_in_turn() {
    let (scheduler, gate) = gated_service(sized(2, 1));
    let [a, b] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let first = ask(&scheduler, a, Prompt::Text("x".into()), at_most(4));
    let spans = gate.entered();
    let second = ask(&scheduler, b, Prompt::Text("y".into()), at_most(4));
    gate.permit();
    assert_eq!(spans[0].slot, 0);
    // One row a step: the newcomer, which was never served, and then each in turn.
    let order: Vec<_> = (0..7).map(|_| gate.step()[0].0).collect();
    assert_eq!(order, [1, 0, 1, 0, 1, 0, 1]);
    assert_eq!(collect(first).text.len(), 4);
    assert_eq!(collect(second).text.len(), 4);
}

#[test]
fn a_long_prompt_does_not_hold_up_an_answer() {
    let (scheduler, gate) = gated_service(sized(2, 8));
    let [a, b] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let first = ask(&scheduler, a, Prompt::Text("x".into()), at_most(6));
    gate.entered();
    let second = ask(&scheduler, b, Prompt::Text("y".repeat(20)), at_most(1));
    gate.permit();
    let steps: Vec<_> = (0..3).map(|_| gate.step()).collect();
    let rows =
        |slot: u32, step: &Vec<(u32, u32)>| step.iter().find(|(s, _)| *s == slot).map(|(_, rows)| *rows);
    assert_eq!(steps.iter().map(|step| rows(0, step)).collect::<Vec<_>>(), [Some(1); 3]);
    assert_eq!(steps.iter().map(|step| rows(1, step)).collect::<Vec<_>>(), [Some(7), Some(7), Some(6)]);
    drop(gate);
    // The row after a prompt of 20 is the letter of its length.
    assert_eq!(collect(second).text, "u");
    assert_eq!(collect(first).text, "bcdefg");
}

#[test]
fn background_work_rests_while_there_is_interactive_work() {
    let (scheduler, gate) = gated_service(sized(2, 64));
    let [slow, quick] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let batch = ask(&scheduler, slow, user("later"), background());
    gate.entered();
    let chat = ask(&scheduler, quick, user("now"), GenerateOptions::default());
    gate.permit();
    // `echo: now` and its end, without a row of slot 0.
    let steps: Vec<_> = (0..10).map(|_| gate.step()).collect();
    assert_eq!(steps[0], [(1, user_len("now"))]);
    assert!(steps[1..].iter().all(|step| *step == [(1, 1)]), "{steps:?}");
    assert_eq!(gate.step(), [(0, 1)]);
    drop(gate);
    assert_eq!(collect(chat).text, "echo: now");
    assert_eq!(collect(batch).text, "echo: later");
}

#[test]
fn background_work_rests_for_another_model_too() {
    let (scheduler, gate) = gated_service(SimOptions::default());
    let (other, other_gate) = gated(SimOptions::default());
    scheduler.add_model("other", Box::new(other)).unwrap();
    let slow = scheduler.open_session("sim").unwrap();
    let quick = scheduler.open_session("other").unwrap();
    let batch = ask(&scheduler, slow, user("later"), background());
    gate.entered();
    let chat = ask(&scheduler, quick, user("now"), GenerateOptions::default());
    gate.permit();
    for _ in 0..10 {
        // The loop is held in this step: what it did before is done, and it does nothing else.
        other_gate.entered();
        assert!(gate.entered.try_recv().is_err(), "the background model was stepped");
        other_gate.permit();
    }
    drop((gate, other_gate));
    assert_eq!(collect(chat).text, "echo: now");
    assert_eq!(collect(batch).text, "echo: later");
}

#[test]
fn background_work_gives_up_its_slot_and_finishes_later() {
    let (scheduler, gate) = gated_service(sized(1, 64));
    let [slow, quick] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    let batch = ask(&scheduler, slow, user("later"), background());
    gate.step();
    gate.step();
    gate.entered();
    let chat = ask(&scheduler, quick, user("now"), GenerateOptions::default());
    gate.permit();
    assert_eq!(gate.entered()[0].len, user_len("now"));
    let model = &scheduler.status().models[0];
    assert_eq!((model.running, model.waiting), (1, 1));
    drop(gate);
    assert_eq!(collect(chat).text, "echo: now");
    let batch = collect(batch);
    assert_eq!(batch.text, "echo: later");
    assert_eq!(batch.finished().1.completion_tokens, 12);
}

#[test]
fn models_run_side_by_side() {
    let scheduler = service(SimOptions::default());
    scheduler.add_model("other", Box::new(SimEngine::new(SimOptions::default()))).unwrap();
    let sessions = ["sim", "other"].map(|model| scheduler.open_session(model).unwrap());
    let events = sessions.map(|id| ask(&scheduler, id, user(&id.to_string()), GenerateOptions::default()));
    for (id, events) in sessions.into_iter().zip(events) {
        assert_eq!(collect(events).text, format!("echo: {id}"));
    }
    let names: Vec<_> = scheduler.status().models.into_iter().map(|model| model.name).collect();
    assert_eq!(names, ["other", "sim"]);
}

#[test]
fn a_session_computes_only_what_is_new() {
    let scheduler = service(SimOptions::default());
    let [session, stranger] = [(); 2].map(|()| scheduler.open_session("sim").unwrap());
    collect(ask(&scheduler, session, user("hi"), GenerateOptions::default()));
    let second = || chat(&[("user", "hi"), ("assistant", "echo: hi"), ("user", "more")]);
    let answer = collect(ask(&scheduler, session, second(), GenerateOptions::default()));
    assert_eq!(answer.text, "echo: more");
    // The prompt and the answer; the end mark was drawn and never computed.
    assert_eq!(answer.cached, Some(user_len("hi") + 8));
    let same = collect(ask(&scheduler, session, second(), GenerateOptions::default()));
    let (_, usage) = same.finished();
    assert_eq!(usage.cached_tokens, usage.prompt_tokens - 1, "the last row is computed for its logits");
    assert_eq!(same.text, "echo: more");
    let answer = collect(ask(&scheduler, stranger, second(), GenerateOptions::default()));
    assert_eq!(answer.cached, Some(0), "another session's tokens are not used");
}

#[test]
fn the_session_unused_for_longest_loses_its_slot() {
    let scheduler = service(sized(2, 64));
    let [a, b, c] = [(); 3].map(|()| scheduler.open_session("sim").unwrap());
    let cached = |session| collect(ask(&scheduler, session, user("hi"), GenerateOptions::default())).cached;
    let all = Some(user_len("hi") - 1);
    assert_eq!([cached(a), cached(b), cached(a)], [Some(0), Some(0), all]);
    assert_eq!([cached(c), cached(a), cached(b)], [Some(0), all, Some(0)], "b lost its slot to c");
    assert_eq!(cached(c), Some(0), "c lost its slot to b");
}

#[test]
fn what_a_ring_has_lost_is_computed_again() {
    let (mut engine, gate) = gated(SimOptions::default());
    engine.ring = 30;
    drop(gate);
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("sim", Box::new(engine)).unwrap();
    let session = scheduler.open_session("sim").unwrap();
    let cached = |len: usize, max_tokens| {
        collect(ask(&scheduler, session, Prompt::Text("x".repeat(len)), at_most(max_tokens))).cached
    };
    assert_eq!(cached(28, 1), Some(0));
    assert_eq!(cached(28, 4), Some(27));
    assert_eq!(cached(10, 1), Some(0), "31 positions were written");
    assert_eq!(cached(20, 1), Some(10), "the slot was filled anew with 10");
    assert_eq!(cached(10, 1), Some(9));
    assert_eq!(cached(20, 15), Some(10));
    assert_eq!(cached(5, 1), Some(0), "34 positions were written");
}

#[test]
fn an_answer_may_be_asked_for_from_the_end_of_another() {
    let scheduler = service(SimOptions::default());
    let session = scheduler.open_session("sim").unwrap();
    let (again, (inner_sink, events)) = (scheduler.clone(), sink());
    let mut inner_sink = Some(inner_sink);
    let outer: Sink = Box::new(move |event| {
        if matches!(event, Event::Done { .. }) {
            let sink = inner_sink.take().expect("one end");
            again.respond(session, user("two"), GenerateOptions::default(), sink).expect("not busy");
        }
        Ok(())
    });
    scheduler.respond(session, user("one"), GenerateOptions::default(), outer).unwrap();
    assert_eq!(collect(events).text, "echo: two");
}
