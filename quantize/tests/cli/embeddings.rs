use serde_json::{Value, json};

use super::{fail, fixture, json_of, output, succeed};

#[test]
fn texts_become_vectors_only_where_a_model_embeds() {
    let (dir, path) = output();
    succeed(&["convert", &fixture("gemma3-embedding"), "-o", &path, "--bits", "32"]);
    let shown = succeed(&["inspect", &path]);
    assert!(shown.contains("embeds      40 numbers, of length 1, pooling Mean"), "{shown}");
    assert!(shown.contains("prompts     document, query"), "{shown}");
    let made = json_of(&["eval", "embed", &path, "--text", "one", "--text", "two words", "--json"]);
    let rows = made["embeddings"].as_array().expect("rows");
    assert_eq!((rows.len(), rows[0].as_array().map(Vec::len)), (2, Some(40)));
    let length = |row: &Value| {
        row.as_array()
            .expect("numbers")
            .iter()
            .map(|x| x.as_f64().expect("a number").powi(2))
            .sum::<f64>()
            .sqrt()
    };
    assert!(rows.iter().all(|row| (length(row) - 1.0).abs() < 1e-6), "{made}");
    let asked = json_of(&["eval", "embed", &path, "--text", "one", "--prompt", "query", "--json"]);
    assert_ne!(asked["embeddings"][0], made["embeddings"][0]);
    let ids = json_of(&["eval", "embed", &path, "--tokens", "2 291 1", "--json"]);
    let same = json_of(&["eval", "embed", &path, "--text", "a", "--json"]);
    assert_eq!(ids, same);
    assert!(succeed(&["eval", "embed", &path, "--text", "one", "--text", "one"]).contains(" 1.0000 "));

    let long = "word ".repeat(300);
    let refused = fail(&["eval", "embed", &path, "--text", &long], 1);
    assert!(refused.contains("text 0 is ") && refused.contains("this model reads 128"), "{refused}");
    let cut = json_of(&["eval", "embed", &path, "--text", &long, "--truncate", "--json"]);
    assert_eq!((&cut["tokens"], &cut["truncated"]), (&json!([128]), &json!(1)));
    let unknown = fail(&["eval", "embed", &path, "--text", "x", "--prompt", "passage"], 1);
    assert!(unknown.contains("this model has: document, query"), "{unknown}");
    let logits = fail(&["eval", "logits", &path, "--tokens", "2"], 1);
    assert!(logits.contains("use eval embed"), "{logits}");
    let chat = dir.path().join("chat.muse").to_str().expect("text").to_owned();
    succeed(&["convert", &fixture("llama"), "-o", &chat, "--bits", "32"]);
    for asked in [["--text", "x"], ["--tokens", "1"]] {
        let refused = fail(&["eval", "embed", &chat, asked[0], asked[1]], 1);
        assert!(refused.contains("makes no vectors"), "{refused}");
    }
}
