//! The program as people and scripts run it: what it writes, what it leaves behind, and how it ends.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use muse_format::Layout;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_muse-quantize"))
}

fn run(args: &[&str]) -> Output {
    program().args(args).output().expect("the program starts")
}

/// Standard output of a run that must succeed.
fn succeed(args: &[&str]) -> String {
    let output = run(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("output is text")
}

/// Standard error of a run that must end with `code`.
fn fail(args: &[&str], code: i32) -> String {
    let output = run(args);
    let message = String::from_utf8(output.stderr).expect("messages are text");
    assert_eq!(output.status.code(), Some(code), "{args:?}: {message}");
    assert!(output.stdout.is_empty(), "{args:?} wrote results");
    message
}

fn json_of(args: &[&str]) -> Value {
    serde_json::from_str(&succeed(args)).expect("--json is JSON")
}

fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}/checkpoint", env!("CARGO_MANIFEST_DIR"))
}

/// A folder for outputs, and a path in it as text.
fn output() -> (TempDir, String) {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let path = dir.path().join("model.muse").to_str().expect("the path is text").to_owned();
    (dir, path)
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).expect("the folder is there");
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// The f32 tensors of the llama fixture in a safetensors file of its own: names, shapes, values.
type Tensors = Vec<(String, Vec<usize>, Vec<f32>)>;

fn tensors() -> Tensors {
    let bytes = fs::read(format!("{}/model.safetensors", fixture("llama"))).expect("the fixture");
    let file = safetensors::SafeTensors::deserialize(&bytes).expect("the fixture is sound");
    let values = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let mut list: Tensors =
        file.tensors().into_iter().map(|(n, t)| (n, t.shape().to_vec(), values(t.data()))).collect();
    list.sort_by(|a, b| a.0.cmp(&b.0));
    list
}

