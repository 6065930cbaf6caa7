//! Pictures, videos and sounds in conversations, through the scheduler: files in messages become vectors in the place of tokens, whoever else
//! is answered meanwhile, and no picture's keys and values are another's.

mod converted;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, mpsc};

use muse_format::MediaText;
use muse_quantize::policy::Bits;
use muse_runtime::{
    BackendChoice, CacheDtype, Engine, Event, GenerateOptions, ImageError, LoadOptions, Medium, MediumKind,
    Message, Prompt, Refusal, Scheduler, SchedulerOptions, Sound, SoundError, Speculation, TextError, Tiles,
    Usage, Video, VideoError, eval, load,
};

use converted::converted;

/// What stands for a vector of an image in the fixtures: `<|patch|>`, `<|image_pad|>`.
const TOKEN: u32 = 308;
/// And of a video: `<|video|>`, `<|video_pad|>`.
const VIDEO_TOKEN: u32 = 310;

fn folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn load_options(slots: u32, batch_tokens: u32) -> LoadOptions {
    LoadOptions {
        slots,
        batch_tokens,
        cache: Some(CacheDtype::F32),
        backend: BackendChoice::Cpu,
        threads: Some(1),
        ..LoadOptions::default()
    }
}

fn engine(name: &'static str, slots: u32, batch_tokens: u32) -> Box<dyn Engine> {
    let options = load_options(slots, batch_tokens);
    // A mapping keeps a file that is gone.
    load(converted(name, Bits::ThirtyTwo).path(), &options).unwrap()
}

fn picture(name: &str) -> Arc<[u8]> {
    std::fs::read(folder().join("../runtime/tests/pictures").join(name)).unwrap().into()
}

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

fn asked(pictures: &[&str], text: &str) -> Vec<Message> {
    let images = pictures.iter().map(|name| picture(name)).collect();
    vec![Message { images, ..Message::new("user", text) }]
}

fn options() -> GenerateOptions {
    GenerateOptions {
        temperature: Some(0.0),
        repetition_penalty: Some(1.0),
        max_tokens: Some(10),
        ..GenerateOptions::default()
    }
}

/// An answer under way.
struct Answer(mpsc::Receiver<Event>);

impl Answer {
    fn begin(scheduler: &Scheduler, session: u64, messages: Vec<Message>) -> Result<Self, Refusal> {
        Self::begin_with(scheduler, session, messages, options())
    }

    fn begin_with(
        scheduler: &Scheduler,
        session: u64,
        messages: Vec<Message>,
        options: GenerateOptions,
    ) -> Result<Self, Refusal> {
        let (sender, events) = mpsc::channel();
        let sink = Box::new(move |event| {
            let _ = sender.send(event);
            Ok(())
        });
        scheduler.respond(session, Prompt::Chat(messages), options, sink)?;
        Ok(Self(events))
    }

