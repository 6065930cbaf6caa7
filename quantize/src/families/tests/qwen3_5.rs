use muse_format::{ChainDrafter, DeltaNet, Drafter, Fit, Laid, Mixer, Role, Score, Taken};
use serde_json::{Map, Value, json};

use super::{base, checkpoint, refused, refused_by, spec, with};
use crate::checkpoint::ImportError;
use crate::families::{self, Config, Family, LeftOut, Origin, Transform, import, import_head};

/// As published, with the keys of its tower and of the layer that guesses; 5 layers.
fn qwen3_5(changes: &Value) -> Map<String, Value> {
    outer("qwen3_5", "Qwen3_5ForConditionalGeneration", json!({"intermediate_size": 48}), changes)
}

fn qwen3_5_moe(changes: &Value) -> Map<String, Value> {
    let experts = json!({"intermediate_size": null, "num_experts": 3, "num_experts_per_tok": 2,
        "moe_intermediate_size": 20, "shared_expert_intermediate_size": 28, "router_aux_loss_coef": 0.001,
        "output_router_logits": false});
    outer("qwen3_5_moe", "Qwen3_5MoeForConditionalGeneration", experts, changes)
}

fn outer(model_type: &str, architecture: &str, more: Value, changes: &Value) -> Map<String, Value> {
    let text = with(
        base(&format!("{model_type}_text"), "none"),
        &json!({"hidden_act": "silu", "num_hidden_layers": 5, "attention_bias": false, "attention_dropout": 0.0,
            "attn_output_gate": true, "full_attention_interval": 4, "mamba_ssm_dtype": "float32",
            "linear_conv_kernel_dim": 4, "linear_key_head_dim": 12, "linear_num_key_heads": 2,
            "linear_num_value_heads": 6, "linear_value_head_dim": 8, "mlp_only_layers": [],
            "mtp_num_hidden_layers": 1, "mtp_use_dedicated_embeddings": false, "output_gate_type": "swish",
            "rope_parameters": {"mrope_interleaved": true, "mrope_section": [11, 11, 10], "rope_type": "default",
                "rope_theta": 10000000, "partial_rotary_factor": 0.25}}),
    );
    let text = with(Value::Object(with(Value::Object(text), &more)), changes);
    let outer = json!({"model_type": model_type, "architectures": [architecture], "text_config": text,
        "vision_config": {"hidden_size": 8}, "image_token_id": 900, "video_token_id": 901, "vision_start_token_id": 92,
        "vision_end_token_id": 93, "tie_word_embeddings": false});
    outer.as_object().expect("an object").clone()
}

#[test]
fn qwen3_5_is_recurrent_but_on_each_fourth_layer() {
    let model = spec(qwen3_5(&json!({}))).expect("qwen3_5");
    let recurrent: Vec<_> = model.layers.iter().map(|layer| layer.delta_net().is_some()).collect();
    assert_eq!(recurrent, [true, true, true, false, true]);
    let heads = DeltaNet { key_heads: 2, value_heads: 6, key_dim: 12, value_dim: 8, taps: 4 };
    assert_eq!(model.layers[0].mixer, Mixer::DeltaNet(heads));
    let a = model.layers[3].attention().expect("attention");
    assert_eq!((a.scale, a.rope, a.qk_norm, a.out_gate, a.qkv_bias), (0.25, Some(0), true, true, false));
    assert_eq!((model.ropes, model.tied_head, model.layers[0].token_gate), (1, false, false));
    let types =
        ["full_attention", "linear_attention", "full_attention", "full_attention", "linear_attention"];
    let own = spec(qwen3_5(&json!({"layer_types": types}))).expect("a pattern of its own");
    let recurrent: Vec<_> = own.layers.iter().map(|layer| layer.delta_net().is_some()).collect();
    assert_eq!(recurrent, [false, true, false, false, true]);
    let tied = Value::Object(qwen3_5(&json!({})));
    assert!(spec(with(tied, &json!({"tie_word_embeddings": true}))).expect("tied").tied_head);

    let model = spec(qwen3_5_moe(&json!({}))).expect("qwen3_5_moe");
    for layer in &model.layers {
        let experts = layer.experts.as_ref().expect("experts on every layer");
        assert_eq!((experts.count, experts.used, experts.dim, experts.score), (3, 2, 20, Score::Softmax));
        assert!(experts.normalise && layer.token_gate);
        assert_eq!(layer.ffn.as_ref().map(|ffn| ffn.dim), Some(28));
    }
}

