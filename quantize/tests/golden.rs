//! The whole path against an outside witness: tiny checkpoints of every family (scripts/golden) are converted, loaded
//! and run, and what comes out is compared with what Hugging Face transformers computed from the same files.

mod compared;
mod converted;
mod rounding;

use std::fs;
use std::path::Path;

use muse_kernels::CacheDtype;
use muse_quantize::inputs;
use muse_quantize::policy::Bits;
use muse_runtime::{BackendChoice, ChatOptions, Engine, LoadOptions, Medium, Message, eval, load};
use serde::Deserialize;

use compared::{stored_rows, worst};
use converted::{converted, fixture};
use rounding::sweep::each_cpu_is_emulated;
use rounding::{beyond_half_a_step, rounding_of_activations};

/// One folder of `tests/fixtures`, and how its weights are stored.
const FIXTURES: [(&str, Bits); 30] = [
    ("muse-glimmer", Bits::Sixteen),
    ("muse-glimmer-options", Bits::Sixteen),
    ("muse-spark", Bits::Sixteen),
    ("muse-spark-options", Bits::Sixteen),
    ("muse-spark-images", Bits::Sixteen),
    ("llama", Bits::ThirtyTwo),
    ("llama-bias", Bits::Sixteen),
    ("llama3-rope", Bits::Sixteen),
    ("llama4", Bits::Sixteen),
    ("llama4-options", Bits::Sixteen),
    ("qwen2", Bits::Sixteen),
    ("qwen2-window", Bits::Sixteen),
    ("qwen3", Bits::Sixteen),
    ("qwen3-moe", Bits::Sixteen),
    ("gemma4", Bits::Sixteen),
    ("gemma4-moe", Bits::Sixteen),
    ("gemma4-images", Bits::Sixteen),
    ("glm4", Bits::Sixteen),
    ("glm4-moe", Bits::Sixteen),
    ("glm4-moe-lite", Bits::Sixteen),
    ("glm4-moe-lite-options", Bits::Sixteen),
    ("glm-moe-dsa", Bits::Sixteen),
    ("qwen3-5", Bits::Sixteen),
    ("qwen3-5-options", Bits::Sixteen),
    ("qwen3-5-moe", Bits::Sixteen),
    ("qwen3-5-images", Bits::Sixteen),
    ("qwen3-5-moe-images", Bits::Sixteen),
    ("gemma3", Bits::Sixteen),
    ("gemma3-softcap", Bits::Sixteen),
    ("gemma3-images", Bits::Sixteen),
];

/// Those of which a prompt has images, or videos or sounds and an image.
const SEEING: [(&str, &str, Bits); 13] = [
    ("muse-glimmer", "image", Bits::Sixteen),
    ("muse-glimmer", "video", Bits::Sixteen),
    ("muse-glimmer-options", "image", Bits::Sixteen),
    ("muse-spark-images", "image", Bits::Sixteen),
    ("muse-spark-images", "video", Bits::Sixteen),
    ("muse-spark-images", "sound", Bits::Sixteen),
    ("qwen3-5-images", "image", Bits::Sixteen),
    ("qwen3-5-images", "video", Bits::Sixteen),
    ("qwen3-5-moe-images", "image", Bits::Sixteen),
    ("gemma4-moe", "image", Bits::Sixteen),
    ("gemma4-images", "image", Bits::Sixteen),
    ("gemma3-images", "image", Bits::Sixteen),
    ("llama4", "image", Bits::Sixteen),
];

/// Most tokens of an image of these: where its tokens see each other, a step has no fewer.
const IMAGE_TOKENS: u32 = 12;

/// Largest error of a logit, in standard deviations of the position's logits: what this project promises. Both sides
/// compute in f32; a wrong mask, scale, norm or rotation is off by far more than a tenth.
const TOLERANCE: f64 = 1e-3;

