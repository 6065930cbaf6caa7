use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use indicatif::{ProgressBar, ProgressStyle};
use muse_format::{Drafter, Meta, Provenance, Text};
use muse_quantize::checkpoint::{self, Checkpoint};
use muse_quantize::convert::{self, Done, Job, Watch};
use muse_quantize::families::{self, Import, LeftOut};
use muse_quantize::policy::{Bits, Policy};
use muse_quantize::report::Report;
use muse_quantize::text;
use muse_runtime::Mapped;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::output::{self, Output};
use super::{Failure, at, print, print_json};
use crate::cli::{Convert, Method};

pub fn run(args: &Convert) -> Result<(), Failure> {
    output::check(&args.output, args.force)?;
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // The first asks the conversion to stop and clean up, the second ends the process at once.
        signal_hook::flag::register_conditional_shutdown(signal, 1, interrupted.clone())?;
        signal_hook::flag::register(signal, interrupted.clone())?;
    }
    let mut checkpoint = checkpoint::open(&args.source)?;
    for key in &args.ignore_config {
        if checkpoint.config.remove(key).is_none() {
            return Err(format!("--ignore-config {key}: config.json has no such key").into());
        }
    }
    let policy = policy(args, &checkpoint);
    let import = if args.mtp { families::import_head(&checkpoint)? } else { families::import(&checkpoint)? };
    let bar = ProgressBar::no_length().with_style(ProgressStyle::with_template(
        "{bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left",
    )?);
    let progress = |bytes| bar.inc(bytes);
    let watch = Watch { progress: &progress, interrupted: &interrupted };
    let jobs = convert::plan(&import, &checkpoint, &policy, &watch)?;
    let meta = meta(args, &checkpoint, &import, &jobs)?;
    bar.set_length(jobs.iter().map(Job::byte_len).sum());
    let (done, bytes) = write(args, &checkpoint, &jobs, &meta, &watch)?;
    bar.finish_and_clear();
    warn_over_budget(args, bytes);
    for LeftOut { part, tensors, .. } in &import.left_out {
        eprintln!("note: left out: {part}, {tensors} tensors; the file works without");
    }
    for note in notes(&meta) {
        eprintln!("note: {note}");
    }
    let report = Report::new(args.output.display().to_string(), bytes, &done, &import.left_out);
    if let Some(path) = &args.report {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?).map_err(|e| at(path, &e))?;
    }
    if args.json { print_json(&report) } else { print(&report.to_string()) }
}

/// What the file cannot do because the checkpoint does not say how.
fn notes(meta: &Meta) -> Vec<String> {
    let mut notes = Vec::new();
    // It has its target's.
    if meta.spec.drafter.is_some() {
        return notes;
    }
    if meta.tokenizer.is_empty() {
        notes.push(
            "there is no tokenizer.json: the file takes ids of tokens, as `eval` does, and no text".into(),
        );
    } else if meta.spec.vision.is_some() && meta.text.image.is_none() {
        notes.push("the tokenizer has no token for images: chats take none, `eval` with ids does".into());
    }
    if meta.generation.stop_ids.is_empty() && meta.spec.embedding.is_none() {
        let vocab = meta.spec.vocab;
        notes.push(format!("no eos_token_id is below vocab_size {vocab}: only its length ends an answer"));
    }
    notes
}

/// A file too big for its board's memory is still a file; the person should know before copying it there.
fn warn_over_budget(args: &Convert, bytes: u64) {
    let board = args.board.as_ref().and_then(|name| muse_boards::by_name(name).ok());
    let over = board.and_then(|b| b.check_budget(bytes, b.memory.bytes?).err());
    if let Some(over) = over {
        eprintln!("warning: {over}");
    }
}

fn policy(args: &Convert, checkpoint: &Checkpoint) -> Policy {
    // What a GGUF holds was quantized on purpose; a folder holds floats.
    let default = (checkpoint.source_format != "gguf").then_some(Bits::Four);
    let bits = args.bits.or(default);
    Policy { bits, embed_bits: args.embed_bits, group: args.group, scheme: args.scheme }
}

fn meta(args: &Convert, checkpoint: &Checkpoint, import: &Import, jobs: &[Job<'_>]) -> Result<Meta, Failure> {
    let (text, generation) = text::import(checkpoint, &import.spec)?;
    let (image, video) = (text::image(checkpoint, import)?, text::video(checkpoint, import)?);
    let text = Text { image, video, audio: text::audio(checkpoint, import)?, ..text };
    // A drafter's tokens are its target's, and so is the file that says what they are.
    let drafts = import.spec.drafter.is_some();
    let tokenizer = if drafts { Vec::new() } else { checkpoint.tokenizer.clone() };
    let chat_template = checkpoint.chat_template.clone().filter(|_| !drafts).unwrap_or_default();
    // A tokenizer or template that the runtime refuses is better refused here than on the board.
    muse_runtime::read_text(&import.spec, &tokenizer, &text, &chat_template)?;
    let method = match args.method {
        _ if jobs.iter().all(|j| j.kept || !j.layout.is_quantized()) => "kept",
        Method::Rtn => "rtn",
    };
    let (board, target) = match &args.board {
        None => ("any", "cpu"),
        Some(name) => {
            let board = muse_boards::by_name(name)?;
            (board.name.as_str(), board.layout.target.as_str())
        }
    };
    // Of another checkpoint than its target's is what drafts in blocks.
    let alone = matches!(import.spec.drafter, Some(Drafter::Block(_)));
    let weights = if alone { None } else { families::identity(checkpoint)? };
    let provenance = Provenance {
        tool: concat!("muse-quantize ", env!("CARGO_PKG_VERSION")).into(),
        source: checkpoint.source.clone(),
        source_format: checkpoint.source_format.into(),
        architecture: import.architecture.into(),
        method: method.into(),
        board: board.into(),
        target: target.into(),
        license: checkpoint.license.clone(),
        left_out: import.left_out.iter().map(|left| left.part.into()).collect(),
        weights,
    };
    Ok(Meta { spec: import.spec.clone(), text, generation, provenance, tokenizer, chat_template })
}

/// Writes the file; its length with what was done.
fn write(
    args: &Convert,
    checkpoint: &Checkpoint,
    jobs: &[Job<'_>],
    meta: &Meta,
    watch: &Watch<'_>,
) -> Result<(Vec<Done>, u64), Failure> {
    let output = Output::create(&args.output, convert::file_len(jobs, meta), args.force)?;
    let path = args.output.display().to_string();
    let (writer, done) = convert::write(output.writer()?, &path, checkpoint, jobs, meta, watch)?;
    // What was written is what a runtime would load, or it does not get its name.
    let bytes = Mapped::open(output.temporary())?.bytes().len() as u64;
    output.finish(writer)?;
    Ok((done, bytes))
}
