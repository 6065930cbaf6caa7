use muse_format::{Fit, Taken, Vision};
use serde_json::{Map, Value, json};

use super::{checkpoint, family, refused, refused_by, spec, with};
use crate::checkpoint::ImportError;
use crate::families::{self, Config, Origin, Transform, import};

/// Changes inside `text_config`.
fn text_with(mut config: Value, changes: &Value) -> Map<String, Value> {
    config["text_config"] = Value::Object(with(config["text_config"].take(), changes));
    config.as_object().expect("a config is an object").clone()
}

#[test]
fn muse_glimmer_counts_its_full_layers_from_the_last() {
    let muse = spec(with(family("muse_glimmer"), &json!({}))).expect("muse_glimmer");
    let layers: Vec<_> =
        muse.layers.iter().map(|l| (l.attention().unwrap().window, l.attention().unwrap().rope)).collect();
    let (local, full) = ((Some(32), Some(0)), (None, None));
    assert_eq!(layers, [full, local, local, local, full]);
    let (layer, a) = (&muse.layers[0], muse.layers[0].attention().unwrap());
    assert_eq!((a.scale, a.qk_norm, a.out_gate, a.qkv_bias, a.out_bias), (0.25, true, true, false, false));
    assert_eq!((layer.post_norms, layer.post_norm_eps, muse.norm_eps), (true, Some(1e-8), 1e-6));
    assert_eq!((muse.embed_norm, muse.embed_scale, muse.logit_scale), (true, 1.0, 0.2));
    assert_eq!((muse.logit_softcap, muse.tied_head, muse.ropes), (Some(20.0), false, 1));
    let own = json!({"layer_rope_theta": [0, 10000.0, 0, 0, 0.0], "layer_types": ["sliding_attention",
        "full_attention", "full_attention", "full_attention", "full_attention"]});
    let own = spec(text_with(family("muse_glimmer"), &own)).expect("a pattern of its own");
    let layers: Vec<_> =
        own.layers.iter().map(|l| (l.attention().unwrap().window, l.attention().unwrap().rope)).collect();
    assert_eq!(layers, [(Some(32), None), (None, Some(0)), full, full, full]);
    let still = spec(text_with(family("muse_glimmer"), &json!({"layer_rope_theta": [0, 0, 0, 0, 0]})));
    assert_eq!(still.expect("no rotation at all").ropes, 0);
    let tied = spec(with(family("muse_glimmer"), &json!({"tie_word_embeddings": true}))).expect("tied");
    assert!(tied.tied_head);
}

#[test]
fn muse_glimmer_refuses_by_the_name_of_its_text_key() {
    let cases = [
        ("model_type", json!("muse_spark_text")),
        ("hidden_activation", json!("gelu")),
        ("sliding_window", json!(null)),
        ("head_dim", json!(null)),
        ("post_norm_eps", json!(null)),
        ("post_norm_eps", json!(0.0)),
        ("qk_scale_factor", json!(-1.0)),
        ("output_multiplier", json!(null)),
        ("final_logit_softcapping", json!(null)),
        ("layer_rope_theta", json!([0, 0])),
        ("layer_rope_theta", json!([0, 5000.0, 10000.0, 0, 0])),
        ("layer_rope_theta", json!([0, -1.0, 10000.0, 0, 0])),
        ("layer_types", json!(["full_attention"])),
        ("rope_parameters.rope_type", json!({"rope_type": "yarn"})),
        ("num_experts", json!(8)),
    ];
    refused("text_config.", &cases, |changes| text_with(family("muse_glimmer"), changes));
    for (key, value) in [("text_config", json!(null)), ("audio_config", json!({"hidden_size": 8}))] {
        let error = spec(with(family("muse_glimmer"), &json!({ key: value }))).expect_err(key);
        assert!(matches!(&error, ImportError::Config { key: named, .. } if named == key), "{error}");
    }
}

