mod experts;
mod gemma3;
mod gemma4;
mod glm4;
mod llama4;
mod mla;
mod muse_glimmer;
mod muse_glimmer_assistant;
mod muse_spark;
mod qwen3_5;

use std::collections::BTreeMap;
use std::ops::Range;

use muse_format::{Activation, Spec};
use serde_json::{Map, Value, json};

use super::{Import, Origin, Transform, import};
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

#[test]
fn each_family_reads_its_own_defaults() {
    let llama = spec(with(family("llama"), &json!({}))).expect("llama");
    let a = llama.layers[0].attention().unwrap();
    assert_eq!(
        (a.scale, a.qkv_bias, a.out_bias, a.qk_norm, a.window, a.rope),
        (0.25, false, false, false, None, Some(0))
    );
    assert_eq!((llama.layers.len(), llama.tied_head, llama.embed_scale, llama.ropes), (3, true, 1.0, 1));

    let qwen2 = spec(with(family("qwen2"), &json!({"sliding_window": 8, "use_sliding_window": false})))
        .expect("qwen2");
    let a = qwen2.layers[2].attention().unwrap();
    assert_eq!((a.qkv_bias, a.out_bias, a.qk_norm, a.window), (true, false, false, None));

    let qwen3 = spec(with(family("qwen3"), &json!({"head_dim": null}))).expect("qwen3");
    let a = qwen3.layers[0].attention().unwrap();
    assert_eq!((a.qkv_bias, a.qk_norm, a.head_dim), (false, true, 128));

    let gemma = spec(with(family("gemma3"), &json!({"sliding_window_pattern": 2}))).expect("gemma3");
    let windows: Vec<_> =
        gemma.layers.iter().map(|l| (l.attention().unwrap().window, l.attention().unwrap().rope)).collect();
    assert_eq!(windows, [(Some(32), Some(0)), (None, Some(1)), (Some(32), Some(0))]);
    assert_eq!((gemma.embed_scale, gemma.layers[0].attention().unwrap().scale), (8.0, 0.0625));
    assert_eq!(
        (gemma.layers[0].post_norms, gemma.layers[0].ffn.as_ref().map(|f| f.activation)),
        (true, Some(Activation::GeluTanh))
    );
}