#[derive(Deserialize)]
struct Ids {
    input_ids: Vec<u32>,
    prompt_len: usize,
    greedy_ids: Vec<u32>,
    page_ids: Vec<u32>,
    chat_ids: Vec<u32>,
    #[serde(default)]
    image_input_ids: Vec<u32>,
    #[serde(default)]
    image_greedy_ids: Vec<u32>,
    #[serde(default)]
    video_input_ids: Vec<u32>,
    #[serde(default)]
    video_greedy_ids: Vec<u32>,
    #[serde(default)]
    sound_input_ids: Vec<u32>,
    #[serde(default)]
    sound_greedy_ids: Vec<u32>,
}

impl Ids {
    /// The prompt that has some of this `kind`, and its greedy answer.
    fn of(&self, kind: &str) -> (&[u32], &[u32]) {
        match kind {
            "image" => (&self.image_input_ids, &self.image_greedy_ids),
            "video" => (&self.video_input_ids, &self.video_greedy_ids),
            "sound" => (&self.sound_input_ids, &self.sound_greedy_ids),
            _ => panic!("{kind}s are no media"),
        }
    }
}

struct Golden {
    ids: Ids,
    /// `(input_ids.len(), vocab)`
    logits: Vec<Vec<f32>>,
}

fn golden(name: &str) -> Golden {
    let folder = fixture(name).join("golden");
    let ids: Ids = serde_json::from_slice(&fs::read(folder.join("ids.json")).unwrap()).unwrap();
    let logits = stored_rows(&folder.join("logits.safetensors"), "logits", ids.input_ids.len());
    Golden { ids, logits }
}

fn engine(file: &Path, backend: BackendChoice, batch_tokens: u32) -> Box<dyn Engine> {
    let cache = Some(CacheDtype::F32);
    let image_tokens = Some(IMAGE_TOKENS);
    let options = LoadOptions {
        batch_tokens,
        cache,
        backend,
        image_tokens,
        threads: Some(2),
        ..LoadOptions::default()
    };
    load(file, &options).unwrap()
}

/// In one batch, in chunks that wrap the windows' rings and end within media, and token by token; the reference, which is the
/// same code on every CPU, in one batch.
fn ways() -> impl Iterator<Item = (BackendChoice, u32)> {
    let reference = (!each_cpu_is_emulated()).then_some((BackendChoice::Reference, 64));
    [64, 5, 1].map(|batch_tokens| (BackendChoice::Cpu, batch_tokens)).into_iter().chain(reference)
}

/// The logits of every position of `input`.
fn logits<'a>(engine: &mut dyn Engine, input: impl Into<eval::Input<'a>>) -> Vec<Vec<f32>> {
    let mut rows = Vec::new();
    eval::every_position(engine, input, |_, row| rows.push(row.to_vec())).unwrap();
    rows
}

/// The media of a fixture's prompt that has some of this `kind`.
fn media(name: &str, kind: &str, engine: &dyn Engine) -> Vec<Medium> {
    let bytes = fs::read(fixture(name).join(format!("golden/{kind}s.safetensors"))).unwrap();
    inputs::read(&bytes, engine.info()).unwrap()
}