/// The tower of the config of these tests, changed.
fn vision_with(mut config: Value, changes: &Value) -> Map<String, Value> {
    config["vision_config"] = Value::Object(with(config["vision_config"].take(), changes));
    config.as_object().expect("a config is an object").clone()
}

#[test]
fn a_tower_has_windows_and_the_sizes_of_its_config() {
    let vision = |changes: Value| {
        let spec = spec(vision_with(family("muse_glimmer"), &changes)).expect("muse_glimmer");
        spec.vision.expect("a tower")
    };
    let v = vision(json!({}));
    let windows = |v: &Vision| v.layers.iter().map(|layer| layer.window).collect::<Vec<_>>();
    assert_eq!(windows(&v), [Some(3), Some(3), Some(3), None, None]);
    assert_eq!((v.token, v.blank_tokens.as_slice()), (90, [90, 91].as_slice()));
    assert_eq!((v.dim, v.heads, v.frequencies, v.ffn_dim, v.adapter_dim), (16, 2, 2, 24, 12));
    assert_eq!((v.positions, v.merge, v.pixels.patch, v.pixels.frames), (3, 2, 14, 2));
    assert_eq!(
        (v.pixels.tokens_max, v.pixels.mean, v.outer_norm_eps, v.norm_eps),
        (4096, [0.5; 3], 1e-6, 1e-5)
    );
    let types = ["window_attention", "full_attention", "full_attention", "full_attention", "full_attention"];
    assert_eq!(windows(&vision(json!({ "layer_types": types }))), [Some(3), None, None, None, None]);
    // A video's token may be beyond the vocabulary: no prompt has one.
    let no_video = with(family("muse_glimmer"), &json!({"video_token_id": 200_091}));
    let no_video = spec(no_video).expect("images alone").vision.expect("a tower");
    assert_eq!((no_video.blank_tokens.as_slice(), no_video.video), ([90].as_slice(), None));
    // Nor can a prompt hold an image's: without it the tower is left out.
    let unseen = with(family("muse_glimmer"), &json!({"image_token_id": 200_092, "video_token_id": 200_091}));
    assert_eq!(spec(unseen).expect("text alone").vision, None);
}

#[test]
fn a_tower_is_refused_by_the_name_of_its_key() {
    let cases = [
        ("hidden_act", json!("silu")),
        ("hidden_size", json!(18)),
        ("hidden_size", json!(null)),
        ("pos_emb_width", json!(4)),
        ("merge_size", json!(0)),
        ("layer_types", json!(["full_attention"])),
        ("layer_types", json!(["a", "b", "c", "d", "e"])),
        ("layer_norm_eps", json!(null)),
        ("rope_parameters", json!(null)),
        ("rope_parameters.rope_type", json!({"rope_type": "yarn", "rope_theta": 10000.0})),
        ("num_experts", json!(2)),
        ("model_type", json!("clip")),
    ];
    refused("vision_config.", &cases, |changes| vision_with(family("muse_glimmer"), changes));
    let beside = [
        ("vision_config", json!(null)),
        ("image_token_id", json!(null)),
        ("out_hidden_size", json!(32)),
        ("projector_hidden_size", json!(null)),
        ("projector_hidden_act", json!("relu")),
    ];
    refused("", &beside, |changes| with(family("muse_glimmer"), changes));
}

