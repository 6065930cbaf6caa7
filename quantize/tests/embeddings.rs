//! Models that embed, against an outside witness: tiny checkpoints (scripts/golden/embeddings.py) are converted, loaded
//! and run, and their vectors compared with what sentence-transformers computed from the same files.

mod compared;
mod converted;
mod rounding;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use muse_kernels::CacheDtype;
use muse_quantize::checkpoint::{self, Checkpoint, ImportError};
use muse_quantize::families;
use muse_quantize::policy::Bits;
use muse_runtime::{BackendChoice, Engine, LoadOptions, TextError, load};
use serde::Deserialize;

use compared::{stored_rows, worst};
use converted::{converted, fixture};
use rounding::{beyond_half_a_step, rounding_of_activations};

/// One folder of `tests/fixtures`, and how its weights are stored.
const FIXTURES: [(&str, Bits); 4] = [
    ("bert", Bits::ThirtyTwo),
    ("bert-cls", Bits::Sixteen),
    ("gemma3-embedding", Bits::Sixteen),
    ("qwen3-embedding", Bits::Sixteen),
];

/// Largest error of a number, in standard deviations of its vector's numbers: what this project promises.
const TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
struct Entry {
    text: String,
    prompt: Option<String>,
    ids: Vec<u32>,
}

struct Golden {
    entries: Vec<Entry>,
    /// `(entries.len(), width)`
    vectors: Vec<Vec<f32>>,
}

fn golden(name: &str) -> Golden {
    let folder = fixture(name).join("golden");
    let entries: Vec<Entry> = serde_json::from_slice(&fs::read(folder.join("texts.json")).unwrap()).unwrap();
    let vectors = stored_rows(&folder.join("embeddings.safetensors"), "embeddings", entries.len());
    Golden { entries, vectors }
}

fn opened(name: &str) -> Checkpoint {
    checkpoint::open(&fixture(name).join("checkpoint")).unwrap()
}

fn engine(file: &Path, backend: BackendChoice, slots: u32) -> Box<dyn Engine> {
    let cache = Some(CacheDtype::F32);
    let options =
        LoadOptions { slots, batch_tokens: 600, cache, backend, threads: Some(2), ..LoadOptions::default() };
    load(file, &options).unwrap()
}

/// The vectors of all entries, `slots` of them in one call.
fn vectors(engine: &mut dyn Engine, golden: &Golden) -> Vec<Vec<f32>> {
    let width = engine.info().embedding.as_ref().unwrap().width as usize;
    let slots = engine.info().slots as usize;
    let mut all = Vec::new();
    for entries in golden.entries.chunks(slots) {
        let texts: Vec<&[u32]> = entries.iter().map(|entry| entry.ids.as_slice()).collect();
        let mut out = vec![f32::NAN; texts.len() * width];
        engine.embed(&texts, &mut out).unwrap();
        all.extend(out.chunks_exact(width).map(<[f32]>::to_vec));
    }
    all
}

