use muse_format::{Indexer, LatentAttention, Mixer, Sparse, Spec};
use serde_json::{Map, Value, json};

use super::{base, checkpoint, refused, spec, with};
use crate::checkpoint::ImportError;
use crate::families::{Blocks, Imported, Origin, Pairs, Rows, Transform, import};

/// The keys of GLM-4.7-Flash as published, its sizes smaller.
fn flash(changes: &Value) -> Map<String, Value> {
    let more = json!({"num_key_value_heads": 4, "head_dim": null, "q_lora_rank": 24, "kv_lora_rank": 20,
        "qk_nope_head_dim": 10, "qk_rope_head_dim": 6, "v_head_dim": 9, "attention_bias": false,
        "topk_method": "noaux_tc", "norm_topk_prob": true, "n_group": 1, "topk_group": 1, "n_routed_experts": 6,
        "n_shared_experts": 1, "routed_scaling_factor": 1.8, "num_experts_per_tok": 2, "first_k_dense_replace": 1,
        "moe_intermediate_size": 20, "num_nextn_predict_layers": 1, "partial_rotary_factor": 1.0,
        "rope_scaling": null, "rope_theta": 1_000_000});
    let config = Value::Object(with(base("glm4_moe_lite", "Glm4MoeLiteForCausalLM"), &more));
    with(config, changes)
}

#[test]
fn a_published_config_is_read() {
    let model = spec(flash(&json!({}))).expect("glm4_moe_lite");
    let latent = LatentAttention {
        heads: 4,
        query_rank: Some(24),
        rank: 20,
        key_dim: 10,
        rope_dim: 6,
        value_dim: 9,
        scale: 0.25,
        rope: 0,
        norm_eps: 1e-6,
        bias: false,
        sparse: None,
    };
    assert!(model.layers.iter().all(|layer| layer.mixer == Mixer::Latent(latent.clone())));
    let widths: Vec<_> =
        model.layers.iter().map(|l| (l.ffn.as_ref().map(|f| f.dim), l.experts.is_some())).collect();
    assert_eq!(widths, [(Some(48), false), (Some(20), true), (Some(20), true)]);
    let experts = model.layers[2].experts.clone().expect("experts");
    assert_eq!((experts.count, experts.used, experts.scale, experts.choice_bias), (6, 2, 1.8, true));
    let types = json!({"q_lora_rank": null, "mlp_layer_types": ["sparse", "dense", "sparse"]});
    let other = spec(flash(&types)).expect("queries of the input");
    let sparse: Vec<_> = other.layers.iter().map(|l| l.experts.is_some()).collect();
    assert_eq!(
        (sparse, other.layers[0].latent().expect("latent").query_rank),
        (vec![true, false, true], None)
    );
}

#[test]
fn what_is_not_implemented_is_refused_with_its_key() {
    let cases = [
        ("num_key_value_heads", json!(2)),
        ("head_dim", json!(16)),
        ("qk_head_dim", json!(15)),
        ("kv_lora_rank", json!(0)),
        ("q_lora_rank", json!(0)),
        ("qk_nope_head_dim", json!(null)),
        ("v_head_dim", json!("9")),
        ("n_group", json!(2)),
        ("topk_group", json!(2)),
        ("scoring_func", json!("softmax")),
        ("topk_method", json!("greedy")),
        ("first_k_dense_replace", json!(2)),
        ("mlp_layer_types", json!(["dense", "sparse"])),
        ("mlp_layer_types", json!(["dense", "sparse", "linear"])),
        ("partial_rotary_factor", json!(0.5)),
        ("rope_interleave", json!(1)),
        ("hidden_act", json!("gelu")),
        ("index_topk", json!(8)),
    ];
    refused("", &cases, flash);
    let mut absent = flash(&json!({}));
    absent.remove("q_lora_rank");
    assert!(matches!(spec(absent), Err(ImportError::Config { key, .. }) if key == "q_lora_rank"));
    let types = json!({"first_k_dense_replace": 2, "mlp_layer_types": ["sparse", "dense", "sparse"]});
    let layers = spec(flash(&types)).expect("a list says more than a number").layers;
    assert_eq!(layers.iter().map(|layer| layer.experts.is_some()).collect::<Vec<_>>(), [true, false, true]);
}