#[test]
fn keys_that_change_the_answer_are_read() {
    let bias =
        spec(with(family("llama"), &json!({"attention_bias": true, "mlp_bias": true}))).expect("biases");
    let layer = &bias.layers[0];
    assert!(
        layer.attention().unwrap().qkv_bias
            && layer.attention().unwrap().out_bias
            && layer.ffn.as_ref().is_some_and(|f| f.bias)
    );

    let sliding = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1});
    let windows = |s: Spec| s.layers.iter().map(|l| l.attention().unwrap().window).collect::<Vec<_>>();
    assert_eq!(windows(spec(with(family("qwen2"), &sliding)).expect("window")), [None, Some(8), Some(8)]);
    let types = json!({"use_sliding_window": true, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"]});
    assert_eq!(windows(spec(with(family("qwen3"), &types)).expect("types")), [Some(8), None, None]);

    let gemma = json!({"query_pre_attn_scalar": 4, "final_logit_softcapping": 30.0, "tie_word_embeddings": null,
        "layer_types": ["full_attention", "full_attention", "full_attention"]});
    let gemma = spec(with(family("gemma3"), &gemma)).expect("gemma3");
    assert_eq!(
        (gemma.layers[0].attention().unwrap().scale, gemma.logit_softcap, gemma.tied_head),
        (0.5, Some(30.0), true)
    );
    assert_eq!((gemma.ropes, gemma.layers[0].attention().unwrap().rope), (1, Some(0)));
}

#[test]
fn what_is_not_implemented_is_refused_by_name_and_value() {
    let cases = [
        ("llama", "hidden_act", json!("gelu")),
        ("llama", "rms_norm_eps", json!(0.0)),
        ("llama", "hidden_size", json!(0)),
        ("llama", "hidden_size", json!("64")),
        ("llama", "num_hidden_layers", json!(4_000_000_000u32)),
        ("llama", "vocab_size", json!(-1)),
        ("llama", "vocab_size", json!(null)),
        ("llama", "attention_bias", json!("yes")),
        ("llama", "partial_rotary_factor", json!(0.5)),
        ("llama", "rope_interleaved", json!(true)),
        ("llama", "rope_theta", json!(-1.0)),
        ("llama", "rope_theta", json!(1e300)),
        ("llama", "a_key_of_tomorrow", json!(3)),
        ("llama", "sliding_window", json!(8)),
        ("qwen2", "hidden_act", json!("gelu")),
        ("qwen2", "attention_bias", json!(false)),
        ("qwen2", "num_key_value_heads", json!(null)),
        ("qwen2", "layer_types", json!(["full_attention"])),
        ("qwen2", "layer_types", json!(["full_attention", "full_attention", "linear_attention"])),
        ("qwen3", "num_experts", json!(8)),
        ("gemma4", "enable_moe_block", json!("yes")),
        ("gemma4", "use_bidirectional_attention", json!("all")),
        ("gemma4", "hidden_activation", json!("silu")),
        ("gemma4", "num_kv_shared_layers", json!(3)),
        ("gemma4", "num_kv_shared_layers", json!(4)),
        ("gemma4", "layer_types", json!(["full_attention", "full_attention", "sliding_attention"])),
        ("gemma4", "sliding_window", json!(null)),
        ("gemma4", "global_head_dim", json!(0)),
        ("gemma4", "attention_softcap", json!(30.0)),
        ("llama4", "attention_chunk_size", json!(null)),
        ("llama4", "attention_chunk_size", json!(0)),
        ("llama4", "no_rope_layers", json!([1, 1])),
        ("llama4", "no_rope_layer_interval", json!(0)),
        ("llama4", "layer_types", json!(["full_attention", "full_attention", "sliding_attention"])),
        ("llama4", "moe_layers", json!([3])),
        ("llama4", "num_experts_per_tok", json!(7)),
        ("llama4", "attn_temperature_tuning", json!(4)),
        ("llama4", "floor_scale", json!(0)),
        ("llama4", "attn_scale", json!(-0.1)),
        ("llama4", "hidden_act", json!("gelu")),
        ("glm4_moe", "n_group", json!(2)),
        ("glm4_moe", "topk_group", json!(2)),
        ("glm4_moe", "n_routed_experts", json!(0)),
        ("glm4_moe", "n_shared_experts", json!(0)),
        ("glm4_moe", "routed_scaling_factor", json!(0.0)),
        ("glm4_moe", "partial_rotary_factor", json!(0.05)),
        ("glm4_moe", "scoring_func", json!("softmax")),
        ("glm4", "hidden_act", json!("gelu")),
        ("glm4", "partial_rotary_factor", json!(0.05)),
        ("glm4", "partial_rotary_factor", json!(0.2)),
        ("glm4", "partial_rotary_factor", json!(1.5)),
        ("glm4", "rope_interleaved", json!(true)),
        ("qwen3_moe", "num_experts", json!(0)),
        ("qwen3_moe", "num_experts", json!(5000)),
        ("qwen3_moe", "num_local_experts", json!(7)),
        ("qwen3_moe", "num_experts_per_tok", json!(7)),
        ("qwen3_moe", "num_experts_per_tok", json!(null)),
        ("qwen3_moe", "moe_intermediate_size", json!(null)),
        ("qwen3_moe", "norm_topk_prob", json!("yes")),
        ("qwen3_moe", "decoder_sparse_step", json!(0)),
        ("qwen3_moe", "mlp_only_layers", json!([-1])),
        ("qwen3_moe", "hidden_act", json!("gelu")),
        ("qwen3_moe", "layer_types", json!(["full_attention", "full_attention", "full_attention"])),
        ("qwen3_moe", "shared_expert_intermediate_size", json!(20)),
        ("gemma3", "hidden_activation", json!("gelu")),
        ("gemma3", "use_bidirectional_attention", json!("yes")),
        ("gemma3", "sliding_window", json!(null)),
        ("gemma3", "sliding_window_pattern", json!(0)),
        ("gemma3", "final_logit_softcapping", json!(0.0)),
    ];
    let mut failures = Vec::new();
    for (name, key, value) in cases {
        match spec(with(family(name), &json!({ key: value }))) {
            Err(ImportError::Config { key: named, .. }) if named == key => {}
            other => failures.push(format!("{name} {key} = {value}: {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn rope_rules_that_are_not_implemented_are_refused() {
    let cases = [
        ("rope_scaling.rope_type", json!({"rope_type": "yarn", "factor": 4.0})),
        ("rope_scaling.type", json!({"type": "dynamic", "factor": 4.0})),
        ("rope_scaling.factor", json!({"rope_type": "linear"})),
        (
            "rope_scaling.attention_factor",
            json!({"rope_type": "linear", "factor": 2.0, "attention_factor": 1.0}),
        ),
        (
            "rope_scaling.low_freq_factor",
            json!({"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}),
        ),
        (
            "rope_scaling.high_freq_factor",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 3.9}),
        ),
        ("rope_scaling.full_attention", json!({"full_attention": {"rope_type": "default"}})),
        ("rope_scaling.mrope_section", json!({"rope_type": "default", "mrope_section": [1, 2]})),
    ];
    let mut failures = Vec::new();
    for (key, scaling) in cases {
        match spec(with(family("llama"), &json!({"rope_scaling": scaling}))) {
            Err(ImportError::Config { key: named, .. }) if named == key => {}
            other => failures.push(format!("{key}: {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn table(config: Map<String, Value>) -> Vec<f32> {
    let config = super::Config::new(&config);
    super::Rope::from_model(&config, 10_000.0).expect("a rule").frequencies(16).expect("8 frequencies")
}

/// `inv_freq` of LlamaRotaryEmbedding, transformers 5.23, `head_dim` 16, as f32 bits.
const DEFAULT: [u32; 8] =
    [0x3f800000, 0x3ea1e89b, 0x3dcccccd, 0x3d0186e3, 0x3c23d70a, 0x3b4f3e38, 0x3a83126f, 0x39a5cb60];
const LINEAR: [u32; 8] =
    [0x3e000000, 0x3cb61887, 0x3b8186e3, 0x3a38449c, 0x3903126f, 0x37ba7753, 0x3684a2b2, 0x353cb0c1];
const LLAMA3: [u32; 8] =
    [0x3f800000, 0x3e4693b0, 0x3cd6ff02, 0x396ef74f, 0x38395d21, 0x370fc8f8, 0x35df10c4, 0x34ad07a7];

#[test]
fn rotation_tables_are_those_of_transformers() {
    let cases = [
        (json!({"rope_theta": 10000.0}), DEFAULT),
        (json!({"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}), LINEAR),
        (json!({"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 8.0}}), LINEAR),
        (
            json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 512}}),
            LLAMA3,
        ),
    ];
    for (config, expected) in cases {
        let actual = table(with(family("llama"), &config));
        for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
            // Their vectorized power is good to one unit in the last place, ours is rounded once; each operation after
            // it adds half a unit: 4 at most.
            let off = actual.to_bits().abs_diff(expected);
            assert!(off <= 4, "{config} [{i}]: {actual} is {off} units from {}", f32::from_bits(expected));
        }
    }
}

#[test]
fn factors_divide_and_must_be_enough() {
    let scaling = |n: usize| json!({"rope_scaling": {"rope_type": "factors", "factors": vec![2.0; n]}});
    let plain = table(with(family("llama"), &json!({})));
    let halved = table(with(family("llama"), &scaling(8)));
    assert!(plain.iter().zip(&halved).all(|(p, h)| p / 2.0 == *h));
    let config = with(family("llama"), &scaling(7));
    let rope = super::Rope::from_model(&super::Config::new(&config), 1e4).expect("a rule");
    assert_eq!(rope.frequencies(16), None);
}

const LLAMA_TENSORS: [(&str, usize, usize); 12] = [
    ("model.embed_tokens.weight", 100, 64),
    ("model.norm.weight", 1, 64),
    ("lm_head.weight", 100, 64),
    ("model.layers.0.input_layernorm.weight", 1, 64),
    ("model.layers.0.post_attention_layernorm.weight", 1, 64),
    ("model.layers.0.self_attn.q_proj.weight", 64, 64),
    ("model.layers.0.self_attn.k_proj.weight", 32, 64),
    ("model.layers.0.self_attn.v_proj.weight", 32, 64),
    ("model.layers.0.self_attn.o_proj.weight", 64, 64),
    ("model.layers.0.mlp.gate_proj.weight", 48, 64),
    ("model.layers.0.mlp.up_proj.weight", 48, 64),
    ("model.layers.0.mlp.down_proj.weight", 64, 48),
];

fn one_layer(changes: &Value, tensors: &[(&str, usize, usize)]) -> Result<Import, ImportError> {
    let config = with(Value::Object(with(family("llama"), &json!({"num_hidden_layers": 1}))), changes);
    import(&checkpoint(config, tensors))
}

#[test]
fn every_tensor_has_one_place() {
    let import = one_layer(&json!({"tie_word_embeddings": false}), &LLAMA_TENSORS).expect("a whole model");
    let named: Vec<_> = import.tensors.iter().map(|t| t.name.as_str()).collect();
    let expected: Vec<_> = import.spec.tensors().into_iter().map(|e| e.name).collect();
    assert_eq!(named, expected);
    let down = import.tensors.iter().find(|t| t.name == "l0.ffn.down").expect("down");
    assert_eq!((down.rows, down.cols), (64, 48));
    assert!(matches!(&down.origin, Origin::Tensor { name, transform: Transform::AsIs, .. }
        if name == "model.layers.0.mlp.down_proj.weight"));

    let extra = |name| [&LLAMA_TENSORS[..], &[(name, 1, 8)]].concat();
    assert!(
        one_layer(&json!({}), &extra("model.layers.0.self_attn.rotary_emb.inv_freq")).is_ok(),
        "harmless"
    );
    for name in [
        "model.layers.1.input_layernorm.weight",
        "vision_tower.patch.weight",
        "model.layers.0.self_attn.q_proj.bias",
    ] {
        let error = one_layer(&json!({}), &extra(name)).expect_err(name);
        assert!(matches!(error, ImportError::UnknownTensor(n) if n == name));
    }
    let untied = LLAMA_TENSORS.iter().copied().filter(|t| t.0 != "lm_head.weight").collect::<Vec<_>>();
    assert!(one_layer(&json!({}), &untied).is_ok(), "tied without a head");
    let error = one_layer(&json!({"tie_word_embeddings": false}), &untied).expect_err("no head");
    assert!(matches!(error, ImportError::MissingTensor(n) if n == "lm_head.weight"));
    let error = one_layer(&json!({"intermediate_size": 40}), &LLAMA_TENSORS).expect_err("another width");
    assert!(matches!(error, ImportError::Shape { expected: (40, 64), actual: (48, 64), .. }), "{error}");
}

#[test]
fn gemma_norms_get_their_one_unless_they_hold_it() {
    let config = with(family("gemma3"), &json!({}));
    let tensors: Vec<_> = {
        let spec = spec(config.clone()).expect("gemma3");
        let family = &super::gemma3::TEXT;
        let all = spec.tensors().into_iter().filter(|e| !e.name.starts_with("rope."));
        all.map(|e| (family.their_name(&e.name), e.rows as usize, e.cols as usize)).collect()
    };
    let tensors: Vec<_> = tensors.iter().map(|(n, r, c)| (n.as_str(), *r, *c)).collect();
    let mut checkpoint = checkpoint(config, &tensors);
    for (holds, expected) in [(false, Transform::AddOne), (true, Transform::AsIs)] {
        checkpoint.norms_hold_one = holds;
        let import = import(&checkpoint).expect("a whole model");
        for tensor in import.tensors {
            let Origin::Tensor { transform, .. } = tensor.origin else { continue };
            let norm = tensor.name.ends_with("norm");
            assert_eq!(transform, if norm { expected } else { Transform::AsIs }, "{}", tensor.name);
        }
    }
}

#[test]
fn other_models_are_refused_with_what_is_supported() {
    let cases = [
        json!({"model_type": "gemma3n", "architectures": ["Gemma3nForConditionalGeneration"]}),
        json!({"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}),
        json!({"model_type": 7}),
        json!({}),
    ];
    for config in cases {
        let config = config.as_object().expect("an object").clone();
        let error = import(&checkpoint(config.clone(), &[])).expect_err("not a model of ours");
        assert!(matches!(error, ImportError::Architecture(..)), "{config:?}: {error}");
        assert!(error.to_string().contains("Qwen3ForCausalLM"), "{error}");
    }
    for key in ["quantization_config", "auto_map"] {
        let error = one_layer(&json!({ key: {"a": "b"} }), &LLAMA_TENSORS).expect_err(key);
        assert!(matches!(error, ImportError::Config { key: named, .. } if named == key));
    }
}

/// What `save_pretrained` and `to_dict` of transformers write into every config, beside a family's own keys.
#[test]
fn what_every_config_may_hold_is_accepted() {
    let five = json!({"_name_or_path": "", "architectures": null, "chunk_size_feed_forward": 0, "dtype": "float32",
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_encoder_decoder": false, "problem_type": null,
        "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "output_attentions": false, "output_hidden_states": false,
        "return_dict": true, "transformers_version": "5.23.0", "use_cache": true});
    let four = json!({"add_cross_attention": false, "bad_words_ids": null, "begin_suppress_tokens": null,
        "cross_attention_hidden_size": null, "decoder_start_token_id": null, "diversity_penalty": 0.0,
        "do_sample": false, "early_stopping": false, "encoder_no_repeat_ngram_size": 0,
        "exponential_decay_length_penalty": null, "finetuning_task": null, "forced_bos_token_id": null,
        "is_decoder": false, "length_penalty": 1.0, "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0,
        "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1, "output_scores": false, "prefix": null,
        "pruned_heads": {}, "remove_invalid_values": false, "repetition_penalty": 1.0,
        "return_dict_in_generate": false, "sep_token_id": null, "suppress_tokens": null,
        "task_specific_params": null, "temperature": 1.0, "tf_legacy_loss": false, "tie_encoder_decoder": false,
        "tokenizer_class": null, "top_k": 50, "top_p": 1.0, "torchscript": false, "torch_dtype": "bfloat16",
        "typical_p": 1.0, "use_bfloat16": false});
    for (name, whole) in [("llama", &five), ("qwen3", &four), ("glm4", &five), ("gemma4", &four)] {
        spec(with(family(name), whole)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let muse = |whole: &Value| {
        let mut config = family("muse_glimmer");
        for part in ["text_config", "vision_config"] {
            let of = config[part].as_object_mut().expect("a part is an object");
            of.extend(whole.as_object().expect("an object").clone());
        }
        spec(with(config, whole))
    };
    muse(&five).expect("parts written whole");
    muse(&four).expect("parts written whole by transformers 4");
    for key in ["is_decoder", "is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"] {
        let error = spec(with(family("llama"), &json!({ key: true }))).expect_err(key);
        assert!(matches!(&error, ImportError::Config { key: named, .. } if named == key), "{error}");
    }
}
