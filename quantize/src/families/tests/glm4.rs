use serde_json::{Value, json};

use super::tensors::LLAMA_TENSORS;
use super::{checkpoint, family, spec, with};
use crate::families::{self, Origin, import};

#[test]
fn glm4_rotates_half_of_a_head_and_splits_what_is_fused() {
    let rotated = |changes: Value| {
        let config = with(family("glm4"), &changes);
        let draft = (families::glm4::FAMILY.read)(&families::Config::new(&config)).expect("glm4");
        draft.ropes[0].frequencies(16).expect("a table").len()
    };
    assert_eq!(rotated(json!({})), 4);
    assert_eq!(rotated(json!({"partial_rotary_factor": 0.25})), 2);
    assert_eq!(
        rotated(json!({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}})),
        8
    );
    let layer = spec(with(family("glm4"), &json!({}))).expect("glm4").layers[0].clone();
    assert_eq!(
        (layer.attention().unwrap().qkv_bias, layer.attention().unwrap().out_bias, layer.post_norms),
        (true, false, true)
    );

    let config = with(family("glm4"), &json!({"num_hidden_layers": 1, "attention_bias": false}));
    let mut tensors = LLAMA_TENSORS.iter().copied().filter(|t| !t.0.contains("mlp")).collect::<Vec<_>>();
    tensors.extend([
        ("model.layers.0.mlp.gate_up_proj.weight", 96, 64),
        ("model.layers.0.mlp.down_proj.weight", 64, 48),
        ("model.layers.0.post_self_attn_layernorm.weight", 1, 64),
        ("model.layers.0.post_mlp_layernorm.weight", 1, 64),
    ]);
    let import = import(&checkpoint(config, &tensors)).expect("a whole model");
    let rows = |name: &str| {
        let tensor = import.tensors.iter().find(|t| t.name == name).expect(name);
        let Origin::Tensor { rows, .. } = &tensor.origin else { panic!("{name} is computed") };
        (0..tensor.rows).map(|row| rows.source(row)).collect::<Vec<_>>()
    };
    assert_eq!(rows("l0.ffn.up"), (48..96).collect::<Vec<_>>());
    assert_eq!(rows("l0.ffn.gate"), (0..48).collect::<Vec<_>>());
    let head = [0, 2, 4, 6, 1, 3, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15];
    assert_eq!(rows("l0.attn.k"), [head, head.map(|row| row + 16)].concat());
    assert_eq!(rows("l0.attn.v"), (0..32).collect::<Vec<_>>());
}
