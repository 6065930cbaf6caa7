//! What a runtime needs of the tokenizer and generation settings beyond tokenizer.json and the template.

use std::collections::BTreeMap;

use muse_format::{Generation, MediaText, Spec, Text, TileText, VideoText};
use serde_json::{Map, Value};
use tokenizers::Tokenizer;

use crate::checkpoint::{Checkpoint, ImportError};
use crate::families::{ImageMarkers, Import, Marker, VideoMarkers};

/// Reads both from a checkpoint of a model of `spec`. Ids of a config that are not below its vocabulary are left out, as
/// small models have them that keep a large one's defaults: no answer ends with them and no prompt begins with them. A
/// drafter has neither: its tokens are its target's.
///
/// # Errors
/// [`ImportError`] for a tokenizer.json that the `tokenizers` library refuses, or a token of it beyond the vocabulary.
pub fn import(checkpoint: &Checkpoint, spec: &Spec) -> Result<(Text, Generation), ImportError> {
    if spec.drafter.is_some() {
        return Ok((Text::default(), Generation::default()));
    }
    let vocab = spec.vocab;
    let tokenizer = tokenizer(checkpoint)?;
    let template_tokens = special_tokens(&checkpoint.tokenizer_config);
    let id_of = |name: &str| -> Result<Option<u32>, ImportError> {
        let token = template_tokens.get(name).zip(tokenizer.as_ref());
        let id = token.and_then(|(token, tokenizer)| tokenizer.token_to_id(token));
        let rule = format!("ids are below vocab_size {vocab}");
        let refuse = |id: u32| ImportError::Config { key: name.into(), value: id.to_string(), rule };
        id.map_or(Ok(None), |id| if id < vocab { Ok(Some(id)) } else { Err(refuse(id)) })
    };
    let text_config = checkpoint.config.get("text_config").and_then(Value::as_object);
    let bos_id = id_of("bos_token")?
        .or(u32_at(&checkpoint.config, "bos_token_id"))
        .or(text_config.and_then(|config| u32_at(config, "bos_token_id")))
        .filter(|id| *id < vocab);
    let adds = |tokenizer| adds_bos(&checkpoint.tokenizer_config, tokenizer, bos_id);
    let add_bos = bos_id.is_some() && tokenizer.as_ref().is_some_and(adds);
    let mut generation = generation(checkpoint, id_of("eos_token")?)?;
    generation.stop_ids.retain(|id| *id < vocab);
    let text = Text { bos_id, add_bos, template_tokens, image: None, video: None, audio: None };
    Ok((text, generation))
}

/// `None` where the checkpoint has none.
fn tokenizer(checkpoint: &Checkpoint) -> Result<Option<Tokenizer>, ImportError> {
    let malformed = |problem: String| ImportError::Malformed { file: "tokenizer.json".into(), problem };
    let bytes = Some(&checkpoint.tokenizer).filter(|bytes| !bytes.is_empty());
    bytes.map(|bytes| Tokenizer::from_bytes(bytes).map_err(|e| malformed(e.to_string()))).transpose()
}

/// The tokens of an image in a prompt: `None` for a model that takes none, and where the tokenizer does not have them.
///
/// # Errors
/// [`ImportError`] where the tokenizer has another for an image's vectors than the config says.
pub fn image(checkpoint: &Checkpoint, import: &Import) -> Result<Option<MediaText>, ImportError> {
    let token = import.spec.vision.as_ref().map(|vision| vision.token);
    medium(checkpoint, import.spec.vocab, "images", token.zip(import.image_markers))
}

/// As [`image`], of a sound.
///
/// # Errors
/// As [`image`].
pub fn audio(checkpoint: &Checkpoint, import: &Import) -> Result<Option<MediaText>, ImportError> {
    let token = import.spec.audio.as_ref().map(|audio| audio.token);
    medium(checkpoint, import.spec.vocab, "sounds", token.zip(import.audio_markers))
}