#[test]
fn an_image_processor_agrees_with_the_tower_or_is_refused() {
    let read = |processor: Value| {
        let config = with(family("muse_glimmer"), &json!({}));
        let mut vision = spec(config).expect("muse_glimmer").vision.expect("a tower");
        let processor = processor.as_object().expect("an object").clone();
        let processor = Config::part(&processor, "preprocessor_config.json: ");
        families::muse_glimmer::vision::read_processor(&processor, &mut vision).map(|()| vision.pixels)
    };
    let published = json!({"do_convert_rgb": true, "do_normalize": true, "do_rescale": true, "do_resize": true,
        "image_mean": [0.5, 0.25, 0], "image_processor_type": "MuseGlimmerImageProcessor", "image_std": [0.5, 1, 2],
        "max_image_tokens": 1024, "merge_size": 2, "patch_size": 14, "resample": 1,
        "rescale_factor": 1.0 / 255.0, "temporal_patch_size": 2});
    let pixels = read(published.clone()).expect("as published");
    assert_eq!((pixels.tokens_max, pixels.mean, pixels.deviation), (1024, [0.5, 0.25, 0.0], [0.5, 1.0, 2.0]));
    let cases = [
        ("do_resize", json!(false)),
        ("do_normalize", json!(false)),
        ("resample", json!(3)),
        ("rescale_factor", json!(1.0)),
        ("patch_size", json!(16)),
        ("merge_size", json!(1)),
        ("temporal_patch_size", json!(1)),
        ("max_image_tokens", json!(0)),
        ("image_mean", json!([0.5])),
        ("image_std", json!([0.5, 0.5, 0])),
        ("do_pad", json!(true)),
    ];
    refused_by("preprocessor_config.json: ", &cases, |changes| {
        read(Value::Object(with(published.clone(), changes)))
    });
}

#[test]
fn a_video_processor_says_how_many_frames_are_taken_or_is_refused() {
    let read = |processor: Value| {
        let config = with(family("muse_glimmer"), &json!({}));
        let mut vision = spec(config).expect("muse_glimmer").vision.expect("a tower");
        let processor = processor.as_object().expect("an object").clone();
        let processor = Config::part(&processor, "video_preprocessor_config.json: ");
        families::muse_glimmer::vision::read_video_processor(&processor, &mut vision)
            .map(|()| vision.video.expect("videos"))
    };
    let silent = read(json!({})).expect("no file");
    assert_eq!((silent.token, silent.rate, silent.tokens_max, silent.fit), (91, 2.0, 144, Fit::Shape));
    assert_eq!((silent.frames_min, silent.frames_max, silent.taken), (2, 96, Taken::Before));
    let published = json!({"do_convert_rgb": true, "do_normalize": true, "do_rescale": true, "do_resize": true,
        "do_sample_frames": true, "fps": 0.5, "num_frames": 8, "max_video_frame_tokens": 64, "size": null,
        "frame_timestamp_format": "Time: {timestamp:.1f}s", "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5], "merge_size": 2, "patch_size": 14, "resample": 1, "temporal_patch_size": 2,
        "rescale_factor": 1.0 / 255.0, "video_processor_type": "MuseGlimmerVideoProcessor"});
    let video = read(published.clone()).expect("as published");
    assert_eq!((video.rate, video.frames_max, video.tokens_max), (0.5, 8, 64));
    // What is said of images alone holds for videos too where they have no file.
    assert_eq!(read(json!({"max_image_tokens": 1024, "patch_size": 14})).expect("of images"), silent);
    refused_by(
        "video_preprocessor_config.json: ",
        &[
            ("do_sample_frames", json!(false)),
            ("fps", json!(0)),
            ("num_frames", json!(0)),
            ("max_video_frame_tokens", json!(0)),
            ("frame_timestamp_format", json!("{timestamp:.2f}")),
            ("image_mean", json!([0.5, 0.5, 0.25])),
            ("image_std", json!([0.5, 0.5, 0.25])),
            ("size", json!({"height": 3})),
            ("resample", json!(3)),
            ("patch_size", json!(16)),
            ("do_center_crop", json!(true)),
            ("do_pad", json!(true)),
        ],
        |changes| read(Value::Object(with(published.clone(), changes))),
    );
}