#[test]
fn qwen3_5_refuses_by_the_name_of_its_text_key() {
    let cases = [
        ("model_type", json!("qwen3_next")),
        ("hidden_act", json!("gelu")),
        ("attention_bias", json!(true)),
        ("attn_output_gate", json!(false)),
        ("output_gate_type", json!("sigmoid")),
        ("mamba_ssm_dtype", json!("bfloat16")),
        ("mlp_only_layers", json!([1])),
        ("layer_types", json!(["linear_attention"])),
        ("layer_types", json!(["linear_attention", "full_attention", "sliding_attention", "a", "b"])),
        ("full_attention_interval", json!(0)),
        ("linear_num_value_heads", json!(7)),
        ("linear_num_value_heads", json!(0)),
        ("linear_key_head_dim", json!(512)),
        ("linear_value_head_dim", json!(1 << 20)),
        ("linear_num_key_heads", json!(u32::MAX)),
        ("linear_conv_kernel_dim", json!(64)),
        ("partial_rotary_factor", json!(1.5)),
        ("rope_parameters.rope_type", json!({"rope_type": "yarn"})),
        ("num_local_experts", json!(8)),
    ];
    refused("text_config.", &cases, |changes| {
        let more = match changes.get("partial_rotary_factor") {
            Some(_) => json!({"rope_parameters": null}),
            None => json!({}),
        };
        qwen3_5(&Value::Object(with(more, changes)))
    });
    for (key, value) in [("num_experts_per_tok", json!(4)), ("norm_topk_prob", json!(false))] {
        let error = spec(qwen3_5_moe(&json!({ key: value }))).expect_err(key);
        assert!(
            matches!(&error, ImportError::Config { key: named, .. } if *named == format!("text_config.{key}"))
        );
    }
}

/// The tensors that a checkpoint of `config` has: experts of a layer together or apart, and what is left out.
fn tensors(family: &Family, config: &Map<String, Value>, together: bool) -> Vec<(String, usize, usize)> {
    let mut named: Vec<(String, usize, usize)> = Vec::new();
    for e in spec(config.clone()).expect("a config").tensors() {
        let (rows, cols) = (e.rows as usize, e.cols as usize);
        let part = families::part_of(&e.name);
        match part.split('.').collect::<Vec<_>>()[..] {
            _ if e.name.starts_with("rope.") => continue,
            ["attn", "gate"] => continue,
            ["attn", "q"] => named.push((family.their_name(&e.name), 2 * rows, cols)),
            ["delta", "taps"] => named.push((family.their_name(&e.name), cols, rows)),
            ["experts", ..] if e.role == Role::Router => named.push((family.their_name(&e.name), rows, cols)),
            ["experts", _, "up"] if together => continue,
            ["experts", "0", "gate"] if together => {
                named.push((family.their_name(&e.name), 2 * 3 * rows, cols))
            }
            ["experts", "0", "down"] if together => named.push((family.their_name(&e.name), 3 * rows, cols)),
            ["experts", ..] if together => continue,
            ["experts", ..] => named.push((family.expert_apart(&e.name).expect("an expert's"), rows, cols)),
            ["ffn", of @ ("gate" | "up" | "down")] if config["model_type"] == "qwen3_5_moe" => {
                named.push((family.their_name(&e.name.replace("ffn", "shared")), rows, cols));
                assert!(["gate", "up", "down"].contains(&of));
            }
            _ => named.push((family.their_name(&e.name), rows, cols)),
        }
    }
    named.push(("model.visual.pos_embed.weight".into(), 4, 8));
    named.push(("mtp.fc.weight".into(), 3, 6));
    named
}

