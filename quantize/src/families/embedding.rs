//! What becomes of a text's vectors after the last layer, as sentence-transformers' files beside a checkpoint say it:
//! `modules.json`, a `config.json` in each module's folder, and `config_sentence_transformers.json`.
//!
//! Reimers and Gurevych 2019, <https://arxiv.org/abs/1908.10084>. Both the keys that version 5 writes and those before it
//! are read.

use std::collections::{BTreeMap, HashMap};

use muse_format::{Dense, Embedding, Pooling, Spec};
use serde_json::{Map, Value, json};

use super::{Config, Draft, Embeds, Named};
use crate::checkpoint::{Checkpoint, ImportError, Module, Modules};

/// Makes a draft that embeds one of `checkpoint`'s modules, and refuses a model that would be another with or without
/// them.
pub(super) fn complete(draft: &mut Draft, checkpoint: &Checkpoint) -> Result<(), ImportError> {
    let spec = &mut draft.spec;
    let sees_both_sides = spec.drafter.is_none()
        && spec.layers.iter().any(|layer| layer.attention().is_some_and(|a| a.bidirectional));
    let embeds = match draft.embeds {
        Embeds::Bidirectional => sees_both_sides,
        Embeds::WithModules => checkpoint.modules.is_some(),
        Embeds::Always => true,
    };
    let file = "modules.json".to_owned();
    match (&checkpoint.modules, embeds) {
        (None, false) => Ok(()),
        (Some(_), false) => {
            let problem =
                "says that the model embeds texts; of this architecture only models that write text are read";
            Err(ImportError::Malformed { file, problem: problem.into() })
        }
        (None, true) => {
            let problem = "is missing: it says how the vectors of a text's tokens become one; take the checkpoint as \
                           sentence-transformers saves it";
            Err(ImportError::Malformed { file, problem: problem.into() })
        }
        (Some(modules), true) => {
            let (embedding, theirs) = read(modules, spec.dim)?;
            spec.embedding = Some(embedding);
            // Of a model that writes, the head is left where it is.
            if !spec.tied_head {
                spec.tied_head = true;
                draft.ignored.push("lm_head.weight".into());
            }
            spec.context = limit(modules, &checkpoint.tokenizer_config, spec)?;
            draft.named.extend(theirs.into_iter().map(|(ours, theirs)| (ours, Named::whole(theirs))));
            Ok(())
        }
    }
}

/// The embedding of a model `dim` wide, and what our tensors' names are theirs.
fn read(modules: &Modules, dim: u32) -> Result<(Embedding, HashMap<String, String>), ImportError> {
    let wrong = |problem: String| ImportError::Malformed { file: "modules.json".into(), problem };
    let kinds: Vec<&str> = modules.list.iter().map(|module| module.kind.as_str()).collect();
    let rest = match kinds[..] {
        ["Transformer", "Pooling", ..] => &modules.list[2..],
        _ => return Err(wrong(format!("begins with {kinds:?}; supported are Transformer, then Pooling"))),
    };
    let (rest, normalise) = match rest {
        [before @ .., last] if last.kind == "Normalize" => (before, true),
        all => (all, false),
    };
    if let Some(other) = rest.iter().find(|module| module.kind != "Dense") {
        let kind = &other.kind;
        return Err(wrong(format!(
            "has {kind}; after Pooling only Dense is supported, and Normalize at the end"
        )));
    }
    if normalise {
        only_sentences(&config_of(modules.list.last().expect("it is the Normalize")), &[])?;
    }
    let pooling = pooling(&modules.list[1], dim)?;
    let (mut dense, mut theirs, mut width) = (Vec::new(), HashMap::new(), dim);
    for (i, module) in rest.iter().enumerate() {
        let made = self::dense(module, width)?;
        width = made.dim;
        theirs.insert(format!("dense.{i}"), format!("{}/linear.weight", module.path));
        theirs.insert(format!("dense.{i}_bias"), format!("{}/linear.bias", module.path));
        dense.push(made);
    }
    let (prompts, default_prompt) = prompts(&modules.settings)?;
    Ok((Embedding { pooling, dense, normalise, prompts, default_prompt }, theirs))
}

fn config_of(module: &Module) -> Config<'_> {
    Config::part(&module.config, &format!("{}/config.json ", module.path))
}

/// Refuses a module that works on anything but the one vector of a text.
fn only_sentences(config: &Config<'_>, harmless: &[&str]) -> Result<(), ImportError> {
    for key in ["module_input_name", "module_output_name"] {
        config.only(key, &["sentence_embedding".into()], "only sentence_embedding is supported")?;
    }
    config.finish(harmless)
}

