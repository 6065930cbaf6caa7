//! Answers with tags around what is not for the person: `<think>..</think>`, `<tool_call>..</tool_call>`, Gemma's
//! channel, Llama's bare JSON. The inside of a call is read when it is complete; what is no call is text.

use super::body::Body;
use super::marker::{Kind, Marker};
use super::parts::{Parts, Trim};
use super::tools::Tools;
use super::{Ids, Syntax, braces, function_tags, json_call, key_values};

/// What the format of an answer is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tags {
    pub(super) markers: Vec<Marker>,
    pub(super) syntax: Syntax,
    /// The name on the first line of reasoning, which is not part of it.
    pub(super) channel: &'static str,
}

#[derive(Debug)]
enum State {
    Text,
    /// `name` is what is left to read of the channel's name.
    Reasoning {
        name: &'static str,
    },
    /// In a call. `bare` has no marker in front.
    Call {
        body: Body,
        bare: bool,
    },
    /// In a call that nobody declared or that is too long: text up to its end.
    NoCall,
}

#[derive(Debug)]
pub(super) struct Tagged {
    tags: Tags,
    tools: Tools,
    ids: Ids,
    state: State,
    /// Typed text that may be the start of a marker that is not a token.
    held: String,
    trim: Trim,
    /// Nothing was shown yet but white space and reasoning.
    fresh: bool,
    /// There was reasoning.
    reasoned: bool,
    pub(super) parts: Parts,
    pub(super) calls: u32,
    pub(super) ended: bool,
}

impl Tagged {
    pub(super) fn new(tags: Tags, tools: Tools, ids: Ids) -> Self {
        Self {
            tags,
            tools,
            ids,
            state: State::Text,
            held: String::new(),
            trim: Trim::default(),
            fresh: true,
            reasoned: false,
            parts: Parts::default(),
            calls: 0,
            ended: false,
        }
    }

    /// The prompt has opened the reasoning.
    pub(super) fn start_in_reasoning(&mut self) {
        self.trim.marker();
        self.reasoned = true;
        self.state = State::Reasoning { name: "" };
    }

    pub(super) fn text(&mut self, text: &str) {
        self.held.push_str(text);
        while let Some((start, marker)) = self.first_literal() {
            let after = self.held.split_off(start + marker.text.len());
            let mut before = std::mem::replace(&mut self.held, after);
            before.truncate(start);
            self.show(&before);
            self.meet(marker);
        }
        let rest = self.held.split_off(self.undecided());
        let certain = std::mem::replace(&mut self.held, rest);
        self.show(&certain);
    }

