//! The keys of a config: what is read, refused and known to be harmless.

use muse_format::{Activation, Spec};
use serde_json::{Value, json};

use super::{family, spec, with};
use crate::checkpoint::ImportError;

#[test]
fn each_family_reads_its_own_defaults() {
    let llama = spec(with(family("llama"), &json!({}))).expect("llama");
    let a = llama.layers[0].attention().unwrap();
    assert_eq!(
        (a.scale, a.qkv_bias, a.out_bias, a.qk_norm, a.window, a.rope),
        (0.25, false, false, false, None, Some(0))
    );
    assert_eq!((llama.layers.len(), llama.tied_head, llama.embed_scale, llama.ropes), (3, true, 1.0, 1));

    let qwen2 = spec(with(family("qwen2"), &json!({"sliding_window": 8, "use_sliding_window": false})))
        .expect("qwen2");
    let a = qwen2.layers[2].attention().unwrap();
    assert_eq!((a.qkv_bias, a.out_bias, a.qk_norm, a.window), (true, false, false, None));

    let qwen3 = spec(with(family("qwen3"), &json!({"head_dim": null}))).expect("qwen3");
    let a = qwen3.layers[0].attention().unwrap();
    assert_eq!((a.qkv_bias, a.qk_norm, a.head_dim), (false, true, 128));

    let gemma = spec(with(family("gemma3"), &json!({"sliding_window_pattern": 2}))).expect("gemma3");
    let windows: Vec<_> =
        gemma.layers.iter().map(|l| (l.attention().unwrap().window, l.attention().unwrap().rope)).collect();
    assert_eq!(windows, [(Some(32), Some(0)), (None, Some(1)), (Some(32), Some(0))]);
    assert_eq!((gemma.embed_scale, gemma.layers[0].attention().unwrap().scale), (8.0, 0.0625));
    assert_eq!(
        (gemma.layers[0].post_norms, gemma.layers[0].ffn.as_ref().map(|f| f.activation)),
        (true, Some(Activation::GeluTanh))
    );
}

#[test]
fn keys_that_change_the_answer_are_read() {
    let bias =
        spec(with(family("llama"), &json!({"attention_bias": true, "mlp_bias": true}))).expect("biases");
    let layer = &bias.layers[0];
    assert!(
        layer.attention().unwrap().qkv_bias
            && layer.attention().unwrap().out_bias
            && layer.ffn.as_ref().is_some_and(|f| f.bias)
    );

    let sliding = json!({"use_sliding_window": true, "sliding_window": 8, "max_window_layers": 1});
    let windows = |s: Spec| s.layers.iter().map(|l| l.attention().unwrap().window).collect::<Vec<_>>();
    assert_eq!(windows(spec(with(family("qwen2"), &sliding)).expect("window")), [None, Some(8), Some(8)]);
    let types = json!({"use_sliding_window": true, "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"]});
    assert_eq!(windows(spec(with(family("qwen3"), &types)).expect("types")), [Some(8), None, None]);

    let gemma = json!({"query_pre_attn_scalar": 4, "final_logit_softcapping": 30.0, "tie_word_embeddings": null,
        "layer_types": ["full_attention", "full_attention", "full_attention"]});
    let gemma = spec(with(family("gemma3"), &gemma)).expect("gemma3");
    assert_eq!(
        (gemma.layers[0].attention().unwrap().scale, gemma.logit_softcap, gemma.tied_head),
        (0.5, Some(30.0), true)
    );
    assert_eq!((gemma.ropes, gemma.layers[0].attention().unwrap().rope), (1, Some(0)));
}

