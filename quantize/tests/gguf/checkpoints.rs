//! The project's tiny checkpoints, written as GGUF and read back: the import must be the same model, value by value.
//! What they compute is compared with transformers elsewhere, from the safetensors files.

use std::fs;
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use muse_quantize::checkpoint::{Checkpoint, Native, gguf, safetensors};
use muse_quantize::families::{self, Import, Origin, Transform};
use serde_json::Value as Json;
use tokenizers::Tokenizer;

use crate::builder::{Gguf, Tensor, Value};

/// GGUF's name in a layer and Hugging Face's.
const LAYER: [(&str, &str); 13] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", "self_attn.q_proj"),
    ("attn_k", "self_attn.k_proj"),
    ("attn_v", "self_attn.v_proj"),
    ("attn_output", "self_attn.o_proj"),
    ("attn_q_norm", "self_attn.q_norm"),
    ("attn_k_norm", "self_attn.k_norm"),
    ("ffn_norm", "pre_feedforward_layernorm"),
    ("post_ffw_norm", "post_feedforward_layernorm"),
    ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_gate", "mlp.gate_proj"),
    ("ffn_up", "mlp.up_proj"),
    ("ffn_down", "mlp.down_proj"),
];

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn gguf_name(name: &str, gemma: bool) -> String {
    match name {
        "model.embed_tokens.weight" => return "token_embd.weight".into(),
        "model.norm.weight" => return "output_norm.weight".into(),
        "lm_head.weight" => return "output.weight".into(),
        _ => {}
    }
    let (layer, rest) = name.strip_prefix("model.layers.").unwrap().split_once('.').unwrap();
    if rest == "mlp.gate.weight" {
        return format!("blk.{layer}.ffn_gate_inp.weight");
    }
    let (stem, part) = rest.rsplit_once('.').unwrap();
    let (ours, _) = LAYER.iter().find(|(_, theirs)| *theirs == stem).unwrap();
    let ours = if *ours == "post_attention_norm" && !gemma { "ffn_norm" } else { ours };
    format!("blk.{layer}.{ours}.{part}")
}

/// Rows (or a bias's elements) of every head from (half, pair) to (pair, half).
fn interleave(values: &[f32], outputs: usize, head_dim: usize) -> Vec<f32> {
    let cols = values.len() / outputs;
    let mut stored = vec![0.0; values.len()];
    for (row, from) in values.chunks(cols).enumerate() {
        let (head, within) = (row / head_dim, row % head_dim);
        let (half, pair) = (within / (head_dim / 2), within % (head_dim / 2));
        let to = head * head_dim + pair * 2 + half;
        stored[to * cols..][..cols].copy_from_slice(from);
    }
    stored
}

fn tensor(checkpoint: &Checkpoint, name: &str, architecture: &str, head_dim: usize) -> Tensor {
    let source = &checkpoint.tensors[name];
    let (rows, cols) = source.shape();
    let mut values = vec![0.0; rows * cols];
    source.read(0..rows, &mut values).unwrap();
    let vector = rows == 1;
    if architecture == "llama" && (name.contains("q_proj") || name.contains("k_proj")) {
        values = interleave(&values, if vector { cols } else { rows }, head_dim);
    }
    if architecture == "gemma3" && name.ends_with("norm.weight") {
        values.iter_mut().for_each(|v| *v += 1.0);
    }
    let name = gguf_name(name, architecture == "gemma3");
    let mut tensor = Tensor::f32(&name, (!vector).then_some(rows), &values);
    // The type decides how Gemma's embedding is scaled; norms are always f32 in a GGUF.
    match source.native() {
        Native::Bf16 if !vector => {
            tensor.code = 30;
            tensor.data = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect();
        }
        Native::F16 if !vector => {
            tensor.code = 1;
            tensor.data = values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect();
        }
        _ => {}
    }
    tensor
}

