use muse_format::{Attention, Spec, Temperature};
use serde_json::{Value, json};

use super::{checkpoint, family, spec, with};
use crate::checkpoint::ImportError;
use crate::families::{self, Origin, Transform, import};

fn read(changes: Value) -> Spec {
    spec(with(family("llama4"), &changes)).expect("llama4")
}

/// Chunk, rotation and temperature of each layer.
fn attention(spec: &Spec) -> Vec<(Option<u32>, bool, bool)> {
    let of = |a: &Attention| (a.chunk, a.rope.is_some(), a.temperature.is_some());
    spec.layers.iter().map(|layer| of(layer.attention().expect("attention"))).collect()
}

#[test]
fn llama4_attends_by_chunks_where_it_rotates() {
    let (chunked, full) = ((Some(32), true, false), (None, false, true));
    assert_eq!(attention(&read(json!({}))), [chunked, full, chunked]);
    assert_eq!(attention(&read(json!({"no_rope_layers": []}))), [chunked, full, chunked]);
    assert_eq!(attention(&read(json!({"no_rope_layers": [0, 1, 1]}))), [full, chunked, chunked]);
    let types = json!({"layer_types": ["full_attention", "chunked_attention", "full_attention"]});
    let apart = [(None, true, false), (Some(32), false, true), (None, true, false)];
    assert_eq!(attention(&read(types)), apart);
    let one = read(json!({"attn_temperature_tuning": false}));
    assert_eq!(attention(&one)[1], (None, false, false));
    let first = read(json!({})).layers[1].attention().expect("attention").clone();
    assert_eq!(first.temperature, Some(Temperature { every: 16, strength: 0.25 }));
    assert!(!first.qk_norm && read(json!({})).layers[0].attention().expect("attention").qk_norm);
    assert!(!read(json!({"use_qk_norm": false})).layers[0].attention().expect("attention").qk_norm);
}

#[test]
fn llama4_has_experts_where_its_config_says() {
    let which = |changes: Value| -> Vec<(Option<u32>, bool)> {
        let dim = |layer: &muse_format::Layer| layer.ffn.as_ref().map(|ffn| ffn.dim);
        read(changes).layers.iter().map(|layer| (dim(layer), layer.experts.is_some())).collect()
    };
    let (dense, sparse) = ((Some(80), false), (Some(48), true));
    assert_eq!(which(json!({})), [sparse; 3]);
    assert_eq!(which(json!({"interleave_moe_layer_step": 2})), [dense, sparse, dense]);
    assert_eq!(which(json!({"moe_layers": [0]})), [sparse, dense, dense]);
    let experts = read(json!({})).layers[0].experts.clone().expect("experts");
    assert_eq!((experts.count, experts.used, experts.dim, experts.weigh_input), (6, 1, 48, true));
}

#[test]
fn llama4_finds_an_expert_across_a_tensor_of_all() {
    let config = with(family("llama4"), &json!({"num_hidden_layers": 1}));
    let all = spec(config.clone()).expect("llama4").tensors();
    let family = &families::llama4::TEXT;
    let named: Vec<_> = all
        .iter()
        .filter(|e| {
            !e.name.starts_with("rope.") && !e.name.ends_with("_norm") && !e.name.contains("experts.")
        })
        .map(|e| {
            let theirs = if e.name.contains(".ffn.") && !e.name.ends_with("norm") {
                e.name.replace("ffn", "shared")
            } else {
                e.name.clone()
            };
            (family.their_name(&theirs), e.rows as usize, e.cols as usize)
        })
        .collect();
    let together = [
        ("model.layers.0.feed_forward.router.weight", 6, 64),
        ("model.layers.0.feed_forward.experts.gate_up_proj", 6 * 64, 2 * 48),
        ("model.layers.0.feed_forward.experts.down_proj", 6 * 48, 64),
    ];
    let tensors: Vec<_> = named.iter().map(|(n, r, c)| (n.as_str(), *r, *c)).chain(together).collect();
    let whole = import(&checkpoint(config.clone(), &tensors)).expect("a whole model");
    let origin = |name: &str| {
        let tensor = whole.tensors.iter().find(|t| t.name == name).expect(name);
        let Origin::Tensor { rows, transform, .. } = &tensor.origin else { panic!("{name} is computed") };
        (rows.first, *transform)
    };
    assert_eq!(origin("l0.experts.5.gate"), (0, Transform::Transpose { first: 5 * 64 }));
    assert_eq!(origin("l0.experts.5.up"), (48, Transform::Transpose { first: 5 * 64 }));
    assert_eq!(origin("l0.experts.2.down"), (0, Transform::Transpose { first: 2 * 48 }));
    let flat: Vec<_> = tensors
        .iter()
        .map(|(n, r, c)| if n.ends_with("down_proj") { (*n, *c, *r) } else { (*n, *r, *c) })
        .collect();
    let error = import(&checkpoint(config, &flat)).expect_err("experts side by side");
    assert!(matches!(error, ImportError::Shape { .. }), "{error}");
}

#[test]
fn llama4_beside_a_tower_is_its_text_model() {
    let text = Value::Object(with(family("llama4"), &json!({"architectures": null})));
    let outer = json!({"model_type": "llama4", "architectures": ["Llama4ForConditionalGeneration"],
        "text_config": text, "vision_config": {"hidden_size": 8}, "tie_word_embeddings": true});
    assert_eq!(spec(with(outer.clone(), &json!({}))).expect("llama4"), read(json!({})));
    // The text model's own key decides, as in the reference implementation.
    let otherwise = with(outer, &json!({"tie_word_embeddings": false}));
    assert_eq!(spec(otherwise).expect("llama4"), read(json!({})));
}