    fn end(self) -> (String, Usage) {
        let mut said = String::new();
        for event in self.0 {
            match event {
                Event::Delta { text } => said += &text,
                Event::Done { usage, .. } => return (said, usage),
                Event::Start { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        panic!("the answer has no end")
    }
}

/// What the model says when nobody else is there, by `eval`.
fn alone(messages: &[Message]) -> (String, u32) {
    alone_by("muse-glimmer", messages)
}

fn alone_by(model: &'static str, messages: &[Message]) -> (String, u32) {
    alone_with(model, messages, 1 << 20)
}

/// [`alone_by`], pictures of at most so many tokens.
fn alone_with(model: &'static str, messages: &[Message], image_tokens: u32) -> (String, u32) {
    let options = LoadOptions { image_tokens: Some(image_tokens), ..load_options(1, 64) };
    let mut engine = load(converted(model, Bits::ThirtyTwo).path(), &options).unwrap();
    let text = engine.text();
    let info = engine.info().clone();
    let images = messages.iter().flat_map(|message| &message.images).map(|file| {
        let vision = info.vision.as_ref().unwrap();
        let mut tiles = Tiles::decode(file, &vision.spec, vision.image_tokens).unwrap();
        Medium::from(tiles.images.remove(0))
    });
    let sounds = messages.iter().flat_map(|message| &message.sounds).map(|file| {
        let audio = info.audio.as_ref().unwrap();
        Medium::from(Sound::decode(file, &audio.spec, audio.audio_tokens).unwrap())
    });
    let media: Vec<_> = images.chain(sounds).collect();
    let known = [MediumKind::Image, MediumKind::Sound].map(|kind| (kind, text.medium(kind)));
    let mut used = [0, 0];
    let mut tokens = Vec::new();
    for id in text.encode_chat(messages, &Default::default()).unwrap() {
        let which = known.iter().position(|(_, text)| text.is_some_and(|text| text.token == id));
        let Some(which) = which else {
            tokens.push(id);
            continue;
        };
        let (kind, MediaText { before, after, .. }) = (known[which].0, known[which].1.unwrap());
        let medium = media.iter().filter(|medium| medium.kind() == kind).nth(used[which]).unwrap();
        used[which] += 1;
        tokens.extend(before);
        tokens.extend(std::iter::repeat_n(id, medium.tokens(&info).unwrap() as usize));
        tokens.extend(after);
    }
    let said = eval::generate(&mut *engine, eval::Input { tokens: &tokens, media: &media }, 10).unwrap();
    let stops = &engine.info().generation.stop_ids;
    let mut decoder = text.decoder(false);
    let shown: String =
        said.iter().take_while(|id| !stops.contains(id)).map(|id| decoder.push(*id)).collect();
    (shown + &decoder.finish(), tokens.len() as u32)
}

fn serve(slots: u32, batch_tokens: u32) -> Scheduler {
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("seeing", engine("muse-glimmer", slots, batch_tokens)).unwrap();
    scheduler
}

#[test]
fn an_answer_to_a_picture_is_the_models_own() {
    let (scheduler, mut answers) = (serve(1, 7), Vec::new());
    for pictures in [&["first.png"][..], &["second.png"], &["first.png", "tiny.png"], &[]] {
        let session = scheduler.open_session("seeing").unwrap();
        let messages = asked(pictures, "What is it?");
        let (expected, tokens) = alone(&messages);
        let (said, usage) = Answer::begin(&scheduler, session, messages).unwrap().end();
        assert_eq!((said.as_str(), usage.prompt_tokens), (expected.as_str(), tokens), "{pictures:?}");
        answers.push(said);
        scheduler.close_session(session);
    }
    answers.sort();
    answers.dedup();
    assert_eq!(answers.len(), 4, "each picture has its own answer: {answers:?}");
}

#[test]
fn what_was_computed_is_kept_for_the_same_picture_alone() {
    let scheduler = serve(1, 64);
    let session = scheduler.open_session("seeing").unwrap();
    let ask = |pictures: &[&str]| {
        let messages = asked(pictures, "Hm?");
        let (expected, _) = alone(&messages);
        let (said, usage) = Answer::begin(&scheduler, session, messages).unwrap().end();
        assert_eq!(said, expected, "{pictures:?}");
        usage
    };
    let first = ask(&["first.png"]);
    assert_eq!(first.cached_tokens, 0);
    // A ring may have lost what a second answer would need; the tokens in front of the picture are no more than 15.
    let again = ask(&["first.png"]);
    assert!(again.cached_tokens == 0 || again.cached_tokens == again.prompt_tokens - 1, "{again:?}");
    let other = ask(&["second.png"]);
    assert_eq!(other.prompt_tokens, first.prompt_tokens);
    assert!(other.cached_tokens <= 15, "{other:?}");
    assert!(ask(&[]).cached_tokens <= 15);
}

#[test]
fn pictures_of_several_sessions_are_told_apart() {
    let scheduler = serve(3, 5);
    let prompts = [
        asked(&["first.png"], "One?"),
        asked(&["second.png", "tiny.png"], "Two?"),
        asked(&[], "A text meanwhile."),
    ];
    for _ in 0..3 {
        let begin = |messages: &Vec<Message>| {
            let session = scheduler.open_session("seeing").unwrap();
            (session, Answer::begin(&scheduler, session, messages.clone()).unwrap())
        };
        let answers: Vec<_> = prompts.iter().map(begin).collect();
        for ((session, answer), messages) in answers.into_iter().zip(&prompts) {
            assert_eq!(answer.end().0, alone(messages).0);
            scheduler.close_session(session);
        }
    }
}

/// An image's vectors turn by rows and columns, and what is behind them by less than its position: whatever is kept,
/// taken back, proposed or computed beside others, it turns as in one go.
#[test]
fn turning_by_rows_and_columns_goes_on_behind_what_is_kept() {
    let model = "qwen3-5-images";
    for (slots, batch_tokens) in [(2, 64), (2, 5)] {
        let scheduler = Scheduler::start(SchedulerOptions::default());
        scheduler.add_model("seeing", engine(model, slots, batch_tokens)).unwrap();
        for speculation in [Speculation::Off, Speculation::Always] {
            let options = || GenerateOptions { speculation, ..options() };
            let begin = |session, messages: &Vec<Message>| {
                Answer::begin_with(&scheduler, session, messages.clone(), options()).unwrap()
            };
            let [first, other] = [(); 2].map(|()| scheduler.open_session("seeing").unwrap());
            let mut talk = asked(&["first.png"], "aaaa");
            let text = vec![Message::new("user", "Meanwhile, no image at all.")];
            for turn in 0..3 {
                // Beside it, rows that turn by their positions.
                let (answer, beside) = (begin(first, &talk), begin(other, &text));
                let case = format!("{slots} {batch_tokens} {speculation:?}, turn {turn}");
                let (said, usage) = answer.end();
                let (expected, tokens) = alone_by(model, &talk);
                assert_eq!((said.as_str(), usage.prompt_tokens), (expected.as_str(), tokens), "{case}");
                assert_eq!(beside.end().0, alone_by(model, &text).0, "{case}");
                assert!(turn == 0 || usage.cached_tokens > 20, "{case}: {usage:?}");
                // Another text in the place of its answer, as where thoughts are dropped.
                let kept = if turn == 1 { "b" } else { &said };
                talk.push(Message::new("assistant", kept));
                talk.push(Message::new("user", "aa"));
            }
            // The same tokens with another image.
            talk[0].images = vec![picture("second.png")];
            talk.truncate(1);
            let (said, usage) = begin(first, &talk).end();
            assert_eq!(said, alone_by(model, &talk).0);
            assert!(usage.cached_tokens < 15, "{usage:?}");
            [first, other].into_iter().for_each(|session| scheduler.close_session(session));
        }
    }
}

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
                let media = grids(&names);
                let input = eval::Input { tokens: &tokens, media: &media };
                let expected = eval::generate(&mut *alone, input, 10).unwrap();
                let text = alone.text();
                let mut decoder = text.decoder(false);
                let stops = &alone.info().generation.stop_ids;
                let shown: String = expected
                    .iter()
                    .take_while(|id| !stops.contains(id))
                    .map(|id| decoder.push(*id))
                    .collect();
                let messages = asked_of_video(&names, "What happens?");
                let (said, usage) = Answer::begin(&scheduler, session, messages).unwrap().end();
                let case = format!("{model} {batch_tokens} {names:?}");
                assert_eq!(usage.prompt_tokens, tokens.len() as u32, "{case}");
                assert_eq!(said, shown + &decoder.finish(), "{case}");
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

/// Where the tokens of a picture see each other it is read in one step, however many answers share the steps; behind it
/// everything goes on as where nobody else is there.
#[test]
fn pictures_that_are_read_whole_share_steps_with_other_answers() {
    let model = "gemma4-moe";
    for (slots, batch_tokens) in [(1, 64), (3, 5), (3, 64)] {
        let options = LoadOptions { image_tokens: Some(16), ..load_options(slots, batch_tokens) };
        let seeing = load(converted(model, Bits::ThirtyTwo).path(), &options).unwrap();
        assert_eq!(seeing.info().batch_tokens, batch_tokens.max(16));
        let scheduler = Scheduler::start(SchedulerOptions::default());
        scheduler.add_model("seeing", seeing).unwrap();
        let prompts = [
            asked(&["first.png"], "One?"),
            asked(&["second.png", "tiny.png"], "Two?"),
            asked(&[], "A text meanwhile."),
            asked(&["first.png"], "One?"),
        ];
        let begin = |messages: &Vec<Message>| {
            let session = scheduler.open_session("seeing").unwrap();
            (session, Answer::begin(&scheduler, session, messages.clone()).unwrap())
        };
        let answers: Vec<_> = prompts.iter().map(begin).collect();
        for ((session, answer), messages) in answers.into_iter().zip(&prompts) {
            let case = format!("{slots} slots, {batch_tokens} tokens: {messages:?}");
            let (said, usage) = answer.end();
            let (expected, tokens) = alone_with(model, messages, 16);
            assert_eq!((said.as_str(), usage.prompt_tokens), (expected.as_str(), tokens), "{case}");
            // Once more, of what is kept.
            let (again, _) = Answer::begin(&scheduler, session, messages.clone()).unwrap().end();
            assert_eq!(again, said, "{case}, again");
            scheduler.close_session(session);
        }
    }
}

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
            let input = eval::Input { tokens, media: &media };
            let said = eval::generate(&mut *alone, input, 10).unwrap();
            let (text, stops) = (alone.text(), &alone.info().generation.stop_ids);
            let mut decoder = text.decoder(false);
            let shown = said.iter().take_while(|id| !stops.contains(id)).map(|id| decoder.push(*id));
            let shown = shown.collect::<String>() + &decoder.finish();
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

#[test]
fn what_cannot_be_shown_is_refused() {
    let scheduler = serve(1, 16);
    scheduler.add_model("blind", engine("llama", 1, 16)).unwrap();
    let refused = |model: &str, messages: Vec<Message>| {
        let session = scheduler.open_session(model).unwrap();
        Answer::begin(&scheduler, session, messages).err().unwrap()
    };
    assert_eq!(
        refused("blind", asked(&["tiny.png"], "?")),
        Refusal::Text(TextError::NoTower { kind: MediumKind::Image })
    );
    let broken = Message {
        images: vec![picture("tiny.png"), b"no picture".as_slice().into()],
        ..Message::new("user", "?")
    };
    assert_eq!(refused("seeing", vec![broken]), Refusal::Image { image: 1, problem: ImageError::Format });
    // 6 x 7 tokens each, where 127 are.
    let many = refused("seeing", asked(&["first.png"; 9], "?"));
    assert!(matches!(many, Refusal::PromptTooLong { tokens: 128..=200, limit: 127 }), "{many:?}");
    // A message cannot write an image's token itself.
    let session = scheduler.open_session("seeing").unwrap();
    let mention = vec![Message::new("user", "<|patch|>")];
    let (_, usage) = Answer::begin(&scheduler, session, mention.clone()).unwrap().end();
    let text = engine("muse-glimmer", 1, 16).text();
    assert!(!text.encode_chat(&mention, &Default::default()).unwrap().contains(&TOKEN));
    assert!(usage.prompt_tokens > 10);
}
