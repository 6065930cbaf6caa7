//! Vocabularies of a few tokens: what each key of the file does to the tokenizer.

use muse_quantize::checkpoint::{Checkpoint, gguf};
use serde_json::{Value as Json, json};
use tokenizers::{OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer, Tokenizer};

use crate::builder::{Gguf, Value, sentencepiece, tiny};

fn open(gguf: &Gguf) -> Checkpoint {
    gguf::from_bytes("tiny.gguf", gguf.bytes()).unwrap_or_else(|e| panic!("{e}"))
}

fn tokenizer(checkpoint: &Checkpoint) -> Tokenizer {
    Tokenizer::from_bytes(&checkpoint.tokenizer).unwrap()
}

/// The pieces that merges would work in, as text.
fn pieces(tokenizer: &Tokenizer, text: &str) -> Vec<String> {
    let mut cut = PreTokenizedString::from(text);
    tokenizer.get_pre_tokenizer().unwrap().pre_tokenize(&mut cut).unwrap();
    let splits = cut.get_splits(OffsetReferential::Original, OffsetType::Byte);
    splits.into_iter().map(|(_, (start, end), _)| text[start..end].to_owned()).collect()
}

#[test]
fn each_pre_tokenizer_cuts_as_its_family_does() {
    let text = "It's 2026: x+=10  \n\tDÉJÀ'S";
    // By hand from the pattern that each family publishes.
    let cases: [(&str, &[&str]); 6] = [
        ("gpt-2", &["It", "'s", " 2026", ":", " x", "+=", "10", "  \n", "\t", "DÉJÀ", "'", "S"]),
        (
            "smollm",
            &["It", "'s", " ", "2", "0", "2", "6", ":", " x", "+=", "1", "0", "  \n", "\t", "DÉJÀ", "'", "S"],
        ),
        ("llama-bpe", &["It", "'s", " ", "202", "6", ":", " x", "+=", "10", "  \n", "\tDÉJÀ", "'S"]),
        ("qwen2", &["It", "'s", " ", "2", "0", "2", "6", ":", " x", "+=", "1", "0", "  \n", "\tDÉJÀ", "'S"]),
        ("tekken", &["It", "'s", " ", "2", "0", "2", "6", ":", " x", "+=", "1", "0", "  \n", "\tDÉJÀ", "'S"]),
        (
            "default",
            &["It", "'", "s", " ", "202", "6", ":", " x", "+=", "10", "  \n", "\t", "DÉJÀ", "'", "S"],
        ),
    ];
    let mut failures = Vec::new();
    for (pre, expected) in cases {
        let mut gguf = tiny();
        gguf.set("tokenizer.ggml.pre", pre);
        let actual = pieces(&tokenizer(&open(&gguf)), text);
        if actual != expected {
            failures.push(format!("{pre}: {actual:?}, not {expected:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn special_tokens_keep_their_ids_and_are_found_before_merges() {
    let checkpoint = open(&tiny());
    let tokenizer = tokenizer(&checkpoint);
    let encoding = tokenizer.encode("ab<|im_end|>a<tool>b", false).unwrap();
    assert_eq!(encoding.get_ids(), [2, 4, 0, 5, 1]);
    assert_eq!(tokenizer.decode(&[2, 4, 5], true).unwrap(), "ab<tool>", "user-defined tokens are text");
    assert_eq!(
        Json::Object(checkpoint.tokenizer_config),
        json!({"add_bos_token": false, "add_eos_token": false, "bos_token": "<s>", "eos_token": "<|im_end|>"})
    );
}

#[test]
fn keys_become_generation_settings() {
    let mut gguf = tiny();
    gguf.set("tokenizer.ggml.eos_token_id", Value::Integer(3));
    gguf.set("tokenizer.ggml.eot_token_id", Value::Integer(2));
    gguf.set("tokenizer.ggml.padding_token_id", Value::Integer(1));
    gguf.set("general.sampling.temp", Value::Float(0.6));
    gguf.set("general.sampling.top_k", Value::Integer(20));
    gguf.set("tokenizer.chat_template", "{{ messages }}");
    gguf.set("general.license", "mit");
    let checkpoint = open(&gguf);
    // The two that keys name, then the special token that is known to end a turn.
    assert_eq!(
        Json::Object(checkpoint.generation_config),
        json!({
            "eos_token_id": [3, 2, 4], "bos_token_id": 3, "pad_token_id": 1,
            "temperature": 0.6, "top_k": 20, "do_sample": true
        })
    );
    assert_eq!(checkpoint.chat_template.as_deref(), Some("{{ messages }}"));
    assert_eq!(checkpoint.license.as_deref(), Some("mit"));
}

#[test]
fn the_end_of_a_message_ends_an_answer_unless_messages_follow() {
    for (template, expected) in
        [("{{ messages }}", json!([3, 2, 4])), ("<|start|>assistant to=self", json!([3, 4]))]
    {
        let mut gguf = tiny();
        gguf.set("tokenizer.ggml.eos_token_id", Value::Integer(3));
        gguf.set("tokenizer.ggml.eom_token_id", Value::Integer(2));
        gguf.set("tokenizer.chat_template", template);
        assert_eq!(open(&gguf).generation_config["eos_token_id"], expected, "{template}");
    }
}

#[test]
fn sentencepiece_joins_by_score_and_falls_back_to_bytes() {
    let (space, a, c, ab, bc, space_a, abc, spaces) = (259, 260, 262, 263, 264, 265, 266, 267);
    let byte = |byte: u32| 3 + byte;
    let without = {
        let mut gguf = sentencepiece();
        gguf.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
        tokenizer(&open(&gguf))
    };
    let with = tokenizer(&open(&sentencepiece()));
    let cases: [(&Tokenizer, &str, Vec<u32>); 8] = [
        (&without, "ab", vec![ab]),
        (&without, "abc", vec![abc]),
        // `▁a` has the best score, so `ab` is never made.
        (&without, " abc", vec![space_a, bc]),
        (&with, "abc", vec![space_a, bc]),
        (&without, "aé", vec![a, byte(0xc3), byte(0xa9)]),
        // A user-defined run is whole before `▁a` can be made.
        (&without, "  a", vec![spaces, a]),
        (&without, " c", vec![space, c]),
        (&without, "a</s>c", vec![a, 2, c]),
    ];
    for (tokenizer, text, expected) in cases {
        let ids = tokenizer.encode(text, false).unwrap().get_ids().to_vec();
        assert_eq!(ids, expected, "{text:?}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }
}

#[test]
fn sentencepiece_puts_bos_first_unless_told_otherwise() {
    let add_bos = |gguf: &Gguf| open(gguf).tokenizer_config["add_bos_token"].clone();
    let mut gguf = sentencepiece();
    assert_eq!(add_bos(&gguf), json!(true));
    gguf.set("tokenizer.ggml.add_bos_token", Value::Bool(false));
    assert_eq!(add_bos(&gguf), json!(false));
}
