//! `musectl generate`: one prompt, its answer as it comes.

use std::io::{IsTerminal, Read, Write};

use serde_json::json;
use zbus::Variant;

use super::Error;
use super::args::Generate;
use super::client::{self, message};
use super::frames::{Frame, Frames};

pub async fn run(session: bool, args: Generate) -> Result<(), Error> {
    let prompt = match &args.prompt {
        Some(prompt) if prompt != "-" => prompt.clone(),
        _ => read_stdin()?,
    };
    if prompt.trim().is_empty() {
        return Err(Error::NoPrompt);
    }
    if args.raw { raw(session, &args, &prompt).await } else { chat(session, &args, &prompt).await }
}

fn read_stdin() -> Result<String, Error> {
    if std::io::stdin().is_terminal() {
        eprintln!("Type the prompt, then Ctrl-D:");
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text)?;
    Ok(text)
}

/// Streams through a session. Ctrl-C ends the program, and with it the session and the answer.
async fn chat(session: bool, args: &Generate, prompt: &str) -> Result<(), Error> {
    let proxy = client::open(session, &args.answer.model).await?;
    let system = args.answer.system.as_deref().map(|text| message("system", text));
    let messages: Vec<_> = system.into_iter().chain([message("user", prompt)]).collect();
    let mut frames = Frames::new(proxy.respond(&messages, args.answer.options()).await?)?;
    let mut out = std::io::stdout();
    let mut text = String::new();
    let done = loop {
        match frames.next().await? {
            Frame::Delta { text: delta } if args.json => text.push_str(&delta),
            Frame::Delta { text: delta } => {
                out.write_all(delta.as_bytes())?;
                out.flush()?;
                text = delta;
            }
            Frame::Reasoning { .. } | Frame::Other => {}
            Frame::Done(done) => break done,
            Frame::Error { name, message } => return Err(Error::Answer { name, message }),
        }
    };
    if args.json {
        let model = proxy.model().await?;
        let answer = json!({
            "model": model,
            "text": text,
            "finish_reason": done.finish_reason,
            "usage": done.usage,
            "timing": done.timing,
        });
        writeln!(out, "{answer}")?;
    } else if !text.ends_with('\n') {
        writeln!(out)?;
    }
    Ok(())
}

/// Through `Manager.Generate`, the one call that takes text without a template.
async fn raw(session: bool, args: &Generate, prompt: &str) -> Result<(), Error> {
    let manager = client::manager(session).await?;
    let mut options = args.answer.options();
    options.insert("raw", Variant::from(true));
    options.insert("model", Variant::from(args.answer.model.clone()));
    let (text, info) = manager.generate(prompt, options).await?;
    let mut out = std::io::stdout();
    if args.json {
        let mut answer = super::status::to_json(&info);
        answer["text"] = text.into();
        writeln!(out, "{answer}")?;
    } else {
        writeln!(out, "{text}")?;
    }
    Ok(())
}