#[test]
fn tensors_come_from_where_they_lie() {
    let cases = [
        (&families::qwen3_5::FAMILY, qwen3_5(&json!({})), true),
        (&families::qwen3_5::MOE, qwen3_5_moe(&json!({})), true),
        (&families::qwen3_5::MOE, qwen3_5_moe(&json!({})), false),
    ];
    for (family, config, together) in cases {
        let named = tensors(family, &config, together);
        let all: Vec<_> = named.iter().map(|(name, rows, cols)| (name.as_str(), *rows, *cols)).collect();
        let import = import(&checkpoint(config.clone(), &all)).expect("a whole model");
        let guesses = "guesses of the token after the next (--mtp)";
        let left = |part, weights| LeftOut { part, tensors: 1, weights };
        let (vision, guesses) = (left("vision", 32), left(guesses, 18));
        assert!(import.left_out == [guesses.clone(), vision.clone()] || import.left_out == [vision, guesses]);
        let origin = |name: &str| {
            let tensor = import.tensors.iter().find(|t| t.name == name).expect(name);
            match &tensor.origin {
                Origin::Tensor { name, rows, transform } => (name.clone(), *rows, *transform),
                Origin::Computed(_) => panic!("{name} is computed"),
            }
        };
        // Four heads of 16: queries and gates in turns.
        let (queries, rows, _) = origin("l3.attn.q");
        assert_eq!(queries, "model.language_model.layers.3.self_attn.q_proj.weight");
        assert_eq!([0, 15, 16, 63].map(|row| rows.source(row)), [0, 15, 32, 111]);
        let (_, rows, _) = origin("l3.attn.gate");
        assert_eq!([0, 15, 16, 63].map(|row| rows.source(row)), [16, 31, 48, 127]);
        assert_eq!(origin("l0.delta.taps").2, Transform::Transpose { first: 0 });
        assert_eq!(origin("l0.delta.rate").2, Transform::Exp);
        for (name, centred) in
            [("norm", true), ("l0.attn.norm", true), ("l3.attn.k_norm", true), ("l0.delta.norm", false)]
        {
            let expected = if centred { Transform::AddOne } else { Transform::AsIs };
            assert_eq!(origin(name).2, expected, "{name}");
        }
        if family.model_type == "qwen3_5_moe" {
            let (name, rows, _) = origin("l1.experts.2.up");
            let apart = "model.language_model.layers.1.mlp.experts.2.up_proj.weight";
            let expected =
                if together { "model.language_model.layers.1.mlp.experts.gate_up_proj" } else { apart };
            assert_eq!((name.as_str(), rows.source(0)), (expected, if together { 5 * 20 } else { 0 }));
            assert_eq!(
                origin("l1.ffn.up").0,
                "model.language_model.layers.1.mlp.shared_expert.up_proj.weight"
            );
        }
        let missing: Vec<_> =
            all.iter().copied().filter(|(name, ..)| !name.ends_with("0.linear_attn.A_log")).collect();
        let error = import_of(&config, &missing);
        assert!(matches!(&error, ImportError::MissingTensor(name) if name.ends_with("A_log")), "{error}");
        let wrong: Vec<_> = all
            .iter()
            .map(|(name, rows, cols)| {
                if name.contains("0.linear_attn.conv1d") {
                    (*name, *cols, *rows)
                } else {
                    (*name, *rows, *cols)
                }
            })
            .collect();
        let error = import_of(&config, &wrong);
        assert!(matches!(&error, ImportError::Shape { expected: (96, 4), .. }), "{error}");
    }
}

