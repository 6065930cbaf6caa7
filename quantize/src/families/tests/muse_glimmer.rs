use serde_json::{Map, Value, json};

use super::{checkpoint, family, spec, with};
use crate::checkpoint::ImportError;
use crate::families::{self, Origin, Transform, import};

/// Changes inside `text_config`.
fn text_with(mut config: Value, changes: &Value) -> Map<String, Value> {
    config["text_config"] = Value::Object(with(config["text_config"].take(), changes));
    config.as_object().expect("a config is an object").clone()
}

#[test]
fn muse_glimmer_counts_its_full_layers_from_the_last() {
    let muse = spec(with(family("muse_glimmer"), &json!({}))).expect("muse_glimmer");
    let layers: Vec<_> =
        muse.layers.iter().map(|l| (l.attention().unwrap().window, l.attention().unwrap().rope)).collect();
    let (local, full) = ((Some(32), Some(0)), (None, None));
    assert_eq!(layers, [full, local, local, local, full]);
    let (layer, a) = (&muse.layers[0], muse.layers[0].attention().unwrap());
    assert_eq!((a.scale, a.qk_norm, a.out_gate, a.qkv_bias, a.out_bias), (0.25, true, true, false, false));
    assert_eq!((layer.post_norms, layer.post_norm_eps, muse.norm_eps), (true, Some(1e-8), 1e-6));
    assert_eq!((muse.embed_norm, muse.embed_scale, muse.logit_scale), (true, 1.0, 0.2));
    assert_eq!((muse.logit_softcap, muse.tied_head, muse.ropes), (Some(20.0), false, 1));
    let own = json!({"layer_rope_theta": [0, 10000.0, 0, 0, 0.0], "layer_types": ["sliding_attention",
        "full_attention", "full_attention", "full_attention", "full_attention"]});
    let own = spec(text_with(family("muse_glimmer"), &own)).expect("a pattern of its own");
    let layers: Vec<_> =
        own.layers.iter().map(|l| (l.attention().unwrap().window, l.attention().unwrap().rope)).collect();
    assert_eq!(layers, [(Some(32), None), (None, Some(0)), full, full, full]);
    let still = spec(text_with(family("muse_glimmer"), &json!({"layer_rope_theta": [0, 0, 0, 0, 0]})));
    assert_eq!(still.expect("no rotation at all").ropes, 0);
    let tied = spec(with(family("muse_glimmer"), &json!({"tie_word_embeddings": true}))).expect("tied");
    assert!(tied.tied_head);
}

#[test]
fn muse_glimmer_refuses_by_the_name_of_its_text_key() {
    let cases = [
        ("model_type", json!("muse_spark_text")),
        ("hidden_activation", json!("gelu")),
        ("sliding_window", json!(null)),
        ("head_dim", json!(null)),
        ("post_norm_eps", json!(null)),
        ("post_norm_eps", json!(0.0)),
        ("qk_scale_factor", json!(-1.0)),
        ("output_multiplier", json!(null)),
        ("final_logit_softcapping", json!(null)),
        ("layer_rope_theta", json!([0, 0])),
        ("layer_rope_theta", json!([0, 5000.0, 10000.0, 0, 0])),
        ("layer_rope_theta", json!([0, -1.0, 10000.0, 0, 0])),
        ("layer_types", json!(["full_attention"])),
        ("rope_parameters.rope_type", json!({"rope_type": "yarn"})),
        ("num_experts", json!(8)),
    ];
    let mut failures = Vec::new();
    for (key, value) in cases {
        let (outer, _) = key.split_once('.').unwrap_or((key, ""));
        match spec(text_with(family("muse_glimmer"), &json!({ outer: value }))) {
            Err(ImportError::Config { key: named, .. }) if named == format!("text_config.{key}") => {}
            other => failures.push(format!("{key} = {value}: {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    for (key, value) in [("text_config", json!(null)), ("audio_config", json!({"hidden_size": 8}))] {
        let error = spec(with(family("muse_glimmer"), &json!({ key: value }))).expect_err(key);
        assert!(matches!(&error, ImportError::Config { key: named, .. } if named == key), "{error}");
    }
}

#[test]
fn a_vision_tower_is_left_out_and_counted() {
    let config = with(family("muse_glimmer"), &json!({}));
    let all = spec(config.clone()).expect("muse_glimmer").tensors();
    let computed = |name: &str| {
        name.starts_with("rope.")
            || name == "embed_norm"
            || name.ends_with("q_norm")
            || name.ends_with("k_norm")
    };
    let named: Vec<_> = all
        .iter()
        .filter(|e| !computed(&e.name))
        .map(|e| (families::muse_glimmer::FAMILY.their_name(&e.name), e.rows as usize, e.cols as usize))
        .collect();
    let vision = [("model.vision_tower.ln_pre.weight", 1, 8), ("model.vision_projection.weight", 64, 12)];
    let tensors: Vec<_> = named.iter().map(|(n, r, c)| (n.as_str(), *r, *c)).chain(vision).collect();
    let whole = import(&checkpoint(config.clone(), &tensors)).expect("a whole model");
    assert_eq!(whole.left_out, [families::LeftOut { part: "vision", tensors: 2, weights: 8 + 64 * 12 }]);
    for tensor in &whole.tensors {
        let expected = match tensor.name.as_str() {
            "embed_norm" => Some(1.0),
            name if name.ends_with("q_norm") => Some(3.87),
            name if name.ends_with("k_norm") => Some(1.0),
            _ => None,
        };
        match (&tensor.origin, expected) {
            (Origin::Computed(values), Some(expected)) => assert!(values.iter().all(|v| *v == expected)),
            (Origin::Computed(_), None) => assert!(tensor.name.starts_with("rope.")),
            (Origin::Tensor { transform, .. }, _) => {
                let centred = tensor.name.starts_with('l') && tensor.name.ends_with("norm");
                assert_eq!(*transform == Transform::AddOne, centred, "{}", tensor.name);
            }
        }
    }
    let unknown = [&tensors[..], &[("model.audio_tower.ln.weight", 1, 8)]].concat();
    let error = import(&checkpoint(config, &unknown)).expect_err("a part that nobody knows");
    assert!(matches!(error, ImportError::UnknownTensor(name) if name == "model.audio_tower.ln.weight"));
}