/// One dense layer.
fn imported(changes: &Value) -> Vec<Imported> {
    let mut config = flash(changes);
    config.insert("num_hidden_layers".into(), 1.into());
    let layer = |part: &str| format!("model.layers.0.{part}");
    let mut tensors = vec![
        ("model.embed_tokens.weight".to_owned(), 100, 64),
        ("model.norm.weight".to_owned(), 1, 64),
        (layer("input_layernorm.weight"), 1, 64),
        (layer("post_attention_layernorm.weight"), 1, 64),
        (layer("self_attn.q_a_proj.weight"), 24, 64),
        (layer("self_attn.q_a_proj.bias"), 1, 24),
        (layer("self_attn.q_a_layernorm.weight"), 1, 24),
        (layer("self_attn.q_b_proj.weight"), 64, 24),
        (layer("self_attn.kv_a_proj_with_mqa.weight"), 26, 64),
        (layer("self_attn.kv_a_proj_with_mqa.bias"), 1, 26),
        (layer("self_attn.kv_a_layernorm.weight"), 1, 20),
        (layer("self_attn.kv_b_proj.weight"), 76, 20),
        (layer("self_attn.o_proj.weight"), 64, 36),
        (layer("self_attn.o_proj.bias"), 1, 64),
        ("model.layers.47.eh_proj.weight".to_owned(), 64, 128),
    ];
    for (part, rows, cols) in [("gate", 48, 64), ("up", 48, 64), ("down", 64, 48)] {
        tensors.push((layer(&format!("mlp.{part}_proj.weight")), rows, cols));
    }
    let tensors: Vec<_> = tensors.iter().map(|(name, rows, cols)| (name.as_str(), *rows, *cols)).collect();
    let import = import(&checkpoint(config, &tensors)).expect("a model of one layer");
    assert_eq!(import.left_out.iter().map(|left| left.tensors).collect::<Vec<_>>(), [1]);
    import.tensors
}

#[test]
fn heads_are_taken_apart_and_keys_turned() {
    let pairs = Some(Pairs { head_dim: 6, rotated: 6 });
    let blocks = |first, len, every| Rows { first, blocks: Some(Blocks { len, every }), ..Rows::default() };
    let whole = Rows::default();
    let expected = [
        ("q", "q_b_proj.weight", blocks(0, 10, 16), Transform::AsIs),
        ("q_rope", "q_b_proj.weight", Rows { pairs, ..blocks(10, 6, 16) }, Transform::AsIs),
        ("latent", "kv_a_proj_with_mqa.weight", whole, Transform::AsIs),
        ("latent_bias", "kv_a_proj_with_mqa.bias", whole, Transform::AsIs),
        ("k_rope", "kv_a_proj_with_mqa.weight", Rows { first: 20, pairs, ..whole }, Transform::AsIs),
        ("k_rope_bias", "kv_a_proj_with_mqa.bias", Rows { first: 20, pairs, ..whole }, Transform::AsIs),
        ("key_up", "kv_b_proj.weight", blocks(0, 10, 19), Transform::TransposeBlocks),
        ("value_up", "kv_b_proj.weight", blocks(10, 9, 19), Transform::AsIs),
        ("q_down_norm", "q_a_layernorm.weight", whole, Transform::AsIs),
    ];
    let of = |tensors: &[Imported], ours: &str| {
        let tensor = tensors.iter().find(|t| t.name == format!("l0.attn.{ours}")).expect(ours);
        let Origin::Tensor { name, rows, transform } = &tensor.origin else { panic!("{ours} is computed") };
        (name.clone(), *rows, *transform)
    };
    let tensors = imported(&json!({"attention_bias": true}));
    for (ours, theirs, rows, transform) in expected {
        let theirs = format!("model.layers.0.self_attn.{theirs}");
        assert_eq!(of(&tensors, ours), (theirs, rows, transform), "{ours}");
    }
    let halves = imported(&json!({"attention_bias": true, "rope_interleave": false}));
    assert_eq!(of(&halves, "q_rope").1, blocks(10, 6, 16));
    // The third pair of the second head.
    let (_, rows, _) = of(&tensors, "q_rope");
    assert_eq!([8, 11].map(|row| rows.source(row)), [16 + 10 + 4, 16 + 10 + 5]);
}