fn keys(gguf: &mut Gguf, architecture: &str, config: &Json) {
    let integer = |key: &str| config[key].as_u64().map(|v| Value::Integer(v as u32));
    let float = |value: &Json| value.as_f64().map(|v| Value::Float(v as f32));
    gguf.set("general.architecture", architecture);
    let rope = &config["rope_parameters"];
    let theta = [&config["rope_theta"], &rope["rope_theta"], &rope["full_attention"]["rope_theta"]];
    let keys = [
        ("block_count", integer("num_hidden_layers")),
        ("context_length", integer("max_position_embeddings")),
        ("embedding_length", integer("hidden_size")),
        ("feed_forward_length", integer("intermediate_size")),
        ("attention.head_count", integer("num_attention_heads")),
        ("attention.head_count_kv", integer("num_key_value_heads")),
        ("attention.key_length", integer("head_dim")),
        ("attention.value_length", integer("head_dim")),
        ("attention.layer_norm_rms_epsilon", float(&config["rms_norm_eps"])),
        ("rope.freq_base", theta.into_iter().find_map(float)),
        ("final_logit_softcapping", float(&config["final_logit_softcapping"])),
        ("rope.scaling.factor", float(&rope["full_attention"]["factor"])),
        ("expert_count", integer("num_experts")),
        ("expert_used_count", integer("num_experts_per_tok")),
        ("expert_feed_forward_length", integer("moe_intermediate_size")),
    ];
    for (key, value) in keys {
        if let Some(value) = value {
            if key == "rope.scaling.factor" {
                gguf.set(&format!("{architecture}.rope.scaling.type"), "linear");
            }
            gguf.set(&format!("{architecture}.{key}"), value);
        }
    }
    if architecture == "gemma3" {
        gguf.set("gemma3.attention.sliding_window", integer("sliding_window").unwrap());
        gguf.set("gemma3.attention.sliding_window_pattern", Value::Integer(2));
    }
}

fn vocabulary(gguf: &mut Gguf, checkpoint: &Checkpoint) {
    let json: Json = serde_json::from_slice(&checkpoint.tokenizer).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let added: Vec<u64> =
        json["added_tokens"].as_array().unwrap().iter().map(|t| t["id"].as_u64().unwrap()).collect();
    let sentencepiece = json["model"]["byte_fallback"].as_bool().unwrap();
    let merges: Vec<String> = json["model"]["merges"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()))
        .collect();
    let mut tokens: Vec<(u64, &str)> =
        vocab.iter().map(|(text, id)| (id.as_u64().unwrap(), text.as_str())).collect();
    let known: Vec<u64> = tokens.iter().map(|(id, _)| *id).collect();
    let beyond = json["added_tokens"].as_array().unwrap();
    tokens.extend(
        beyond
            .iter()
            .map(|t| (t["id"].as_u64().unwrap(), t["content"].as_str().unwrap()))
            .filter(|(id, _)| !known.contains(id)),
    );
    tokens.sort_unstable();
    assert!(tokens.iter().enumerate().all(|(i, (id, _))| i as u64 == *id), "ids have no holes");
    let byte = |text: &str| sentencepiece && text.len() == 6 && text.starts_with("<0x");
    let kind = |(id, text): &(u64, &str)| {
        if added.contains(id) {
            3
        } else if byte(text) {
            6
        } else {
            1
        }
    };
    gguf.set("tokenizer.ggml.token_type", Value::Integers(tokens.iter().map(kind).collect()));
    gguf.set("tokenizer.ggml.tokens", Value::Texts(tokens.iter().map(|(_, text)| (*text).into()).collect()));
    if sentencepiece {
        // The score of a piece falls with the rank of its merge.
        let rank = |text: &str| merges.iter().position(|merge| merge.replace(' ', "") == text);
        let score = |(_, text): &(u64, &str)| -(rank(text).unwrap_or(merges.len()) as f32);
        gguf.set("tokenizer.ggml.scores", Value::Floats(tokens.iter().map(score).collect()));
        gguf.set("tokenizer.ggml.model", "llama");
        gguf.set("tokenizer.ggml.add_space_prefix", Value::Bool(false));
    } else {
        gguf.set("tokenizer.ggml.merges", Value::Texts(merges));
        gguf.set("tokenizer.ggml.model", "gpt2");
        gguf.set("tokenizer.ggml.pre", "llama-bpe");
    }
    for (name, key) in [("bos", "bos"), ("eos", "eos"), ("pad", "padding")] {
        let id = checkpoint.config[&format!("{name}_token_id")].as_u64().unwrap() as u32;
        gguf.set(&format!("tokenizer.ggml.{key}_token_id"), Value::Integer(id));
    }
}

/// Llama 3's rule as its GGUF carries it: what each frequency is divided by.
fn rope_factors(config: &Json) -> Option<Tensor> {
    let rule = &config["rope_scaling"];
    let number = |key: &str| rule[key].as_f64().unwrap();
    (rule["rope_type"] == "llama3").then(|| {
        let (factor, context) = (number("factor"), number("original_max_position_embeddings"));
        let (low, high) = (number("low_freq_factor"), number("high_freq_factor"));
        let head_dim = config["head_dim"].as_f64().unwrap();
        let theta = config["rope_theta"].as_f64().unwrap();
        let factors: Vec<f32> = (0..head_dim as u32 / 2)
            .map(|i| {
                let wavelength = std::f64::consts::TAU * theta.powf(f64::from(2 * i) / head_dim);
                let smooth = ((context / wavelength - low) / (high - low)).clamp(0.0, 1.0);
                (1.0 / ((1.0 - smooth) / factor + smooth)) as f32
            })
            .collect();
        assert!(factors.contains(&1.0) && factors.contains(&(factor as f32)), "{factors:?}");
        Tensor::f32("rope_freqs.weight", None, &factors)
    })
}