fn write_safetensors(path: &Path, tensors: &[(String, Vec<usize>, Vec<f32>)]) {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, shape, values) in tensors {
        let start = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        header.insert(
            name.clone(),
            json!({"dtype": "F32", "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    let header = Value::Object(header).to_string();
    let bytes = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
    fs::write(path, bytes).expect("the weights");
}

/// A copy of the llama fixture's small files in `dir/checkpoint`, without weights.
fn small_files(dir: &Path) -> PathBuf {
    let copy = dir.join("checkpoint");
    fs::create_dir(&copy).expect("a new folder");
    for name in names(Path::new(&fixture("llama"))) {
        if name != "model.safetensors" {
            fs::copy(format!("{}/{name}", fixture("llama")), copy.join(&name)).expect("a copy");
        }
    }
    copy
}

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

#[test]
fn what_a_conversion_leaves_out_is_said_and_kept_in_the_file() {
    let (_dir, path) = output();
    let made = run(&["convert", &fixture("muse-spark"), "-o", &path]);
    let (said, notes) = (String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
    assert!(made.status.success() && said.contains("left out: vision, 25 tensors"), "{said}{notes}");
    assert!(notes.contains("note: left out: vision, 25 tensors"), "{notes}");
    assert!(succeed(&["inspect", &path]).contains("left out    audio, vision of the source"));
    assert_eq!(json_of(&["inspect", &path, "--json"])["provenance"]["left_out"], json!(["audio", "vision"]));
    let whole = json_of(&["convert", &fixture("llama"), "-o", &path, "--force", "--json"]);
    assert_eq!(whole["left_out"], json!([]));
    assert_eq!(json_of(&["inspect", &path, "--json"])["provenance"].get("left_out"), None);
}

#[test]
fn a_conversion_is_whole_repeatable_and_described() {
    let (dir, path) = output();
    let report_path = dir.path().join("report.json");
    let report_arg = report_path.to_str().expect("the path is text");
    let report = json_of(&[
        "convert",
        &fixture("llama"),
        "-o",
        &path,
        "--bits",
        "4",
        "--json",
        "--report",
        report_arg,
    ]);
    let bytes = fs::read(&path).expect("the file is there");
    assert_eq!(names(dir.path()), ["model.muse", "report.json"]);
    assert_eq!(report["bytes"], bytes.len());
    let saved: Value = serde_json::from_slice(&fs::read(&report_path).expect("the report")).expect("JSON");
    assert_eq!(saved, report);
    let file = muse_format::File::parse(&bytes).expect("a sound file");
    assert_eq!(file.tensor("l0.ffn.down").map(|t| t.layout), Some(Layout::Q4 { group: 32 }));
    file.verify(|_| ()).expect("every hash");

    let (_other, again) = output();
    succeed(&["convert", &fixture("llama"), "-o", &again, "--bits", "4"]);
    assert_eq!(fs::read(&again).expect("the file is there"), bytes, "equal input gives equal bytes");

    let shown = json_of(&["inspect", &path, "--json", "--tensors"]);
    assert_eq!(shown["bytes"], bytes.len());
    assert_eq!(shown["tensors"].as_array().map(Vec::len), Some(file.tensors().len()));
    assert_eq!(shown["provenance"]["source"], "checkpoint");
    assert_eq!(json_of(&["verify", &path, "--json"])["ok"], true);
}

#[test]
fn options_decide_the_layouts() {
    let cases: [(&[&str], &str, &str); 11] = [
        (&[], "q4g32", "q4g32"),
        (&["--bits", "32"], "f32", "f32"),
        (&["--bits", "16"], "f16", "f16"),
        (&["--bits", "8"], "q8g32", "q8g32"),
        (&["--bits", "8", "--group", "128"], "q8g128", "q8g128"),
        (&["--bits", "4", "--group", "64", "--scheme", "symmetric"], "q4g64", "q4g64"),
        (&["--scheme", "asymmetric"], "q4ag32", "q4ag32"),
        (&["--scheme", "codebook"], "q4cg32", "q4cg32"),
        (&["--scheme", "codebook", "--group", "128", "--embed-bits", "8"], "q8g128", "q4cg128"),
        (&["--embed-bits", "8"], "q8g32", "q4g32"),
        (&["--bits", "8", "--embed-bits", "16"], "f16", "q8g32"),
    ];
    for (options, embed, matrix) in cases {
        let (_dir, path) = output();
        succeed(&[&["convert", &fixture("llama"), "-o", &path], options].concat());
        let bytes = fs::read(&path).expect("the file is there");
        let file = muse_format::File::parse(&bytes).expect("a sound file");
        let layout = |name: &str| file.tensor(name).expect(name).layout.to_string();
        assert_eq!([layout("embed"), layout("l1.attn.k")], [embed, matrix], "{options:?}");
        assert_eq!([layout("norm"), layout("rope.0")], ["f32", "f32"], "{options:?}");
    }
}

#[test]
fn shards_and_one_file_convert_to_the_same_bytes() {
    let dirs = [output(), output()];
    let copies = dirs.each_ref().map(|(dir, _)| small_files(dir.path()));
    let all = tensors();
    write_safetensors(&copies[0].join("model.safetensors"), &all);
    let mut map = serde_json::Map::new();
    for (i, part) in all.chunks(all.len().div_ceil(3)).enumerate() {
        let shard = format!("model-{i}.safetensors");
        write_safetensors(&copies[1].join(&shard), part);
        map.extend(part.iter().map(|(name, ..)| (name.clone(), shard.clone().into())));
    }
    let index = json!({"metadata": {"total_size": 1}, "weight_map": map});
    fs::write(copies[1].join("model.safetensors.index.json"), index.to_string()).expect("the index");
    let bytes = dirs.each_ref().map(|(dir, path)| {
        succeed(&[
            "convert",
            dir.path().join("checkpoint").to_str().expect("text"),
            "-o",
            path,
            "--bits",
            "8",
        ]);
        fs::read(path).expect("the file is there")
    });
    assert!(bytes[0] == bytes[1], "sharding changed the file");
}

#[test]
fn values_decide_between_f16_and_bf16_and_bad_ones_are_refused() {
    let cases = [(65504.0, "f16"), (65505.0, "bf16"), (-1e30, "bf16")];
    for (value, expected) in cases {
        let (dir, path) = output();
        let copy = small_files(dir.path());
        let mut tensors = tensors();
        let down = tensors.iter_mut().find(|t| t.0 == "model.layers.0.mlp.down_proj.weight").expect("down");
        down.2[7] = value;
        write_safetensors(&copy.join("model.safetensors"), &tensors);
        let source = copy.to_str().expect("text");
        succeed(&["convert", source, "-o", &path, "--bits", "16"]);
        let shown = json_of(&["inspect", &path, "--json", "--tensors"]);
        let rows = shown["tensors"].as_array().expect("a list").iter();
        let layouts: Vec<_> =
            rows.filter(|t| t["layout"] != "f32").map(|t| (&t["name"], &t["layout"])).collect();
        for (name, layout) in layouts {
            let expected = if name == "l0.ffn.down" { expected } else { "f16" };
            assert_eq!(layout, expected, "{name} with {value}");
        }
        if value == -1e30 {
            let message = fail(&["convert", source, "-o", &path, "--bits", "4", "--force"], 1);
            assert!(message.contains("l0.ffn.down") && message.contains("--bits 32"), "{message}");
        }
    }
    for value in [f32::NAN, f32::INFINITY] {
        let (dir, path) = output();
        let copy = small_files(dir.path());
        let mut tensors = tensors();
        tensors.last_mut().expect("a tensor").2[0] = value;
        write_safetensors(&copy.join("model.safetensors"), &tensors);
        let message = fail(&["convert", copy.to_str().expect("text"), "-o", &path], 1);
        assert!(message.contains("damaged") && message.contains("norm"), "{message}");
        assert_eq!(names(dir.path()), ["checkpoint"], "a refused conversion left a file");
    }
}

#[test]
fn mistakes_are_told_with_their_remedy() {
    let (dir, path) = output();
    succeed(&["convert", &fixture("llama"), "-o", &path]);
    let before = fs::read(&path).expect("the file is there");
    let message = fail(&["convert", &fixture("llama"), "-o", &path, "--bits", "8"], 1);
    assert!(message.starts_with("error: ") && message.contains("--force"), "{message}");
    assert_eq!(fs::read(&path).expect("still there"), before, "a refused conversion touched the file");
    succeed(&["convert", &fixture("llama"), "-o", &path, "--bits", "8", "--force"]);
    assert!(fs::read(&path).expect("still there") != before, "--force replaces");

    let folder = dir.path().to_str().expect("text");
    let missing = format!("{folder}/gone/out.muse");
    let cases: [(&[&str], &str); 7] = [
        (&["convert", "/nowhere", "-o", &missing], "/nowhere"),
        (&["convert", folder, "-o", &missing], "config.json"),
        (&["convert", &fixture("llama"), "-o", &missing], "gone"),
        (&["convert", &fixture("llama"), "-o", folder], "not a name"),
        (&["convert", &fixture("llama"), "-o", &missing, "--board", "toaster"], "known boards"),
        (&["convert", &fixture("llama"), "-o", &missing, "--ignore-config", "no_such_key"], "no_such_key"),
        (&["inspect", "/nowhere.muse"], "/nowhere.muse"),
    ];
    for (args, expected) in cases {
        let message = fail(args, 1);
        assert!(message.starts_with("error: ") && message.contains(expected), "{args:?}: {message}");
    }
    let usage: [&[&str]; 6] = [
        &[],
        &["convert"],
        &["convert", "x", "-o", "y", "--bits", "5"],
        &["convert", "x", "-o", "y", "--group", "48"],
        &["convert", "x", "-o", "y", "--scheme", "uneven"],
        &["eval", "logits", "x", "--tokens", "one"],
    ];
    for args in usage {
        fail(args, 2);
    }
}

#[test]
fn a_damaged_file_fails_verification_with_the_tensor() {
    let (_dir, path) = output();
    succeed(&["convert", &fixture("llama"), "-o", &path]);
    let mut bytes = fs::read(&path).expect("the file is there");
    let offset =
        muse_format::File::parse(&bytes).expect("sound").tensor("l1.ffn.up").expect("up").offset as usize;
    bytes[offset + 100] ^= 1;
    fs::write(&path, &bytes).expect("the file is ours");
    assert!(fail(&["verify", &path], 1).contains("l1.ffn.up"));
    fs::write(&path, &bytes[..bytes.len() - 1]).expect("the file is ours");
    assert!(fail(&["verify", &path], 1).contains("incomplete"));
}

/// A checkpoint whose conversion takes many seconds, so that one who waits for its beginning sees it before its end, however
/// busy the machine is: a thousand million zeros, which take no room on the disk.
fn large(dir: &Path) -> PathBuf {
    let copy = small_files(dir);
    let mut config: Value =
        serde_json::from_slice(&fs::read(copy.join("config.json")).expect("a config")).expect("JSON");
    let sizes = [
        ("hidden_size", 1024),
        ("intermediate_size", 1024),
        ("vocab_size", 1_000_000),
        ("num_hidden_layers", 1),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 8),
        ("head_dim", 128),
    ];
    for (key, value) in sizes {
        config[key] = value.into();
    }
    config["tie_word_embeddings"] = true.into();
    fs::write(copy.join("config.json"), config.to_string()).expect("the config");
    let layer = |part: &str| format!("model.layers.0.{part}.weight");
    let square = [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ]
    .map(|p| (layer(p), vec![1024, 1024]));
    let norms = ["input_layernorm", "post_attention_layernorm"].map(|p| (layer(p), vec![1024]));
    let outer = [
        ("model.embed_tokens.weight".to_owned(), vec![1_000_000, 1024]),
        ("model.norm.weight".into(), vec![1024]),
    ];
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in outer.into_iter().chain(norms).chain(square) {
        let start = end;
        end += 4 * shape.iter().product::<u64>();
        header.insert(name, json!({"dtype": "F32", "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(copy.join("model.safetensors")).expect("the weights");
    file.write_all(&(header.len() as u64).to_le_bytes()).expect("the weights");
    file.write_all(header.as_bytes()).expect("the weights");
    file.set_len(8 + header.len() as u64 + end).expect("a sparse file");
    copy
}

/// Starts the conversion and waits until its temporary file has grown: to 8 bits, since what fits 16 is known only when
/// all has been read once.
fn started(source: &Path, path: &str) -> (Child, PathBuf) {
    let mut child = program()
        .args(["convert", source.to_str().expect("text"), "-o", path, "--bits", "8"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let folder = Path::new(path).parent().expect("a folder");
    let deadline = Instant::now() + Duration::from_secs(600);
    loop {
        let part = names(folder).into_iter().find(|n| n.ends_with(".part")).map(|n| folder.join(n));
        if let Some(part) = part.filter(|p| fs::metadata(p).is_ok_and(|m| m.len() > 4096)) {
            return (child, part);
        }
        assert!(
            child.try_wait().expect("our child").is_none(),
            "the conversion ended before it was interrupted"
        );
        assert!(Instant::now() < deadline, "the conversion did not start to write");
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn an_interrupted_conversion_leaves_no_file_of_the_final_name() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let source = large(dir.path());
    for (signal, code) in [(Signal::INT, Some(1)), (Signal::TERM, Some(1)), (Signal::KILL, None)] {
        let (out, path) = output();
        let (child, part) = started(&source, &path);
        kill_process(Pid::from_child(&child), signal).expect("our child");
        let output = child.wait_with_output().expect("our child");
        assert_eq!(output.status.code(), code, "{signal:?}");
        let left = names(out.path());
        if signal == Signal::KILL {
            // Nothing can clean up then; what is left has another name and does not parse.
            assert_eq!(left, [part.file_name().expect("a name").to_string_lossy()]);
            muse_format::File::parse(&fs::read(part).expect("the rest")).expect_err("half a file");
        } else {
            assert!(left.is_empty(), "{signal:?} left {left:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains("interrupted"));
        }
    }
}

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

fn text_file(beside: &str) -> String {
    let path = format!("{beside}.txt");
    fs::write(&path, "A page of text that a model can be asked about, long enough for a window.")
        .expect("a text");
    path
}

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
