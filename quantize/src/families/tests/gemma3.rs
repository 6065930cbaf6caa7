//! Gemma 3 beside a tower.

use muse_format::{Fit, Given, Join, Spec};
use serde_json::{Map, Value, json};

use super::{checkpoint, family, refused, refused_by, spec, with};
use crate::checkpoint::ImportError;
use crate::families::{self, Family, Origin, Transform};

/// As published but for its sizes: of the text model what the reference implementation does not fill in.
fn seeing(changes: &Value) -> Map<String, Value> {
    let text = json!({"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 48, "vocab_size": 100,
        "num_hidden_layers": 6, "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 32});
    let tower = json!({"model_type": "siglip_vision_model", "hidden_size": 24, "intermediate_size": 50,
        "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 896, "patch_size": 14,
        "vision_use_head": false});
    let outer = json!({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"],
        "text_config": text, "boi_token_index": 96, "eoi_token_index": 97, "image_token_index": 98,
        "mm_tokens_per_image": 256, "eos_token_id": [1, 2], "initializer_range": 0.02});
    with(outer, &json!({"vision_config": with(tower, changes)}))
}

/// [`seeing`] with outer keys changed.
fn around(changes: &Value) -> Map<String, Value> {
    with(Value::Object(seeing(&json!({}))), changes)
}

#[test]
fn gemma3_looks_at_pictures_of_one_size() {
    let whole = spec(seeing(&json!({}))).expect("gemma3");
    let vision = whole.vision.as_ref().expect("a tower");
    assert_eq!((vision.token, vision.joint, vision.joint_everywhere), (98, true, true));
    assert_eq!(
        (vision.positions, vision.merge, vision.frequencies, vision.pixels.tokens_max),
        (64, 4, 0, 256)
    );
    assert_eq!((vision.pixels.fit, vision.pixels.given), (Fit::Table, Given::Planes));
    assert_eq!(vision.join, Join::Mean { standardized: false, rooted: false });
    assert_eq!((vision.norm_eps, vision.pre_norm, vision.post_norm, vision.bias), (1e-6, false, true, true));
    let few = around(&json!({"mm_tokens_per_image": 64}));
    assert_eq!(spec(few).expect("gemma3").vision.expect("a tower").merge, 8);
    let cases = [
        ("model_type", json!("clip_vision_model")),
        ("hidden_act", json!("gelu")),
        ("num_channels", json!(1)),
        ("vision_use_head", json!(true)),
        ("hidden_size", json!(26)),
        ("hidden_size", json!(0)),
        ("num_hidden_layers", json!(0)),
        ("image_size", json!(900)),
        ("image_size", json!([896, 896])),
        ("patch_size", json!(0)),
        ("layer_norm_eps", json!(-1.0)),
        ("num_experts", json!(2)),
    ];
    refused("vision_config.", &cases, seeing);
    let cases = [
        ("mm_tokens_per_image", json!(200)),
        ("mm_tokens_per_image", json!(225)),
        ("mm_tokens_per_image", json!(4)),
        ("mm_tokens_per_image", json!(0)),
        ("text_config.model_type", json!({"model_type": "gemma2_text"})),
        ("text_config.use_bidirectional_attention", json!({"use_bidirectional_attention": true})),
    ];
    refused("", &cases, around);
}

#[test]
fn gemma3_is_filled_in_where_a_config_says_nothing() {
    let read = |changes: &Value| spec(around(changes)).expect("gemma3");
    let whole = read(&json!({}));
    let said = json!({"model_type": "gemma3_text", "hidden_size": 64, "intermediate_size": 48, "vocab_size": 100,
        "num_hidden_layers": 6, "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
        "rms_norm_eps": 1e-6, "max_position_embeddings": 131_072, "query_pre_attn_scalar": 256,
        "sliding_window": 32, "sliding_window_pattern": 6, "tie_word_embeddings": true,
        "attention_bias": false, "attn_logit_softcapping": null, "_sliding_window_pattern": 6,
        "rope_parameters": {"full_attention": {"factor": 8.0, "rope_theta": 1e6, "rope_type": "linear"},
            "sliding_attention": {"rope_theta": 1e4, "rope_type": "default"}}});
    assert_eq!(read(&json!({ "text_config": said.clone() })), whole);
    let windows: Vec<_> = whole.layers.iter().map(|layer| layer.attention().unwrap().window).collect();
    assert_eq!(windows, [Some(32), Some(32), Some(32), Some(32), Some(32), None]);
    // The reference implementation caps no logits beside a tower.
    let mut capped = said;
    capped["final_logit_softcapping"] = json!(30.0);
    assert_eq!(read(&json!({ "text_config": capped })), whole);
    // A head of its own where the outer key says so.
    assert!(whole.tied_head && !read(&json!({"tie_word_embeddings": false})).tied_head);
    let mut bare = around(&json!({}));
    bare["text_config"].as_object_mut().unwrap().remove("sliding_window");
    assert_eq!(spec(bare).expect("gemma3").layers[0].attention().unwrap().window, Some(4096));
    // No prompt can hold the token: the text model alone, with the tower left out.
    let text = Spec { vision: None, ..whole };
    assert_eq!(read(&json!({"image_token_index": null})), text);
    assert_eq!(read(&json!({"image_token_index": null, "image_token_id": 98})).vision.unwrap().token, 98);
}

#[test]
fn tensors_of_gemma3_are_found_under_every_spelling() {
    let config = around(&json!({}));
    let whole = spec(config.clone()).expect("gemma3");
    let draft = (families::gemma3::FAMILY.read)(&families::Config::new(&config)).expect("gemma3");
    let family: &Family = &families::gemma3::FAMILY;
    let published: Vec<(String, usize, usize)> = whole
        .tensors()
        .into_iter()
        .filter(|tensor| !tensor.name.starts_with("rope."))
        .map(|tensor| {
            let (rows, cols) = (tensor.rows as usize, tensor.cols as usize);
            match draft.named.get(&tensor.name) {
                Some(named) if matches!(named.transform, Transform::Transpose { .. }) => {
                    (named.theirs.clone(), cols, rows)
                }
                Some(named) => (named.theirs.clone(), rows, cols),
                None => (family.their_name(&tensor.name), rows, cols),
            }
        })
        .collect();
    assert!(
        published.iter().any(|(name, ..)| name == "vision_tower.vision_model.encoder.layers.1.mlp.fc2.bias")
    );
    type Spell = fn(&str) -> String;
    let spellings: [Spell; 4] = [
        |name| name.into(),
        |name| name.replace("vision_tower.vision_model.", "vision_tower."),
        |name| match name.strip_prefix("language_model.model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            None => format!("model.{name}"),
        },
        |name| match name.strip_prefix("language_model.model.") {
            Some(rest) => format!("model.language_model.{rest}"),
            None => format!("model.{}", name.replace("vision_model.", "")),
        },
    ];
    for spell in spellings {
        let named: Vec<_> = published.iter().map(|(name, rows, cols)| (spell(name), *rows, *cols)).collect();
        let mut tensors: Vec<_> =
            named.iter().map(|(name, rows, cols)| (name.as_str(), *rows, *cols)).collect();
        let import = families::import(&checkpoint(config.clone(), &tensors)).expect("a whole model");
        assert!(import.left_out.is_empty(), "{:?}", import.left_out);
        let of = |name: &str| import.tensors.iter().find(|tensor| tensor.name == name).map(|t| &t.origin);
        assert!(matches!(of("vision.mean_norm"),
            Some(Origin::Tensor { name, transform: Transform::AddOne, .. }) if name.ends_with("mm_soft_emb_norm.weight")));
        // Of a tower that is imported no tensor is left out.
        tensors.push(("vision_tower.vision_model.head.probe", 1, 24));
        let error = families::import(&checkpoint(config.clone(), &tensors)).expect_err("an unknown tensor");
        assert!(matches!(error, ImportError::UnknownTensor(_)), "{error}");
        tensors.pop();
        // Where no prompt can hold its token all of it is, and said.
        let blind = around(&json!({"image_token_index": 262_144}));
        let import = families::import(&checkpoint(blind, &tensors)).expect("the text model");
        let parts: Vec<_> = import.left_out.iter().map(|left| left.part).collect();
        assert_eq!((parts, import.spec.vision), (vec!["vision"], None));
    }
}

#[test]
fn an_image_processor_of_gemma3_looks_at_whole_pictures() {
    let read = |processor: Value| {
        let mut vision = spec(seeing(&json!({}))).expect("gemma3").vision.expect("a tower");
        let processor = processor.as_object().expect("an object").clone();
        let processor = families::Config::part(&processor, "preprocessor_config.json: ");
        families::gemma3::vision::read_processor(&processor, &mut vision).map(|()| vision.pixels)
    };
    assert_eq!(read(json!({})).expect("no file").mean, [0.5; 3]);
    let published = json!({"do_convert_rgb": null, "do_normalize": true, "do_pan_and_scan": null,
        "do_rescale": true, "do_resize": true, "image_mean": [0.5, 0.25, 0.5], "image_std": [0.5, 0.5, 0.25],
        "image_processor_type": "Gemma3ImageProcessor", "image_seq_length": 256,
        "pan_and_scan_max_num_crops": null, "pan_and_scan_min_crop_size": null,
        "pan_and_scan_min_ratio_to_activate": null, "processor_class": "Gemma3Processor", "resample": 2,
        "rescale_factor": 1.0 / 255.0, "size": {"height": 896, "width": 896}});
    let pixels = read(published.clone()).expect("as published");
    assert_eq!((pixels.mean, pixels.deviation), ([0.5, 0.25, 0.5], [0.5, 0.5, 0.25]));
    refused_by(
        "preprocessor_config.json: ",
        &[
            ("do_pan_and_scan", json!(true)),
            ("image_seq_length", json!(128)),
            ("size.height", json!({"height": 448, "width": 896})),
            ("do_normalize", json!(false)),
            ("resample", json!(3)),
            ("do_center_crop", json!(true)),
        ],
        |changes| read(Value::Object(with(published.clone(), changes))),
    );
}

#[test]
fn gemma3_without_a_tower_is_filled_in_too() {
    let text = spec(with(family("gemma3"), &json!({}))).expect("gemma3");
    assert_eq!(text.layers[0].attention().unwrap().scale, 1.0 / 16.0);
    assert_eq!(text.vision, None);
}
