use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::llama::small_files;
use super::{names, output, program};

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