#[test]
fn unquantized_models_answer_as_transformers_does() {
    let mut wrong = Vec::new();
    for (name, stored) in FIXTURES {
        let golden = golden(name);
        // As 16 bits too where that is how the checkpoint stores them: the same weights by other kernels.
        let widths = if stored == Bits::ThirtyTwo { vec![stored] } else { vec![Bits::ThirtyTwo, stored] };
        for bits in widths {
            let file = converted(name, bits);
            for (backend, batch_tokens) in ways() {
                let case = format!("{name} {bits:?} {backend:?} batches of {batch_tokens}");
                let mut engine = engine(file.path(), backend, batch_tokens);
                let error = worst(&golden.logits, &logits(engine.as_mut(), &golden.ids.input_ids));
                println!("{case}: {error:.1e} of a standard deviation");
                let count = golden.ids.greedy_ids.len() as u32;
                let prompt = &golden.ids.input_ids[..golden.ids.prompt_len];
                let greedy = eval::generate(engine.as_mut(), prompt, count).unwrap();
                if !(error <= TOLERANCE && greedy == golden.ids.greedy_ids) {
                    wrong.push(format!("{case}: error {error:.1e}, greedy {greedy:?}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn models_see_and_hear_as_transformers_does() {
    let mut wrong = Vec::new();
    for (name, kind, stored) in SEEING {
        let ids = golden(name).ids;
        let (tokens, expected_greedy) = ids.of(kind);
        let path = fixture(name).join(format!("golden/{kind}_logits.safetensors"));
        let expected = stored_rows(&path, "logits", tokens.len());
        for bits in [Bits::ThirtyTwo, stored] {
            let file = converted(name, bits);
            for (backend, batch_tokens) in ways() {
                let case = format!("{name} {kind} {bits:?} {backend:?} batches of {batch_tokens}");
                let mut engine = engine(file.path(), backend, batch_tokens);
                let media = media(name, kind, &*engine);
                let input = eval::Input { tokens, media: &media };
                let error = worst(&expected, &logits(engine.as_mut(), input));
                println!("{case}: {error:.1e} of a standard deviation");
                let count = expected_greedy.len() as u32;
                let greedy = eval::generate(engine.as_mut(), input, count).unwrap();
                if !(error <= TOLERANCE && greedy == expected_greedy) {
                    wrong.push(format!("{case}: error {error:.1e}, greedy {greedy:?}"));
                }
                // Other media have other answers: these are perceived.
                let without = worst(&expected, &logits(engine.as_mut(), tokens));
                assert!(without > 0.1, "{case}: {without} without media");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn weights_of_few_bits_are_those_of_the_checkpoint_up_to_a_step() {
    let mut wrong = Vec::new();
    for (name, _) in FIXTURES {
        let exact = converted(name, Bits::ThirtyTwo);
        for bits in [Bits::Eight, Bits::Four] {
            let beyond = beyond_half_a_step(converted(name, bits).path(), exact.path());
            wrong.extend(beyond.into_iter().map(|group| format!("{name} {bits:?} {group}")));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// With the test before it and those of floats: a quantized model is the checkpoint's but for two roundings.
#[test]
fn what_few_bits_cost_beyond_their_weights_is_the_rounding_of_activations() {
    let mut wrong = Vec::new();
    let mut check = |case: String, file: &Path, answer: &dyn Fn(&Path, BackendChoice) -> Vec<Vec<f32>>| {
        let (actual, most) = rounding_of_activations(file, answer);
        println!("{case}: cpu and reference {actual:.4?} of a standard deviation, at most {most:.4}");
        if !actual.iter().all(|error| *error <= most) {
            wrong.push(format!("{case}: {actual:.4?}, at most {most:.4}"));
        }
    };
    for bits in [Bits::Eight, Bits::Four] {
        for (name, _) in FIXTURES {
            let ids = golden(name).ids;
            let of_text = |file: &Path, backend| logits(engine(file, backend, 64).as_mut(), &ids.input_ids);
            check(format!("{name} {bits:?}"), converted(name, bits).path(), &of_text);
        }
        for (name, kind, _) in SEEING {
            let ids = golden(name).ids;
            let (tokens, _) = ids.of(kind);
            let of_media = |file: &Path, backend| {
                let mut engine = engine(file, backend, 64);
                let media = media(name, kind, &*engine);
                logits(engine.as_mut(), eval::Input { tokens, media: &media })
            };
            check(format!("{name} {bits:?} {kind}"), converted(name, bits).path(), &of_media);
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn text_becomes_the_ids_that_the_source_tokenizer_gives() {
    let page = fs::read_to_string(fixture("page.txt")).unwrap();
    let chat: Vec<serde_json::Value> =
        serde_json::from_slice(&fs::read(fixture("chat.json")).unwrap()).unwrap();
    let field = |message: &serde_json::Value, key: &str| message[key].as_str().unwrap().to_owned();
    let chat: Vec<_> = chat.iter().map(|m| Message::new(field(m, "role"), field(m, "content"))).collect();
    for (name, bits) in FIXTURES {
        let ids = golden(name).ids;
        let file = converted(name, bits);
        let text = engine(file.path(), BackendChoice::Reference, 1).text();
        assert_eq!(text.encode(&page).unwrap(), ids.page_ids, "{name}: page");
        let options = ChatOptions::default();
        assert_eq!(text.encode_chat(&chat, &options).unwrap(), ids.chat_ids, "{name}: chat");
    }
}
