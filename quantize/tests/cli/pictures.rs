use std::fs;

use serde_json::Value;

use super::{fail, fixture, json_of, output, succeed};

#[test]
fn logits_of_tokens_images_and_videos() {
    let (dir, path) = output();
    succeed(&["convert", &fixture("muse-glimmer"), "-o", &path, "--bits", "32"]);
    let golden = format!("{}/../golden", fixture("muse-glimmer"));
    let ids = fs::read(format!("{golden}/ids.json")).expect("the ids");
    let ids: Value = serde_json::from_slice(&ids).expect("ids are JSON");
    let text = |ids: &Value| {
        ids.as_array().expect("a list").iter().map(Value::to_string).collect::<Vec<_>>().join(" ")
    };
    let (tokens, inputs) = (text(&ids["image_input_ids"]), format!("{golden}/images.safetensors"));
    let generate =
        ["eval", "generate", &path, "--tokens", &tokens, "--inputs", &inputs, "--count", "20", "--json"];
    assert_eq!(json_of(&generate)["tokens"], ids["image_greedy_ids"]);
    let logits = json_of(&["eval", "logits", &path, "--tokens", &tokens, "--inputs", &inputs, "--json"]);
    let logits = logits["logits"].as_array().expect("numbers").iter().map(|x| x.as_f64().expect("a number"));
    let best = logits.enumerate().max_by(|a, b| a.1.total_cmp(&b.1)).expect("a vocabulary").0;
    assert_eq!(ids["image_greedy_ids"][0], best);
    let few = fail(
        &["eval", "logits", &path, "--tokens", &format!("308{}", " 2".repeat(40)), "--inputs", &inputs],
        1,
    );
    assert!(few.contains("image 0 is 12 tokens; 1 of id 308 are left for it"), "{few}");
    // A picture of 5 x 3 pixels is two tokens.
    let picture = format!("{}/../runtime/tests/pictures/tiny.png", env!("CARGO_MANIFEST_DIR"));
    let of = |args: &[&str]| {
        json_of(&[&["eval", "logits", &path, "--tokens", "1 308 308 2", "--json"], args].concat())
    };
    assert_ne!(of(&["--image", &picture]), of(&[]));
    let twice =
        ["eval", "logits", &path, "--tokens", "1 308 308 2", "--image", &picture, "--image", &picture];
    assert!(fail(&twice, 1).contains("image 1 is 2 tokens; 0 of id 308 are left for it"));
    let no_picture = ["eval", "logits", &path, "--tokens", "1 308 308 2", "--image", &inputs];
    assert!(fail(&no_picture, 1).contains("neither PNG nor JPEG nor WebP"));
    // Two frames are a grid of 12 tokens.
    let frames = tempfile::tempdir().expect("a folder");
    for name in ["first.png", "second.png"] {
        let from = format!("{}/../runtime/tests/pictures/{name}", env!("CARGO_MANIFEST_DIR"));
        fs::copy(from, frames.path().join(name)).expect("a frame");
    }
    let (folder, tokens) = (frames.path().to_str().expect("a path"), format!("1{} 2", " 310".repeat(12)));
    let video = ["eval", "logits", &path, "--tokens", &tokens, "--json", "--video", folder, "--fps", "2"];
    assert_ne!(json_of(&video), json_of(&video[..6]));
    assert!(fail(&video[..8], 2).contains("--fps"));
    let empty =
        fail(&[&video[..7], &[dir.path().join("none").to_str().expect("a path"), "--fps", "2"]].concat(), 1);
    assert!(empty.contains("none"), "{empty}");
    // Of 5 x 3 pixels is one tile of 4 tokens, of 22 x 26 are four and all of it.
    succeed(&["convert", &fixture("llama4"), "-o", &path, "--bits", "32", "--force"]);
    let first = picture.replace("tiny", "first");
    let few = format!("1{} 2", " 308".repeat(16));
    let tiled = ["eval", "logits", &path, "--tokens", &few, "--image", &first];
    assert!(fail(&tiled, 1).contains("image 4 is 4 tokens; 0 of id 308 are left for it"));
    let whole = format!("{few} 308 308 308 308 2");
    let tiled = ["eval", "logits", &path, "--tokens", &whole, "--json", "--image", &first];
    assert_ne!(json_of(&tiled), json_of(&tiled[..6]));
    // Of any size 9 tokens.
    succeed(&["convert", &fixture("gemma3-images"), "-o", &path, "--bits", "32", "--force"]);
    for of_a_size in [&picture, &first] {
        let sized =
            ["eval", "logits", &path, "--tokens", &format!("2 368{} 370 9", " 369".repeat(9)), "--json"];
        assert_ne!(json_of(&[&sized[..], &["--image", of_a_size]].concat()), json_of(&sized));
    }
    let few = format!("2 368{} 370 9", " 369".repeat(8));
    let sized = ["eval", "generate", &path, "--count", "1", "--tokens", &few, "--image", &first];
    assert!(fail(&sized, 1).contains("image 0 is 9 tokens; 8 of id 369 are left for it"));
    succeed(&["convert", &fixture("llama"), "-o", &path, "--force"]);
    let blind = fail(&["eval", "logits", &path, "--tokens", "1 2", "--inputs", &inputs], 1);
    assert!(blind.contains("the model takes no images"), "{blind}");
}