/// What the head of a checkpoint of [`qwen3_5`] or, with experts in two tensors, of [`qwen3_5_moe`] has.
fn head(experts: bool) -> Vec<(&'static str, usize, usize)> {
    let ffn =
        [("mlp.gate_proj.weight", 48, 64), ("mlp.up_proj.weight", 48, 64), ("mlp.down_proj.weight", 64, 48)];
    let mixture = [
        ("mlp.gate.weight", 3, 64),
        ("mlp.experts.gate_up_proj", 3 * 40, 64),
        ("mlp.experts.down_proj", 3 * 64, 20),
        ("mlp.shared_expert.gate_proj.weight", 28, 64),
        ("mlp.shared_expert.up_proj.weight", 28, 64),
        ("mlp.shared_expert.down_proj.weight", 64, 28),
        ("mlp.shared_expert_gate.weight", 1, 64),
    ];
    let attention = [
        ("input_layernorm.weight", 1, 64),
        ("self_attn.q_proj.weight", 128, 64),
        ("self_attn.k_proj.weight", 32, 64),
        ("self_attn.v_proj.weight", 32, 64),
        ("self_attn.q_norm.weight", 1, 16),
        ("self_attn.k_norm.weight", 1, 16),
        ("self_attn.o_proj.weight", 64, 64),
        ("post_attention_layernorm.weight", 1, 64),
    ];
    let around = [
        ("mtp.fc.weight", 64, 128),
        ("mtp.norm.weight", 1, 64),
        ("mtp.pre_fc_norm_embedding.weight", 1, 64),
        ("mtp.pre_fc_norm_hidden.weight", 1, 64),
    ];
    let more = if experts { mixture.to_vec() } else { ffn.to_vec() };
    let layer = attention.into_iter().chain(more);
    // Leaked so that names are as those that are written out.
    let named = layer.map(|(name, rows, cols)| (&*format!("mtp.layers.0.{name}").leak(), rows, cols));
    named.chain(around).collect()
}

#[test]
fn a_head_is_a_layer_with_attention_and_what_it_reads() {
    for (config, experts) in [(qwen3_5(&json!({})), false), (qwen3_5_moe(&json!({})), true)] {
        let own = head(experts);
        let beside = [("model.language_model.embed_tokens.weight", 96, 64), ("lm_head.weight", 96, 64)];
        let import_of = |tensors: &[(&str, usize, usize)]| {
            import_head(&checkpoint(config.clone(), &[tensors, &beside].concat()))
        };
        let whole = import_of(&own).expect("a head");
        assert!(whole.left_out.is_empty(), "the model has a file of its own");
        let spec = &whole.spec;
        assert_eq!(spec.drafter, Some(Drafter::Chain(ChainDrafter { chain: 4 })));
        let (layer, a) = (&spec.layers[0], spec.layers[0].attention().expect("attention"));
        assert_eq!((spec.layers.len(), spec.ropes, spec.tied_head, spec.dim), (1, 1, true, 64));
        assert_eq!((a.out_gate, a.qk_norm, a.rope, layer.experts.is_some()), (true, true, Some(0), experts));
        let origin = |name: &str| match &whole.tensors.iter().find(|t| t.name == name).expect(name).origin {
            Origin::Tensor { name, transform, .. } => (name.clone(), *transform),
            Origin::Computed(_) => panic!("{name} is computed"),
        };
        for (ours, theirs, transform) in [
            ("drafter.into", "mtp.fc.weight", Transform::AsIs),
            ("drafter.norm", "mtp.pre_fc_norm_hidden.weight", Transform::AddOne),
            ("drafter.embed_norm", "mtp.pre_fc_norm_embedding.weight", Transform::AddOne),
            ("norm", "mtp.norm.weight", Transform::AddOne),
            ("l0.attn.norm", "mtp.layers.0.input_layernorm.weight", Transform::AddOne),
            ("l0.attn.q", "mtp.layers.0.self_attn.q_proj.weight", Transform::AsIs),
        ] {
            assert_eq!(origin(ours), (theirs.to_owned(), transform), "{ours}");
        }
        for i in 0..own.len() {
            let mut missing = own.clone();
            let (name, ..) = missing.remove(i);
            let error = import_of(&missing).map(drop).expect_err(name);
            assert!(matches!(&error, ImportError::MissingTensor(named) if named == name), "{error}");
            let mut wide = own.clone();
            wide[i].2 += 1;
            let error = import_of(&wide).map(drop).expect_err(name);
            assert!(matches!(&error, ImportError::Shape { name: named, .. } if named == name), "{error}");
        }
        let more = [&own[..], &[("mtp.layers.1.input_layernorm.weight", 1, 64)]].concat();
        assert!(
            matches!(import_of(&more), Err(ImportError::UnknownTensor(name)) if name.contains("layers.1"))
        );
    }
}

