//! `musectl generate`: one prompt, its answer as it comes.

use std::io::{IsTerminal, Read, Write};

use serde_json::json;
use zbus::Variant;

use super::Error;
use super::args::Generate;
use super::client::{self, Message, message};
use super::frames::Frames;
use super::show::Shown;

pub async fn run(session: bool, args: Generate) -> Result<(), Error> {
    if let Some(path) = &args.messages {
        let messages = client::read_messages(path)?;
        return chat(session, &args, &messages).await;
    }
    let prompt = match &args.prompt {
        Some(prompt) if prompt != "-" => prompt.clone(),
        _ => read_stdin()?,
    };
    if prompt.trim().is_empty() {
        return Err(Error::NoPrompt);
    }
    if args.raw {
        return raw(session, &args, &prompt).await;
    }
    let system = args.answer.system.as_deref().map(|text| message("system", text));
    let asked = client::question(&prompt, &args.answer.media)?;
    let messages: Vec<_> = system.into_iter().chain([asked]).collect();
    chat(session, &args, &messages).await
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
async fn chat(session: bool, args: &Generate, messages: &[Message]) -> Result<(), Error> {
    let options = args.answer.options()?;
    let proxy = client::open(session, &args.answer.model).await?;
    let mut frames = Frames::new(proxy.respond(messages, options).await?)?;
    let mut out = std::io::stdout();
    // A pipe gets the answer alone.
    let mut shown = Shown::new(args.json, out.is_terminal() && !args.answer.hide_reasoning);
    let done = loop {
        if let Some(done) = shown.take(frames.next().await?, &mut out)? {
            break done;
        }
    };
    if args.json {
        let mut answer = json!({
            "model": proxy.model().await?,
            "text": shown.text,
            "finish_reason": done.finish_reason,
            "usage": done.usage,
            "timing": done.timing,
        });
        if !shown.reasoning.is_empty() && !args.answer.hide_reasoning {
            answer["reasoning"] = shown.reasoning.into();
        }
        if !shown.calls.is_empty() {
            answer["tool_calls"] = json!(shown.calls);
        }
        writeln!(out, "{answer}")?;
    } else if shown.text.is_empty() && shown.calls.is_empty() {
        writeln!(out)?;
    }
    Ok(())
}

/// Through `Manager.Generate`, the one call that takes text without a template.
async fn raw(session: bool, args: &Generate, prompt: &str) -> Result<(), Error> {
    let manager = client::manager(session).await?;
    let mut options = args.answer.options()?;
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
