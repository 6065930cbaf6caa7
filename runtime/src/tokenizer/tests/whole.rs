//! What may stand around a text.

use serde_json::json;

use super::*;

/// What is refused of a tokenizer with `frame` around its texts.
fn refused(frame: Value) -> Option<String> {
    WholeText::new(&with("/post_processor", frame)).err().map(|problem| problem.to_string())
}

#[test]
fn a_frame_that_has_the_text_many_times_or_many_ids_is_refused() {
    let text = |id: &str| json!({"Sequence": {"id": id, "type_id": 0}});
    let token = json!({"SpecialToken": {"id": "end", "type_id": 0}});
    let template = |single: Vec<Value>, ids: u32| {
        let ids: Vec<u32> = (0..ids).collect();
        let tokens = vec!["end"; ids.len()];
        json!({"type": "TemplateProcessing", "single": single, "pair": [],
            "special_tokens": {"end": {"id": "end", "ids": ids, "tokens": tokens}}})
    };
    let steps = |steps: Vec<Value>| json!({"type": "Sequence", "processors": steps});
    let sound = || template(vec![text("A"), token.clone(), token.clone()], 16);
    let bytes =
        || json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let bert = |name: &str| json!({"type": "BertProcessing", "sep": [name, 1], "cls": ["a", 0]});
    for (case, frame, words) in [
        ("often", template(vec![text("A"); 300], 1), "has the text 300 times"),
        ("twice", template(vec![text("A"), token.clone(), text("A")], 1), "has the text 2 times"),
        ("never", template(vec![token.clone()], 1), "has the text 0 times"),
        ("another text", template(vec![text("A"), text("B")], 1), "has a second text"),
        ("an id often", template([vec![text("A")], vec![token.clone(); 65]].concat(), 1), "puts 65 ids"),
        ("many ids", template(vec![text("A"), token.clone()], 65), "puts 65 ids"),
        ("within steps", steps(vec![bytes(), template(vec![text("A"); 2], 1)]), "has the text 2 times"),
        ("within both", steps(vec![sound(), sound(), sound()]), "puts 96 ids"),
        ("within within", steps(vec![steps(vec![bytes(); 5]), steps(vec![bytes(); 4])]), "9 steps"),
        ("long", bert(&"x".repeat(16 << 10)), "bytes; at most 16384"),
    ] {
        let problem = refused(frame).unwrap_or_else(|| panic!("{case} is taken"));
        assert!(problem.contains(words), "{case}: {problem}");
    }
    assert_eq!(refused(steps(vec![bytes(), sound(), bert("b")])), None);
}