#[test]
fn a_head_is_refused_by_the_name_of_its_key() {
    let all_recurrent = json!(vec!["linear_attention"; 5]);
    for (key, value) in [
        ("mtp_num_hidden_layers", json!(0)),
        ("mtp_num_hidden_layers", json!(2)),
        ("mtp_use_dedicated_embeddings", json!(true)),
        ("layer_types", all_recurrent),
        ("attention_bias", json!(true)),
    ] {
        let error = import_head(&checkpoint(qwen3_5(&json!({ key: value })), &[])).map(drop).expect_err(key);
        let expected = format!("text_config.{key}");
        assert!(matches!(&error, ImportError::Config { key: named, .. } if *named == expected), "{error}");
    }
}

fn import_of(config: &Map<String, Value>, tensors: &[(&str, usize, usize)]) -> ImportError {
    import(&checkpoint(config.clone(), tensors)).expect_err("not a whole model")
}

/// As published but for its sizes, of a prompt that can hold its token.
fn seeing(changes: &Value, text: &Value) -> Map<String, Value> {
    let tower = with(
        json!({"model_type": "qwen3_5_vision", "depth": 2, "hidden_size": 24, "hidden_act": "gelu_pytorch_tanh",
            "intermediate_size": 20, "num_heads": 3, "in_channels": 3, "patch_size": 16, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "out_hidden_size": 64, "num_position_embeddings": 36,
            "deepstack_visual_indexes": [], "initializer_range": 0.02}),
        changes,
    );
    with(Value::Object(qwen3_5(text)), &json!({"vision_config": tower, "image_token_id": 90}))
}

#[test]
fn qwen3_5_sees_by_rows_and_columns() {
    let vision = spec(seeing(&json!({}), &json!({}))).expect("qwen3_5").vision.expect("a tower");
    assert_eq!((vision.token, vision.blank_tokens.len(), vision.axes), (90, 0, Some([11, 10])));
    assert_eq!((vision.dim, vision.adapter_dim, vision.frequencies, vision.positions), (24, 96, 2, 6));
    assert_eq!((vision.laid, vision.merge, vision.layers.len()), (Laid::Corners, 2, 2));
    assert!(!vision.pre_norm && !vision.adapter_down && !vision.vector_norm && vision.patch_bias);
    let rope = |section: Value| json!({"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": section}});
    let turned = spec(seeing(&json!({}), &rope(json!([4, 3, 1])))).expect("of its own");
    assert_eq!(turned.vision.expect("a tower").axes, Some([3, 1]));
    let cases = [
        ("model_type", json!("qwen3_vl")),
        ("hidden_act", json!("gelu")),
        ("in_channels", json!(1)),
        ("deepstack_visual_indexes", json!([1])),
        ("out_hidden_size", json!(32)),
        ("hidden_size", json!(26)),
        ("num_heads", json!(0)),
        ("num_position_embeddings", json!(35)),
        ("spatial_merge_size", json!(17)),
        ("patch_size", json!([16, 16])),
        ("rope_parameters.rope_type", json!({"rope_type": "yarn"})),
        ("num_experts", json!(2)),
    ];
    refused("vision_config.", &cases, |changes| seeing(changes, &json!({})));
    for section in [json!([4, 4]), json!([4, 0, 4])] {
        let error = spec(seeing(&json!({}), &rope(section.clone()))).expect_err("no such axes");
        let named = matches!(&error, ImportError::Config { key, .. } if key.ends_with("mrope_section"));
        assert!(named, "{section}: {error}");
    }
}

