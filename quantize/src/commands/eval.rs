use std::fs;
use std::path::{Path, PathBuf};

use muse_format::Drafter;
use muse_quantize::inputs;
use muse_runtime::eval::{self, Input};
use muse_runtime::{
    BackendChoice, CacheDtype, EmbedOptions, Engine, Image, ImageError, LoadOptions, Medium, MediumKind,
    PlaceError, Sound, Tiles, Video,
};
use serde_json::json;

use super::{Failure, at, embed, print, print_json};
use crate::cli::{Backend, Eval, EvalCommon, Media, TextArgs, What};

/// Logits printed without --json.
const TOP: usize = 10;

pub fn run(args: &Eval) -> Result<(), Failure> {
    match &args.what {
        What::Logits { file, tokens, media, position, common } => {
            let mut engine = load(file, common, common.cache, tokens.0.len())?;
            let media = read_media(media, &*engine)?;
            let input = Input { tokens: &tokens.0, media: &media };
            logits(&mut *engine, input, *position, common.json)
        }
        What::Generate { file, tokens, media, count, drafter, common } => {
            let positions = tokens.0.len() + *count as usize;
            let mut engine = load_with(file, drafter.as_deref(), common, common.cache, positions)?;
            let media = read_media(media, &*engine)?;
            let input = Input { tokens: &tokens.0, media: &media };
            generate(&mut *engine, input, *count, common.json)
        }
        What::Embed { file, text, tokens, prompt, truncate, common } => {
            let options =
                EmbedOptions { prompt: prompt.clone(), truncate: *truncate, ..EmbedOptions::default() };
            embed::run(file, text, tokens, &options, common)
        }
        What::Perplexity { file, text, common } => {
            let mut engine = load(file, common, common.cache, text.context as usize)?;
            let result = eval::perplexity(&mut *engine, &read(text)?, text.context)?;
            if common.json {
                return print_json(&result);
            }
            let eval::Perplexity { perplexity, nll, tokens, windows, context } = result;
            print(&format!(
                "perplexity {perplexity:.4} ({nll:.5} nats a token) over {tokens} tokens, {windows} windows of {context}\n"
            ))
        }
        What::Kl { reference, file, text, common } => {
            let backend = if common.backend == Backend::Rknn { Backend::Cpu } else { common.backend };
            let beside = &EvalCommon { backend, ..*common };
            let mut first = load(reference, beside, None, text.context as usize)?;
            let mut second = load(file, common, common.cache, text.context as usize)?;
            let result = eval::kl(&mut *first, &mut *second, &read(text)?, text.context)?;
            if common.json {
                return print_json(&result);
            }
            let eval::Divergence { mean_kl, max_kl, top1_agreement, positions, .. } = result;
            let percent = 100.0 * top1_agreement;
            print(&format!(
                "divergence {mean_kl:.6} nats a token, {max_kl:.4} at most; same first choice {percent:.2} % of {positions} positions\n"
            ))
        }
    }
}

/// The media of the command line, as the engine's model takes them.
fn read_media(args: &Media, engine: &dyn Engine) -> Result<Vec<Medium>, Failure> {
    let info = engine.info();
    let none = |kind| PlaceError::NoTower { kind };
    let read = |path: &PathBuf| fs::read(path).map_err(|e| at(path, &e));
    if let Some(path) = &args.inputs {
        return Ok(inputs::read(&read(path)?, info).map_err(|e| at(path, &e))?);
    }
    let vision = || info.vision.as_ref().ok_or(none(MediumKind::Image));
    // What the model was trained for, not what fits the context: with fewer tokens it would be another image.
    let whole = |path: &PathBuf, image: Image| -> Result<Image, Failure> {
        let (tokens, limit) = (image.tokens(&vision()?.spec), vision()?.image_tokens);
        if tokens > limit {
            return Err(at(path, &ImageError::TooLarge { tokens: tokens.into(), limit }).into());
        }
        Ok(image)
    };
    let mut media = Vec::new();
    for path in &args.image {
        let spec = &vision()?.spec;
        let picture = Tiles::decode(&read(path)?, spec, spec.pixels.tokens_max).map_err(|e| at(path, &e))?;
        for image in picture.images {
            media.push(whole(path, image)?.into());
        }
    }
    for path in &args.video {
        let spec = &vision()?.spec;
        let of_videos = spec.video.as_ref().ok_or(none(MediumKind::Video))?;
        let video = Video::open(path, args.fps.unwrap_or_default()).map_err(|e| at(path, &e))?;
        for grid in video.grids(spec, of_videos.tokens_max).map_err(|e| at(path, &e))? {
            let grid = grid.map_err(|e| at(path, &e))?;
            media.push(Medium::Video(whole(path, grid.image)?));
        }
    }
    for path in &args.audio {
        let audio = info.audio.as_ref().ok_or(none(MediumKind::Sound))?;
        let sound = Sound::decode(&read(path)?, &audio.spec, audio.audio_tokens);
        media.push(sound.map_err(|e| at(path, &e))?.into());
    }
    Ok(media)
}