    pub(super) fn token(&mut self, marker: Marker) {
        self.release();
        self.meet(marker);
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.state, State::Text)
    }

    pub(super) fn reasoning_token(&self) -> Option<u32> {
        let open = self.tags.markers.iter().find(|marker| marker.kind == Kind::ReasoningOpen);
        let first = self.is_text() && self.fresh && !self.reasoned;
        open.filter(|_| first).and_then(|marker| Some(marker.token?.id))
    }

    /// `complete` where the model ended the answer itself, which ends a call without an end marker.
    pub(super) fn finish(&mut self, complete: bool) {
        self.release();
        match std::mem::replace(&mut self.state, State::Text) {
            State::Call { body, bare } if complete && self.tags.syntax == Syntax::BareJson => {
                self.close(body, bare);
            }
            State::Call { body, .. } => self.plain(&body.shown()),
            State::Reasoning { .. } => {
                let rest = self.trim.finish();
                self.parts.reasoning(&rest);
            }
            State::Text | State::NoCall => {}
        }
        let rest = self.trim.finish();
        self.parts.text(&rest);
    }

    /// Markers that are not tokens and mean something here.
    fn literals(&self) -> impl Iterator<Item = Marker> {
        let fresh = self.fresh;
        let kinds: &[Kind] = match self.state {
            State::Text if fresh => &[Kind::ReasoningOpen, Kind::CallOpen],
            State::Text => &[Kind::CallOpen],
            State::Reasoning { .. } => &[Kind::ReasoningClose],
            State::Call { .. } | State::NoCall => &[Kind::CallClose],
        };
        self.tags.markers.iter().copied().filter(move |m| m.token.is_none() && kinds.contains(&m.kind))
    }

    /// No literal begins inside another, so the one that starts first is the one that is complete first.
    fn first_literal(&self) -> Option<(usize, Marker)> {
        let found = self.literals().filter_map(|marker| {
            let start = self.held.find(marker.text)?;
            // Reasoning comes first: typed after other text, its marker is text.
            let in_place = marker.kind != Kind::ReasoningOpen || self.held[..start].trim().is_empty();
            in_place.then_some((start, marker))
        });
        found.min_by_key(|(start, _)| *start)
    }

    /// Where the longest end of `held` starts that may become a literal.
    fn undecided(&self) -> usize {
        let Some(longest) = self.literals().map(|marker| marker.text.len()).max() else {
            return self.held.len();
        };
        let from = self.held.len().saturating_sub(longest);
        (from..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| self.literals().any(|marker| marker.text.starts_with(&self.held[at..])))
            .unwrap_or(self.held.len())
    }

    /// What was held back is text after all.
    fn release(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.show(&held);
    }

    /// Text in the present state.
    fn show(&mut self, text: &str) {
        match &mut self.state {
            State::Text => self.show_text(text),
            State::NoCall => self.plain(text),
            State::Reasoning { name } => {
                let mut text = text;
                while let Some(c) = name.chars().next()
                    && let Some(rest) = text.strip_prefix(c)
                {
                    (text, *name) = (rest, &name[c.len_utf8()..]);
                }
                if !text.is_empty() {
                    self.another_channel();
                    let shown = self.trim.push(text);
                    self.parts.reasoning(&shown);
                }
            }
            State::Call { body, bare } => {
                body.push(text);
                let no_call = *bare && !json_call::may_start(body.text());
                if no_call || body.is_full() {
                    let (body, bare) = (std::mem::take(body), *bare);
                    self.state = if bare { State::Text } else { State::NoCall };
                    self.plain(&body.shown());
                }
            }
        }
    }

    /// What was read of the channel's name, where it is not the name after all.
    fn another_channel(&mut self) {
        if let State::Reasoning { name } = &mut self.state
            && !name.is_empty()
        {
            let read = self.tags.channel.len() - name.len();
            *name = "";
            let shown = self.trim.push(&self.tags.channel[..read]);
            self.parts.reasoning(&shown);
        }
    }

    fn show_text(&mut self, text: &str) {
        let bare = self.fresh && self.tags.syntax == Syntax::BareJson && !self.tools.is_empty();
        let call = text.trim_start();
        if bare && call.starts_with('{') {
            self.plain(&text[..text.len() - call.len()]);
            self.state = State::Call { body: Body::default(), bare };
            return self.show(call);
        }
        self.plain(text);
    }

    fn plain(&mut self, text: &str) {
        self.fresh &= text.trim().is_empty();
        let shown = self.trim.push(text);
        self.parts.text(&shown);
    }

    fn meet(&mut self, marker: Marker) {
        match (&mut self.state, marker.kind) {
            (_, Kind::OtherTurn) => self.ended = true,
            (State::Text, Kind::ReasoningOpen) => {
                self.trim.marker();
                self.reasoned = true;
                self.state = State::Reasoning { name: self.tags.channel };
            }
            (State::Reasoning { name }, Kind::ReasoningClose) => {
                if name.trim() != "" {
                    self.another_channel();
                }
                self.trim.marker();
                self.state = State::Text;
            }
            (State::NoCall, Kind::CallClose) => {
                self.trim.marker();
                self.state = State::Text;
            }
            (State::Text, Kind::CallOpen) => {
                self.trim.marker();
                self.state = match self.tools.is_empty() {
                    true => State::NoCall,
                    false => State::Call { body: Body::default(), bare: false },
                };
            }
            (State::Call { body, bare }, Kind::CallClose) => {
                let (body, bare) = (std::mem::take(body), *bare);
                self.state = State::Text;
                self.close(body, bare);
            }
            (State::Call { body, .. }, _) => body.push_token(marker),
            // Quoted, not meant: a call inside reasoning is not made.
            (State::Reasoning { .. } | State::NoCall, _) => self.show(marker.shown()),
            // Closes what is not open.
            (State::Text, _) => {}
        }
    }

    /// A call is complete.
    fn close(&mut self, body: Body, bare: bool) {
        let scan = body.scan(&self.tags.markers);
        let calls = match self.tags.syntax {
            _ if body.has_stray_token() => None,
            Syntax::None => None,
            Syntax::Json => json_call::one(body.text(), &self.tools),
            Syntax::BareJson => json_call::several(body.text(), &self.tools),
            Syntax::FunctionTags => function_tags::calls(scan, &self.tools),
            Syntax::KeyValues => key_values::calls(scan, &self.tools),
            Syntax::Braces => braces::calls(scan, &self.tools),
        };
        match calls.filter(|calls| !calls.is_empty()) {
            Some(calls) => {
                self.fresh = false;
                for (name, arguments) in calls {
                    self.calls += 1;
                    self.parts.call(self.ids.call(name, arguments));
                }
            }
            None => {
                self.plain(&body.shown());
                if bare {
                    return;
                }
            }
        }
        self.trim.marker();
    }
}
