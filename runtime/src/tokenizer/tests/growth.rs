//! How long a text may be, so that its memory has a bound.

use super::*;

#[test]
fn a_text_that_may_be_cut_at_every_character_is_held_to_its_memory() {
    let cut = |pattern: &str| serde_json::json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let replace = |pattern: Value, content: &str| serde_json::json!({"type": "Replace", "pattern": pattern, "content": content});
    let letter = replace(serde_json::json!({"String": "a"}), &"a".repeat(64));
    let empty = replace(serde_json::json!({"Regex": "b*"}), "aa");
    let two = replace(serde_json::json!({"Regex": "a{2,}"}), "aaaa");
    let memory = |normalizer: &Value, pre_tokenizer: Value| {
        let tokenizer = serde_json::json!({"version": "1.0", "added_tokens": [], "normalizer": normalizer,
            "pre_tokenizer": pre_tokenizer, "model": {"type": "WordLevel", "vocab": {"?": 0}, "unk_token": "?"}});
        let text = WholeText::new(tokenizer.to_string().as_bytes()).unwrap();
        let bytes = text.coder.text_max + 1;
        let too_long = Err(TextError::TooLong { bytes, limit: text.coder.text_max });
        assert_eq!(text.encode(&"a".repeat(bytes)), too_long);
        (1536 << 20) / text.coder.text_max
    };
    let none = Value::Null;
    for (normalizer, pre_tokenizer, bytes) in [
        (&none, cut("."), 400 + 41),
        (&none, serde_json::json!({"type": "Punctuation", "behavior": "Isolated"}), 400 + 41),
        (&letter, none.clone(), 400 + 64 * 41),
        (&letter, cut("."), 64 * (400 + 41)),
        (&letter, serde_json::json!({"type": "Sequence", "pretokenizers": [cut(".")]}), 64 * (400 + 41)),
        (&empty, cut("."), 5 * (400 + 41)),
        (&two, cut("."), 2 * (400 + 41)),
    ] {
        assert_eq!(memory(normalizer, pre_tokenizer), bytes, "{normalizer}");
    }
}

#[test]
fn of_a_text_that_is_too_long_the_begin_is_read() {
    let bomb =
        serde_json::json!({"type": "Replace", "pattern": {"String": "~"}, "content": "~".repeat(1 << 16)});
    let text = WholeText::new(&with("/normalizer", bomb)).unwrap();
    let limit = text.coder.text_max;
    assert!(limit < 1000, "{limit}");
    let long = "\u{e9} one two".repeat(100);
    let short = text.encode("\u{e9} one two\u{e9} one two").unwrap();
    let at_most = |kept| text.encode_at_most(&long, kept, text.coder.end());
    let (ids, whole) = at_most(5).unwrap();
    assert_eq!(ids, short[..5]);
    assert!(whole > 10 && whole <= limit, "{whole} ids of the begin");
    let too_long = Err(TextError::TooLong { bytes: long.len(), limit });
    assert_eq!(at_most(limit).map(|(ids, _)| ids), too_long, "not all of what is kept is certain");
    assert_eq!(text.encode(&long), too_long);
}

#[test]
fn the_tokenizers_in_use_take_a_text_of_a_mebibyte() {
    let mut seen = 0;
    for folder in std::fs::read_dir(fixtures()).unwrap() {
        let path = folder.unwrap().path().join("checkpoint/tokenizer.json");
        let Ok(json) = std::fs::read(&path) else { continue };
        let taken = WholeText::new(&json).unwrap().coder.text_max;
        assert!(taken >= 1 << 20, "{taken} of {}", path.display());
        seen += 1;
    }
    assert!(seen > 10, "{seen}");
}

#[test]
fn a_unigram_model_takes_a_piece_that_it_is_done_with_soon() {
    let tokenizer = |longest: usize, normalizer: Value| {
        let vocab: Vec<(String, f64)> = (0..=longest).map(|len| ("a".repeat(len), -1.0)).collect();
        let tokenizer = serde_json::json!({"version": "1.0", "added_tokens": [], "normalizer": normalizer,
            "model": {"type": "Unigram", "unk_id": 0, "vocab": vocab}});
        WholeText::new(tokenizer.to_string().as_bytes()).unwrap()
    };
    let long = tokenizer(128, Value::Null);
    let bytes = (1 << 19) + 1;
    assert_eq!(long.encode(&"a".repeat(bytes)), Err(TextError::TooLong { bytes, limit: bytes - 1 }));
    assert_eq!(long.encode(&"a".repeat(257)).unwrap().len(), 3);
    assert!(tokenizer(48, Value::Null).coder.text_max >= 1 << 20);
    // A text that is short, and a piece that is not.
    let wide = serde_json::json!({"type": "Replace", "pattern": {"String": "b"}, "content": "a".repeat(64)});
    let wide = tokenizer(128, wide);
    let problem = wide.encode(&"b".repeat((1 << 13) + 1)).unwrap_err();
    assert_eq!(problem, TextError::Encode("a piece of 524352 bytes; at most 524288 are taken".into()));
}
