//! What tensors a checkpoint must have, and what it may have.

use serde_json::{Value, json};

use super::super::{Import, Origin, Transform, gemma3, import};
use super::{checkpoint, family, spec, with};
use crate::checkpoint::ImportError;

pub(super) const LLAMA_TENSORS: [(&str, usize, usize); 12] = [
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
        let family = &gemma3::TEXT;
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
