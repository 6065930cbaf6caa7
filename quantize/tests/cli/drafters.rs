use std::fs;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{fail, fixture, json_of, output, run, succeed};

/// A drafter is converted without a tokenizer, inspected and verified as any file, and runs beside its target alone.
#[test]
fn a_drafter_proposes_what_its_target_says() {
    let (dir, target) = output();
    let path = |name: &str| dir.path().join(name).to_str().expect("the path is text").to_owned();
    let (drafter, other) = (path("drafter.muse"), path("other.muse"));
    succeed(&["convert", &fixture("muse-glimmer"), "-o", &target, "--bits", "16"]);
    succeed(&["convert", &fixture("muse-glimmer-assistant"), "-o", &drafter, "--bits", "16"]);
    succeed(&["convert", &fixture("llama"), "-o", &other, "--bits", "32"]);
    assert_eq!(json_of(&["verify", &drafter, "--json"])["ok"], true);
    let inspected = json_of(&["inspect", &drafter, "--json"]);
    assert_eq!(inspected["spec"]["drafter"], json!({"reads": [2, 0, 3], "block": 7, "mask": 300}));
    let generate = |more: &[&str]| {
        json_of(
            &[&["eval", "generate", &target, "--tokens", "5 6 7 8", "--count", "30", "--json"], more]
                .concat(),
        )
    };
    let (alone, with) = (generate(&[]), generate(&["--drafter", &drafter]));
    assert_eq!((&with["tokens"], alone.as_object().map(|o| o.len())), (&alone["tokens"], Some(1)));
    let number = |key: &str| with[key].as_u64().expect("a number");
    assert_eq!(number("steps") + number("accepted_tokens"), 30);
    assert!(number("proposed_tokens") > 30, "{with}");
    let refused = |args: &[&str]| fail(&[args, &["--tokens", "5", "--count", "3"]].concat(), 1);
    let alone = refused(&["eval", "generate", &drafter]);
    assert!(alone.contains("is a drafter (muse_glimmer_assistant)"), "{alone}");
    let another = refused(&["eval", "generate", &other, "--drafter", &drafter]);
    assert!(another.contains("a width of 20") && another.contains("has 48"), "{another}");
    let none = refused(&["eval", "generate", &target, "--drafter", &other]);
    assert!(none.contains("is no drafter"), "{none}");
}

/// A copy of a checkpoint in which the first byte of a tensor is another.
fn trained(from: &str, tensor: &str) -> TempDir {
    let folder = TempDir::new().expect("a folder");
    for file in fs::read_dir(from).expect("a checkpoint") {
        let file = file.expect("an entry");
        fs::copy(file.path(), folder.path().join(file.file_name())).expect("a copy");
    }
    let path = folder.path().join("model.safetensors");
    let mut bytes = fs::read(&path).expect("weights");
    let header = u64::from_le_bytes(*bytes.first_chunk().expect("a length")) as usize;
    let entries: Value = serde_json::from_slice(&bytes[8..8 + header]).expect("a header");
    let start = entries[tensor]["data_offsets"][0].as_u64().expect("an offset") as usize;
    bytes[8 + header + start] ^= 1;
    fs::write(path, bytes).expect("weights");
    folder
}

/// What a checkpoint holds beside its model becomes a drafter of it.
#[test]
fn a_head_is_a_file_of_its_own() {
    let (dir, target) = output();
    let head = dir.path().join("head.muse").to_str().expect("the path is text").to_owned();
    let made = run(&["convert", &fixture("qwen3-5"), "-o", &target, "--bits", "16"]);
    let notes = String::from_utf8_lossy(&made.stderr);
    assert!(notes.contains("left out: guesses of the token after the next (--mtp), 15 tensors"), "{notes}");
    let made = run(&["convert", &fixture("qwen3-5"), "--mtp", "-o", &head, "--bits", "16"]);
    assert!(made.status.success() && !String::from_utf8_lossy(&made.stderr).contains("left out"));
    assert_eq!(json_of(&["verify", &head, "--json"])["ok"], true);
    let inspected = json_of(&["inspect", &head, "--json"]);
    assert_eq!(inspected["spec"]["drafter"], json!({"chain": 4}));
    let ask = ["eval", "generate", &target, "--tokens", "5 6 7 8", "--count", "30", "--json"];
    let (alone, with) = (json_of(&ask), json_of(&[&ask[..], &["--drafter", &head]].concat()));
    assert_eq!(with["tokens"], alone["tokens"]);
    let number = |key: &str| with[key].as_u64().expect("a number");
    assert_eq!(number("steps") + number("accepted_tokens"), 30);
    assert!(number("proposed_tokens") > 30, "{with}");
    // The same model after training that changed one number of its last norm.
    let trained = trained(&fixture("qwen3-5"), "model.language_model.norm.weight");
    succeed(&["convert", trained.path().to_str().expect("a path"), "-o", &target, "--force"]);
    let another = fail(&[&ask[..], &["--drafter", &head]].concat(), 1);
    assert!(another.contains("was made of another checkpoint than"), "{another}");
    let (_dir, none) = output();
    let refused = fail(&["convert", &fixture("llama"), "--mtp", "-o", &none], 1);
    assert!(refused.contains("LlamaForCausalLM") && refused.contains("supported are Glm4Moe"), "{refused}");
    let lacks = fail(&["convert", &fixture("qwen3-5-options"), "--mtp", "-o", &none], 1);
    assert!(lacks.contains("mtp."), "{lacks}");
}
