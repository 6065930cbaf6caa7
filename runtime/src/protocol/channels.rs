//! Answers in messages to somebody, as Muse models write them:
//! `<|start|>assistant to=self<|message|>reasoning<|eom|><|start|>assistant to=user<|message|>answer<|eot|>`.
//! A message to a tool holds its calls; see [`atem`](super::atem).

use super::body::Body;
use super::marker::{Kind, Marker};
use super::parts::Parts;
use super::tools::Tools;
use super::{Ids, atem};

/// Most bytes of `assistant to=weather.get`; a longer header is text.
const HEADER_MAX: usize = 512;
const ROLE: &str = "assistant";

/// Who a message is to.
#[derive(Debug)]
enum State {
    /// Not known yet: the header so far.
    Header(String),
    User,
    Oneself,
    Tool {
        recipient: String,
        body: Body,
    },
    /// After a message.
    Between,
}

#[derive(Debug)]
pub(super) struct Channels {
    tools: Tools,
    ids: Ids,
    state: State,
    pub(super) parts: Parts,
    pub(super) calls: u32,
    pub(super) ended: bool,
}

impl Channels {
    pub(super) fn new(tools: Tools, ids: Ids) -> Self {
        let state = State::Header(String::new());
        Self { tools, ids, state, parts: Parts::default(), calls: 0, ended: false }
    }

    pub(super) fn text(&mut self, text: &str) {
        match &mut self.state {
            State::Header(header) => {
                header.push_str(text);
                // The prompt has written the role: what cannot be a recipient is the answer itself.
                let said = header.strip_prefix(ROLE);
                if said.is_some_and(|said| !may_address(said)) || header.len() > HEADER_MAX {
                    self.parts.text(said.unwrap_or(header).trim_start());
                    self.state = State::User;
                }
            }
            State::User => self.parts.text(text),
            State::Oneself => self.parts.reasoning(text),
            State::Tool { body, .. } => {
                body.push(text);
                if body.is_full() {
                    self.parts.text(body.text());
                    self.state = State::User;
                }
            }
            State::Between => {
                let text = text.trim_start();
                if !text.is_empty() {
                    self.parts.text(text);
                    self.state = State::User;
                }
            }
        }
    }

    pub(super) fn token(&mut self, marker: Marker) {
        match (&self.state, marker.kind) {
            (State::Header(header), Kind::Message) => {
                match address(header) {
                    Some(None | Some("user")) => self.state = State::User,
                    Some(Some("self")) => self.state = State::Oneself,
                    Some(Some(tool)) if self.tools.resolve(tool).is_some() => {
                        self.state = State::Tool { recipient: tool.to_owned(), body: Body::default() };
                    }
                    Some(Some(_)) => self.state = State::User,
                    // Somebody else's turn.
                    None => {
                        self.ended = true;
                        self.state = State::Between;
                    }
                }
            }
            (State::Tool { body, .. }, Kind::Message) => {
                self.parts.text(body.text());
                self.state = State::User;
            }
            (_, Kind::Start) => {
                self.message_ended(true);
                self.state = State::Header(String::new());
            }
            (_, Kind::MessageEnd) => self.message_ended(true),
            (_, Kind::TurnEnd) => {
                self.message_ended(true);
                self.ended = true;
            }
            _ => {}
        }
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.state, State::User)
    }

    /// `complete` where the model ended the answer itself.
    pub(super) fn finish(&mut self, complete: bool) {
        self.message_ended(complete);
    }

    fn message_ended(&mut self, complete: bool) {
        match std::mem::replace(&mut self.state, State::Between) {
            State::Header(header) if address(&header).is_none() => self.parts.text(&header),
            State::Tool { recipient, body } => {
                let calls = complete.then(|| atem::calls(body.scan(&[]), &recipient, &self.tools)).flatten();
                let Some(calls) = calls else { return self.parts.text(body.text()) };
                for (name, arguments) in calls {
                    self.calls += 1;
                    self.parts.call(self.ids.call(name, arguments));
                }
            }
            State::Header(_) | State::User | State::Oneself | State::Between => {}
        }
    }
}

/// Who the header of an assistant's message names; nobody is the user. `None` where it is not the assistant's.
fn address(header: &str) -> Option<Option<&str>> {
    // The space between is not always written.
    let mut words = header.strip_prefix(ROLE).unwrap_or(header).split_whitespace();
    match words.next() {
        None => Some(None),
        Some(word) if words.next().is_none() => Some(Some(word.strip_prefix("to=")?)),
        Some(_) => None,
    }
}

/// Whether more text can make a recipient of what follows the role.
fn may_address(said: &str) -> bool {
    let word = said.trim_start();
    "to=".starts_with(word) || (word.starts_with("to=") && !word.trim_end().contains(char::is_whitespace))
}
