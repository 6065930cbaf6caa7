use std::sync::Arc;

use muse_runtime::{MediumKind, Message, Refusal, Scheduler, SchedulerOptions, SoundError, TextError};

use crate::{Answer, alone_by, asked, engine};

/// A recording of the fixture's rate, of 6 samples a vector.
fn recording(len: u16, pitch: u16) -> Arc<[u8]> {
    let samples = (0..len).flat_map(|i| (i.wrapping_mul(pitch) as i16).to_le_bytes());
    let data: Vec<u8> = samples.collect();
    let head = [
        &b"RIFF"[..],
        &(36 + data.len() as u32).to_le_bytes(),
        b"WAVEfmt ",
        &[16, 0, 0, 0, 1, 0, 1, 0],
        &24_000_u32.to_le_bytes(),
        &48_000_u32.to_le_bytes(),
        &[2, 0, 16, 0],
        b"data",
        &(data.len() as u32).to_le_bytes(),
    ];
    [&head.concat()[..], &data].concat().into()
}

fn played(sounds: &[(u16, u16)], text: &str) -> Vec<Message> {
    let sounds = sounds.iter().map(|(len, pitch)| recording(*len, *pitch)).collect();
    vec![Message { sounds, ..Message::new("user", text) }]
}

#[test]
fn sounds_are_heard_and_kept_as_pictures_are() {
    let model = "muse-spark-images";
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("hearing", engine(model, 1, 7)).unwrap();
    let session = scheduler.open_session("hearing").unwrap();
    let ask = |messages: Vec<Message>| {
        let (expected, tokens) = alone_by(model, &messages);
        let (said, usage) = Answer::begin(&scheduler, session, messages).unwrap().end();
        assert_eq!((said.as_str(), usage.prompt_tokens), (expected.as_str(), tokens));
        (said, usage.cached_tokens)
    };
    let text = "What is it?";
    let mut answers = Vec::new();
    for sounds in [&[(55, 4000)][..], &[(55, 9000)], &[(55, 4000), (7, 300)], &[]] {
        answers.push(ask(played(sounds, text)).0);
    }
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 4, "each sound has its own answer: {answers:?}");
    // Pictures come first, whatever is asked before.
    let mut both = asked(&["tiny.png"], text);
    both[0].sounds.push(recording(20, 4000));
    ask(both.clone());
    let kept = ask(both).1;
    let other = ask(played(&[(20, 4001)], text)).1;
    assert!(kept == 0 || kept > 20, "{kept}");
    assert!(other <= 15, "{other}");
    scheduler.close_session(session);

    let refused = |messages: Vec<Message>| {
        let session = scheduler.open_session("hearing").unwrap();
        Answer::begin(&scheduler, session, messages).err().unwrap()
    };
    let mut broken = played(&[(9, 1)], text);
    broken[0].sounds.push(b"no sound".as_slice().into());
    assert_eq!(refused(broken), Refusal::Sound { sound: 1, problem: SoundError::Format });
    let long = refused(played(&[(6 * 129, 1)], text));
    let problem = SoundError::TooLong { tokens: 129, limit: 128 };
    assert_eq!(long, Refusal::Sound { sound: 0, problem });
    let many = refused(played(&[(6 * 60, 1); 3], text));
    assert!(matches!(many, Refusal::PromptTooLong { tokens: 128..=200, limit: 127 }), "{many:?}");
    scheduler.add_model("deaf", engine("muse-glimmer", 1, 16)).unwrap();
    let session = scheduler.open_session("deaf").unwrap();
    let deaf = Answer::begin(&scheduler, session, played(&[(9, 1)], text)).err().unwrap();
    assert_eq!(deaf, Refusal::Text(TextError::NoTower { kind: MediumKind::Sound }));
}
