use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::sim::{SimEngine, SimOptions};
use crate::{Event, FinishReason, Message};

fn user(content: &str) -> Prompt {
    Prompt::Chat(vec![Message { role: "user".into(), content: content.into() }])
}

fn ask(scheduler: &Scheduler, session: u64, prompt: Prompt, options: GenerateOptions) -> Receiver<Event> {
    let (sender, events) = channel();
    let sink: Sink = Box::new(move |event| sender.send(event).map_err(|_| crate::SinkClosed));
    scheduler.respond(session, prompt, options, sink).unwrap();
    events
}

/// The text and the last event of an answer.
fn collect(events: Receiver<Event>) -> (String, Event) {
    let mut text = String::new();
    let mut last = None;
    for event in events {
        if let Event::Delta { text: delta } = &event {
            text.push_str(delta);
        }
        last = Some(event);
    }
    (text, last.expect("an answer has events"))
}

#[test]
fn an_answer_is_echoed() {
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("sim", Box::new(SimEngine::new(SimOptions::default()))).unwrap();
    let session = scheduler.open_session("sim").unwrap();
    let (text, last) = collect(ask(&scheduler, session, user("hi"), GenerateOptions::default()));
    assert_eq!(text, "echo: hi");
    assert!(matches!(last, Event::Done { finish_reason: FinishReason::Stop, .. }), "{last:?}");
}
