use muse_runtime::{
    Medium, MediumKind, Message, Refusal, Scheduler, SchedulerOptions, TextError, Video, VideoError,
};

use crate::{Answer, engine, folder, generated, picture, serve};

/// What stands for a vector of a video in the fixtures: `<|video|>`, `<|video_pad|>`.
const VIDEO_TOKEN: u32 = 310;

/// Pictures, 1.6 a second.
fn video(names: &[&str]) -> Video {
    let files: Vec<_> = names.iter().map(|name| picture(name)).collect();
    let sizes: Vec<_> = files.iter().map(|file| file.len() as u64).collect();
    Video::new(files.concat().into(), &sizes, 1.6).unwrap()
}

fn asked_of_video(names: &[&str], text: &str) -> Vec<Message> {
    vec![Message { videos: vec![video(names)], ..Message::new("user", text) }]
}

/// The video of `video_chat.json`, with another last frame.
const FRAMES: [&str; 5] = ["first.png", "second.png", "second.png", "first.png", "second.png"];

#[test]
fn a_video_is_written_with_its_times_as_the_reference_does() {
    for model in ["muse-glimmer", "qwen3-5-images"] {
        let path = folder().join("tests/fixtures").join(model).join("golden/video_chat.json");
        let tokens: Vec<u32> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let mut alone = engine(model, 1, 64);
        let vision = alone.info().vision.clone().unwrap();
        let grids = |names: &[&str]| -> Vec<Medium> {
            let video = video(names);
            let grids = video.grids(&vision.spec, vision.image_tokens).unwrap();
            grids.map(|grid| Medium::Video(grid.unwrap().image)).collect()
        };
        for batch_tokens in [64, 5] {
            let scheduler = Scheduler::start(SchedulerOptions::default());
            scheduler.add_model("seeing", engine(model, 1, batch_tokens)).unwrap();
            let session = scheduler.open_session("seeing").unwrap();
            let mut cached = Vec::new();
            let mut other = FRAMES;
            other[4] = "first.png";
            for names in [FRAMES, FRAMES, other] {
                let expected = generated(&mut *alone, &tokens, &grids(&names));
                let messages = asked_of_video(&names, "What happens?");
                let (said, usage) = Answer::begin(&scheduler, session, messages).unwrap().end();
                let case = format!("{model} {batch_tokens} {names:?}");
                assert_eq!(usage.prompt_tokens, tokens.len() as u32, "{case}");
                assert_eq!(said, expected, "{case}");
                cached.push(usage.cached_tokens);
            }
            // The same grids are known again, up to the one with another frame; a ring may have lost all of them, and a
            // state that took in what is different.
            let behind = tokens.iter().rposition(|id| *id == VIDEO_TOKEN).unwrap() as u32 + 1;
            let of_grid = grids(&FRAMES)[0].tokens(alone.info()).unwrap();
            assert!(cached[1] == 0 || cached[1] == tokens.len() as u32 - 1, "{model}: {cached:?}");
            assert!(cached[2] <= behind - of_grid, "{model}: {cached:?}");
        }
    }
}

#[test]
fn what_is_no_video_for_a_model_is_refused() {
    let scheduler = serve(1, 16);
    let refused = |model: &str, messages: Vec<Message>| {
        let session = scheduler.open_session(model).unwrap();
        Answer::begin(&scheduler, session, messages).err().unwrap()
    };
    // Its tokenizer has no tokens for what is around frames.
    scheduler.add_model("still", engine("muse-glimmer-options", 1, 16)).unwrap();
    let none = Refusal::Text(TextError::NoTower { kind: MediumKind::Video });
    assert_eq!(refused("still", asked_of_video(&FRAMES, "?")), none);
    let problem = VideoError::Size { frame: 1, width: 97, height: 61, first: [26, 22] };
    let sizes = refused("seeing", asked_of_video(&["first.png", "wide.png"], "?"));
    assert_eq!(sizes, Refusal::Video { video: 0, problem });
    // 12 tokens a grid, and those of its time, where 127 are.
    let long = Message { videos: vec![video(&FRAMES); 4], ..Message::new("user", "?") };
    let many = refused("seeing", vec![long]);
    assert!(matches!(many, Refusal::PromptTooLong { tokens: 128..=160, limit: 127 }), "{many:?}");
}
