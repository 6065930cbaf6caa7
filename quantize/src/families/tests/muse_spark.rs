use muse_format::{AudioStage, Experts, Laid, Score};
use serde_json::{Map, Value, json};

use super::{base, checkpoint, refused, spec, with};
use crate::checkpoint::ImportError;
use crate::families::config::Config;
use crate::families::{self, LeftOut, Origin, Transform, import};

/// As published, with the keys of its towers; 5 layers, of which the second is dense.
fn muse_spark(changes: &Value) -> Map<String, Value> {
    let mut text = Value::Object(with(
        base("muse_spark_text", "none"),
        &json!({"hidden_act": "silu", "post_norm_eps": 1e-8, "qk_scale_factor": 5.5, "sliding_window": 32,
            "output_multiplier": 0.2, "final_logit_softcapping": 20.0, "num_hidden_layers": 5,
            "tie_word_embeddings": false, "num_local_experts": 3, "num_experts_per_tok": 2,
            "moe_intermediate_size": 20, "moe_hidden_size": 24, "routed_scaling_factor": 1.5,
            "residual_gate_temperature": 0.5, "output_router_logits": false,
            "mlp_layer_types": ["sparse", "dense", "sparse", "sparse", "sparse"]}),
    ));
    text = Value::Object(with(text, changes));
    let outer = json!({"model_type": "muse_spark", "architectures": ["MuseSparkForConditionalGeneration"],
        "text_config": text, "vision_config": {"hidden_size": 8}, "audio_config": {"depths": [1]},
        "image_token_id": 900, "video_token_id": 901, "audio_token_id": 902, "out_hidden_size": 32,
        "projector_hidden_size": 12, "projector_hidden_act": "gelu", "tie_word_embeddings": false});
    outer.as_object().expect("an object").clone()
}

#[test]
fn muse_spark_has_gates_on_every_layer_and_experts_where_its_config_says() {
    let spark = spec(muse_spark(&json!({}))).expect("muse_spark");
    let layers = spark.layers.iter().map(|l| {
        let a = l.attention().expect("attention");
        (a.window, a.rope, l.ffn.is_some(), l.experts.is_some())
    });
    let sparse = |window, rope| (window, rope, false, true);
    let (local, full) = (sparse(Some(32), Some(0)), sparse(None, None));
    assert_eq!(layers.collect::<Vec<_>>(), [full, (Some(32), Some(0), true, false), local, local, full]);
    let experts = Experts {
        latent: Some(24),
        logit_scale: 0.2,
        score: Score::Sigmoid,
        choice_bias: true,
        normalise: true,
        scale: 1.5,
        each_norm_eps: Some(1e-8),
        ..Experts::new(3, 2, 20)
    };
    assert_eq!(spark.layers[0].experts, Some(experts));
    for layer in &spark.layers {
        let a = layer.attention().expect("attention");
        assert!(layer.residual_gates && layer.ffn_post_scale && layer.post_norms && a.mix_norm && a.out_gate);
        assert_eq!((layer.post_norm_eps, a.scale, a.qkv_bias), (Some(1e-8), 0.25, false));
    }
    assert_eq!((spark.embed_norm, spark.logit_scale, spark.tied_head), (true, 0.2, false));
    let all = spec(muse_spark(&json!({"mlp_layer_types": null}))).expect("no list");
    assert!(all.layers.iter().all(|layer| layer.experts.is_some()));
}