/// The keys of GLM-5 as published, its sizes smaller.
fn sparse(changes: &Value) -> Map<String, Value> {
    let more = json!({"model_type": "glm_moe_dsa", "architectures": ["GlmMoeDsaForCausalLM"], "head_dim": 6,
        "num_hidden_layers": 6, "first_k_dense_replace": 3, "index_n_heads": 3, "index_head_dim": 11, "index_topk": 5,
        "indexer_rope_interleave": true, "rope_interleave": true, "scoring_func": "sigmoid"});
    with(Value::Object(flash(&more)), changes)
}

#[test]
fn layers_choose_positions_where_the_config_says() {
    let own = Sparse::Own(Indexer { heads: 3, head_dim: 11, top: 5, norm_eps: 1e-6 });
    let which = |spec: &Spec| -> String {
        let letter = |sparse: &Option<Sparse>| match sparse {
            Some(Sparse::Own(_)) => 'F',
            Some(Sparse::Earlier) => 'S',
            None => '-',
        };
        spec.layers.iter().map(|layer| letter(&layer.latent().expect("latent").sparse)).collect()
    };
    let read = |changes: Value| spec(sparse(&changes)).expect("glm_moe_dsa");
    let model = read(json!({}));
    assert_eq!(
        (model.layers[0].latent().expect("latent").sparse, which(&model)),
        (Some(own), "FFFFFF".into())
    );
    let experts: Vec<_> = model.layers.iter().map(|l| l.experts.is_some()).collect();
    assert_eq!(experts, [false, false, false, true, true, true]);
    let cases = [
        (json!({"indexer_types": ["full", "shared", "full", "full", "shared", "shared"]}), "FSFFSS"),
        (json!({"index_topk_pattern": "FFSSSF"}), "FFSSSF"),
        // As transformers 5.23 counts: max(i - offset + 1, 0) is a multiple of the frequency.
        (json!({"index_topk_freq": 4, "index_skip_topk_offset": 3}), "FFFSSS"),
        (json!({"index_topk_freq": 2}), "FFSFSF"),
    ];
    for (changes, expected) in cases {
        assert_eq!(which(&read(changes.clone())), expected, "{changes}");
    }
}

#[test]
fn other_choices_of_positions_are_refused_with_their_key() {
    let cases = [
        ("q_lora_rank", json!(null)),
        ("rope_interleave", json!(false)),
        ("indexer_rope_interleave", json!(false)),
        ("mlp_bias", json!(true)),
        ("layer_types", json!(["indexed_attention"])),
        ("indexer_types", json!(["full"])),
        ("indexer_types", json!(["full", "full", "full", "full", "full", "none"])),
        ("index_topk_pattern", json!("FFFSSX")),
        ("index_topk", json!(0)),
        ("index_head_dim", json!(null)),
        ("head_dim", json!(64)),
    ];
    refused("", &cases, sparse);
    // A first layer has none before it, and fewer numbers than are rotated are no head.
    for (key, value) in [("index_topk_pattern", json!("SFFFFF")), ("index_head_dim", json!(5))] {
        let error = spec(sparse(&json!({ key: value }))).expect_err(key).to_string();
        assert!(error.contains("layers[0].latent.sparse"), "{error}");
    }
}
