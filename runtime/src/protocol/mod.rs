//! What a model's output means: text for the person, reasoning, tool calls.
//!
//! * Which format an answer has is found in the chat template and the vocabulary ([`Protocol::declared`]), never in a
//!   model's name. A model that declares none writes text.
//! * A marker that is a token of the vocabulary is one only where the model emitted that token; the same text typed
//!   is text. White space next to a marker belongs to it.
//! * A call is given out when it is complete, of a declared tool, and fits the tool's schema. Whatever else looked
//!   like one is text: nothing is repaired, cut or made up.
//! * However a text is cut into pieces, the parts are the same. What is held back is bounded (`BODY_MAX`).
//!
//! A new format is a [`Syntax`] with a file that reads its calls, and its markers in `declared.rs`.
//!
//! ```
//! use muse_runtime::protocol::{AddedToken, Part, Protocol};
//!
//! let vocabulary = [("<think>", 1), ("</think>", 2)];
//! let token = |text: &str| {
//!     let (_, id) = vocabulary.iter().find(|(token, _)| *token == text)?;
//!     Some(AddedToken { id: *id, special: false })
//! };
//! let protocol = Protocol::declared("<think>", token);
//! let mut parser = protocol.parser(None, 0);
//! parser.token(1);
//! parser.text("2 and 2");
//! parser.token(2);
//! parser.text("Four.");
//! parser.finish(true);
//! assert_eq!(parser.take(), [Part::Reasoning("2 and 2".into()), Part::Text("Four.".into())]);
//! ```

mod atem;
mod body;
mod braces;
mod channels;
mod declared;
mod function_tags;
mod json_call;
mod key_values;
mod marker;
mod parts;
mod reader;
mod tagged;
#[cfg(test)]
mod tests;
mod tools;
mod unique;

use serde_json::{Map, Value};

use self::channels::Channels;
use self::marker::{Kind, Marker};
use self::parts::Parts;
use self::tagged::{Tagged, Tags};
use self::tools::Tools;

pub use self::marker::AddedToken;
pub use self::parts::{Call, Part};
pub(crate) use self::reader::Reader;

/// How calls are written between their markers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    None,
    /// [`json_call::one`]
    Json,
    /// [`json_call::several`], also without a marker.
    BareJson,
    FunctionTags,
    KeyValues,
    Braces,
}

/// How a model's answers are written.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Protocol {
    format: Format,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Format {
    /// All of it is text.
    #[default]
    Plain,
    Tagged(Tags),
    Channels(Vec<Marker>),
}

impl Protocol {
    fn markers(&self) -> &[Marker] {
        match &self.format {
            Format::Plain => &[],
            Format::Tagged(tags) => &tags.markers,
            Format::Channels(markers) => markers,
        }
    }

    fn marker(&self, id: u32) -> Option<Marker> {
        self.markers().iter().copied().find(|marker| marker.token.is_some_and(|token| token.id == id))
    }

    /// Reads one answer. `tools` are what the template was given; `seed` makes the ids of calls.
    pub fn parser(&self, tools: Option<&Value>, seed: u64) -> Parser {
        let (tools, ids) = (Tools::new(tools), Ids { seed, given: 0 });
        let state = match &self.format {
            Format::Plain => State::Plain(Parts::default()),
            Format::Tagged(tags) => State::Tagged(Box::new(Tagged::new(tags.clone(), tools, ids))),
            Format::Channels(_) => State::Channels(Box::new(Channels::new(tools, ids))),
        };
        Parser { protocol: self.clone(), state }
    }
}

/// Takes an answer as it comes; [`take`](Self::take) gives its parts out.
#[derive(Debug)]
pub struct Parser {
    protocol: Protocol,
    state: State,
}

#[derive(Debug)]
enum State {
    Plain(Parts),
    Tagged(Box<Tagged>),
    Channels(Box<Channels>),
}

impl Parser {
    /// Text that the model wrote.
    pub fn text(&mut self, text: &str) {
        match &mut self.state {
            State::Plain(parts) => parts.text(text),
            State::Tagged(tagged) => tagged.text(text),
            State::Channels(channels) => channels.text(text),
        }
    }

    /// A token that the model emitted. False where it is no marker: then its text, if any, goes to
    /// [`text`](Self::text).
    pub fn token(&mut self, id: u32) -> bool {
        let Some(marker) = self.protocol.marker(id) else { return false };
        match &mut self.state {
            State::Plain(_) => {}
            State::Tagged(tagged) => tagged.token(marker),
            State::Channels(channels) => channels.token(marker),
        }
        true
    }

    /// The answer is over; `complete` where the model ended it, not a limit.
    pub fn finish(&mut self, complete: bool) {
        match &mut self.state {
            State::Plain(_) => {}
            State::Tagged(tagged) => tagged.finish(complete),
            State::Channels(channels) => channels.finish(complete),
        }
    }

    /// The parts since the last time.
    pub fn take(&mut self) -> Vec<Part> {
        match &mut self.state {
            State::Plain(parts) => parts.take(),
            State::Tagged(tagged) => tagged.parts.take(),
            State::Channels(channels) => channels.parts.take(),
        }
    }

    /// The model has begun a turn that is not its own: what follows is not the answer.
    pub fn ended(&self) -> bool {
        match &self.state {
            State::Plain(_) => false,
            State::Tagged(tagged) => tagged.ended,
            State::Channels(channels) => channels.ended,
        }
    }

    /// Whether what comes next is text, unless it is a marker.
    fn is_text(&self) -> bool {
        match &self.state {
            State::Plain(_) => true,
            State::Tagged(tagged) => tagged.is_text(),
            State::Channels(channels) => channels.is_text(),
        }
    }

    /// The token that begins reasoning, before there is any.
    fn reasoning_token(&self) -> Option<u32> {
        match &self.state {
            State::Tagged(tagged) => tagged.reasoning_token(),
            State::Plain(_) | State::Channels(_) => None,
        }
    }

    /// Calls so far.
    pub fn calls(&self) -> u32 {
        match &self.state {
            State::Plain(_) => 0,
            State::Tagged(tagged) => tagged.calls,
            State::Channels(channels) => channels.calls,
        }
    }
}

/// Names calls so that no two of a conversation are the same.
#[derive(Debug)]
struct Ids {
    seed: u64,
    given: u64,
}

impl Ids {
    fn call(&mut self, name: String, arguments: Map<String, Value>) -> Call {
        self.given += 1;
        // An odd factor and a sum are one-to-one: one seed makes 2^64 different ids.
        let id = self.seed.wrapping_add(self.given.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        Call { id: format!("call_{id:016x}"), name, arguments }
    }
}
