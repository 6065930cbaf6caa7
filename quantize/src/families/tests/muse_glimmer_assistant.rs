use muse_format::{BlockDrafter, Drafter, Role};
use serde_json::{Value, json};

use super::{base, checkpoint, spec, with};
use crate::checkpoint::ImportError;
use crate::families::import;

fn assistant() -> Value {
    let mut config = base("muse_glimmer_assistant", "MuseGlimmerAssistantModel");
    for key in ["vocab_size", "tie_word_embeddings"] {
        config.as_object_mut().expect("an object").remove(key);
    }
    let more = json!({"block_size": 6, "mask_token_id": 77, "target_layer_ids": [2, 0], "sliding_window": 32,
        "hidden_act": "silu", "rope_parameters": {"rope_type": "default", "rope_theta": 500.0}});
    Value::Object(with(config, &more))
}

#[test]
fn a_drafter_says_what_it_reads_and_has_the_defaults_of_its_own() {
    let own = spec(with(assistant(), &json!({}))).expect("assistant");
    assert_eq!(own.drafter, Some(Drafter::Block(BlockDrafter { reads: vec![2, 0], block: 6, mask: 77 })));
    // The least vocabulary that has the mask; 32 positions to either side.
    assert_eq!((own.vocab, own.tied_head, own.embed_norm), (78, true, false));
    let a = own.layers[0].attention().unwrap();
    assert_eq!(
        (a.window, a.bidirectional, a.qk_norm, a.rope, a.scale),
        (Some(33), true, true, Some(0), 0.25)
    );
    let types = ["full_attention", "sliding_attention", "full_attention"];
    let own = spec(with(assistant(), &json!({ "layer_types": types }))).expect("assistant");
    let windows: Vec<_> = own.layers.iter().map(|layer| layer.attention().unwrap().window).collect();
    assert_eq!(windows, [None, Some(33), None]);
    let defaults = ["block_size", "mask_token_id", "target_layer_ids", "sliding_window", "rope_parameters"];
    let mut config = assistant();
    defaults.iter().for_each(|key| _ = config.as_object_mut().expect("an object").remove(*key));
    let own = spec(with(config, &json!({}))).expect("assistant");
    let published = Drafter::Block(BlockDrafter { reads: vec![1, 13, 25, 37, 49], block: 16, mask: 201_818 });
    assert_eq!((own.drafter, own.layers[0].attention().unwrap().window), (Some(published), Some(2049)));
}

#[test]
fn a_drafter_is_refused_by_the_name_of_its_key() {
    let cases = [
        ("hidden_act", json!("gelu")),
        ("sliding_window", json!(u32::MAX)),
        ("mask_token_id", json!(u32::MAX)),
        ("mask_token_id", json!(-1)),
        ("target_layer_ids", json!([1, -1])),
        ("head_dim", json!(null)),
        ("rms_norm_eps", json!(0.0)),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!(["full_attention", "chunked_attention", "full_attention"])),
        ("num_target_layers", json!(4)),
    ];
    for (key, value) in cases {
        let error = spec(with(assistant(), &json!({ key: value }))).expect_err(key);
        assert!(matches!(&error, ImportError::Config { key: named, .. } if named == key), "{key}: {error}");
    }
    for (key, value, field) in [
        ("block_size", json!(1), "drafter.block"),
        ("block_size", json!(1000), "drafter.block"),
        ("target_layer_ids", json!([]), "drafter.reads"),
        ("sliding_window", json!(1 << 27), "window"),
    ] {
        let error = spec(with(assistant(), &json!({ key: value }))).expect_err(key).to_string();
        assert!(error.contains(field), "{key}: {error}");
    }
}

#[test]
fn a_drafter_has_what_reads_its_target_and_neither_table_nor_head() {
    let tensors: Vec<(String, usize, usize)> = (0..3)
        .flat_map(|i| {
            let layer = [
                ("input_layernorm", 1, 64),
                ("self_attn.q_proj", 64, 64),
                ("self_attn.k_proj", 32, 64),
                ("self_attn.v_proj", 32, 64),
                ("self_attn.q_norm", 1, 16),
                ("self_attn.k_norm", 1, 16),
                ("self_attn.o_proj", 64, 64),
                ("post_attention_layernorm", 1, 64),
                ("mlp.gate_proj", 48, 64),
                ("mlp.up_proj", 48, 64),
                ("mlp.down_proj", 64, 48),
            ];
            layer.map(|(name, rows, cols)| (format!("layers.{i}.{name}.weight"), rows, cols))
        })
        .chain([
            ("encoder.fc.weight".to_owned(), 64, 128),
            ("encoder.output_norm_enc.weight".to_owned(), 1, 64),
            ("norm.weight".to_owned(), 1, 64),
        ])
        .collect();
    let import_of = |tensors: &[(String, usize, usize)]| {
        let tensors: Vec<_> =
            tensors.iter().map(|(name, rows, cols)| (name.as_str(), *rows, *cols)).collect();
        import(&checkpoint(with(assistant(), &json!({})), &tensors))
    };
    let whole = import_of(&tensors).expect("all of it");
    let into =
        whole.tensors.iter().find(|tensor| tensor.name == "drafter.into").expect("it reads its target");
    assert_eq!((into.rows, into.cols, into.role), (64, 128, Role::Matrix));
    assert!(whole.left_out.is_empty());
    for i in 0..tensors.len() {
        let mut missing = tensors.clone();
        let (name, ..) = missing.remove(i);
        let error = import_of(&missing).map(drop).expect_err(&name);
        assert!(matches!(&error, ImportError::MissingTensor(named) if *named == name), "{error}");
        let mut wide = tensors.clone();
        wide[i].2 += 1;
        let error = import_of(&wide).map(drop).expect_err(&name);
        assert!(matches!(&error, ImportError::Shape { name: named, .. } if *named == name), "{error}");
    }
    let more = [tensors, vec![("embed_tokens.weight".into(), 78, 64)]].concat();
    assert!(
        matches!(import_of(&more), Err(ImportError::UnknownTensor(name)) if name == "embed_tokens.weight")
    );
}