/// The token that the config says, and what the tokenizer must have.
fn medium(
    checkpoint: &Checkpoint,
    vocab: u32,
    needed_by: &str,
    said: Option<(u32, ImageMarkers)>,
) -> Result<Option<MediaText>, ImportError> {
    let Some((says, markers)) = said else { return Ok(None) };
    let Some(tokenizer) = tokenizer(checkpoint)? else { return Ok(None) };
    let ImageMarkers { key, token, written, around, tiles, lines } = markers;
    if matches!(token, Marker::Text(text) if tokenizer.token_to_id(text).is_none()) {
        return Ok(None);
    }
    let malformed = |problem: String| ImportError::Malformed { file: "tokenizer.json".into(), problem };
    let id = |marker: Marker| match marker {
        Marker::Id(id) => Ok(id),
        Marker::Text(token) => {
            let known = tokenizer.token_to_id(token);
            known.ok_or_else(|| malformed(format!("has no {token}, which {needed_by} need")))
        }
    };
    let token = id(token)?;
    let around = around.map(|[before, after]| Ok::<_, ImportError>([id(before)?, id(after)?])).transpose()?;
    let rule = |rule: String| Err(ImportError::Config { key: key.into(), value: says.to_string(), rule });
    if token != says {
        return rule(format!("the tokenizer's own is {token}"));
    }
    let token = written.map_or(Ok(token), id)?;
    let tiles = tiles.map(|[across, down, whole]| {
        Ok::<_, ImportError>(TileText { across: id(across)?, down: id(down)?, whole: id(whole)? })
    });
    let tiles = tiles.transpose()?;
    let between = tiles.into_iter().flat_map(|tiles| [tiles.across, tiles.down, tiles.whole]);
    let others = around.into_iter().flatten().chain([token]).chain(between);
    if let Some(beyond) = others.into_iter().find(|id| *id >= vocab) {
        return rule(format!("a token beside it is {beyond}, beyond vocab_size"));
    }
    let [before, after] = around.map_or([None; 2], |around| around.map(Some));
    Ok(Some(MediaText { token, before, after, tiles, lines }))
}

/// How a video is written in a prompt: `None` for a model that takes none, or whose tokenizer lacks a token of it.
///
/// # Errors
/// [`ImportError`] where the tokenizer has another token for a video's vectors than the config says.
pub fn video(checkpoint: &Checkpoint, import: &Import) -> Result<Option<VideoText>, ImportError> {
    let video = import.spec.vision.as_ref().and_then(|vision| vision.video.as_ref());
    let Some((video, markers)) = video.zip(import.video_markers) else { return Ok(None) };
    let Some(tokenizer) = tokenizer(checkpoint)? else { return Ok(None) };
    let VideoMarkers { token: text, begin, time, middle, before, after, between, end } = markers;
    let names = [begin, before, after, between, end];
    let ids = names.map(|name| name.and_then(|name| tokenizer.token_to_id(name)));
    let known =
        names.iter().zip(ids).all(|(name, id)| name.is_none() || id.is_some_and(|id| id < import.spec.vocab));
    let Some(token) = tokenizer.token_to_id(text).filter(|_| known) else { return Ok(None) };
    if token != video.token {
        let (key, value) = ("video_token_id".into(), video.token.to_string());
        return Err(ImportError::Config { key, value, rule: format!("the tokenizer's {text} is {token}") });
    }
    let [begin, before, after, between, end] = ids;
    Ok(Some(VideoText { token, begin, time: time.map(str::to_owned), middle, before, after, between, end }))
}

/// Whether raw text gets BOS: as tokenizer_config.json says; else as tokenizer.json does it.
fn adds_bos(config: &Map<String, Value>, tokenizer: &Tokenizer, bos_id: Option<u32>) -> bool {
    if let Some(says) = config.get("add_bos_token").and_then(Value::as_bool) {
        return says;
    }
    tokenizer.encode_fast("a", true).is_ok_and(|e| e.get_ids().first().copied() == bos_id)
}

/// Texts of `bos_token`, `eos_token`, ...: a text, or an object with `content`.
fn special_tokens(config: &Map<String, Value>) -> BTreeMap<String, String> {
    const NAMES: [&str; 6] = ["bos_token", "eos_token", "pad_token", "unk_token", "cls_token", "sep_token"];
    let text = |name: &str| {
        let value = config.get(name)?;
        value.as_str().or(value.get("content").and_then(Value::as_str))
    };
    NAMES.iter().filter_map(|name| Some(((*name).into(), text(name)?.into()))).collect()
}

fn u32_at(map: &Map<String, Value>, key: &str) -> Option<u32> {
    map.get(key).and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok())
}