#[test]
fn unquantized_models_embed_as_sentence_transformers_does() {
    let mut wrong = Vec::new();
    for (name, stored) in FIXTURES {
        let golden = golden(name);
        let widths = if stored == Bits::ThirtyTwo { vec![stored] } else { vec![Bits::ThirtyTwo, stored] };
        for bits in widths {
            let file = converted(name, bits);
            for (backend, slots) in
                [(BackendChoice::Reference, 1), (BackendChoice::Cpu, 1), (BackendChoice::Cpu, 3)]
            {
                let error =
                    worst(&golden.vectors, &vectors(engine(file.path(), backend, slots).as_mut(), &golden));
                let case =
                    format!("{name} {bits:?} {backend:?}, {slots} at once: {error:.1e} of a deviation");
                println!("{case}");
                let close = error <= TOLERANCE;
                if !close {
                    wrong.push(case);
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn few_bits_cost_what_their_steps_do() {
    let mut wrong = Vec::new();
    for (name, _) in FIXTURES {
        let (golden, exact) = (golden(name), converted(name, Bits::ThirtyTwo));
        for bits in [Bits::Eight, Bits::Four] {
            let file = converted(name, bits);
            let beyond = beyond_half_a_step(file.path(), exact.path());
            wrong.extend(beyond.into_iter().map(|group| format!("{name} {bits:?} {group}")));
            let answer = |file: &Path, backend| vectors(engine(file, backend, 3).as_mut(), &golden);
            let (actual, most) = rounding_of_activations(file.path(), answer);
            println!("{name} {bits:?}: cpu and reference {actual:.4?} of a deviation, at most {most:.4}");
            if !actual.iter().all(|error| *error <= most) {
                wrong.push(format!("{name} {bits:?}: {actual:.4?}, at most {most:.4}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn text_becomes_the_ids_that_sentence_transformers_gives() {
    for (name, _) in FIXTURES {
        let file = converted(name, Bits::ThirtyTwo);
        let engine = engine(file.path(), BackendChoice::Reference, 1);
        let (text, info) = (engine.text(), engine.info().clone());
        let prompts = info.embedding.unwrap().prompts;
        for Entry { text: said, prompt, ids } in golden(name).entries {
            let said = prompt.map_or(String::new(), |name| prompts[&name].clone()) + &said;
            let end = Instant::now() + Duration::from_secs(60);
            let (cut, _) = text.encode_at_most(&said, info.context as usize, end).unwrap();
            assert_eq!(cut, ids, "{name}: {said}");
            let whole = text.encode(&said).unwrap();
            assert!(
                whole.len() >= ids.len() && (whole == ids || whole.len() > info.context as usize),
                "{name}: {said}"
            );
        }
        assert_eq!(text.encode_chat(&[], &Default::default()), Err(TextError::NoTemplate));
    }
    let limits: Vec<u32> =
        FIXTURES.map(|(name, _)| families::import(&opened(name)).unwrap().spec.context).to_vec();
    assert_eq!(limits, [48, 64, 128, 200]);
}

#[test]
fn a_model_that_embeds_may_be_saved_as_the_one_it_was_made_of() {
    let name = "qwen3-embedding";
    let bare = families::import(&opened(name)).unwrap();
    assert!(bare.spec.embedding.is_some() && bare.spec.tied_head);
    let names: Vec<String> = bare.tensors.iter().map(|tensor| tensor.name.clone()).collect();
    // As the layers' own class, or with the names and the head of the model that writes.
    let mut layers = opened(name);
    set(&mut layers.config, "architectures", vec!["Qwen3Model"]);
    let mut whole = opened(name);
    let tensors = std::mem::take(&mut whole.tensors);
    whole.tensors = tensors.into_iter().map(|(name, tensor)| (format!("model.{name}"), tensor)).collect();
    set(&mut whole.config, "tie_word_embeddings", false);
    let head = opened(name).tensors.remove("embed_tokens.weight").unwrap();
    whole.tensors.insert("lm_head.weight".into(), head);
    for checkpoint in [layers, whole] {
        let import = families::import(&checkpoint).unwrap();
        assert_eq!(import.spec, bare.spec);
        assert!(import.left_out.is_empty(), "{:?}", import.left_out);
        assert_eq!(import.tensors.iter().map(|tensor| tensor.name.clone()).collect::<Vec<_>>(), names);
    }
    // Without sentence-transformers' files it is the model that writes.
    let mut writes = opened(name);
    writes.modules = None;
    let tensors = std::mem::take(&mut writes.tensors);
    writes.tensors = tensors.into_iter().map(|(name, tensor)| (format!("model.{name}"), tensor)).collect();
    assert!(families::import(&writes).unwrap().spec.embedding.is_none());
}

#[test]
fn what_is_not_implemented_is_refused_by_name() {
    let refused = |name: &str, change: fn(&mut Checkpoint)| {
        let mut checkpoint = opened(name);
        change(&mut checkpoint);
        families::import(&checkpoint).expect_err("it is not implemented").to_string()
    };
    type Case = (&'static str, fn(&mut Checkpoint), &'static str);
    let cases: [Case; 14] = [
        ("gemma3-embedding", |c| c.modules = None, "modules.json: is missing"),
        ("bert", |c| c.modules = None, "modules.json: is missing"),
        (
            "qwen3-embedding",
            |c| {
                c.modules = None;
                set(&mut c.config, "architectures", vec!["Qwen3Model"]);
            },
            "modules.json: is missing",
        ),
        ("bert", |c| set(&mut c.config, "hidden_act", "relu"), "config hidden_act is \"relu\""),
        ("bert", |c| set(&mut c.config, "is_decoder", true), "config is_decoder is true"),
        ("bert", |c| set(&mut c.config, "num_attention_heads", 5), "config num_attention_heads is 5"),
        ("bert", |c| set(pooling(c), "pooling_mode_max_tokens", true), "pooling_mode_max_tokens is true"),
        (
            "bert-cls",
            |c| set(pooling(c), "pooling_mode", "weightedmean"),
            "1_Pooling/config.json pooling_mode is",
        ),
        ("bert-cls", |c| set(pooling(c), "include_prompt", false), "include_prompt is false"),
        ("bert-cls", |c| set(dense(c), "activation_function", "torch.nn.ReLU"), "activation_function is"),
        ("bert-cls", |c| set(dense(c), "in_features", 27), "2_Dense/config.json in_features is 27"),
        ("bert-cls", |c| c.modules.as_mut().unwrap().list[2].kind = "LSTM".into(), "modules.json: has LSTM"),
        ("gemma3-embedding", |c| set(&mut c.config, "use_bidirectional_attention", false), "is false"),
        (
            "gemma3-embedding",
            |c| drop(c.tensors.remove("3_Dense/linear.weight")),
            "3_Dense/linear.weight is missing",
        ),
    ];
    for (name, change, expected) in cases {
        let message = refused(name, change);
        assert!(message.contains(expected), "{expected}: {message}");
    }
    let mut chat = checkpoint::open(&fixture("llama").join("checkpoint")).unwrap();
    chat.modules = Some(checkpoint::Modules::default());
    let error = families::import(&chat).expect_err("a chat model with modules");
    assert!(matches!(&error, ImportError::Malformed { file, .. } if file == "modules.json"), "{error}");
}

fn set(map: &mut serde_json::Map<String, serde_json::Value>, key: &str, value: impl Into<serde_json::Value>) {
    map.insert(key.into(), value.into());
}

fn pooling(checkpoint: &mut Checkpoint) -> &mut serde_json::Map<String, serde_json::Value> {
    &mut checkpoint.modules.as_mut().unwrap().list[1].config
}

fn dense(checkpoint: &mut Checkpoint) -> &mut serde_json::Map<String, serde_json::Value> {
    &mut checkpoint.modules.as_mut().unwrap().list[2].config
}
