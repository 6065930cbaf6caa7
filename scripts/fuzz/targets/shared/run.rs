//! Loads a file and answers with it, as far as it goes.

use std::path::Path;

use muse_runtime::eval::{self, Input};
use muse_runtime::{
    BackendChoice, Engine, LoadOptions, Medium, Sound, Tiles, load_mapped, open, plan, read_text,
};

const PICTURE: &[u8] = include_bytes!("../../../../runtime/tests/pictures/first.png");
const RECORDING: &[u8] = include_bytes!("../../../../runtime/tests/sounds/mono.wav");

/// Bytes that a model may take.
const BUDGET: u64 = 256 << 20;

pub fn run(path: &Path, backend: BackendChoice) {
    let options = LoadOptions {
        context: Some(64),
        slots: 2,
        batch_tokens: 8,
        image_tokens: Some(16),
        memory_budget: Some(BUDGET),
        threads: Some(1),
        backend,
        ..LoadOptions::default()
    };
    let Ok(mapped) = open(path, &options) else { return };
    if mapped.bytes().len() > 8 << 20 || plan(&mapped, &options).is_err() {
        return;
    }
    let Ok(text) = read_text(&mapped.spec, &mapped.tokenizer, &mapped.text, &mapped.chat_template) else {
        return;
    };
    let Ok(mut engine) = load_mapped(&mapped, &options, text) else { return };
    answer(&mut *engine);
}

fn answer(engine: &mut dyn Engine) {
    let info = engine.info().clone();
    if let Some(embedding) = &info.embedding {
        let mut out = vec![0.0; 2 * embedding.width as usize];
        let pair = [0, info.vocab - 1];
        let _ = engine.embed(&[&[0], &pair[..2.min(info.context as usize)]], &mut out);
        return;
    }
    let ids: Vec<u32> = (0..11).map(|i| i * 7 % info.vocab).collect();
    let _ = eval::generate_drafted(engine, &ids, 5);
    let mut media = Vec::new();
    if let Some(vision) = &info.vision {
        let tiles = Tiles::decode(PICTURE, &vision.spec, vision.image_tokens);
        media.extend(tiles.into_iter().flat_map(|tiles| tiles.images).take(2).map(Medium::from));
    }
    if let Some(audio) = &info.audio {
        media
            .extend(Sound::decode(RECORDING, &audio.spec, audio.audio_tokens.min(40)).ok().map(Medium::from));
    }
    for medium in media {
        let (Some(len), Some(token)) = (medium.tokens(&info), info.token_of(medium.kind())) else { continue };
        let ids: Vec<u32> = std::iter::repeat_n(token, len as usize).chain([0]).collect();
        let media = [medium];
        let _ = eval::logits(engine, Input { tokens: &ids, media: &media }, None);
    }
}