/// Stop ids: `eos_token_id` of generation_config.json, else of config.json, and the tokenizer's own `eos_token`, which
/// ends a chat turn where the two differ. Sampling settings count only with `do_sample`, as in transformers: without it
/// an answer is greedy.
fn generation(checkpoint: &Checkpoint, eos: Option<u32>) -> Result<Generation, ImportError> {
    let config = &checkpoint.generation_config;
    // A model of several kinds of input has its text model's settings one level down.
    let text_config = checkpoint.config.get("text_config").and_then(Value::as_object);
    let source = [Some(config), Some(&checkpoint.config), text_config]
        .into_iter()
        .flatten()
        .find_map(|c| c.get("eos_token_id").filter(|v| !v.is_null()));
    let mut stop_ids = Vec::new();
    if let Some(value) = source {
        let list = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
        for id in list {
            let id = id.as_u64().and_then(|id| u32::try_from(id).ok());
            stop_ids.push(id.ok_or_else(|| ImportError::Config {
                key: "eos_token_id".into(),
                value: value.to_string(),
                rule: "it must be an id or a list of ids".into(),
            })?);
        }
    }
    stop_ids.extend(eos.filter(|id| !stop_ids.contains(id)));
    let samples = config.get("do_sample").and_then(Value::as_bool).unwrap_or(false);
    let number = |key: &str| config.get(key).and_then(Value::as_f64).map(|n| n as f32);
    let sampling = |key: &str| number(key).filter(|_| samples);
    Ok(Generation {
        stop_ids,
        temperature: sampling("temperature"),
        top_k: u32_at(config, "top_k").filter(|_| samples),
        top_p: sampling("top_p"),
        min_p: sampling("min_p"),
        repetition_penalty: number("repetition_penalty"),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A model of four tokens.
    fn of_four() -> Spec {
        Spec { vocab: 4, ..Spec::default() }
    }

    /// A tokenizer of four words; with `bos`, one that puts `<s>` in front.
    fn tokenizer(bos: bool) -> Vec<u8> {
        let post = json!({"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}});
        let added = |id: u32, content: &str| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": true})
        };
        let value = json!({"version": "1.0", "truncation": null, "padding": null,
            "added_tokens": [added(1, "<s>"), added(2, "</s>")], "normalizer": null, "pre_tokenizer": null,
            "post_processor": if bos { post } else { Value::Null }, "decoder": null,
            "model": {"type": "WordLevel", "vocab": {"a": 0, "<s>": 1, "</s>": 2, "b": 3}, "unk_token": "a"}});
        value.to_string().into_bytes()
    }

    fn checkpoint(bos: bool, config: Value, generation: Value, tokenizer_config: Value) -> Checkpoint {
        let object = |v: Value| v.as_object().expect("an object").clone();
        Checkpoint {
            config: object(config),
            generation_config: object(generation),
            image_processor: Map::new(),
            video_processor: Map::new(),
            feature_extractor: Map::new(),
            tokenizer: tokenizer(bos),
            tokenizer_config: object(tokenizer_config),
            chat_template: None,
            modules: None,
            tensors: BTreeMap::new(),
            norms_hold_one: false,
            source: "test".into(),
            source_format: "safetensors",
            license: None,
        }
    }

    #[test]
    fn bos_is_added_where_the_source_adds_it() {
        let named = json!({"bos_token": {"content": "<s>"}});
        let cases = [
            (true, json!({}), named.clone(), (Some(1), true)),
            (false, json!({}), named.clone(), (Some(1), false)),
            (false, json!({}), json!({"bos_token": "<s>", "add_bos_token": true}), (Some(1), true)),
            (true, json!({}), json!({"bos_token": "<s>", "add_bos_token": false}), (Some(1), false)),
            (true, json!({"bos_token_id": 1}), json!({}), (Some(1), true)),
            (false, json!({}), json!({"add_bos_token": true}), (None, false)),
        ];
        for (bos, config, tokenizer_config, expected) in cases {
            let case = format!("{bos} {config} {tokenizer_config}");
            let (text, _) =
                import(&checkpoint(bos, config, json!({}), tokenizer_config), &of_four()).expect(&case);
            assert_eq!((text.bos_id, text.add_bos), expected, "{case}");
        }
    }

    #[test]
    fn stop_ids_come_from_all_who_name_them() {
        let eos = json!({"eos_token": "</s>"});
        let cases = [
            (json!({"eos_token_id": 3}), json!({}), json!({}), vec![3]),
            (json!({"eos_token_id": 3}), json!({"eos_token_id": [0, 3]}), json!({}), vec![0, 3]),
            (json!({"eos_token_id": 3}), json!({"eos_token_id": null}), eos.clone(), vec![3, 2]),
            (json!({"eos_token_id": 2}), json!({}), eos, vec![2]),
            (json!({}), json!({}), json!({}), vec![]),
            // Beyond the vocabulary: what a large model's config says by default.
            (json!({"eos_token_id": [200_001, 3]}), json!({}), json!({}), vec![3]),
        ];
        for (config, generation, tokenizer_config, expected) in cases {
            let case = format!("{config} {generation} {tokenizer_config}");
            let (_, made) =
                import(&checkpoint(false, config, generation, tokenizer_config), &of_four()).expect(&case);
            assert_eq!(made.stop_ids, expected, "{case}");
        }
        for bad in [json!(-1), json!("2"), json!([1, "x"])] {
            let checkpoint = checkpoint(false, json!({ "eos_token_id": bad }), json!({}), json!({}));
            let error = import(&checkpoint, &of_four()).expect_err("an id that is none");
            assert!(matches!(error, ImportError::Config { key, .. } if key == "eos_token_id"), "{bad}");
        }
    }

    #[test]
    fn sampling_settings_count_only_with_do_sample() {
        let settings = |samples: Value| json!({"do_sample": samples, "temperature": 0.5, "top_k": 20, "top_p": 0.75, "repetition_penalty": 1.5});
        let made = |samples| {
            let checkpoint = checkpoint(false, json!({}), settings(samples), json!({}));
            import(&checkpoint, &of_four()).expect("settings").1
        };
        let on = made(json!(true));
        assert_eq!((on.temperature, on.top_k, on.top_p, on.min_p), (Some(0.5), Some(20), Some(0.75), None));
        for off in [made(json!(false)), made(Value::Null)] {
            assert_eq!((off.temperature, off.top_k, off.top_p), (None, None, None));
            assert_eq!(off.repetition_penalty, Some(1.5));
        }
    }

    #[test]
    fn a_picture_needs_the_tokens_around_it_and_between_its_tiles() {
        let checkpoint = checkpoint(false, json!({}), json!({}), json!({}));
        let read = |says: u32, vocab: u32, token, tiles: [&'static str; 3]| {
            let markers = ImageMarkers {
                key: "image_token_index",
                token: Marker::Text(token),
                written: Some(Marker::Text("b")),
                around: Some(["<s>", "</s>"].map(Marker::Text)),
                tiles: Some(tiles.map(Marker::Text)),
                lines: true,
            };
            medium(&checkpoint, vocab, "images", Some((says, markers)))
        };
        let tiles = TileText { across: 1, down: 2, whole: 3 };
        let whole = MediaText { token: 3, before: Some(1), after: Some(2), tiles: Some(tiles), lines: true };
        assert_eq!(read(0, 4, "a", ["<s>", "</s>", "b"]).expect("all are there"), Some(whole));
        // A tokenizer without the vectors' own token is one of text alone.
        assert_eq!(read(0, 4, "<|patch|>", ["<s>", "</s>", "b"]).expect("no images"), None);
        for (says, vocab, last, expected) in [
            (2, 4, "b", "image_token_index is 2: the tokenizer's own is 0"),
            (0, 3, "b", "a token beside it is 3, beyond vocab_size"),
            (0, 4, "<|image|>", "has no <|image|>, which images need"),
        ] {
            let error = read(says, vocab, "a", ["<s>", "</s>", last]).expect_err(expected).to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn a_tokenizer_that_is_none_is_refused() {
        let mut checkpoint = checkpoint(false, json!({}), json!({}), json!({}));
        for bytes in [&b"{}"[..], b"[]", b"\xff"] {
            checkpoint.tokenizer = bytes.to_vec();
            let error = import(&checkpoint, &of_four()).expect_err("not a tokenizer");
            assert!(
                matches!(&error, ImportError::Malformed { file, .. } if file == "tokenizer.json"),
                "{error}"
            );
        }
        checkpoint.tokenizer = Vec::new();
        let (text, _) = import(&checkpoint, &of_four()).expect("a model without one");
        assert_eq!((text.bos_id, text.add_bos), (None, false));
    }
}