#[test]
fn what_is_not_implemented_is_refused_by_name_and_value() {
    let cases = [
        ("llama", "hidden_act", json!("gelu")),
        ("llama", "rms_norm_eps", json!(0.0)),
        ("llama", "hidden_size", json!(0)),
        ("llama", "hidden_size", json!("64")),
        ("llama", "num_hidden_layers", json!(4_000_000_000u32)),
        ("llama", "vocab_size", json!(-1)),
        ("llama", "vocab_size", json!(null)),
        ("llama", "attention_bias", json!("yes")),
        ("llama", "partial_rotary_factor", json!(0.5)),
        ("llama", "rope_interleaved", json!(true)),
        ("llama", "rope_theta", json!(-1.0)),
        ("llama", "rope_theta", json!(1e300)),
        ("llama", "a_key_of_tomorrow", json!(3)),
        ("llama", "sliding_window", json!(8)),
        ("qwen2", "hidden_act", json!("gelu")),
        ("qwen2", "attention_bias", json!(false)),
        ("qwen2", "num_key_value_heads", json!(null)),
        ("qwen2", "layer_types", json!(["full_attention"])),
        ("qwen2", "layer_types", json!(["full_attention", "full_attention", "linear_attention"])),
        ("qwen3", "num_experts", json!(8)),
        ("gemma4", "enable_moe_block", json!("yes")),
        ("gemma4", "use_bidirectional_attention", json!("all")),
        ("gemma4", "hidden_activation", json!("silu")),
        ("gemma4", "num_kv_shared_layers", json!(3)),
        ("gemma4", "num_kv_shared_layers", json!(4)),
        ("gemma4", "layer_types", json!(["full_attention", "full_attention", "sliding_attention"])),
        ("gemma4", "sliding_window", json!(null)),
        ("gemma4", "global_head_dim", json!(0)),
        ("gemma4", "attention_softcap", json!(30.0)),
        ("llama4", "attention_chunk_size", json!(null)),
        ("llama4", "attention_chunk_size", json!(0)),
        ("llama4", "no_rope_layers", json!([1, 1])),
        ("llama4", "no_rope_layer_interval", json!(0)),
        ("llama4", "layer_types", json!(["full_attention", "full_attention", "sliding_attention"])),
        ("llama4", "moe_layers", json!([3])),
        ("llama4", "num_experts_per_tok", json!(7)),
        ("llama4", "attn_temperature_tuning", json!(4)),
        ("llama4", "floor_scale", json!(0)),
        ("llama4", "attn_scale", json!(-0.1)),
        ("llama4", "hidden_act", json!("gelu")),
        ("glm4_moe", "n_group", json!(2)),
        ("glm4_moe", "topk_group", json!(2)),
        ("glm4_moe", "n_routed_experts", json!(0)),
        ("glm4_moe", "n_shared_experts", json!(0)),
        ("glm4_moe", "routed_scaling_factor", json!(0.0)),
        ("glm4_moe", "partial_rotary_factor", json!(0.05)),
        ("glm4_moe", "scoring_func", json!("softmax")),
        ("glm4", "hidden_act", json!("gelu")),
        ("glm4", "partial_rotary_factor", json!(0.05)),
        ("glm4", "partial_rotary_factor", json!(0.2)),
        ("glm4", "partial_rotary_factor", json!(1.5)),
        ("glm4", "rope_interleaved", json!(true)),
        ("qwen3_moe", "num_experts", json!(0)),
        ("qwen3_moe", "num_experts", json!(5000)),
        ("qwen3_moe", "num_local_experts", json!(7)),
        ("qwen3_moe", "num_experts_per_tok", json!(7)),
        ("qwen3_moe", "num_experts_per_tok", json!(null)),
        ("qwen3_moe", "moe_intermediate_size", json!(null)),
        ("qwen3_moe", "norm_topk_prob", json!("yes")),
        ("qwen3_moe", "decoder_sparse_step", json!(0)),
        ("qwen3_moe", "mlp_only_layers", json!([-1])),
        ("qwen3_moe", "hidden_act", json!("gelu")),
        ("qwen3_moe", "layer_types", json!(["full_attention", "full_attention", "full_attention"])),
        ("qwen3_moe", "shared_expert_intermediate_size", json!(20)),
        ("gemma3", "hidden_activation", json!("gelu")),
        ("gemma3", "use_bidirectional_attention", json!("yes")),
        ("gemma3", "sliding_window", json!(null)),
        ("gemma3", "sliding_window_pattern", json!(0)),
        ("gemma3", "final_logit_softcapping", json!(0.0)),
    ];
    let mut failures = Vec::new();
    for (name, key, value) in cases {
        match spec(with(family(name), &json!({ key: value }))) {
            Err(ImportError::Config { key: named, .. }) if named == key => {}
            other => failures.push(format!("{name} {key} = {value}: {other:?}")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What `save_pretrained` and `to_dict` of transformers write into every config, beside a family's own keys.
#[test]
fn what_every_config_may_hold_is_accepted() {
    let five = json!({"_name_or_path": "", "architectures": null, "chunk_size_feed_forward": 0, "dtype": "float32",
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "is_encoder_decoder": false, "problem_type": null,
        "label2id": {"LABEL_0": 0, "LABEL_1": 1}, "output_attentions": false, "output_hidden_states": false,
        "return_dict": true, "transformers_version": "5.23.0", "use_cache": true});
    let four = json!({"add_cross_attention": false, "bad_words_ids": null, "begin_suppress_tokens": null,
        "cross_attention_hidden_size": null, "decoder_start_token_id": null, "diversity_penalty": 0.0,
        "do_sample": false, "early_stopping": false, "encoder_no_repeat_ngram_size": 0,
        "exponential_decay_length_penalty": null, "finetuning_task": null, "forced_bos_token_id": null,
        "is_decoder": false, "length_penalty": 1.0, "max_length": 20, "min_length": 0, "no_repeat_ngram_size": 0,
        "num_beam_groups": 1, "num_beams": 1, "num_return_sequences": 1, "output_scores": false, "prefix": null,
        "pruned_heads": {}, "remove_invalid_values": false, "repetition_penalty": 1.0,
        "return_dict_in_generate": false, "sep_token_id": null, "suppress_tokens": null,
        "task_specific_params": null, "temperature": 1.0, "tf_legacy_loss": false, "tie_encoder_decoder": false,
        "tokenizer_class": null, "top_k": 50, "top_p": 1.0, "torchscript": false, "torch_dtype": "bfloat16",
        "typical_p": 1.0, "use_bfloat16": false});
    for (name, whole) in [("llama", &five), ("qwen3", &four), ("glm4", &five), ("gemma4", &four)] {
        spec(with(family(name), whole)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let muse = |whole: &Value| {
        let mut config = family("muse_glimmer");
        for part in ["text_config", "vision_config"] {
            let of = config[part].as_object_mut().expect("a part is an object");
            of.extend(whole.as_object().expect("an object").clone());
        }
        spec(with(config, whole))
    };
    muse(&five).expect("parts written whole");
    muse(&four).expect("parts written whole by transformers 4");
    for key in ["is_decoder", "is_encoder_decoder", "add_cross_attention", "tie_encoder_decoder"] {
        let error = spec(with(family("llama"), &json!({ key: true }))).expect_err(key);
        assert!(matches!(&error, ImportError::Config { key: named, .. } if named == key), "{error}");
    }
}