fn generate(engine: &mut dyn Engine, input: Input<'_>, count: u32, json: bool) -> Result<(), Failure> {
    let generated = eval::generate_drafted(engine, input, count)?;
    let drafts = engine.info().drafter.is_some();
    if json {
        return if drafts {
            print_json(&generated)
        } else {
            print_json(&json!({ "tokens": generated.tokens }))
        };
    }
    let ids: Vec<_> = generated.tokens.iter().map(u32::to_string).collect();
    print(&format!("{}\n", ids.join(" ")))?;
    if drafts {
        let eval::Generated { proposed_tokens, accepted_tokens, steps, .. } = generated;
        print(&format!("{accepted_tokens} of {proposed_tokens} proposed tokens came, in {steps} steps\n"))?;
    }
    Ok(())
}

fn logits(
    engine: &mut dyn Engine,
    input: Input<'_>,
    position: Option<u64>,
    json: bool,
) -> Result<(), Failure> {
    let logits = eval::logits(engine, input, position)?;
    let position = position.unwrap_or(input.tokens.len() as u64 - 1);
    if json {
        // One line: a vocabulary of numbers is for programs.
        let text = serde_json::to_string(&json!({ "position": position, "logits": logits }))?;
        return print(&format!("{text}\n"));
    }
    let mut ids: Vec<usize> = (0..logits.len()).collect();
    ids.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
    let rows: String = ids.iter().take(TOP).map(|id| format!("{id:>8} {:>12.6}\n", logits[*id])).collect();
    print(&format!("position {position}\n   token        logit\n{rows}"))
}

fn read(text: &TextArgs) -> Result<String, Failure> {
    fs::read_to_string(&text.text).map_err(|e| at(&text.text, &e).into())
}

/// What the person said of kernels and threads.
pub(super) fn options(common: &EvalCommon) -> LoadOptions {
    LoadOptions {
        threads: common.threads,
        cache: common.cache,
        backend: match common.backend {
            Backend::Cpu => BackendChoice::Cpu,
            Backend::Rknn => BackendChoice::Rknn,
            Backend::Reference => BackendChoice::Reference,
        },
        ..LoadOptions::default()
    }
}

/// A model with room for `positions`, or for as many as it was trained for.
fn load(
    path: &Path,
    common: &EvalCommon,
    cache: Option<CacheDtype>,
    positions: usize,
) -> Result<Box<dyn Engine>, Failure> {
    load_with(path, None, common, cache, positions)
}

/// [`load`] with what drafts for the model, for which there is room behind the last position.
fn load_with(
    path: &Path,
    drafter: Option<&Path>,
    common: &EvalCommon,
    cache: Option<CacheDtype>,
    positions: usize,
) -> Result<Box<dyn Engine>, Failure> {
    let options = LoadOptions { drafter: drafter.map(Path::to_owned), ..options(common) };
    let mapped = muse_runtime::open(path, &options)?;
    let block = mapped.drafter().and_then(|drafter| drafter.spec.drafter.as_ref()).map_or(0, Drafter::block);
    let positions = u32::try_from(positions).unwrap_or(u32::MAX).saturating_add(block);
    let options = LoadOptions {
        context: Some(positions.clamp(1, mapped.spec.context)),
        // As many rows of logits as windows can use at once without taking much memory.
        logit_rows: Some(32),
        cache,
        ..options
    };
    Ok(muse_runtime::load(path, &options)?)
}
