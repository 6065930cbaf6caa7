mod experts;
mod gemma3;
mod gemma4;
mod glm4;
mod keys;
mod llama4;
mod mla;
mod muse_glimmer;
mod muse_glimmer_assistant;
mod muse_spark;
mod qwen3_5;
mod rotations;
mod tensors;

use std::collections::BTreeMap;
use std::ops::Range;

use muse_format::Spec;
use serde_json::{Map, Value, json};

use crate::checkpoint::{Checkpoint, Group, ImportError, Native, TensorSource};

/// A tensor of which only the shape matters.
struct Shaped(usize, usize);

impl TensorSource for Shaped {
    fn shape(&self) -> (usize, usize) {
        (self.0, self.1)
    }

    fn native(&self) -> Native {
        Native::F32
    }

    fn read(&self, _: Range<usize>, _: &mut [f32]) -> Result<(), ImportError> {
        unreachable!("importing reads no data")
    }

    fn groups(&self, _: usize) -> Result<Vec<Group>, ImportError> {
        unreachable!("importing reads no data")
    }
}

fn base(model_type: &str, architecture: &str) -> Value {
    json!({
        "model_type": model_type, "architectures": [architecture], "hidden_size": 64, "intermediate_size": 48,
        "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
        "vocab_size": 100, "max_position_embeddings": 256, "rms_norm_eps": 1e-6, "tie_word_embeddings": true,
        "initializer_range": 0.02, "use_cache": true, "torch_dtype": "bfloat16", "pad_token_id": null,
    })
}

fn family(name: &str) -> Value {
    match name {
        "llama" => base("llama", "LlamaForCausalLM"),
        "qwen2" => base("qwen2", "Qwen2ForCausalLM"),
        "qwen3" => base("qwen3", "Qwen3ForCausalLM"),
        "muse_glimmer" => muse_glimmer(),
        "llama4" => {
            let more = json!({"intermediate_size_mlp": 80, "num_local_experts": 6, "num_experts_per_tok": 1,
                "attention_chunk_size": 32, "no_rope_layer_interval": 2, "floor_scale": 16, "attn_scale": 0.25,
                "interleave_moe_layer_step": 1, "router_jitter_noise": 0.0});
            Value::Object(with(base("llama4_text", "Llama4ForCausalLM"), &more))
        }
        "glm4" => base("glm4", "Glm4ForCausalLM"),
        "glm4_moe" => {
            let more = json!({"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20,
                "n_shared_experts": 2, "first_k_dense_replace": 1, "n_group": 1, "topk_group": 1,
                "routed_scaling_factor": 2.5, "use_qk_norm": true, "partial_rotary_factor": 0.5});
            Value::Object(with(base("glm4_moe", "Glm4MoeForCausalLM"), &more))
        }
        "gemma4" => {
            let more = json!({"hidden_activation": "gelu_pytorch_tanh", "sliding_window": 32, "global_head_dim": 24,
                "hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 262144, "enable_moe_block": false,
                "num_experts": null, "use_bidirectional_attention": "vision", "num_kv_shared_layers": 0});
            Value::Object(with(base("gemma4_text", "Gemma4ForCausalLM"), &more))
        }
        "qwen3_moe" => {
            let more = json!({"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 20,
                "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [], "max_window_layers": 3,
                "output_router_logits": false, "router_aux_loss_coef": 0.001});
            Value::Object(with(base("qwen3_moe", "Qwen3MoeForCausalLM"), &more))
        }
        _ => {
            let mut config = base("gemma3_text", "Gemma3ForCausalLM");
            config["sliding_window"] = 32.into();
            config
        }
    }
}

/// As published, with the keys of its vision tower.
fn muse_glimmer() -> Value {
    let mut text = base("muse_glimmer_text", "none");
    let more = json!({"hidden_activation": "silu", "post_norm_eps": 1e-8, "qk_scale_factor": 3.87, "sliding_window": 32,
        "output_multiplier": 0.2, "final_logit_softcapping": 20.0, "num_hidden_layers": 5});
    text.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let tower = json!({"model_type": "muse_glimmer_vision", "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 5, "num_attention_heads": 2, "pos_emb_height": 3, "pos_emb_width": 3, "patch_size": 14,
        "patch_temporal": 2, "merge_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
        "max_position_embeddings": 1024, "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0}});
    json!({"model_type": "muse_glimmer", "architectures": ["MuseGlimmerForConditionalGeneration"],
        "text_config": text, "vision_config": tower, "image_token_id": 90, "video_token_id": 91,
        "out_hidden_size": 64, "projector_hidden_size": 12, "projector_hidden_act": "gelu"})
}

fn with(mut config: Value, changes: &Value) -> Map<String, Value> {
    for (key, value) in changes.as_object().expect("changes are an object") {
        config[key] = value.clone();
    }
    config.as_object().expect("a config is an object").clone()
}

fn checkpoint(config: Map<String, Value>, tensors: &[(&str, usize, usize)]) -> Checkpoint {
    let mut sources: BTreeMap<String, Box<dyn TensorSource>> = BTreeMap::new();
    for (name, rows, cols) in tensors {
        sources.insert((*name).into(), Box::new(Shaped(*rows, *cols)));
    }
    Checkpoint {
        config,
        generation_config: Map::new(),
        image_processor: Map::new(),
        video_processor: Map::new(),
        feature_extractor: Map::new(),
        tokenizer: Vec::new(),
        tokenizer_config: Map::new(),
        chat_template: None,
        tensors: sources,
        modules: None,
        norms_hold_one: false,
        source: "test".into(),
        source_format: "safetensors",
        license: None,
    }
}

/// Asks that each of `cases`, a key with a value in what `config` makes of changes, is refused by the key's name under
/// `part`. A value of a key with a dot is that of what stands before it.
fn refused(part: &str, cases: &[(&str, Value)], config: impl Fn(&Value) -> Map<String, Value>) {
    refused_by(part, cases, |changes| spec(config(changes)));
}

/// The same of what `read` makes of changes.
fn refused_by<T: std::fmt::Debug>(
    part: &str,
    cases: &[(&str, Value)],
    read: impl Fn(&Value) -> Result<T, ImportError>,
) {
    let mut failures = Vec::new();
    for (key, value) in cases {
        let (outer, _) = key.split_once('.').unwrap_or((key, ""));
        match read(&json!({ outer: value })) {
            Err(ImportError::Config { key: named, .. }) if named == format!("{part}{key}") => {}
            other => failures.push(format!("{key} = {value}: {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// The spec of a config, before its tensors are looked for.
fn spec(config: Map<String, Value>) -> Result<Spec, ImportError> {
    let checkpoint = checkpoint(config, &[]);
    let family = super::find(&checkpoint, &super::FAMILIES)?;
    let config = super::Config::new(&checkpoint.config);
    let draft = (family.read)(&config)?;
    config.finish(family.harmless)?;
    draft.spec.validate()?;
    Ok(draft.spec)
}