#[test]
fn an_image_processor_of_qwen3_5_says_how_large_an_image_is_made() {
    let read = |processor: Value| {
        let mut vision = spec(seeing(&json!({}), &json!({}))).expect("qwen3_5").vision.expect("a tower");
        let processor = processor.as_object().expect("an object").clone();
        let processor = Config::part(&processor, "preprocessor_config.json: ");
        families::qwen3_5::vision::read_processor(&processor, &mut vision).map(|()| vision.pixels)
    };
    let fit = |pixels_min, pixels_max| Fit::Area { pixels_min, pixels_max };
    let none = read(json!({})).expect("no file");
    assert_eq!((none.fit, none.tokens_max, none.mean), (fit(1 << 16, 1 << 24), 1 << 14, [0.5; 3]));
    let published = json!({"size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16,
        "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast"});
    assert_eq!(read(published.clone()).expect("as published"), none);
    // What transformers 5.23 takes where nothing is said.
    let silent = read(json!({"patch_size": 16})).expect("silent");
    assert_eq!((silent.fit, silent.tokens_max), (fit(3136, 1_003_520), 980));
    assert_eq!((silent.mean[0], silent.deviation[2]), (0.481_454_66, 0.275_777_1));
    let older = read(json!({"min_pixels": 1024, "max_pixels": 4096})).expect("older keys");
    assert_eq!((older.fit, older.tokens_max), (fit(1024, 4096), 4));
    refused_by(
        "preprocessor_config.json: ",
        &[
            ("size", json!({"longest_edge": 1000, "shortest_edge": 500})),
            ("size", json!({"longest_edge": 4096, "shortest_edge": 8192})),
            ("size.longest_edge", json!({"shortest_edge": 8192})),
            ("size.height", json!({"longest_edge": 4096, "shortest_edge": 2048, "height": 3})),
            ("resample", json!(1)),
            ("patch_size", json!(14)),
            ("do_pad", json!(true)),
        ],
        |changes| read(Value::Object(with(published.clone(), changes))),
    );
}

#[test]
fn a_video_processor_of_qwen3_5_says_how_large_all_frames_are_made() {
    let read = |processor: Value| {
        let config = with(Value::Object(seeing(&json!({}), &json!({}))), &json!({"video_token_id": 91}));
        let mut vision = spec(config).expect("qwen3_5").vision.expect("a tower");
        let processor = processor.as_object().expect("an object").clone();
        let processor = Config::part(&processor, "video_preprocessor_config.json: ");
        families::qwen3_5::vision::read_video_processor(&processor, &mut vision)
            .map(|()| vision.video.expect("videos"))
    };
    let fit = |pixels_min, pixels_max| Fit::Area { pixels_min, pixels_max };
    let none = read(json!({})).expect("no file");
    assert_eq!((none.token, none.rate, none.frames_min, none.frames_max), (91, 2.0, 4, 768));
    assert_eq!((none.fit, none.tokens_max, none.taken), (fit(4096, 25_165_824), 12_288, Taken::Nearest));
    let published = json!({"size": {"longest_edge": 25165824, "shortest_edge": 4096}, "patch_size": 16, "fps": 2,
        "temporal_patch_size": 2, "merge_size": 2, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
        "processor_class": "Qwen3VLProcessor", "video_processor_type": "Qwen3VLVideoProcessor"});
    assert_eq!(read(published.clone()).expect("as published"), none);
    // What transformers 5.23 takes where nothing is said.
    let silent = read(json!({"patch_size": 16, "min_frames": 9, "max_frames": 6})).expect("silent");
    assert_eq!((silent.fit, silent.frames_min, silent.frames_max), (fit(131_072, 786_432), 6, 6));
    refused_by(
        "video_preprocessor_config.json: ",
        &[
            ("size", json!({"longest_edge": 2000, "shortest_edge": 500})),
            ("size", json!({"longest_edge": 4096, "shortest_edge": 8192})),
            ("size.longest_edge", json!({"shortest_edge": 8192})),
            ("num_frames", json!(8)),
            ("max_frames", json!(0)),
            ("cap_pixels_per_frame", json!(true)),
            ("resample", json!(1)),
            ("do_pad", json!(true)),
        ],
        |changes| read(Value::Object(with(published.clone(), changes))),
    );
}
