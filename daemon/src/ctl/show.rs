//! An answer on its way to a person or a pipe: reasoning dimmed, calls on lines of their own.

use std::io::{Stdout, Write};

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
    pub fn take(&mut self, frame: Frame, out: &mut Stdout) -> Result<Option<Done>, Error> {
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
    fn bright(&mut self, out: &mut Stdout) -> std::io::Result<()> {
        if std::mem::take(&mut self.dimmed) {
            self.end_line(out)?;
            self.print(out, "\n")?;
        }
        Ok(())
    }

    fn end_line(&mut self, out: &mut Stdout) -> std::io::Result<()> {
        if self.in_line { self.print(out, "\n") } else { Ok(()) }
    }

    fn print(&mut self, out: &mut Stdout, text: &str) -> std::io::Result<()> {
        if self.quiet || text.is_empty() {
            return Ok(());
        }
        self.in_line = !text.trim_end_matches(PLAIN).ends_with('\n');
        out.write_all(text.as_bytes())?;
        out.flush()
    }
}
