//! A tokenizer of any family, changed, and any text: an error, or ids whose pieces are the text that a decoder streams.
#![no_main]

#[path = "shared/bytes.rs"]
mod bytes;
#[path = "shared/edit.rs"]
mod edit;
#[path = "shared/fixtures.rs"]
mod fixtures;

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use muse_format::Text as Section;
use muse_runtime::{HfText, Text, TextError, WholeText};
use serde_json::Value;

use bytes::Bytes;
use edit::edit;

static TOKENIZERS: LazyLock<Vec<Value>> = LazyLock::new(|| {
    // Its panics are errors here, which the fuzzer's own hook would not let be.
    drop(std::panic::take_hook());
    let read = |bytes: Vec<u8>| serde_json::from_slice(&bytes).expect("a sound tokenizer");
    fixtures::all()
        .into_iter()
        .map(|(_, c)| c.tokenizer)
        .filter(|bytes| !bytes.is_empty())
        .map(read)
        .collect()
});

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (head, text) = bytes.split_at(bytes.len().min(24));
    let mut head = Bytes(head);
    let mut tokenizer = TOKENIZERS[usize::from(head.next()) % TOKENIZERS.len()].clone();
    for _ in 0..4 {
        if head.0.is_empty() {
            break;
        }
        edit(&mut tokenizer, &mut head);
    }
    let json = serde_json::to_vec(&tokenizer).unwrap();
    let text = String::from_utf8_lossy(text);
    if let Ok(whole) = WholeText::new(&json) {
        match whole.encode_at_most(&text, 5, Instant::now() + Duration::from_secs(15)) {
            // Once is enough for the fuzzer's own patience.
            Err(TextError::TooSlow { .. }) => return,
            cut => assert!(cut.map_or(true, |(ids, _)| ids.len() <= 5)),
        }
    }
    let Ok(read) = HfText::new(&json, &Section::default(), "") else { return };
    let Ok(ids) = read.encode(&text) else { return };
    let mut decoder = read.decoder(true);
    let mut streamed: String = ids.iter().map(|id| decoder.push(*id)).collect();
    streamed += &decoder.finish();
    let pieces: Vec<u8> = ids.iter().flat_map(|id| read.piece(*id)).collect();
    assert_eq!(streamed, String::from_utf8_lossy(&pieces));
});
