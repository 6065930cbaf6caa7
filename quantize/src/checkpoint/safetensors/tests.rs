use std::fs;
use std::path::Path;

use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::open;
use crate::checkpoint::{Checkpoint, ImportError, Native};

/// The bytes of a safetensors file: each tensor its name, type, shape and data.
fn file(tensors: &[(&str, &str, &[usize], Vec<u8>)]) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, dtype, shape, bytes) in tensors {
        let start = data.len();
        data.extend_from_slice(bytes);
        header.insert(
            (*name).into(),
            json!({"dtype": dtype, "shape": shape, "data_offsets": [start, data.len()]}),
        );
    }
    with_header(&Value::Object(header).to_string(), &data)
}

fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}

fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A folder with the small files and `weights` as its one file.
fn folder(weights: &[u8]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temporary folder");
    for (name, text) in [("config.json", r#"{"model_type":"llama"}"#), ("tokenizer.json", "{}")] {
        fs::write(dir.path().join(name), text).expect("a small file");
    }
    fs::write(dir.path().join("model.safetensors"), weights).expect("the weights");
    dir
}

fn read(checkpoint: &Checkpoint, name: &str) -> Vec<f32> {
    let tensor = &checkpoint.tensors[name];
    let (rows, cols) = tensor.shape();
    let mut values = vec![f32::NAN; rows * cols];
    tensor.read(0..rows, &mut values).expect("the tensor reads");
    values
}

const VALUES: [f32; 6] = [0.0, -1.5, 2.0, 0.25, -65504.0, 1.0];

fn typed() -> Vec<(&'static str, &'static str, &'static [usize], Vec<u8>)> {
    let halves = |f: fn(f32) -> u16| VALUES.iter().flat_map(|v| f(*v).to_le_bytes()).collect();
    vec![
        ("single", "F32", &[2, 3], f32s(&VALUES)),
        ("half", "F16", &[3, 2], halves(|v| f16::from_f32(v).to_bits())),
        ("brain", "BF16", &[6], halves(|v| bf16::from_f32(v).to_bits())),
    ]
}

#[test]
fn the_three_types_are_read_by_rows() {
    let dir = folder(&file(&typed()));
    let checkpoint = open(dir.path()).expect("a sound folder");
    assert_eq!(read(&checkpoint, "single"), VALUES);
    assert_eq!(read(&checkpoint, "half"), VALUES);
    assert_eq!(read(&checkpoint, "brain"), VALUES.map(|v| bf16::from_f32(v).to_f32()));
    let shapes =
        ["single", "half", "brain"].map(|n| (checkpoint.tensors[n].shape(), checkpoint.tensors[n].native()));
    assert_eq!(shapes, [((2, 3), Native::F32), ((3, 2), Native::F16), ((1, 6), Native::Bf16)]);
    let mut row = [0.0; 2];
    checkpoint.tensors["half"].read(1..2, &mut row).expect("one row");
    assert_eq!(row, VALUES[2..4]);
    checkpoint.tensors["half"].groups(0).expect_err("floats have no groups");
}

#[test]
fn a_tensor_longer_than_one_read_is_whole() {
    let values: Vec<f32> = (0..700_001).map(|i| i as f32).collect();
    let dir = folder(&file(&[("long", "F32", &[1, 700_001], f32s(&values))]));
    assert_eq!(read(&open(dir.path()).expect("a sound folder"), "long"), values);
}

#[test]
fn shards_are_one_checkpoint() {
    let single = folder(&file(&typed()));
    let sharded = folder(&[]);
    fs::remove_file(sharded.path().join("model.safetensors")).expect("there was one");
    let (first, second) = (&typed()[..1], &typed()[1..]);
    fs::write(sharded.path().join("a.safetensors"), file(first)).expect("shard");
    fs::write(sharded.path().join("b.safetensors"), file(second)).expect("shard");
    let map =
        json!({"weight_map": {"single": "a.safetensors", "half": "b.safetensors", "brain": "b.safetensors"}});
    fs::write(sharded.path().join("model.safetensors.index.json"), map.to_string()).expect("index");
    let (single, sharded) = (open(single.path()).expect("single"), open(sharded.path()).expect("sharded"));
    assert_eq!(single.tensors.len(), sharded.tensors.len());
    for name in single.tensors.keys() {
        assert_eq!(read(&single, name), read(&sharded, name), "{name}");
    }
}

#[test]
fn a_damaged_file_is_an_error_that_names_it() {
    let sound = file(&typed());
    let header = |text: &str| with_header(text, &[0; 8]);
    let one = |dtype: &str, shape: &str, offsets: &str| {
        header(&format!(r#"{{"t":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#))
    };
    let cases = [
        ("empty", Vec::new()),
        ("seven bytes", vec![0; 7]),
        ("header length beyond the file", (u64::MAX - 7).to_le_bytes().to_vec()),
        ("header length beyond the bound", [&100_000_001u64.to_le_bytes()[..], &[b' '; 64]].concat()),
        ("header cut", sound[..40].to_vec()),
        ("data cut", sound[..sound.len() - 1].to_vec()),
        ("data added", [&sound[..], &[0]].concat()),
        ("not JSON", header("{")),
        ("a list", header("[]")),
        ("no such type", one("F7", "[2]", "[0,8]")),
        ("extent too short", one("F32", "[3]", "[0,8]")),
        ("extent too long", one("F32", "[1]", "[0,8]")),
        ("extent backwards", one("F32", "[2]", "[8,0]")),
        ("extent with a gap", one("F32", "[1]", "[4,8]")),
        ("shape overflows", one("F32", "[4294967296,4294967296,4294967296]", "[0,8]")),
        ("negative shape", one("F32", "[-2]", "[0,8]")),
        (
            "overlap",
            header(
                r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}"#,
            ),
        ),
    ];
    let mut failures = Vec::new();
    for (name, bytes) in cases {
        let dir = folder(&bytes);
        match open(dir.path()) {
            Err(ImportError::Malformed { file, .. } | ImportError::TooLarge { file, .. })
                if file == "model.safetensors" => {}
            Err(other) => failures.push(format!("{name}: {other}")),
            Ok(_) => failures.push(format!("{name}: accepted")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn an_index_stays_in_its_folder_and_agrees_with_its_shards() {
    let index = |map: Value| json!({"weight_map": map}).to_string();
    let cases = [
        ("not JSON", "{".to_owned()),
        ("no map", "{}".into()),
        ("parent", index(json!({"single": "../model.safetensors"}))),
        ("absolute", index(json!({"single": "/etc/passwd"}))),
        ("nested", index(json!({"single": "sub/model.safetensors"}))),
        ("itself", index(json!({"single": "."}))),
        ("empty", index(json!({"single": ""}))),
        ("number", index(json!({"single": 3}))),
        ("tensor that is elsewhere", index(json!({"other": "model.safetensors"}))),
        ("tensor left out", index(json!({"single": "model.safetensors"}))),
        ("missing shard", index(json!({"single": "gone.safetensors"}))),
    ];
    let mut failures = Vec::new();
    for (name, text) in cases {
        let dir = folder(&file(&typed()));
        fs::write(dir.path().join("model.safetensors.index.json"), text).expect("index");
        match open(dir.path()) {
            Err(ImportError::Malformed { .. }) => {}
            Err(ImportError::Io { path, .. }) if path.ends_with("gone.safetensors") => {}
            Err(other) => failures.push(format!("{name}: {other}")),
            Ok(_) => failures.push(format!("{name}: accepted")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn write(dir: &Path, name: &str, text: &str) {
    fs::write(dir.join(name), text).expect("a small file");
}

#[test]
fn the_small_files_are_found_in_their_forms() {
    let dir = folder(&file(&typed()));
    let path = dir.path();
    assert_eq!(open(path).expect("bare").chat_template, None);
    let list =
        json!({"chat_template": [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]});
    write(path, "tokenizer_config.json", &list.to_string());
    assert_eq!(open(path).expect("a list").chat_template.as_deref(), Some("D"));
    write(path, "tokenizer_config.json", r#"{"chat_template": "text"}"#);
    assert_eq!(open(path).expect("a text").chat_template.as_deref(), Some("text"));
    write(path, "chat_template.jinja", "file");
    write(path, "README.md", "---\nbase_model: x\nlicense: apache-2.0\n---\n# Card\nlicense: none\n");
    let checkpoint = open(path).expect("a file");
    assert_eq!(
        (checkpoint.chat_template.as_deref(), checkpoint.license.as_deref()),
        (Some("file"), Some("apache-2.0"))
    );

    fs::write(path.join("chat_template.jinja"), [0xff, 0xfe]).expect("a small file");
    open(path).map(drop).expect_err("not UTF-8");
    for name in ["config.json", "model.safetensors"] {
        let dir = folder(&file(&typed()));
        write(dir.path(), "vocab.txt", "a tokenizer in another form");
        fs::remove_file(dir.path().join(name)).expect("it was there");
        let error = open(dir.path()).map(drop).expect_err(name);
        assert!(matches!(&error, ImportError::Malformed { file, .. } if file == name), "{name}: {error}");
    }
    let dir = folder(&file(&typed()));
    fs::remove_file(dir.path().join("tokenizer.json")).expect("it was there");
    assert_eq!(open(dir.path()).expect("a model alone").tokenizer, b"");
}
