//! An answer on its way to a person or a pipe: reasoning dimmed, calls on lines of their own.

use std::io::Write;

use super::Error;
use super::frames::{Done, Frame, ToolCall};

pub const DIM: &str = "\x1b[2m";
pub const PLAIN: &str = "\x1b[0m";

/// Prints frames and keeps what they add up to.
#[derive(Debug, Default)]
pub struct Shown {
    /// Nothing is printed.
    quiet: bool,
    /// Reasoning is printed, dimmed.
    reasoning_shown: bool,
    pub text: String,
    pub reasoning: String,
    pub calls: Vec<ToolCall>,
    /// The last thing printed is reasoning.
    dimmed: bool,
    /// What was printed ends inside a line.
    in_line: bool,
}

impl Shown {
    pub fn new(quiet: bool, reasoning_shown: bool) -> Self {
        Self { quiet, reasoning_shown, ..Self::default() }
    }

    /// Takes one frame; the last one is given back.
    ///
    /// # Errors
    /// [`Error::Answer`] for an error frame, and those of the output.
    pub fn take(&mut self, frame: Frame, out: &mut impl Write) -> Result<Option<Done>, Error> {
        match frame {
            Frame::Delta { text } => {
                self.text.push_str(&text);
                self.bright(out)?;
                self.print(out, &text)?;
            }
            Frame::Reasoning { text } => {
                self.reasoning.push_str(&text);
                if self.reasoning_shown {
                    if !self.dimmed {
                        self.end_line(out)?;
                        self.dimmed = true;
                    }
                    self.print(out, &format!("{DIM}{text}{PLAIN}"))?;
                }
            }
            Frame::ToolCall(call) => {
                self.bright(out)?;
                self.end_line(out)?;
                let arguments = serde_json::Value::Object(call.arguments.clone());
                self.print(out, &format!("[call] {} {arguments}\n", call.name))?;
                self.calls.push(call);
            }
            Frame::Other => {}
            Frame::Done(done) => {
                self.dimmed = false;
                self.end_line(out)?;
                return Ok(Some(done));
            }
            Frame::Error { name, message } => {
                self.end_line(out)?;
                return Err(Error::Answer { name, message });
            }
        }
        Ok(None)
    }

    /// Ends the reasoning: an empty line between it and what follows.
    fn bright(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        if std::mem::take(&mut self.dimmed) {
            self.end_line(out)?;
            self.print(out, "\n")?;
        }
        Ok(())
    }

    fn end_line(&mut self, out: &mut impl Write) -> std::io::Result<()> {
        if self.in_line { self.print(out, "\n") } else { Ok(()) }
    }

    fn print(&mut self, out: &mut impl Write, text: &str) -> std::io::Result<()> {
        if self.quiet || text.is_empty() {
            return Ok(());
        }
        self.in_line = !text.trim_end_matches(PLAIN).ends_with('\n');
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(quiet: bool, reasoning_shown: bool, lines: &[&str]) -> (String, Shown) {
        let mut shown = Shown::new(quiet, reasoning_shown);
        let mut out = Vec::new();
        for line in lines {
            shown.take(serde_json::from_str(line).unwrap(), &mut out).unwrap();
        }
        (String::from_utf8(out).unwrap(), shown)
    }

    const DONE: &str = r#"{"event":"done","finish_reason":"stop","usage":{"prompt_tokens":1,"cached_tokens":0,
        "completion_tokens":1,"proposed_tokens":0,"accepted_tokens":0},
        "timing":{"queued_ms":0,"first_token_ms":0,"total_ms":0}}"#;

    #[test]
    fn reasoning_is_dimmed_and_apart_from_the_answer() {
        let lines = [
            r#"{"event":"start","prompt_tokens":1}"#,
            r#"{"event":"reasoning","text":"so"}"#,
            r#"{"event":"reasoning","text":" so\n"}"#,
            r#"{"event":"delta","text":"Yes"}"#,
            r#"{"event":"delta","text":"."}"#,
            r#"{"event":"tool_call","id":"1","name":"f","arguments":{"a":1}}"#,
            DONE,
        ];
        let call = "[call] f {\"a\":1}\n";
        for (quiet, reasoning_shown, expected) in [
            (false, true, format!("{DIM}so{PLAIN}{DIM} so\n{PLAIN}\nYes.\n{call}")),
            (false, false, format!("Yes.\n{call}")),
            (true, true, String::new()),
        ] {
            let (out, shown) = shown(quiet, reasoning_shown, &lines);
            assert_eq!(out, expected);
            assert_eq!((shown.text.as_str(), shown.reasoning.as_str()), ("Yes.", "so so\n"));
            assert_eq!(shown.calls.len(), 1);
        }
    }

    #[test]
    fn an_error_ends_the_line_that_it_breaks_off() {
        let mut shown = Shown::new(false, true);
        let mut out = Vec::new();
        for line in [r#"{"event":"delta","text":"Ye"}"#, r#"{"event":"error","name":"N","message":"m"}"#] {
            let taken = shown.take(serde_json::from_str(line).unwrap(), &mut out);
            assert_eq!(taken.is_err(), line.contains("error"), "{line}");
        }
        assert_eq!(out, b"Ye\n");
    }
}
