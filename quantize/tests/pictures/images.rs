use muse_quantize::policy::Bits;
use muse_runtime::{
    GenerateOptions, ImageError, LoadOptions, MediumKind, Message, Refusal, Scheduler, SchedulerOptions,
    Speculation, TextError, load,
};

use crate::converted::converted;
use crate::{Answer, alone, alone_by, alone_with, asked, engine, load_options, options, picture, serve};

/// What stands for a vector of an image in the fixtures: `<|patch|>`, `<|image_pad|>`.
const TOKEN: u32 = 308;

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
