use muse_format::Spec;
use serde_json::{Value, json};

use super::{checkpoint, family, spec, with};
use crate::checkpoint::ImportError;
use crate::families::{self, Origin, import};

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
    let other = with(family("gemma4"), &json!({"hidden_size_per_layer_input": 4}));
    let error = spec(other).expect_err("another vocabulary");
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
        "text_config": text, "vision_config": {"hidden_size": 8}, "audio_config": null, "image_token_id": 98});
    let read = |changes: Value| spec(with(outer.clone(), &changes));
    let alone = spec(with(family("gemma4"), &json!({}))).expect("the text model");
    assert_eq!(read(json!({})).expect("gemma4"), alone);
    assert!(!read(json!({"tie_word_embeddings": false})).expect("the outer key decides").tied_head);
    let error = read(json!({"text_config": null})).expect_err("no text model");
    assert!(matches!(error, ImportError::Config { key, .. } if key == "text_config"));
    assert_eq!(families::gemma4::FAMILY.their_name("embed"), "model.language_model.embed_tokens.weight");
    assert_eq!(
        families::gemma4::FAMILY.their_name("per_layer.table"),
        "model.language_model.embed_tokens_per_layer.weight"
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