#[test]
fn muse_spark_sees_where_a_prompt_can_hold_an_image() {
    let tower = json!({"model_type": "muse_spark_vision", "hidden_size": 16, "intermediate_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 2, "pos_emb_height": 3, "pos_emb_width": 3, "patch_size": 4,
        "patch_temporal": 2, "merge_size": 2, "hidden_act": "gelu", "layer_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0}});
    let seeing = Value::Object(with(
        Value::Object(hearing(&json!({}))),
        &json!({"vision_config": tower, "image_token_id": 90, "video_token_id": 91, "audio_token_id": 92,
            "out_hidden_size": 64}),
    ));
    let vision = spec(with(seeing.clone(), &json!({}))).expect("muse_spark").vision.expect("a tower");
    assert_eq!((vision.token, vision.blank_tokens.as_slice()), (90, [90, 91, 92].as_slice()));
    assert_eq!((vision.laid, vision.dim, vision.adapter_dim), (Laid::EdgesAcross, 16, 12));
    assert!(spec(muse_spark(&json!({}))).expect("no token for images").vision.is_none());
    let other = with(seeing["vision_config"].clone(), &json!({"model_type": "muse_glimmer_vision"}));
    let error = spec(with(seeing, &json!({"vision_config": other}))).expect_err("another tower");
    assert!(
        matches!(&error, ImportError::Config { key, .. } if key == "vision_config.model_type"),
        "{error}"
    );
}

/// With a tower for sounds, whose token a prompt can hold.
fn hearing(changes: &Value) -> Map<String, Value> {
    let tower = json!({"model_type": "muse_spark_audio", "patch_sizes": [4, 3], "hidden_sizes": [8, 12],
        "depths": [1, 2], "num_hidden_layers": 2, "mlp_ratio": 2.7, "conv_kernel_size": 7, "hidden_act": "gelu",
        "rms_norm_eps": 1e-6, "out_hidden_size": 64, "initializer_range": 0.02});
    let tower = with(tower, changes);
    with(Value::Object(muse_spark(&json!({}))), &json!({"audio_config": tower, "audio_token_id": 92}))
}

#[test]
fn muse_spark_hears_where_a_prompt_can_hold_a_sound() {
    let audio = spec(hearing(&json!({}))).expect("muse_spark").audio.expect("a tower");
    assert_eq!((audio.token, audio.blank_tokens.as_slice(), audio.rate), (92, [92].as_slice(), 24_000));
    assert_eq!((audio.taps, audio.norm_eps, audio.samples(), audio.vector_norm), (7, 1e-6, 12, true));
    // 8 x 2.7 and 12 x 2.7, cut.
    let stage = |patch, dim, ffn_dim, blocks| AudioStage { patch, dim, ffn_dim, blocks };
    assert_eq!(audio.stages, [stage(4, 8, 21, 1), stage(3, 12, 32, 2)]);
    assert!(spec(muse_spark(&json!({}))).expect("no token for sounds").audio.is_none());
    let cases = [
        ("model_type", json!("muse_glimmer_audio")),
        ("hidden_act", json!("relu")),
        ("out_hidden_size", json!(31)),
        ("num_hidden_layers", json!(0)),
        ("patch_sizes", json!([4])),
        ("patch_sizes", json!([4, 0])),
        ("hidden_sizes", json!([8, 12, 16])),
        ("depths", json!([1, 100])),
        ("mlp_ratio", json!(-1.0)),
        ("conv_kernel_size", json!(65)),
        ("rms_norm_eps", json!(null)),
        ("dilation", json!(2)),
    ];
    refused("audio_config.", &cases, hearing);
}

#[test]
fn a_vector_of_more_samples_than_a_number_holds_is_refused() {
    let config = hearing(&json!({"patch_sizes": [1 << 20, 1 << 20]}));
    let error = import(&checkpoint(config, &[])).expect_err("2^40 samples").to_string();
    assert!(error.contains("1048576 samples at most"), "{error}");
}

#[test]
fn a_feature_extractor_says_the_rate_and_nothing_else_that_is_not_implemented() {
    let mut audio = spec(hearing(&json!({}))).expect("muse_spark").audio.expect("a tower");
    let mut read = |settings: Value| {
        let settings = settings.as_object().expect("an object").clone();
        let read = families::muse_spark::audio::read_extractor(&Config::part(&settings, ""), &mut audio);
        read.map(|()| audio.rate)
    };
    let published = json!({"feature_extractor_type": "MuseSparkFeatureExtractor", "feature_size": 1,
        "padding_side": "right", "padding_value": 0.0, "return_attention_mask": true, "samples_per_token": 12,
        "sampling_rate": 16000});
    assert_eq!(read(json!({})).expect("no settings"), 24_000);
    assert_eq!(read(published).expect("as published"), 16_000);
    for (key, value) in [
        ("feature_size", json!(2)),
        ("padding_side", json!("left")),
        ("padding_value", json!(-1.0)),
        ("samples_per_token", json!(1920)),
        ("sampling_rate", json!(0)),
        ("hop_length", json!(160)),
    ] {
        let error = read(json!({ key: value })).expect_err(key);
        assert!(matches!(&error, ImportError::Config { key: named, .. } if named == key), "{error}");
    }
}

#[test]
fn muse_spark_refuses_by_the_name_of_its_text_key() {
    let cases = [
        ("model_type", json!("muse_glimmer_text")),
        ("hidden_act", json!("gelu")),
        ("post_norm_eps", json!(null)),
        ("residual_gate_temperature", json!(0.0)),
        ("output_multiplier", json!(null)),
        ("num_local_experts", json!(0)),
        ("num_experts_per_tok", json!(4)),
        ("moe_hidden_size", json!(null)),
        ("routed_scaling_factor", json!(-1.0)),
        ("mlp_layer_types", json!(["sparse"])),
        ("mlp_layer_types", json!(["sparse", "dense", "none", "sparse", "sparse"])),
        ("layer_rope_theta", json!([0, 5000.0, 500000.0, 0, 0])),
        ("n_shared_experts", json!(1)),
    ];
    refused("text_config.", &cases, muse_spark);
    let tied = with(Value::Object(muse_spark(&json!({}))), &json!({"tie_word_embeddings": true}));
    assert!(!spec(tied).expect("the reference ties nothing").tied_head);
}

#[test]
fn experts_are_taken_out_of_the_tensors_that_hold_all_of_them() {
    let config = muse_spark(&json!({}));
    let spec = spec(config.clone()).expect("muse_spark");
    let computed = ["embed_norm", "q_norm", "k_norm", "mix_norm", "each_norm"];
    let mut tensors: Vec<(String, usize, usize)> = Vec::new();
    for tensor in spec.tensors() {
        if tensor.name.starts_with("rope.") || computed.iter().any(|name| tensor.name.ends_with(name)) {
            continue;
        }
        let (rows, cols) = match tensor.name.rsplit_once('.') {
            // All three experts, of gate and up one below the other.
            Some((expert, "gate" | "up")) if expert.contains("experts.") => (3 * 2 * 20, 24),
            Some((expert, "down")) if expert.contains("experts.") => (3 * 24, 20),
            _ => (tensor.rows as usize, tensor.cols as usize),
        };
        tensors.push((families::muse_spark::FAMILY.their_name(&tensor.name), rows, cols));
    }
    tensors.push(("model.audio_tower.norm.weight".into(), 1, 6));
    let named: Vec<_> = tensors.iter().map(|(name, rows, cols)| (name.as_str(), *rows, *cols)).collect();
    let whole = import(&checkpoint(config, &named)).expect("a whole model");
    assert_eq!(whole.left_out, [LeftOut { part: "audio", tensors: 1, weights: 6 }]);
    let origin = |name: &str| {
        let tensor = whole.tensors.iter().find(|tensor| tensor.name == name).expect(name);
        match &tensor.origin {
            Origin::Tensor { name, rows, transform } => (name.as_str(), rows.first, *transform),
            Origin::Computed(_) => panic!("{name} is computed"),
        }
    };
    let layer = "model.language_model.layers.2";
    let (both, down) =
        (format!("{layer}.mlp.experts.gate_up_proj"), format!("{layer}.mlp.experts.down_proj"));
    assert_eq!(origin("l2.experts.0.gate"), (both.as_str(), 0, Transform::AsIs));
    assert_eq!(origin("l2.experts.2.gate"), (both.as_str(), 80, Transform::AsIs));
    assert_eq!(origin("l2.experts.2.up"), (both.as_str(), 100, Transform::AsIs));
    assert_eq!(origin("l2.experts.1.down"), (down.as_str(), 24, Transform::AsIs));
    let gate = format!("{layer}.post_attention_residual_gate.gate");
    assert_eq!(origin("l2.attn.post_norm"), (gate.as_str(), 0, Transform::GateIn { temperature: 0.5 }));
    assert_eq!(origin("l2.attn.keep"), (gate.as_str(), 0, Transform::GateKeeps { temperature: 0.5 }));
    assert_eq!(origin("l2.ffn.post_scale").2, Transform::AddOne);
    assert_eq!(origin("l2.experts.each_scale").2, Transform::AddOne);
    assert_eq!(origin("norm").2, Transform::AsIs);
}

#[test]
fn a_gate_keeps_what_it_does_not_let_in_down_to_a_bound() {
    let of = |transform: Transform| {
        let mut values = [0.0, 1.0, -1.0, 50.0];
        let cols = values.len();
        transform.apply(&mut values, cols);
        values
    };
    let (open, kept) =
        (of(Transform::GateIn { temperature: 0.5 }), of(Transform::GateKeeps { temperature: 0.5 }));
    // sigmoid(2) is 0.8808.
    let expected = [
        (0.5, 0.75_f32.sqrt()),
        (0.880_797_1, 0.473_493_9),
        (0.119_202_92, 0.992_869_9),
        (1.0, 0.001_f32.sqrt()),
    ];
    for ((open, kept), (o, k)) in open.iter().zip(kept).zip(expected) {
        assert!((open - o).abs() <= 1e-6 && (kept - k).abs() <= 1e-6, "{open} {kept}, not {o} {k}");
    }
}
