use serde_json::{Value, json};

use super::{family, spec, with};
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
