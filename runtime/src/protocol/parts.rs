//! What a parser gives out, and the white space around markers.

use serde_json::{Map, Value};

/// Most bytes of white space that are held back because a marker may follow.
const SPACE_MAX: usize = 1 << 10;

/// A piece of an answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Part {
    /// For the person.
    Text(String),
    /// What the model thinks before it answers.
    Reasoning(String),
    Call(Call),
}

/// A tool that the model wants called: complete, declared, and with arguments as its schema wants them.
#[derive(Debug, Clone, PartialEq)]
pub struct Call {
    /// Names this call among all others, for the message with its result.
    pub id: String,
    pub name: String,
    pub arguments: Map<String, Value>,
}

/// Collects parts; pieces of one kind that follow each other are one.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: Vec<Part>,
}

impl Parts {
    pub(super) fn text(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Text(last)) => last.push_str(text),
            _ => self.parts.push(Part::Text(text.into())),
        }
    }

    pub(super) fn reasoning(&mut self, text: &str) {
        match self.parts.last_mut() {
            _ if text.is_empty() => {}
            Some(Part::Reasoning(last)) => last.push_str(text),
            _ => self.parts.push(Part::Reasoning(text.into())),
        }
    }

    pub(super) fn call(&mut self, call: Call) {
        self.parts.push(Part::Call(call));
    }

    pub(super) fn take(&mut self) -> Vec<Part> {
        std::mem::take(&mut self.parts)
    }
}

/// Takes white space next to markers for a part of them: `<think>\nso\n</think>\n\nYes` is `so` and `Yes`.
#[derive(Debug, Default)]
pub(super) struct Trim {
    /// A marker was the last thing seen but white space.
    after_marker: bool,
    /// White space that is text unless a marker follows.
    held: String,
}

impl Trim {
    /// What of `text`, and of what was held, is text for certain.
    pub(super) fn push(&mut self, text: &str) -> String {
        let text = if self.after_marker { text.trim_start() } else { text };
        if text.is_empty() {
            return String::new();
        }
        self.after_marker = false;
        self.held.push_str(text);
        let mut certain = self.held.trim_end().len();
        if self.held.len() - certain > SPACE_MAX {
            let most = self.held.len() - SPACE_MAX..;
            certain = most.into_iter().find(|&at| self.held.is_char_boundary(at)).expect("the end is one");
        }
        let rest = self.held.split_off(certain);
        std::mem::replace(&mut self.held, rest)
    }

    pub(super) fn marker(&mut self) {
        self.held.clear();
        self.after_marker = true;
    }

    /// What was held back at the end.
    pub(super) fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}
