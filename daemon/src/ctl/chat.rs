//! `musectl chat`: a conversation. The whole of it is sent with each turn; the service computes what is new.

use std::io::{IsTerminal, Write};

use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;
use tokio::runtime::Runtime;

use super::Error;
use super::args::Chat;
use super::client::{self, Options, SessionProxy, message};
use super::frames::{Done, Frame, Frames};

const HELP: &str = "/reset  forget the conversation\n/quit   leave (or Ctrl-D)\n/help   this list\n\
                    While it answers, Ctrl-C stops the answer.";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

pub fn run(runtime: &Runtime, session: bool, args: &Chat) -> Result<(), Error> {
    let proxy = runtime.block_on(client::open(session, &args.answer.model))?;
    let person = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    if person {
        let model = runtime.block_on(proxy.model())?;
        println!("{model}. /help lists the commands.");
    }
    // The history is kept in memory only: a conversation is nobody else's business.
    let mut editor = DefaultEditor::new()?;
    let system = args.answer.system.as_deref();
    let mut conversation = start(system);
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
                conversation = start(system);
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
        conversation.push(message("user", &line));
        let turn =
            Turn { proxy: &proxy, conversation: &conversation, options: args.answer.options(), person };
        match runtime.block_on(turn.run()) {
            Ok(text) => conversation.push(message("assistant", &text)),
            // The person can do something about these: the turn is taken back and the chat goes on.
            Err(error @ (Error::Service { .. } | Error::Answer { .. })) => {
                conversation.pop();
                eprintln!("{error}");
                let gone = matches!(&error, Error::Service { name, .. } if name == "SessionClosed" || name == "UnknownObject");
                if gone || !person {
                    return Err(error);
                }
            }
            Err(error) => return Err(error),
        }
    }
    runtime.block_on(proxy.close())?;
    Ok(())
}

fn start(system: Option<&str>) -> Vec<Options> {
    system.into_iter().map(|text| message("system", text)).collect()
}

struct Turn<'a> {
    proxy: &'a SessionProxy<'static>,
    conversation: &'a [Options],
    options: Options,
    person: bool,
}

impl Turn<'_> {
    /// Prints the answer as it comes and returns it, as far as it came.
    async fn run(self) -> Result<String, Error> {
        let fd = self.proxy.respond(self.conversation, self.options).await?;
        let mut frames = Frames::new(fd)?;
        let mut out = std::io::stdout();
        let (mut text, mut thinking, mut cancelled) = (String::new(), false, false);
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
            match frame {
                Frame::Delta { text: delta } => {
                    if std::mem::take(&mut thinking) {
                        writeln!(out, "{}", if self.person { PLAIN } else { "" })?;
                    }
                    write!(out, "{delta}")?;
                    out.flush()?;
                    text.push_str(&delta);
                }
                Frame::Reasoning { text: delta } if self.person => {
                    let before = if std::mem::replace(&mut thinking, true) { "" } else { DIM };
                    write!(out, "{before}{delta}")?;
                    out.flush()?;
                }
                Frame::Reasoning { .. } | Frame::Other => {}
                Frame::Done(done) => break done,
                Frame::Error { name, message } => {
                    writeln!(out)?;
                    return Err(Error::Answer { name, message });
                }
            }
        };
        writeln!(out)?;
        if self.person {
            writeln!(out, "{DIM}{}{PLAIN}", footer(&done))?;
        }
        Ok(text)
    }
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
        "stop" => {}
        "length" => text += ", cut at the length limit",
        other => text += &format!(", {other}"),
    }
    text
}
