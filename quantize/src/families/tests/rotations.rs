use serde_json::{Map, Value, json};

use super::super::{Config, Rope};
use super::{family, spec, with};
use crate::checkpoint::ImportError;

#[test]
fn rope_rules_that_are_not_implemented_are_refused() {
    let cases = [
        ("rope_scaling.rope_type", json!({"rope_type": "yarn", "factor": 4.0})),
        ("rope_scaling.type", json!({"type": "dynamic", "factor": 4.0})),
        ("rope_scaling.factor", json!({"rope_type": "linear"})),
        (
            "rope_scaling.attention_factor",
            json!({"rope_type": "linear", "factor": 2.0, "attention_factor": 1.0}),
        ),
        (
            "rope_scaling.low_freq_factor",
            json!({"rope_type": "llama3", "factor": 8.0, "high_freq_factor": 4.0}),
        ),
        (
            "rope_scaling.high_freq_factor",
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 3.9}),
        ),
        ("rope_scaling.full_attention", json!({"full_attention": {"rope_type": "default"}})),
        ("rope_scaling.mrope_section", json!({"rope_type": "default", "mrope_section": [1, 2]})),
    ];
    let mut failures = Vec::new();
    for (key, scaling) in cases {
        match spec(with(family("llama"), &json!({"rope_scaling": scaling}))) {
            Err(ImportError::Config { key: named, .. }) if named == key => {}
            other => failures.push(format!("{key}: {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

fn table(config: Map<String, Value>) -> Vec<f32> {
    let config = Config::new(&config);
    Rope::from_model(&config, 10_000.0).expect("a rule").frequencies(16).expect("8 frequencies")
}

/// `inv_freq` of LlamaRotaryEmbedding, transformers 5.23, `head_dim` 16, as f32 bits.
const DEFAULT: [u32; 8] =
    [0x3f800000, 0x3ea1e89b, 0x3dcccccd, 0x3d0186e3, 0x3c23d70a, 0x3b4f3e38, 0x3a83126f, 0x39a5cb60];
const LINEAR: [u32; 8] =
    [0x3e000000, 0x3cb61887, 0x3b8186e3, 0x3a38449c, 0x3903126f, 0x37ba7753, 0x3684a2b2, 0x353cb0c1];
const LLAMA3: [u32; 8] =
    [0x3f800000, 0x3e4693b0, 0x3cd6ff02, 0x396ef74f, 0x38395d21, 0x370fc8f8, 0x35df10c4, 0x34ad07a7];

#[test]
fn rotation_tables_are_those_of_transformers() {
    let cases = [
        (json!({"rope_theta": 10000.0}), DEFAULT),
        (json!({"rope_parameters": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1e6}}), LINEAR),
        (json!({"rope_theta": 1e6, "rope_scaling": {"type": "linear", "factor": 8.0}}), LINEAR),
        (
            json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
                "high_freq_factor": 4.0, "original_max_position_embeddings": 512}}),
            LLAMA3,
        ),
    ];
    for (config, expected) in cases {
        let actual = table(with(family("llama"), &config));
        for (i, (actual, expected)) in actual.iter().zip(expected).enumerate() {
            // Their vectorized power is good to one unit in the last place, ours is rounded once; each operation after
            // it adds half a unit: 4 at most.
            let off = actual.to_bits().abs_diff(expected);
            assert!(off <= 4, "{config} [{i}]: {actual} is {off} units from {}", f32::from_bits(expected));
        }
    }
}

#[test]
fn factors_divide_and_must_be_enough() {
    let scaling = |n: usize| json!({"rope_scaling": {"rope_type": "factors", "factors": vec![2.0; n]}});
    let plain = table(with(family("llama"), &json!({})));
    let halved = table(with(family("llama"), &scaling(8)));
    assert!(plain.iter().zip(&halved).all(|(p, h)| p / 2.0 == *h));
    let config = with(family("llama"), &scaling(7));
    let rope = Rope::from_model(&Config::new(&config), 1e4).expect("a rule");
    assert_eq!(rope.frequencies(16), None);
}
