use serde_json::{Value, json};

use super::{checkpoint, family, spec, with};
use crate::checkpoint::ImportError;
use crate::families;

#[test]
fn glm4_moe_has_shared_experts_after_its_dense_layers() {
    let glm = spec(with(family("glm4_moe"), &json!({}))).expect("glm4_moe");
    let layers: Vec<_> =
        glm.layers.iter().map(|l| (l.ffn.as_ref().map(|f| f.dim), l.experts.is_some())).collect();
    assert_eq!(layers, [(Some(48), false), (Some(40), true), (Some(40), true)]);
    let experts = glm.layers[1].experts.clone().expect("experts");
    assert_eq!((experts.count, experts.used, experts.choice_bias, experts.scale), (6, 2, true, 2.5));
    assert_eq!((experts.score, experts.normalise), (muse_format::Score::Sigmoid, true));
    let config = with(family("glm4_moe"), &json!({}));
    let draft = (families::glm4_moe::FAMILY.read)(&families::Config::new(&config)).expect("glm4_moe");
    let theirs = |ours: &str| {
        families::glm4_moe::FAMILY.their_name(draft.aliases.get(ours).map_or(ours, String::as_str))
    };
    assert_eq!(theirs("l0.ffn.up"), "model.layers.0.mlp.up_proj.weight");
    assert_eq!(theirs("l1.ffn.up"), "model.layers.1.mlp.shared_experts.up_proj.weight");
    assert_eq!(theirs("l1.experts.choice_bias"), "model.layers.1.mlp.gate.e_score_correction_bias");
}

/// The layer behind the last: what it reads, its norm, and copies of the model's table and head.
#[test]
fn glm4_moe_has_a_head_behind_its_last_layer() {
    let config = with(family("glm4_moe"), &json!({"num_nextn_predict_layers": 1}));
    let mut own: Vec<(String, usize, usize)> = [
        ("eh_proj.weight", 64, 128),
        ("enorm.weight", 1, 64),
        ("hnorm.weight", 1, 64),
        ("shared_head.norm.weight", 1, 64),
        ("input_layernorm.weight", 1, 64),
        ("self_attn.q_proj.weight", 64, 64),
        ("self_attn.k_proj.weight", 32, 64),
        ("self_attn.v_proj.weight", 32, 64),
        ("self_attn.q_norm.weight", 1, 16),
        ("self_attn.k_norm.weight", 1, 16),
        ("self_attn.o_proj.weight", 64, 64),
        ("post_attention_layernorm.weight", 1, 64),
        ("mlp.shared_experts.gate_proj.weight", 40, 64),
        ("mlp.shared_experts.up_proj.weight", 40, 64),
        ("mlp.shared_experts.down_proj.weight", 64, 40),
        ("mlp.gate.weight", 6, 64),
        ("mlp.gate.e_score_correction_bias", 1, 6),
    ]
    .map(|(part, rows, cols)| (format!("model.layers.3.{part}"), rows, cols))
    .into();
    for expert in 0..6 {
        for (part, rows, cols) in [("gate", 20, 64), ("up", 20, 64), ("down", 64, 20)] {
            own.push((format!("model.layers.3.mlp.experts.{expert}.{part}_proj.weight"), rows, cols));
        }
    }
    let beside = [("model.embed_tokens.weight", 96, 64), ("model.layers.2.self_attn.q_proj.weight", 64, 64)];
    let copies =
        [("model.layers.3.embed_tokens.weight", 96, 64), ("model.layers.3.shared_head.head.weight", 96, 64)];
    let import_of = |own: &[(String, usize, usize)]| {
        let own = own.iter().map(|(name, rows, cols)| (name.as_str(), *rows, *cols));
        let all: Vec<_> = own.chain(beside).chain(copies).collect();
        families::import_head(&checkpoint(config.clone(), &all))
    };
    let whole = import_of(&own).expect("a head");
    assert_eq!((whole.spec.layers.len(), whole.left_out.len()), (1, 0));
    assert_eq!(whole.spec.drafter.as_ref().map(muse_format::Drafter::length_max), Some(4));
    for i in 0..own.len() {
        let mut missing = own.clone();
        let (name, ..) = missing.remove(i);
        let error = import_of(&missing).map(drop).expect_err(&name);
        assert!(matches!(&error, ImportError::MissingTensor(named) if *named == name), "{error}");
        let mut wide = own.clone();
        wide[i].2 += 1;
        let error = import_of(&wide).map(drop).expect_err(&name);
        assert!(matches!(&error, ImportError::Shape { name: named, .. } if *named == name), "{error}");
    }
    let unknown = [own, vec![("model.layers.3.other.weight".into(), 1, 64)]].concat();
    let error = import_of(&unknown).map(drop).expect_err("unknown");
    assert!(matches!(&error, ImportError::UnknownTensor(name) if name.contains("other")), "{error}");
    let two = with(family("glm4_moe"), &json!({"num_nextn_predict_layers": 2}));
    let error = families::import_head(&checkpoint(two, &[])).map(drop).expect_err("two");
    assert!(
        matches!(&error, ImportError::Config { key, .. } if key == "num_nextn_predict_layers"),
        "{error}"
    );
}

#[test]
fn qwen3_moe_has_experts_where_its_config_says() {
    let which = |changes: Value| -> Vec<(bool, bool)> {
        let spec = spec(with(family("qwen3_moe"), &changes)).expect("qwen3_moe");
        spec.layers.iter().map(|l| (l.ffn.is_some(), l.experts.is_some())).collect()
    };
    let (dense, sparse) = ((true, false), (false, true));
    assert_eq!(which(json!({})), [sparse; 3]);
    assert_eq!(which(json!({"mlp_only_layers": [1]})), [sparse, dense, sparse]);
    assert_eq!(which(json!({"decoder_sparse_step": 2})), [dense, sparse, dense]);
    let moe = spec(with(family("qwen3_moe"), &json!({"num_experts": null, "num_local_experts": 6})));
    let experts = moe.expect("the key of transformers 5").layers[0].experts.clone().expect("experts");
    let expected = muse_format::Experts { normalise: true, ..muse_format::Experts::new(6, 2, 20) };
    assert_eq!(experts, expected);
    let window = json!({"use_sliding_window": true, "sliding_window": 8});
    let window = spec(with(family("qwen3_moe"), &window)).expect("a window");
    assert!(
        window
            .layers
            .iter()
            .all(|l| l.attention().unwrap().window == Some(8) && l.attention().unwrap().scale == 0.25)
    );
    assert_eq!(
        families::qwen3_moe::FAMILY.their_name("l2.experts.5.up"),
        "model.layers.2.mlp.experts.5.up_proj.weight"
    );
    assert_eq!(families::qwen3_moe::FAMILY.their_name("l2.experts.router"), "model.layers.2.mlp.gate.weight");
}
