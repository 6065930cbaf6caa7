//! Tokens to the parts of an answer.

use serde_json::Value;

use super::{Format, Kind, Marker, Parser, Part, Protocol, State};
use crate::{Text, TextDecoder};

/// Tokens at the end of a prompt that are read to see where the answer starts.
const TAIL: usize = 64;

/// Decodes and parses one answer.
pub(crate) struct Reader {
    decoder: Box<dyn TextDecoder>,
    parser: Parser,
    /// Nothing is a marker any more.
    all_text: bool,
}

/// A piece of a prompt's end.
enum Piece {
    Text(String),
    Marker(Marker),
}

impl Reader {
    /// For raw text that goes on.
    pub(crate) fn plain(text: &dyn Text) -> Self {
        Self { decoder: text.decoder(true), parser: Protocol::default().parser(None, 0), all_text: false }
    }

    /// For the answer to a rendered conversation.
    pub(crate) fn chat(text: &dyn Text, prompt: &[u32], tools: Option<&Value>, seed: u64) -> Self {
        let protocol = text.protocol();
        let mut parser = protocol.parser(tools, seed);
        parser.resume(&tail(text, &protocol, prompt));
        Self { decoder: text.decoder(false), parser, all_text: false }
    }

    /// The parts that `id` completes.
    pub(crate) fn push(&mut self, id: u32) -> Vec<Part> {
        if self.all_text {
            return self.decoded(id);
        }
        if self.parser.protocol.marker(id).is_some() {
            // Bytes of a character that never came to its end.
            let rest = self.decoder.finish();
            self.parser.text(&rest);
            self.parser.token(id);
        } else {
            let text = self.decoder.push(id);
            self.parser.text(&text);
        }
        self.parser.take()
    }

    /// What is left; `complete` where the model ended the answer itself.
    pub(crate) fn finish(&mut self, complete: bool) -> Vec<Part> {
        let rest = self.decoder.finish();
        if self.all_text {
            return if rest.is_empty() { Vec::new() } else { vec![Part::Text(rest)] };
        }
        self.parser.text(&rest);
        self.parser.finish(complete);
        self.parser.take()
    }

    /// Whether what comes next is text for the person.
    pub(crate) fn is_text(&self) -> bool {
        self.all_text || self.parser.is_text()
    }

    /// From here on every token is text, markers written out.
    pub(crate) fn all_is_text(&mut self) {
        self.all_text = true;
    }

    pub(crate) fn is_all_text(&self) -> bool {
        self.all_text
    }

    /// The token that begins reasoning, where it may come next.
    pub(crate) fn reasoning_token(&self) -> Option<u32> {
        if self.all_text { None } else { self.parser.reasoning_token() }
    }

    fn decoded(&mut self, id: u32) -> Vec<Part> {
        let text = self.decoder.push(id);
        if text.is_empty() { Vec::new() } else { vec![Part::Text(text)] }
    }

    /// See [`Parser::ended`].
    pub(crate) fn ended(&self) -> bool {
        self.parser.ended()
    }

    pub(crate) fn has_calls(&self) -> bool {
        self.parser.calls() > 0
    }
}

/// The last tokens of a prompt, its markers told from text.
fn tail(text: &dyn Text, protocol: &Protocol, prompt: &[u32]) -> Vec<Piece> {
    let mut decoder = text.decoder(true);
    let mut pieces = Vec::new();
    for &id in &prompt[prompt.len().saturating_sub(TAIL)..] {
        match protocol.marker(id) {
            Some(marker) => {
                pieces.push(Piece::Text(decoder.finish()));
                pieces.push(Piece::Marker(marker));
            }
            None => pieces.push(Piece::Text(decoder.push(id))),
        }
    }
    pieces.push(Piece::Text(decoder.finish()));
    pieces
}

impl Parser {
    /// Starts where the prompt's end leaves the model: the template may have opened its reasoning.
    fn resume(&mut self, tail: &[Piece]) {
        let marked = |kind: Kind| {
            let marker = |piece: &Piece| matches!(piece, Piece::Marker(marker) if marker.kind == kind);
            tail.iter().rposition(marker).map(|at| &tail[at + 1..])
        };
        let written = |pieces: &[Piece]| -> String {
            pieces
                .iter()
                .filter_map(|piece| if let Piece::Text(text) = piece { Some(text.as_str()) } else { None })
                .collect()
        };
        match (&mut self.state, &self.protocol.format) {
            (State::Channels(channels), _) => {
                for piece in marked(Kind::Start).unwrap_or_default() {
                    match piece {
                        Piece::Text(text) => channels.text(text),
                        Piece::Marker(marker) => channels.token(*marker),
                    }
                }
                // What the prompt says is not part of the answer.
                channels.parts.take();
            }
            (State::Tagged(tagged), Format::Tagged(tags)) => {
                let open = tags.markers.iter().find(|marker| marker.kind == Kind::ReasoningOpen);
                let opened = open.is_some_and(|open| match open.token {
                    // Nothing after it but a channel's name.
                    Some(_) => marked(Kind::ReasoningOpen).is_some_and(|after| {
                        let only_text = after.iter().all(|piece| matches!(piece, Piece::Text(_)));
                        let after = written(after);
                        only_text && ["", tags.channel.trim()].contains(&after.trim())
                    }),
                    None => written(tail).trim_end().ends_with(open.text),
                });
                if opened {
                    tagged.start_in_reasoning();
                }
            }
            _ => {}
        }
    }
}