fn written(checkpoint: &Checkpoint, architecture: &str) -> Gguf {
    let config = Json::Object(checkpoint.config.clone());
    let heads = config["num_attention_heads"].as_u64().unwrap();
    let head_dim = config["head_dim"].as_u64().unwrap_or(config["hidden_size"].as_u64().unwrap() / heads);
    let mut gguf = Gguf::new();
    keys(&mut gguf, architecture, &config);
    vocabulary(&mut gguf, checkpoint);
    let tensors = checkpoint.tensors.keys().filter(|name| !name.contains(".experts."));
    gguf.tensors = tensors.map(|name| tensor(checkpoint, name, architecture, head_dim as usize)).collect();
    for layer in 0..config["num_hidden_layers"].as_u64().unwrap() {
        for part in ["gate", "up", "down"] {
            gguf.tensors.extend(stack(checkpoint, &config, layer, part));
        }
    }
    gguf.tensors.extend(rope_factors(&config));
    gguf
}

/// The matrices of all experts of a layer as one tensor; nothing of a layer that has none.
fn stack(checkpoint: &Checkpoint, config: &Json, layer: u64, part: &str) -> Option<Tensor> {
    let count = config["num_experts"].as_u64()?;
    let mut stacked: Option<Tensor> = None;
    for expert in 0..count {
        let name = format!("model.layers.{layer}.mlp.experts.{expert}.{part}_proj.weight");
        let source = checkpoint.tensors.get(&name)?;
        let (rows, cols) = source.shape();
        let mut values = vec![0.0; rows * cols];
        source.read(0..rows, &mut values).unwrap();
        let data = values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes());
        let all = stacked.get_or_insert_with(|| Tensor {
            name: format!("blk.{layer}.ffn_{part}_exps.weight"),
            dims: vec![cols as u64, rows as u64, count],
            code: 30,
            data: Vec::new(),
            offset: None,
        });
        all.data.extend(data);
    }
    stacked
}

fn values(checkpoint: &Checkpoint, origin: &Origin) -> Vec<f32> {
    match origin {
        Origin::Computed(values) => values.clone(),
        Origin::Tensor { name, transform, .. } => {
            let source = &checkpoint.tensors[name];
            let (rows, cols) = source.shape();
            let mut values = vec![0.0; rows * cols];
            source.read(0..rows, &mut values).unwrap();
            if *transform == Transform::AddOne {
                values.iter_mut().for_each(|v| *v += 1.0);
            }
            values
        }
    }
}

/// Both sides of every tensor, in file order.
fn assert_same(name: &str, ours: (&Checkpoint, &Import), theirs: (&Checkpoint, &Import)) {
    assert_eq!(ours.1.spec, theirs.1.spec, "{name}");
    assert_eq!(ours.1.architecture, theirs.1.architecture, "{name}");
    assert_eq!(ours.1.tensors.len(), theirs.1.tensors.len(), "{name}");
    for (a, b) in ours.1.tensors.iter().zip(&theirs.1.tensors) {
        let (x, y) = (values(ours.0, &a.origin), values(theirs.0, &b.origin));
        assert_eq!((&a.name, x.len()), (&b.name, y.len()), "{name}");
        // A table that comes as factors is divided once more: a rounding of the factor, one of the quotient and the
        // four of the rule itself, each half of 2^-23.
        let bound = if a.name.starts_with("rope.") { 3.0 * f32::EPSILON } else { 0.0 };
        for (i, (x, y)) in x.iter().zip(&y).enumerate() {
            assert!((x - y).abs() <= bound * y.abs(), "{name} {}[{i}]: {x} and {y}", a.name);
        }
    }
}

