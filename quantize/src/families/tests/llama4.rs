use muse_format::{Attention, Given, Spec, Temperature};
use serde_json::{Map, Value, json};

use super::{checkpoint, family, refused, refused_by, spec, with};
use crate::checkpoint::ImportError;
use crate::families::{self, Origin, Pairs, Rows, Transform, import};

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

/// As published but for its sizes.
fn seeing(changes: &Value) -> Map<String, Value> {
    let tower = json!({"model_type": "llama4_vision_model", "hidden_size": 24, "intermediate_size": 96,
        "num_hidden_layers": 2, "num_attention_heads": 3, "num_channels": 3, "image_size": 336, "patch_size": 14,
        "hidden_act": "gelu", "norm_eps": 1e-5, "pixel_shuffle_ratio": 0.5, "projector_dropout": 0.0,
        "projector_input_dim": 20, "projector_output_dim": 20, "vision_output_dim": 20, "rope_theta": 10000,
        "multi_modal_projector_bias": false, "vision_feature_layer": -1, "attention_dropout": 0.0,
        "vision_feature_select_strategy": "default", "initializer_range": 0.02});
    let text = Value::Object(with(family("llama4"), &json!({"architectures": null})));
    let outer = json!({"model_type": "llama4", "architectures": ["Llama4ForConditionalGeneration"],
        "text_config": text, "boi_token_index": 96, "eoi_token_index": 97, "image_token_index": 98});
    with(outer, &json!({"vision_config": with(tower, changes)}))
}

#[test]
fn llama4_sees_tiles() {
    let vision = spec(seeing(&json!({}))).expect("llama4").vision.expect("a tower");
    assert_eq!((vision.token, vision.blank_tokens.len(), vision.class), (98, 0, true));
    assert_eq!((vision.positions, vision.merge, vision.frequencies), (24, 2, 2));
    let pixels = &vision.pixels;
    assert_eq!((pixels.tiles, pixels.tokens_max, pixels.given), (Some(16), 144, Given::Planes));
    assert_eq!((vision.adapter_dim, vision.adapter_down, vision.vector_norm), (20, true, false));
    // No square is made of more patches than one.
    let one = spec(seeing(&json!({"pixel_shuffle_ratio": 1.0, "intermediate_size": 24}))).expect("llama4");
    assert_eq!(one.vision.expect("a tower").merge, 1);
    let cases = [
        ("model_type", json!("siglip_vision_model")),
        ("hidden_act", json!("gelu_pytorch_tanh")),
        ("num_channels", json!(1)),
        ("vision_feature_select_strategy", json!("full")),
        ("multi_modal_projector_bias", json!(true)),
        ("hidden_size", json!(26)),
        ("num_hidden_layers", json!(0)),
        ("pixel_shuffle_ratio", json!(0.3)),
        ("pixel_shuffle_ratio", json!(2.0)),
        ("image_size", json!(350)),
        ("image_size", json!([336, 336])),
        ("intermediate_size", json!(100)),
        ("projector_output_dim", json!(24)),
        ("vision_output_dim", json!(24)),
        ("rope_parameters.rope_type", json!({"rope_type": "yarn"})),
        ("num_experts", json!(2)),
    ];
    refused("vision_config.", &cases, seeing);
}

#[test]
fn llama4_has_pairs_of_heads_apart_and_the_last_position_by_itself() {
    let config = seeing(&json!({}));
    let draft = (families::llama4::FAMILY.read)(&families::Config::new(&config)).expect("llama4");
    let pairs = Some(Pairs { head_dim: 8, rotated: 8 });
    for part in ["q", "q_bias", "k", "k_bias"] {
        assert_eq!(draft.named[&format!("vision.l1.attn.{part}")].rows.pairs, pairs, "{part}");
    }
    assert_eq!(draft.named["vision.l1.attn.v"].rows, Rows::default());
    let (all, last) = (&draft.parts["vision.positions"], &draft.parts["vision.class_position"]);
    assert_eq!((all.shape, last.shape), ((577, 24), (577, 24)));
    assert_eq!((all.rows.source(0), all.rows.source(575), last.rows.source(0)), (0, 575, 576));
}

#[test]
fn an_image_processor_of_llama4_says_how_many_tiles_an_image_has() {
    let read = |processor: Value| {
        let mut vision = spec(seeing(&json!({}))).expect("llama4").vision.expect("a tower");
        let processor = processor.as_object().expect("an object").clone();
        let processor = families::Config::part(&processor, "preprocessor_config.json: ");
        families::llama4::vision::read_processor(&processor, &mut vision).map(|()| vision.pixels)
    };
    assert_eq!(read(json!({})).expect("no file").tiles, Some(16));
    let published = json!({"crop_size": null, "do_center_crop": null, "do_convert_rgb": true, "do_normalize": true,
        "do_rescale": true, "do_resize": true, "image_mean": [0.5, 0.25, 0.5], "image_std": [0.5, 0.5, 0.25],
        "image_processor_type": "Llama4ImageProcessorFast", "max_patches": 5, "resample": 2,
        "rescale_factor": 1.0 / 255.0, "resize_to_max_canvas": false, "size": {"height": 336, "width": 336}});
    let pixels = read(published.clone()).expect("as published");
    assert_eq!((pixels.tiles, pixels.mean, pixels.deviation), (Some(5), [0.5, 0.25, 0.5], [0.5, 0.5, 0.25]));
    refused_by(
        "preprocessor_config.json: ",
        &[
            ("max_patches", json!(0)),
            ("max_patches", json!(257)),
            ("resize_to_max_canvas", json!(true)),
            ("size.height", json!({"height": 448, "width": 336})),
            ("size.longest_edge", json!({"height": 336, "width": 336, "longest_edge": 336})),
            ("do_center_crop", json!(true)),
            ("do_normalize", json!(false)),
            ("resample", json!(3)),
            ("patch_size", json!(16)),
        ],
        |changes| read(Value::Object(with(published.clone(), changes))),
    );
}

#[test]
fn llama4_beside_a_tower_is_its_text_model() {
    let text = Value::Object(with(family("llama4"), &json!({"architectures": null})));
    let outer = json!({"model_type": "llama4", "architectures": ["Llama4ForConditionalGeneration"],
        "text_config": text, "vision_config": {"hidden_size": 8}, "tie_word_embeddings": true});
    // No prompt can hold its token.
    assert_eq!(spec(with(outer.clone(), &json!({}))).expect("llama4"), read(json!({})));
    // The text model's own key decides, as in the reference implementation.
    let otherwise = with(outer, &json!({"tie_word_embeddings": false}));
    assert_eq!(spec(otherwise).expect("llama4"), read(json!({})));
}