#[test]
fn every_tensor_of_a_whole_model_is_used() {
    let config = with(family("muse_glimmer"), &json!({}));
    let all = spec(config.clone()).expect("muse_glimmer").tensors();
    let computed = |name: &str| {
        name.starts_with("rope.")
            || ["embed_norm", "vision.rope", "vision.norm"].contains(&name)
            || name.ends_with("q_norm")
            || name.ends_with("k_norm")
    };
    let decoder: Vec<_> = all
        .iter()
        .filter(|e| !computed(&e.name) && !e.name.starts_with("vision."))
        .map(|e| (families::muse_glimmer::FAMILY.their_name(&e.name), e.rows as usize, e.cols as usize))
        .collect();
    let tower = tower();
    let tensors = decoder.iter().chain(&tower).map(|(n, r, c)| (n.as_str(), *r, *c)).collect::<Vec<_>>();
    let whole = import(&checkpoint(config.clone(), &tensors)).expect("a whole model");
    assert_eq!(whole.left_out, []);
    for tensor in &whole.tensors {
        let expected = match tensor.name.as_str() {
            "embed_norm" | "vision.norm" => Some(1.0),
            name if name.ends_with("q_norm") => Some(3.87),
            name if name.ends_with("k_norm") => Some(1.0),
            _ => None,
        };
        match (&tensor.origin, expected) {
            (Origin::Computed(values), Some(expected)) => assert!(values.iter().all(|v| *v == expected)),
            (Origin::Computed(_), None) => assert!(tensor.name.contains("rope"), "{}", tensor.name),
            (Origin::Tensor { transform, .. }, _) => {
                let centred = tensor.name.starts_with('l') && tensor.name.ends_with("norm");
                let expected = match tensor.name.as_str() {
                    "vision.adapter.up" => Transform::ColumnsGathered { outer: 4, width: 1 },
                    _ if centred => Transform::AddOne,
                    _ => Transform::AsIs,
                };
                assert_eq!(*transform, expected, "{}", tensor.name);
            }
        }
    }
    let unknown = [&tensors[..], &[("model.audio_tower.ln.weight", 1, 8)]].concat();
    let error = import(&checkpoint(config.clone(), &unknown)).expect_err("a part that nobody knows");
    assert!(matches!(error, ImportError::UnknownTensor(name) if name == "model.audio_tower.ln.weight"));
    for missing in [decoder.len(), tensors.len() - 1] {
        let mut some = tensors.clone();
        let (name, ..) = some.remove(missing);
        let error = import(&checkpoint(config.clone(), &some)).expect_err(name);
        assert!(matches!(&error, ImportError::MissingTensor(named) if named == name), "{error}");
    }
}

/// The tower of [`family`]'s config by the names of the reference implementation.
fn tower() -> Vec<(String, usize, usize)> {
    let tower = |part: &str, rows, cols| (format!("model.vision_tower.{part}"), rows, cols);
    let mut list = vec![
        tower("patch_embedder.patch_embedding.weight", 16, 2 * 3 * 14 * 14),
        tower("patch_embedder.position_embedding_table.weight", 9, 16),
        ("model.vision_adapter.fc1.weight".into(), 12, 64),
        ("model.vision_adapter.fc2.weight".into(), 12, 12),
        ("model.vision_projection.weight".into(), 64, 12),
    ];
    // A norm's weight is a row; a bias has the length of the outputs.
    let both = |list: &mut Vec<_>, part: String, rows: usize, cols: usize| {
        list.push(tower(&format!("{part}.weight"), rows, cols));
        list.push(tower(&format!("{part}.bias"), 1, if rows == 1 { cols } else { rows }));
    };
    for i in 0..5 {
        for part in ["q_proj", "k_proj", "v_proj", "proj"] {
            both(&mut list, format!("layers.{i}.attn.{part}"), 16, 16);
        }
        both(&mut list, format!("layers.{i}.mlp.fc1"), 24, 16);
        both(&mut list, format!("layers.{i}.mlp.fc2"), 16, 24);
        for norm in ["norm1", "norm2"] {
            both(&mut list, format!("layers.{i}.{norm}"), 1, 16);
        }
    }
    for norm in ["ln_pre", "ln_post"] {
        both(&mut list, norm.into(), 1, 16);
    }
    list
}
