//! Conversations as the reference writes them.

use std::collections::BTreeMap;

use muse_runtime::{Medium, Refusal, Scheduler, SchedulerOptions, Tiles};

use crate::{Answer, asked, engine, folder, generated, picture};

#[test]
fn a_picture_in_tiles_is_written_as_the_reference_does() {
    // 9 tokens and 25 for each picture, where 127 are.
    are_written_as_the_reference_does("llama4", 5);
}

/// Empty lines around each make one token with the end of a template's own.
#[test]
fn a_picture_between_empty_lines_is_written_as_the_reference_does() {
    are_written_as_the_reference_does("gemma3-images", 11);
}

/// Conversations about pictures of its `golden/image_chats.json`; `many` pictures are too long for the context.
fn are_written_as_the_reference_does(model: &'static str, many: usize) {
    let path = folder().join("tests/fixtures").join(model).join("golden/image_chats.json");
    let chats: BTreeMap<String, Vec<u32>> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut alone = engine(model, 1, 64);
    let vision = alone.info().vision.clone().unwrap();
    let mut answers = Vec::new();
    for batch_tokens in [64, 3] {
        let scheduler = Scheduler::start(SchedulerOptions::default());
        scheduler.add_model("seeing", engine(model, 1, batch_tokens)).unwrap();
        for (name, tokens) in &chats {
            let tiles = Tiles::decode(&picture(name), &vision.spec, vision.image_tokens).unwrap();
            let media: Vec<_> = tiles.images.into_iter().map(Medium::from).collect();
            let shown = generated(&mut *alone, tokens, &media);
            let session = scheduler.open_session("seeing").unwrap();
            for again in [false, true] {
                let messages = asked(&[name], "What is it?");
                let (said, usage) = Answer::begin(&scheduler, session, messages).unwrap().end();
                let case = format!("{name}, {batch_tokens} tokens a step, again: {again}");
                assert_eq!((said, usage.prompt_tokens), (shown.clone(), tokens.len() as u32), "{case}");
                // A ring may have lost what a second answer would need.
                assert!(!again || [0, tokens.len() as u32 - 1].contains(&usage.cached_tokens), "{case}");
            }
            scheduler.close_session(session);
            answers.push(shown);
        }
        let session = scheduler.open_session("seeing").unwrap();
        let many = Answer::begin(&scheduler, session, asked(&vec!["wide.png"; many], "?")).err().unwrap();
        assert!(matches!(many, Refusal::PromptTooLong { tokens: 128..=140, limit: 127 }), "{many:?}");
    }
    answers.sort();
    answers.dedup();
    assert!(answers.len() > 3, "pictures have answers of their own: {answers:?}");
}