fn pooling(module: &Module, dim: u32) -> Result<Pooling, ImportError> {
    const BEFORE_5: [(&str, &str); 6] = [
        ("pooling_mode_cls_token", "cls"),
        ("pooling_mode_mean_tokens", "mean"),
        ("pooling_mode_max_tokens", "max"),
        ("pooling_mode_mean_sqrt_len_tokens", "mean_sqrt_len_tokens"),
        ("pooling_mode_weightedmean_tokens", "weightedmean"),
        ("pooling_mode_lasttoken", "lasttoken"),
    ];
    let config = config_of(module);
    for key in ["embedding_dimension", "word_embedding_dimension"] {
        config.only(key, &[dim.into()], &format!("the model's vectors have {dim} numbers"))?;
    }
    config.only("include_prompt", &[true.into()], "only pooling of all tokens is supported")?;
    let mut modes = Vec::new();
    for (key, mode) in BEFORE_5 {
        modes.extend(config.bool(key, false)?.then_some((key, mode)));
    }
    let rule = "it must be one of mean, cls and lasttoken";
    let (key, mode) = match (config.str("pooling_mode")?, &modes[..]) {
        (Some(mode), _) => ("pooling_mode", mode),
        (None, []) => ("pooling_mode", "mean"),
        (None, [one]) => *one,
        (None, [_, (key, _), ..]) => {
            return Err(config.refuse(key, "several kinds of pooling at once are not supported"));
        }
    };
    config.finish(&[])?;
    match mode {
        "mean" => Ok(Pooling::Mean),
        "cls" => Ok(Pooling::First),
        "lasttoken" => Ok(Pooling::Last),
        _ => Err(config.refuse(key, rule)),
    }
}

fn dense(module: &Module, width: u32) -> Result<Dense, ImportError> {
    let config = config_of(module);
    config.only("in_features", &[width.into()], &format!("what comes in has {width} numbers"))?;
    config.only("use_residual", &[false.into()], "only plain products are supported")?;
    let dim = config.size("out_features", 1 << 20)?;
    let tanh = match config.str("activation_function")? {
        None | Some("torch.nn.modules.activation.Tanh") => true,
        Some("torch.nn.modules.linear.Identity") => false,
        Some(_) => {
            let rule = "it must be torch.nn.modules.linear.Identity or torch.nn.modules.activation.Tanh";
            return Err(config.refuse("activation_function", rule));
        }
    };
    let bias = config.bool("bias", true)?;
    only_sentences(&config, &[])?;
    Ok(Dense { dim, bias, tanh })
}

/// Texts to put in front, by name, and the name of the one that is put where nobody says.
fn prompts(settings: &Map<String, Value>) -> Result<(BTreeMap<String, String>, Option<String>), ImportError> {
    let config = Config::part(settings, "config_sentence_transformers.json ");
    let mut prompts = BTreeMap::new();
    if let Some(object) = config.object("prompts")? {
        for name in object.keys() {
            prompts.extend(object.str(name)?.map(|text| (name.clone(), text.to_owned())));
        }
    }
    let default = config.str("default_prompt_name")?.map(str::to_owned);
    config.only("model_type", &["SentenceTransformer".into()], "only SentenceTransformer is supported")?;
    // How vectors are to be compared is for those who compare them.
    config.finish(&["__version__", "similarity_fn_name"])?;
    Ok((prompts, default))
}

/// Positions that the publisher allows: the transformer module's, else the tokenizer's, and no more than the model has.
fn limit(modules: &Modules, tokenizer: &Map<String, Value>, spec: &Spec) -> Result<u32, ImportError> {
    let config = Config::part(&modules.transformer, "sentence_bert_config.json ");
    let said =
        if config.has("max_seq_length") { Some(config.size("max_seq_length", 1 << 27)?) } else { None };
    config.only("do_lower_case", &[false.into()], "only the tokenizer's own lower case is supported")?;
    config.only(
        "transformer_task",
        &["feature-extraction".into()],
        "only feature-extraction is supported",
    )?;
    config.only("module_output_name", &["token_embeddings".into()], "only token_embeddings is supported")?;
    let text = json!({"text": {"method": "forward", "method_output_name": "last_hidden_state"}});
    config.only("modality_config", &[text], "only text by its last hidden state is supported")?;
    config.finish(&[])?;
    // Tokenizers without a limit say 1e30.
    let tokenizer = tokenizer.get("model_max_length").and_then(Value::as_u64);
    let tokenizer = tokenizer.and_then(|limit| u32::try_from(limit).ok()).filter(|limit| *limit > 0);
    Ok(said.or(tokenizer).unwrap_or(spec.context).min(spec.context))
}
