//! What may be added to a vocabulary.

use std::cell::Cell;

use serde_json::json;
use tokenizers::AddedToken;

use super::super::added::check_added;
use super::*;

fn token(content: &str, normalized: bool) -> Value {
    let mut token = json("llama/checkpoint/tokenizer.json")["added_tokens"][0].clone();
    (token["content"], token["normalized"]) = (content.into(), normalized.into());
    token
}

fn replace(pattern: &str, content: &str) -> Value {
    json!({"type": "Replace", "pattern": {"String": pattern}, "content": content})
}

/// A tokenizer with `normalizer`, `added` in place of its own, and nothing that cuts a text otherwise.
fn tokenizer(normalizer: Value, added: Vec<Value>) -> Result<WholeText, TextError> {
    let mut whole = json("llama/checkpoint/tokenizer.json");
    (whole["normalizer"], whole["added_tokens"]) = (normalizer, added.into());
    whole["pre_tokenizer"] = Value::Null;
    WholeText::new(whole.to_string().as_bytes())
}

#[test]
fn a_token_whose_work_has_no_bound_is_refused() {
    // Where many stand in a row, each would look at all of them, or as far as it is long.
    let strip = |side: &str| {
        let mut token = token(" \n", false);
        token[side] = true.into();
        token
    };
    let wide = replace("x", &"a".repeat(4096));
    let many = (0..20_000).map(|n| token(&format!("{n:0256}"), false)).collect();
    let double = |steps| json!({"type": "Sequence", "normalizers": vec![replace("a", "aa"); steps]});
    for (case, normalizer, added, words) in [
        ("long", Value::Null, vec![token(&"a".repeat(257), false)], "257 bytes; at most 256"),
        ("white space on the left", Value::Null, vec![strip("lstrip")], "2 bytes of white space"),
        ("white space on the right", Value::Null, vec![strip("rstrip")], "2 bytes of white space"),
        ("many", Value::Null, many, "more than 4194304 bytes"),
        ("made long", wide.clone(), vec![token("x", true)], "makes 4096 bytes of an added token of 1"),
        ("a terabyte", double(40), vec![token("a", true)], "could make 1099511627776 bytes"),
        (
            "a megabyte",
            wide,
            vec![token(&("x".repeat(255) + "b"), true)],
            "makes 1044481 bytes of an added token of 256",
        ),
    ] {
        let problem = tokenizer(normalizer, added).err().unwrap_or_else(|| panic!("{case} is taken"));
        assert!(problem.to_string().contains(words), "{case}: {problem}");
    }
    let spaces = replace(" ", "\u{2581}");
    let sound =
        tokenizer(spaces, vec![token(&" ".repeat(93), true), token(&"a".repeat(256), false)]).unwrap();
    assert!(sound.coder.text_max > 1 << 20, "{}", sound.coder.text_max);
}

#[test]
fn a_normalizer_that_fails_or_takes_long_stops_the_reading() {
    let tokens = [("a", false), ("b", true), ("c", true)]
        .map(|(content, normalized)| AddedToken::from(content, false).normalized(normalized));
    let seen = Cell::new(0);
    let stopped = check_added(&tokens, 1, |_| {
        seen.set(seen.get() + 1);
        Err("its time is over".into())
    });
    assert_eq!(stopped.unwrap_err().to_string(), "its added tokens are not normalized: its time is over");
    assert_eq!(seen.get(), 1, "of those that are normalized, the first");
}

#[test]
fn a_text_is_shorter_where_long_tokens_are_looked_for_in_what_it_becomes() {
    // At each of the letters that a byte becomes, the second is looked for to its end.
    let wide = replace("x", &"a".repeat(100));
    let taken = tokenizer(wide, vec![token("a", true), token("xxxxxxxxxxb", true)]).unwrap().coder.text_max;
    assert_eq!(taken, (1 << 30) / (100 * 1001));
    // Two bytes that become one are a piece for each two of what a text becomes.
    let narrow =
        json!({"type": "Sequence", "normalizers": [replace("xy", "z"), replace("b", &"c".repeat(64))]});
    let taken = tokenizer(narrow, vec![token("xy", true)]).unwrap().coder.text_max;
    assert_eq!(taken, (1536 << 20) / (64 * (41 + 400)));
}
