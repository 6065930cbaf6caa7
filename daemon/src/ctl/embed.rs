//! `musectl embed`: vectors of texts, for a search of one's own.

use std::io::{IsTerminal, Write};

use serde_json::json;
use zbus::Variant;

use super::Error;
use super::args::Embed;
use super::client::{self, ManagerProxy, Options};

/// Texts of one call: few enough that it ends soon, and others come between.
const TEXTS: usize = 32;

pub async fn run(session: bool, args: Embed) -> Result<(), Error> {
    let manager = client::manager(session).await?;
    if !args.texts.is_empty() {
        return write(&manager, &args, &args.texts).await;
    }
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        eprintln!("Type a text a line, then Ctrl-D:");
    }
    let (mut lines, mut any) = (Vec::new(), false);
    for line in stdin.lines() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        any = true;
        lines.push(line);
        if lines.len() == TEXTS {
            write(&manager, &args, &std::mem::take(&mut lines)).await?;
        }
    }
    match any {
        true => write(&manager, &args, &lines).await,
        false => Err(Error::NoTexts),
    }
}

/// Embeds `texts` and writes a line for each.
async fn write(manager: &ManagerProxy<'_>, args: &Embed, texts: &[String]) -> Result<(), Error> {
    for texts in texts.chunks(TEXTS) {
        let (vectors, _) = manager.embed(&args.model, texts, options(args)).await?;
        let mut out = std::io::stdout().lock();
        for (text, vector) in texts.iter().zip(vectors) {
            // The model's numbers are f32: what is written is the shortest that reads back as one.
            let numbers: Vec<f32> = vector.into_iter().map(|x| x as f32).collect();
            if args.json {
                writeln!(out, "{}", json!({ "text": text, "embedding": numbers }))?;
            } else {
                let numbers: Vec<String> = numbers.iter().map(f32::to_string).collect();
                writeln!(out, "{}", numbers.join(" "))?;
            }
        }
    }
    Ok(())
}

fn options(args: &Embed) -> Options {
    let given = [
        ("prompt", args.prompt.clone().map(Variant::from)),
        ("truncate", args.truncate.then(|| Variant::from(true))),
        ("priority", args.background.then(|| Variant::from("background"))),
    ];
    given.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}
