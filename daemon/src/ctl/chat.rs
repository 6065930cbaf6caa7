//! `musectl chat`: a conversation. The whole of it is sent with each turn; the service computes what is new.

use std::io::{IsTerminal, Write};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio::runtime::Runtime;

use super::Error;
use super::args::{Answer, Chat, Media};
use super::client::{self, Message, SessionProxy, field, message};
use super::frames::{Done, Frames, ToolCall};
use super::show::{DIM, PLAIN, Shown};

const HELP: &str = "/reset  forget the conversation\n/quit   leave (or Ctrl-D)\n/help   this list\n\
                    While it answers, Ctrl-C stops the answer.";

pub fn run(runtime: &Runtime, session: bool, args: &Chat) -> Result<(), Error> {
    let proxy = runtime.block_on(client::open(session, &args.answer.model))?;
    let person = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if person {
        let model = runtime.block_on(proxy.model())?;
        println!("{model}. /help lists the commands.");
    }
    // The history is kept in memory only: a conversation is nobody else's business.
    let mut editor = DefaultEditor::new()?;
    let mut talk = Talk { runtime, proxy: &proxy, args: &args.answer, person, conversation: Vec::new() };
    talk.reset();
    loop {
        let line = match editor.readline(if person { "> " } else { "" }) {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                println!("/quit or Ctrl-D leaves.");
                continue;
            }
            Err(ReadlineError::Eof) => break,
            Err(error) => return Err(error.into()),
        };
        match line.trim() {
            "" => continue,
            "/quit" | "/exit" => break,
            "/reset" => {
                talk.reset();
                println!("The conversation is forgotten.");
                continue;
            }
            "/help" => {
                println!("{HELP}");
                continue;
            }
            command if command.starts_with('/') && !command.contains(' ') => {
                println!("There is no command {command}; /help lists them.");
                continue;
            }
            _ => {}
        }
        let _ = editor.add_history_entry(&line);
        talk.ask(&line, &mut editor)?;
    }
    runtime.block_on(proxy.close())?;
    Ok(())
}

/// A conversation with one model.
struct Talk<'a> {
    runtime: &'a Runtime,
    proxy: &'a SessionProxy<'static>,
    args: &'a Answer,
    person: bool,
    conversation: Vec<Message>,
}

impl Talk<'_> {
    fn reset(&mut self) {
        let system = self.args.system.as_deref();
        self.conversation = system.into_iter().map(|text| message("system", text)).collect();
    }

    /// Says `line` and prints what is answered, with the results of the calls that it takes.
    fn ask(&mut self, line: &str, editor: &mut DefaultEditor) -> Result<(), Error> {
        let before = self.conversation.len();
        // Images, videos and sounds go with the first thing said, and stay in the conversation.
        let shown = ["images", "videos", "audio"];
        let first = !self.conversation.iter().any(|said| shown.iter().any(|key| said.contains_key(*key)));
        let media = if first { &self.args.media } else { &Media::default() };
        self.conversation.push(client::question(line, media)?);
        loop {
            let (answer, done) = match self.runtime.block_on(self.answer()) {
                Ok(answer) => answer,
                // The person can do something about these: the turn is taken back and the chat goes on.
                Err(error @ (Error::Service { .. } | Error::Answer { .. }))
                    if self.person && !is_gone(&error) =>
                {
                    self.conversation.truncate(before);
                    eprintln!("{error}");
                    return Ok(());
                }
                Err(error) => return Err(error),
            };
            let calls = if done.finish_reason == "tool_call" { &answer.calls[..] } else { &[] };
            self.conversation.push(said(&answer, calls));
            if calls.is_empty() {
                return Ok(());
            }
            match results(editor, calls, self.person) {
                Ok(results) => self.conversation.extend(results),
                // Without its results the model cannot go on.
                Err(ReadlineError::Interrupted | ReadlineError::Eof) => {
                    self.conversation.truncate(before);
                    println!("The calls have no results: the turn is taken back.");
                    return Ok(());
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Prints the answer as it comes and returns it, as far as it came.
    async fn answer(&self) -> Result<(Shown, Done), Error> {
        let fd = self.proxy.respond(&self.conversation, self.args.options()?).await?;
        let mut frames = Frames::new(fd)?;
        let mut out = std::io::stdout();
        let mut shown = Shown::new(false, self.person && !self.args.hide_reasoning);
        let mut cancelled = false;
        let interrupt = tokio::signal::ctrl_c();
        tokio::pin!(interrupt);
        let done = loop {
            let frame = tokio::select! {
                frame = frames.next() => frame?,
                _ = &mut interrupt, if !cancelled => {
                    cancelled = true;
                    self.proxy.cancel().await?;
                    continue;
                }
            };
            if let Some(done) = shown.take(frame, &mut out)? {
                break done;
            }
        };
        if self.person {
            writeln!(out, "{DIM}{}{PLAIN}", footer(&done))?;
        }
        Ok((shown, done))
    }
}

/// The session does not come back.
fn is_gone(error: &Error) -> bool {
    matches!(error, Error::Service { name, .. } if name == "SessionClosed" || name == "UnknownObject")
}

/// The assistant's message in the conversation.
fn said(answer: &Shown, calls: &[ToolCall]) -> Message {
    let mut said = message("assistant", &answer.text);
    if !answer.reasoning.is_empty() {
        said.extend([field("reasoning", &answer.reasoning)]);
    }
    if !calls.is_empty() {
        said.extend([field("tool_calls", serde_json::json!(calls).to_string())]);
    }
    said
}

/// Asks for the result of each call.
fn results(
    editor: &mut DefaultEditor,
    calls: &[ToolCall],
    person: bool,
) -> Result<Vec<Message>, ReadlineError> {
    let result = |call: &ToolCall| {
        let prompt = if person { format!("result of {}> ", call.name) } else { String::new() };
        let mut result = message("tool", &editor.readline(&prompt)?);
        result.extend([field("tool_call_id", &call.id), field("name", &call.name)]);
        Ok(result)
    };
    calls.iter().map(result).collect()
}

/// `120 tokens, 41.3 tokens/s, first after 0.21 s`
fn footer(done: &Done) -> String {
    let Done { finish_reason, usage, timing } = done;
    let seconds = (timing.total_ms - timing.first_token_ms) / 1000.0;
    let mut text = format!("{} tokens", usage.completion_tokens);
    if usage.completion_tokens > 1 && seconds > 0.0 {
        text += &format!(", {:.1} tokens/s", f64::from(usage.completion_tokens - 1) / seconds);
    }
    text += &format!(", first after {:.2} s", timing.first_token_ms / 1000.0);
    match finish_reason.as_str() {
        "stop" | "tool_call" => {}
        "length" => text += ", cut at the length limit",
        other => text += &format!(", {other}"),
    }
    text
}
