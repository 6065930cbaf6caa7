//! A tiny checkpoint of any family, its JSON changed: an error, or a file that parses and that the runtime loads or refuses.
#![no_main]

#[path = "shared/bytes.rs"]
mod bytes;
#[path = "shared/edit.rs"]
mod edit;
#[path = "shared/fixtures.rs"]
mod fixtures;
#[path = "shared/run.rs"]
mod run;

use std::io::Cursor;
use std::sync::atomic::AtomicBool;
use std::sync::{LazyLock, Mutex};

use muse_format::{File, Meta, Provenance, Text};
use muse_quantize::checkpoint::Checkpoint;
use muse_quantize::convert::{self, Watch};
use muse_quantize::policy::{Bits, Policy, Scheme};
use muse_quantize::{families, text};
use muse_runtime::BackendChoice;
use serde_json::{Map, Value};

use bytes::Bytes;
use edit::edit;

static CHECKPOINTS: LazyLock<Mutex<Vec<(String, Checkpoint)>>> =
    LazyLock::new(|| Mutex::new(fixtures::all()));

/// The JSON of a checkpoint.
fn parts(checkpoint: &mut Checkpoint) -> [&mut Map<String, Value>; 6] {
    [
        &mut checkpoint.config,
        &mut checkpoint.generation_config,
        &mut checkpoint.image_processor,
        &mut checkpoint.video_processor,
        &mut checkpoint.feature_extractor,
        &mut checkpoint.tokenizer_config,
    ]
}

fn converted(checkpoint: &Checkpoint, head: bool, bits: Bits) -> Option<Vec<u8>> {
    let import = if head { families::import_head(checkpoint) } else { families::import(checkpoint) }.ok()?;
    let policy = Policy { bits: Some(bits), embed_bits: None, group: 32, scheme: Scheme::Symmetric };
    let watch = Watch { progress: &|_| (), interrupted: &AtomicBool::new(false) };
    let jobs = convert::plan(&import, checkpoint, &policy, &watch).ok()?;
    let (text, generation) = text::import(checkpoint, &import.spec).ok()?;
    let (image, video) = (text::image(checkpoint, &import).ok()?, text::video(checkpoint, &import).ok()?);
    let text = Text { image, video, audio: text::audio(checkpoint, &import).ok()?, ..text };
    let drafts = import.spec.drafter.is_some();
    let meta = Meta {
        spec: import.spec.clone(),
        text,
        generation,
        provenance: Provenance { target: "cpu".into(), ..Provenance::default() },
        tokenizer: if drafts { Vec::new() } else { checkpoint.tokenizer.clone() },
        chat_template: checkpoint.chat_template.clone().filter(|_| !drafts).unwrap_or_default(),
    };
    if convert::file_len(&jobs, &meta) > 8 << 20 {
        return None;
    }
    let (written, _) =
        convert::write(Cursor::new(Vec::new()), "memory", checkpoint, &jobs, &meta, &watch).ok()?;
    Some(written.into_inner())
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let mut bytes = Bytes(bytes);
    let mut checkpoints = CHECKPOINTS.lock().unwrap();
    let which = usize::from(bytes.next()) % checkpoints.len();
    let checkpoint = &mut checkpoints[which].1;
    let choice = bytes.next();
    let sound = parts(checkpoint).map(|part| part.clone());
    for _ in 0..5 {
        if bytes.0.is_empty() {
            break;
        }
        // Mostly the config.
        let part = usize::from(bytes.next()).saturating_sub(64) % 6;
        let part = &mut parts(checkpoint)[part];
        let mut changed = Value::Object(std::mem::take(*part));
        edit(&mut changed, &mut bytes);
        if let Value::Object(changed) = changed {
            **part = changed;
        }
    }
    let bits = [Bits::Sixteen, Bits::ThirtyTwo, Bits::Eight, Bits::Four][usize::from(choice % 4)];
    let written = converted(checkpoint, choice & 8 != 0, bits);
    parts(checkpoint).into_iter().zip(sound).for_each(|(part, sound)| *part = sound);
    let Some(written) = written else { return };
    if let Err(problem) = File::parse(&written) {
        panic!("what was converted does not parse: {problem}");
    }
    let file = tempfile::NamedTempFile::new_in("/dev/shm").unwrap();
    std::fs::write(file.path(), written).unwrap();
    run::run(file.path(), if choice & 4 == 0 { BackendChoice::Cpu } else { BackendChoice::Reference });
});
