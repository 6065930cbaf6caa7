//! Pictures, videos and sounds in conversations, through the scheduler: files in messages become vectors in the place of tokens, whoever else
//! is answered meanwhile, and no picture's keys and values are another's.

#[path = "../converted/mod.rs"]
mod converted;
mod images;
mod references;
mod sounds;
mod videos;

use std::path::Path;
use std::sync::{Arc, mpsc};

use muse_format::MediaText;
use muse_quantize::policy::Bits;
use muse_runtime::{
    BackendChoice, CacheDtype, Engine, Event, GenerateOptions, LoadOptions, Medium, MediumKind, Message,
    Prompt, Refusal, Scheduler, SchedulerOptions, Sound, Tiles, Usage, eval, load,
};

use converted::converted;

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
    (generated(&mut *engine, &tokens, &media), tokens.len() as u32)
}

/// What is shown of 10 tokens behind `tokens`, up to one that stops.
fn generated(engine: &mut dyn Engine, tokens: &[u32], media: &[Medium]) -> String {
    let said = eval::generate(engine, eval::Input { tokens, media }, 10).unwrap();
    let (text, stops) = (engine.text(), &engine.info().generation.stop_ids);
    let mut decoder = text.decoder(false);
    let shown = said.iter().take_while(|id| !stops.contains(id)).map(|id| decoder.push(*id));
    shown.collect::<String>() + &decoder.finish()
}

fn serve(slots: u32, batch_tokens: u32) -> Scheduler {
    let scheduler = Scheduler::start(SchedulerOptions::default());
    scheduler.add_model("seeing", engine("muse-glimmer", slots, batch_tokens)).unwrap();
    scheduler
}
