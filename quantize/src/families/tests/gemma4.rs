use muse_format::{Fit, Join, Laid, Spec};
use serde_json::{Map, Value, json};

use super::{checkpoint, family, refused, refused_by, spec, with};
use crate::checkpoint::ImportError;
use crate::families::{self, Origin, Rows, import};

#[test]
fn gemma4_has_wider_heads_on_full_layers_and_takes_keys_over() {
    let read = |changes: Value| spec(with(family("gemma4"), &changes)).expect("gemma4");
    let four = json!({"num_hidden_layers": 4, "layer_types": ["sliding_attention", "full_attention",
        "sliding_attention", "full_attention"]});
    let with_four = |changes: Value| {
        let changes = with(Value::Object(with(four.clone(), &json!({}))), &changes);
        read(Value::Object(changes))
    };
    let heads = |s: Spec| {
        s.layers
            .iter()
            .map(|l| (l.attention().unwrap().kv_heads, l.attention().unwrap().head_dim))
            .collect::<Vec<_>>()
    };
    assert_eq!(heads(with_four(json!({}))), [(2, 16), (2, 24), (2, 16), (2, 24)]);
    let fewer = json!({"attention_k_eq_v": true, "num_global_key_value_heads": 1});
    assert_eq!(heads(with_four(fewer)), [(2, 16), (1, 24), (2, 16), (1, 24)]);
    let only_with_k_eq_v = json!({"num_global_key_value_heads": 1});
    assert_eq!(heads(with_four(only_with_k_eq_v)), [(2, 16), (2, 24), (2, 16), (2, 24)]);
    let own = json!({"global_head_dim": null, "per_layer_config": {"1": {"head_dim": 32, "num_key_value_heads": 1}}});
    assert_eq!(heads(with_four(own)), [(2, 16), (1, 32), (2, 16), (2, 16)]);

    // transformers numbers them so that they sort.
    let twelve = json!({"num_hidden_layers": 12, "per_layer_config": {"05": {"head_dim": 32}, "11": {"head_dim": 32}}});
    let heads_of_twelve: Vec<_> = heads(read(twelve)).into_iter().map(|(_, head_dim)| head_dim).collect();
    assert_eq!(heads_of_twelve, [16, 16, 16, 16, 16, 32, 16, 16, 16, 16, 16, 32]);
    let none = with(family("gemma4"), &json!({"per_layer_config": {"3": {"head_dim": 32}}}));
    let error = spec(none).expect_err("there are three layers");
    assert!(matches!(error, ImportError::Config { key, .. } if key == "per_layer_config.3"));

    let shared = with_four(json!({"num_kv_shared_layers": 2, "use_double_wide_mlp": true}));
    let layers: Vec<_> = shared
        .layers
        .iter()
        .map(|l| (l.attention().unwrap().kv_from, l.ffn.as_ref().map(|f| f.dim)))
        .collect();
    assert_eq!(layers, [(None, Some(48)), (None, Some(48)), (Some(0), Some(96)), (Some(1), Some(96))]);

    let a = shared.layers[1].attention().unwrap();
    assert_eq!((a.scale, a.window, a.rope, a.v_norm, a.qk_norm), (1.0, None, Some(1), true, true));
    let vectors = json!({"hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 100});
    let vectors = read(vectors).per_layer.expect("vectors of layers");
    assert_eq!((vectors.dim, vectors.table_scale, vectors.projection_scale), (4, 2.0, 0.125));
    let other = json!({"hidden_size_per_layer_input": 4, "vocab_size_per_layer_input": 99});
    let error = spec(with(family("gemma4"), &other)).expect_err("a smaller vocabulary");
    assert!(matches!(error, ImportError::Config { key, .. } if key == "vocab_size_per_layer_input"));
}

#[test]
fn gemma4_rotates_the_first_pairs_as_if_all_were() {
    let config = with(
        family("gemma4"),
        &json!({"rope_parameters": {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.3, "rope_theta": 10000.0}}}),
    );
    let draft = (families::gemma4::TEXT.read)(&families::Config::new(&config)).expect("gemma4");
    let (local, full) = (&draft.ropes[0], &draft.ropes[1]);
    let all = local.frequencies(24).expect("a table");
    // int(0.3 * 24 // 2) is 3 of 12 pairs.
    let expected: Vec<f32> = all.iter().enumerate().map(|(i, f)| if i < 3 { *f } else { 0.0 }).collect();
    assert_eq!(full.frequencies(24).expect("a table"), expected);
}

#[test]
fn gemma4_finds_values_that_are_keys_and_drops_keys_that_are_not_read() {
    let config = with(
        family("gemma4"),
        &json!({"num_hidden_layers": 3, "attention_k_eq_v": true,
        "num_kv_shared_layers": 1, "layer_types": ["sliding_attention", "full_attention", "full_attention"]}),
    );
    let family = &families::gemma4::TEXT;
    let all = spec(config.clone()).expect("gemma4").tensors();
    let made = |name: &str| name.starts_with("rope.") || name.ends_with("v_norm") || name == "l1.attn.v";
    let named: Vec<_> = all
        .iter()
        .filter(|e| !made(&e.name))
        .map(|e| (family.their_name(&e.name), e.rows as usize, e.cols as usize))
        .collect();
    let kept = [
        ("model.layers.2.self_attn.k_proj.weight", 48, 64),
        ("model.layers.2.self_attn.k_norm.weight", 1, 24),
    ];
    let tensors: Vec<_> = named.iter().map(|(n, r, c)| (n.as_str(), *r, *c)).chain(kept).collect();
    let whole = import(&checkpoint(config.clone(), &tensors)).expect("a whole model");
    let origin = |name: &str| {
        let tensor = whole.tensors.iter().find(|t| t.name == name).expect(name);
        let Origin::Tensor { name, .. } = &tensor.origin else { panic!("{name} is computed") };
        name.clone()
    };
    assert_eq!(origin("l1.attn.v"), "model.layers.1.self_attn.k_proj.weight");
    assert_eq!(origin("l0.attn.v"), "model.layers.0.self_attn.v_proj.weight");
    assert!(!whole.tensors.iter().any(|t| t.name == "l2.attn.k"));
    let more = [&tensors[..], &[("model.layers.1.self_attn.v_proj.weight", 48, 64)]].concat();
    let error = import(&checkpoint(config, &more)).expect_err("values of their own");
    assert!(matches!(error, ImportError::UnknownTensor(_)), "{error}");
}

#[test]
fn gemma4_among_other_modalities_is_its_text_model() {
    let text = Value::Object(with(family("gemma4"), &json!({"architectures": null})));
    let outer = json!({"model_type": "gemma4", "architectures": ["Gemma4ForConditionalGeneration"],
        "text_config": text, "vision_config": {"hidden_size": 8}, "audio_config": null, "image_token_id": 100});
    let read = |changes: Value| spec(with(outer.clone(), &changes));
    let alone = spec(with(family("gemma4"), &json!({}))).expect("the text model");
    // No prompt can hold an image's token; or there is no tower.
    assert_eq!(read(json!({})).expect("gemma4"), alone);
    assert_eq!(read(json!({"image_token_id": 98, "vision_config": null})).expect("gemma4"), alone);
    assert!(!read(json!({"tie_word_embeddings": false})).expect("the outer key decides").tied_head);
    let error = read(json!({"text_config": null})).expect_err("no text model");
    assert!(matches!(error, ImportError::Config { key, .. } if key == "text_config"));
    assert_eq!(families::gemma4::FAMILY.their_name("embed"), "model.language_model.embed_tokens.weight");
    assert_eq!(
        families::gemma4::FAMILY.their_name("per_layer.table"),
        "model.language_model.embed_tokens_per_layer.weight"
    );
}

/// As published but for its sizes.
fn seeing(changes: &Value) -> Map<String, Value> {
    let tower = json!({"model_type": "gemma4_vision", "hidden_size": 24, "intermediate_size": 20, "head_dim": 8,
        "num_hidden_layers": 2, "num_attention_heads": 3, "num_key_value_heads": 3, "patch_size": 16,
        "hidden_activation": "gelu_pytorch_tanh", "attention_bias": false, "attention_dropout": 0.0,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 131072, "pooling_kernel_size": 3,
        "position_embedding_size": 10240, "use_clipped_linears": true, "standardize": false,
        "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0}, "initializer_range": 0.02});
    let text = Value::Object(with(family("gemma4"), &json!({"architectures": null})));
    let outer = json!({"model_type": "gemma4", "architectures": ["Gemma4ForConditionalGeneration"],
        "text_config": text, "audio_config": null, "image_token_id": 98, "video_token_id": 99,
        "boi_token_id": 96, "eoi_token_id": 97});
    with(outer, &json!({"vision_config": with(tower, changes)}))
}

#[test]
fn gemma4_sees_by_the_means_of_squares() {
    let vision = spec(seeing(&json!({}))).expect("gemma4").vision.expect("a tower");
    // A token for sound is beyond the vocabulary.
    assert_eq!((vision.token, vision.blank_tokens.as_slice(), vision.blank), (98, [98, 99].as_slice(), 0));
    assert_eq!((vision.laid, vision.positions, vision.frequencies), (Laid::Axes, 3360, 2));
    assert_eq!((vision.join, vision.merge), (Join::Mean { standardized: false, rooted: true }, 3));
    assert_eq!((vision.pixels.fit, vision.pixels.tokens_max), (Fit::Fill, 280));
    assert!(vision.joint && vision.clipped && vision.gated && vision.rms && !vision.bias);
    let mut causal = seeing(&json!({"standardize": true, "position_embedding_size": 12}));
    causal["text_config"]["use_bidirectional_attention"] = Value::Null;
    causal["text_config"]["pad_token_id"] = 5.into();
    let vision = spec(causal).expect("a small one").vision.expect("a tower");
    assert_eq!((vision.joint, vision.join), (false, Join::Mean { standardized: true, rooted: true }));
    assert_eq!((vision.positions, vision.blank), (12, 5));
    let cases = [
        ("model_type", json!("siglip_vision_model")),
        ("hidden_activation", json!("gelu")),
        ("attention_bias", json!(true)),
        ("hidden_size", json!(26)),
        ("head_dim", json!(16)),
        ("num_key_value_heads", json!(1)),
        ("pooling_kernel_size", json!(17)),
        ("pooling_kernel_size", json!(1)),
        ("num_hidden_layers", json!(0)),
        ("rope_parameters.rope_type", json!({"rope_type": "yarn"})),
        ("num_experts", json!(2)),
    ];
    refused("vision_config.", &cases, seeing);
}

#[test]
fn gemma4_has_quarters_of_heads_in_another_order_and_keeps_the_positions_it_can_reach() {
    let rows = Rows { crossed: Some(2), ..Rows::default() };
    let order: Vec<_> = (0..16).map(|row| rows.source(row)).collect();
    assert_eq!(order, [0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15]);
    let config = seeing(&json!({"use_clipped_linears": false}));
    let draft = (families::gemma4::FAMILY.read)(&families::Config::new(&config)).expect("gemma4");
    let part = &draft.parts["vision.positions"];
    assert_eq!((part.shape, part.rows.source(3359), part.rows.source(3360)), ((20480, 24), 3359, 10240));
    let q = &draft.named["vision.l1.attn.q"];
    assert_eq!(q.theirs, "model.vision_tower.encoder.layers.1.self_attn.q_proj.linear.weight");
    assert_eq!((q.rows, draft.named["vision.l1.attn.q_norm"].rows), (rows, rows));
    assert!(!draft.named.contains_key("vision.l1.attn.q_in_min"));
}

#[test]
fn an_image_processor_of_gemma4_says_how_many_tokens_an_image_has() {
    let read = |processor: Value| {
        let mut vision = spec(seeing(&json!({}))).expect("gemma4").vision.expect("a tower");
        let processor = processor.as_object().expect("an object").clone();
        let processor = families::Config::part(&processor, "preprocessor_config.json: ");
        families::gemma4::vision::read_processor(&processor, &mut vision).map(|()| vision.pixels)
    };
    assert_eq!(read(json!({})).expect("no file").tokens_max, 280);
    let published = json!({"do_convert_rgb": true, "do_normalize": false, "do_rescale": true, "do_resize": true,
        "image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0], "image_processor_type": "Gemma4ImageProcessor",
        "max_soft_tokens": 1120, "patch_size": 16, "pooling_kernel_size": 3, "resample": 3,
        "rescale_factor": 1.0 / 255.0});
    let pixels = read(published.clone()).expect("as published");
    assert_eq!((pixels.tokens_max, pixels.mean, pixels.deviation), (1120, [0.5; 3], [0.5; 3]));
    refused_by(
        "preprocessor_config.json: ",
        &[
            ("max_soft_tokens", json!(100)),
            ("pooling_kernel_size", json!(2)),
            ("patch_size", json!(14)),
            ("do_normalize", json!(true)),
            ("image_mean", json!([0.5, 0.5, 0.5])),
            ("image_std", json!([0.5, 0.5, 0.5])),
            ("resample", json!(2)),
            ("size", json!({"height": 224})),
        ],
        |changes| read(Value::Object(with(published.clone(), changes))),
    );
}

#[test]
fn gemma4_has_experts_beside_every_feed_forward() {
    let sizes = json!({"enable_moe_block": true, "num_experts": 6, "top_k_experts": 2,
        "moe_intermediate_size": 20});
    let moe = spec(with(family("gemma4"), &sizes)).expect("gemma4 with experts");
    for layer in &moe.layers {
        let experts = layer.experts.as_ref().expect("every layer has them");
        assert_eq!((experts.count, experts.used, experts.dim), (6, 2, 20));
        assert_eq!((experts.normalise, experts.expert_scale, experts.own_norms), (true, true, true));
        assert_eq!(layer.ffn.as_ref().map(|ffn| ffn.dim), Some(48));
    }
    let without = |changes: Value| {
        let error =
            spec(with(with(family("gemma4"), &sizes).into(), &changes)).expect_err("a size is missing");
        let ImportError::Config { key, .. } = error else { panic!("{error}") };
        key
    };
    for key in ["num_experts", "top_k_experts", "moe_intermediate_size"] {
        assert_eq!(without(json!({ key: null })), key);
    }
    assert_eq!(without(json!({"top_k_experts": 7})), "top_k_experts");
    let theirs = |ours: &str| families::gemma4::TEXT.their_name(ours);
    assert_eq!(theirs("l2.experts.5.up"), "model.layers.2.experts.gate_up_proj");
    assert_eq!(theirs("l2.experts.beside_norm"), "model.layers.2.post_feedforward_layernorm_1.weight");
    assert_eq!(theirs("l2.experts.expert_scale"), "model.layers.2.router.per_expert_scale");
}