#[test]
fn a_checkpoint_written_as_gguf_is_the_same_model() {
    for (name, architecture) in [
        ("llama", "llama"),
        ("llama-bias", "llama"),
        ("llama3-rope", "llama"),
        ("qwen2", "qwen2"),
        ("qwen3", "qwen3"),
        ("gemma3-softcap", "gemma3"),
    ] {
        let theirs = safetensors::open(&fixture(name).join("checkpoint")).unwrap();
        let bytes = written(&theirs, architecture).bytes();
        let ours = gguf::from_bytes(name, bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        let import = |checkpoint| families::import(checkpoint).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_same(name, (&ours, &import(&ours)), (&theirs, &import(&theirs)));
    }
}

/// A GGUF's experts are on every layer.
fn experts_everywhere() -> Checkpoint {
    let mut checkpoint = safetensors::open(&fixture("qwen3-moe").join("checkpoint")).unwrap();
    let sparse = |name: &str| !name.contains(".layers.1.");
    let first: Vec<String> =
        checkpoint.tensors.keys().filter(|name| name.contains(".layers.0.")).cloned().collect();
    checkpoint.tensors.retain(|name, _| sparse(name));
    let again = safetensors::open(&fixture("qwen3-moe").join("checkpoint")).unwrap();
    for (name, tensor) in again.tensors {
        if first.contains(&name) {
            checkpoint.tensors.insert(name.replace(".layers.0.", ".layers.1."), tensor);
        }
    }
    checkpoint.config.insert("mlp_only_layers".into(), Json::Array(Vec::new()));
    checkpoint
}

#[test]
fn experts_in_one_tensor_are_those_of_the_same_model() {
    let theirs = experts_everywhere();
    let bytes = written(&theirs, "qwen3moe").bytes();
    let ours = gguf::from_bytes("qwen3-moe", bytes).unwrap();
    let import = |checkpoint| families::import(checkpoint).unwrap_or_else(|e| panic!("{e}"));
    assert_same("qwen3-moe", (&ours, &import(&ours)), (&theirs, &import(&theirs)));
    let expert = &ours.tensors["model.layers.2.mlp.experts.3.down_proj.weight"];
    assert_eq!((expert.shape(), expert.native()), ((20, 20), Native::Bf16));
}

#[test]
fn experts_that_a_model_cannot_have_are_refused() {
    let whole = written(&experts_everywhere(), "qwen3moe");
    let refused = |change: &dyn Fn(&mut Gguf)| {
        let mut gguf = whole.clone();
        change(&mut gguf);
        let opened = gguf::from_bytes("changed", gguf.bytes());
        let imported = opened.and_then(|checkpoint| families::import(&checkpoint).map(|_| ()));
        imported.expect_err("a change").to_string()
    };
    let key = |key: &str, value: u32| {
        let key = format!("qwen3moe.{key}");
        refused(&move |gguf: &mut Gguf| gguf.set(&key, Value::Integer(value)))
    };
    for (name, value) in
        [("expert_gating_func", 2), ("expert_shared_count", 1), ("leading_dense_block_count", 1)]
    {
        let error = key(name, value);
        assert!(error.contains(name) && error.contains(&value.to_string()), "{error}");
    }
    // Another number than the router has.
    for count in [3, 5] {
        let error = key("expert_count", count);
        assert!(
            error.contains(&format!("mlp.gate.weight is (4, 20); the config asks for ({count}, 20)")),
            "{error}"
        );
    }
    let name = "blk.0.ffn_up_exps.weight";
    let error = refused(&|gguf| gguf.tensor(name).dims[2] = 3);
    assert!(error.contains("layers.0.mlp.experts.3.up_proj.weight is missing"), "{error}");
    let error = refused(&|gguf| gguf.tensor(name).dims[2] = 0);
    assert!(error.contains(name), "{error}");
    let error = refused(&|gguf| gguf.tensor(name).dims[2] = 1 << 40);
    assert!(error.contains(name), "{error}");
    let error = refused(&|gguf| gguf.tensor(name).dims.push(2));
    assert!(error.contains(name), "{error}");
    // A matrix that is several.
    let router = "blk.0.ffn_gate_inp.weight";
    let error = refused(&|gguf| gguf.tensor(router).dims = vec![20, 2, 2]);
    assert!(error.contains(router), "{error}");
}

#[test]
fn a_vocabulary_from_gguf_gives_the_ids_of_its_source() {
    let page = fs::read_to_string(fixture("page.txt")).unwrap();
    for (name, architecture) in [("llama", "llama"), ("gemma3", "gemma3")] {
        let theirs = safetensors::open(&fixture(name).join("checkpoint")).unwrap();
        let ours = gguf::from_bytes(name, written(&theirs, architecture).bytes()).unwrap();
        let [ours, theirs] = [&ours, &theirs].map(|c| Tokenizer::from_bytes(&c.tokenizer).unwrap());
        // This fixture's tokenizer also composes accents, which that of Llama 3 does not.
        let lines: Vec<&str> =
            page.split_inclusive('\n').filter(|line| name != "llama" || !line.contains('\u{301}')).collect();
        assert!(lines.len() > 8);
        for line in lines.iter().copied().chain((name != "llama").then_some(page.as_str())) {
            let [x, y] = [&ours, &theirs].map(|t| t.encode(line, false).unwrap().get_ids().to_vec());
            assert_eq!(x, y, "{name}: {line:?}");
            let [x, y] = [&ours, &theirs].map(|t| t.decode(&y, false).unwrap());
            assert_eq!(x, y, "{name}: {line:?}");
        }
    }
}
