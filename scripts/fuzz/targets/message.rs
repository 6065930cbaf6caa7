//! Any conversation and options of `Respond`, as bytes of the wire or as dictionaries, with files of every kind among the
//! descriptors: a named error, or a conversation within the limits.
#![no_main]

#[path = "shared/bytes.rs"]
mod bytes;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::LazyLock;

use muse_daemon::bus::options::{Keys, bounded_texts, messages};
use muse_daemon::bus::wire::{Conversation, Options};
use muse_daemon::config::{Config, Limits};
use zbus::wire::serialized::{Context, Data};
use zbus::wire::{LE, to_bytes};
use zbus::{Fd, Variant};

use bytes::Bytes;

static LIMITS: LazyLock<Limits> =
    LazyLock::new(|| Limits { messages: 8, text_kib: 1, images_mib: 1, ..Config::default().limits });

const KEYS: [&str; 24] = [
    "role",
    "content",
    "reasoning",
    "tool_calls",
    "tool_call_id",
    "name",
    "images",
    "videos",
    "audio",
    "max_tokens",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "repetition_penalty",
    "seed",
    "stop",
    "priority",
    "speculation",
    "json_schema",
    "mode",
    "tools",
    "system",
    "",
];
const TEXTS: [&str; 10] = [
    "user",
    "assistant",
    "tool",
    "system",
    "[]",
    "{}",
    "[{\"id\":\"1\",\"name\":\"f\",\"arguments\":{}}]",
    "interactive",
    "thinking",
    "",
];

fn descriptors() -> Vec<OwnedFd> {
    let mut picture = tempfile::tempfile_in("/dev/shm").unwrap();
    picture.write_all(include_bytes!("../../../runtime/tests/pictures/tiny.png")).unwrap();
    let sparse = tempfile::tempfile_in("/dev/shm").unwrap();
    sparse.set_len(1 << 40).unwrap();
    [picture, sparse, File::open("/dev/zero").unwrap(), File::open("/").unwrap()].map(OwnedFd::from).into()
}

/// A value of a type that a key might have.
fn value(bytes: &mut Bytes<'_>) -> Variant<'static> {
    let text = |bytes: &mut Bytes<'_>| match bytes.next() {
        pick @ 0..200 => TEXTS[usize::from(pick) % TEXTS.len()].to_owned(),
        pick => "x".repeat(usize::from(pick) * usize::from(bytes.next())),
    };
    let file = |bytes: &mut Bytes<'_>| Fd::from(descriptors().swap_remove(usize::from(bytes.next() % 4)));
    match bytes.next() % 10 {
        0..4 => text(bytes).into(),
        4 => u32::from(bytes.next()).into(),
        5 => (f64::from(bytes.next()) / 64.0 - 1.0).into(),
        6 => (bytes.next() & 1 == 0).into(),
        7 => vec![text(bytes)].into(),
        8 => (0..bytes.next() % 3).map(|_| file(bytes)).collect::<Vec<_>>().into(),
        _ => vec![(file(bytes), vec![u64::from(bytes.next())], f64::from(bytes.next()))].into(),
    }
}

fn dictionary(bytes: &mut Bytes<'_>) -> HashMap<&'static str, Variant<'static>> {
    (0..bytes.next() % 8).map(|_| (KEYS[usize::from(bytes.next()) % KEYS.len()], value(bytes))).collect()
}

fn call(bytes: &[u8]) -> Option<(Conversation, Options)> {
    let (choice, bytes) = bytes.split_first()?;
    let context = Context::new(LE, 0);
    if choice & 1 == 0 {
        return Some(Data::new_fds(bytes, context, descriptors()).deserialize().ok()?.0);
    }
    let mut bytes = Bytes(bytes);
    let options = dictionary(&mut bytes);
    let messages: Vec<_> = (0..1 + choice / 32).map(|_| dictionary(&mut bytes)).collect();
    let data = to_bytes(context, &(messages, options)).expect("it fits a message");
    Some(data.deserialize().expect("it is what was written").0)
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Some((conversation, options)) = call(bytes) else { return };
    let mut keys = Keys::new(options);
    if keys.generate(&LIMITS).is_ok() {
        let _ = keys.finish();
    }
    if bounded_texts(&conversation, &LIMITS).is_err() {
        return;
    }
    if let Ok(messages) = messages(conversation, &LIMITS) {
        let text: usize = messages.iter().map(|message| message.content.len()).sum();
        let files: usize = messages.iter().flat_map(|message| &message.images).map(|file| file.len()).sum();
        assert!((1..=8).contains(&messages.len()) && text <= 1024 && files <= 1 << 20);
    }
});
