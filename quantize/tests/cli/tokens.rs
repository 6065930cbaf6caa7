use std::fs;

use serde_json::{Value, json};

use super::{fail, fixture, json_of, output, run, succeed, text_file};

#[test]
fn a_model_answers_by_token_ids() {
    let (_dir, path) = output();
    succeed(&["convert", &fixture("llama"), "-o", &path, "--bits", "32"]);
    let logits = json_of(&["eval", "logits", &path, "--tokens", "5 6 7", "--position", "1", "--json"]);
    assert_eq!((&logits["position"], logits["logits"].as_array().map(Vec::len)), (&json!(1), Some(307)));
    let tokens = json_of(&["eval", "generate", &path, "--tokens", "5 6 7", "--count", "4", "--json"]);
    assert_eq!(tokens["tokens"].as_array().map(Vec::len), Some(4));
    let kl = json_of(&["eval", "kl", &path, &path, "--text", &text_file(&path), "--context", "32", "--json"]);
    assert_eq!((&kl["mean_kl"], &kl["top1_agreement"]), (&json!(0.0), &json!(1.0)));
    let perplexity =
        json_of(&["eval", "perplexity", &path, "--text", &text_file(&path), "--context", "32", "--json"]);
    assert!(perplexity["perplexity"].as_f64().is_some_and(|p| p >= 1.0), "{perplexity}");
    assert!(fail(&["eval", "logits", &path, "--tokens", "999999"], 1).contains("999999"));
    assert!(fail(&["eval", "logits", &path, "--tokens", "1", "--position", "1"], 1).contains("position 1"));
}

#[test]
fn a_model_without_a_tokenizer_answers_by_token_ids_alone() {
    let (dir, path) = output();
    let alone = dir.path().join("alone");
    fs::create_dir(&alone).expect("a new folder");
    fs::copy(format!("{}/model.safetensors", fixture("llama")), alone.join("model.safetensors"))
        .expect("weights");
    let config = fs::read(format!("{}/config.json", fixture("llama"))).expect("the fixture");
    let mut config: Value = serde_json::from_slice(&config).expect("the fixture is sound");
    // What a small model says that keeps a large one's defaults.
    config["eos_token_id"] = json!(200_001);
    fs::write(alone.join("config.json"), config.to_string()).expect("the config");
    let made = run(&["convert", alone.to_str().expect("text"), "-o", &path, "--bits", "32"]);
    let notes = String::from_utf8_lossy(&made.stderr);
    assert!(made.status.success() && notes.contains("note: there is no tokenizer.json"), "{notes}");
    assert!(notes.contains("note: no eos_token_id is below vocab_size 307"), "{notes}");
    let whole = dir.path().join("whole.muse").to_str().expect("text").to_owned();
    succeed(&["convert", &fixture("llama"), "-o", &whole, "--bits", "32"]);
    let logits = |file: &str| json_of(&["eval", "logits", file, "--tokens", "5 6 7", "--json"]);
    assert_eq!(logits(&path), logits(&whole));
    let refused = fail(&["eval", "perplexity", &path, "--text", &text_file(&path), "--context", "32"], 1);
    assert!(refused.contains("this model has no tokenizer"), "{refused}");
}
