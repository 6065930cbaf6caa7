use std::fs;

use muse_format::Layout;
use serde_json::{Value, json};

use super::llama::{small_files, tensors, write_safetensors};
use super::{fail, fixture, json_of, names, output, run, succeed};

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
