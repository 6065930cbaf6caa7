//! The inside of a tool call, which knows what of it was a token and what was typed.

use super::marker::{Kind, Marker};

/// Most bytes of a call's body; a longer one is text.
pub(super) const BODY_MAX: usize = 256 << 10;

/// Text with the places of the marker tokens in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Body {
    text: String,
    /// Where each token starts in `text`, ascending.
    tokens: Vec<(usize, Marker)>,
}

impl Body {
    pub(super) fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    pub(super) fn push_token(&mut self, marker: Marker) {
        self.tokens.push((self.text.len(), marker));
        self.text.push_str(marker.text);
    }

    pub(super) fn is_full(&self) -> bool {
        self.text.len() > BODY_MAX
    }

    /// Whether it holds a token that is never text and structures no call.
    pub(super) fn has_stray_token(&self) -> bool {
        let stray = |marker: &Marker| marker.kind != Kind::Quote && marker.shown() != marker.text;
        self.tokens.iter().any(|(_, marker)| stray(marker))
    }

    /// All of it, markers written out.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// What a person sees of it where it is no call: tokens that are never text are left out.
    pub(super) fn shown(&self) -> String {
        let mut out = String::with_capacity(self.text.len());
        let mut done = 0;
        for (start, marker) in &self.tokens {
            out.push_str(&self.text[done..*start]);
            out.push_str(marker.shown());
            done = start + marker.text.len();
        }
        out + &self.text[done..]
    }

    pub(super) fn scan<'a>(&'a self, markers: &'a [Marker]) -> Scan<'a> {
        Scan { body: self, markers, at: 0 }
    }
}

/// Reads a body from its start. A marker that is a token of the vocabulary is found only where that token was.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scan<'a> {
    body: &'a Body,
    markers: &'a [Marker],
    at: usize,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a str {
        &self.body.text[self.at..]
    }

    /// The tokens from here on.
    fn tokens(&self) -> &'a [(usize, Marker)] {
        &self.body.tokens[self.body.tokens.partition_point(|(start, _)| *start < self.at)..]
    }

    /// Bytes up to the next token, or to the end.
    fn plain_len(&self) -> usize {
        self.tokens().first().map_or(self.rest().len(), |(start, _)| start - self.at)
    }

    /// The first marker of one of `kinds` in the next `within` bytes: its distance and its length.
    fn find(&self, kinds: &[Kind], within: usize) -> Option<(usize, usize)> {
        let mut near = self.tokens().iter().take_while(|(start, _)| start - self.at < within);
        let token = near.find(|(_, marker)| kinds.contains(&marker.kind));
        let token = token.map(|(start, marker)| (start - self.at, marker.text.len()));
        let literals = self.markers.iter().filter(|m| m.token.is_none() && kinds.contains(&m.kind));
        let literals = literals.filter_map(|m| Some((self.rest()[..within].find(m.text)?, m.text.len())));
        literals.chain(token).min()
    }

    /// Steps over a marker of `kind`.
    pub(super) fn marker(&mut self, kind: Kind) -> Option<()> {
        let starts = |m: &&Marker| match m.token {
            Some(_) => self.tokens().first().is_some_and(|(start, t)| *start == self.at && t == *m),
            None => self.rest().starts_with(m.text),
        };
        let found = self.markers.iter().filter(|m| m.kind == kind).find(starts)?;
        self.at += found.text.len();
        Some(())
    }

    /// The text before the next marker of `kind`, where no marker of `others` is in it; steps over the marker.
    pub(super) fn until(&mut self, kind: Kind, others: &[Kind]) -> Option<&'a str> {
        let (distance, len) = self.find(&[kind], self.rest().len())?;
        self.take(distance, len, others)
    }

    /// The text before `close`, where no marker of `others` is in it; steps over `close`.
    pub(super) fn until_text(&mut self, close: &str, others: &[Kind]) -> Option<&'a str> {
        let distance = self.rest().find(close)?;
        self.take(distance, close.len(), others)
    }

    fn take(&mut self, distance: usize, len: usize, others: &[Kind]) -> Option<&'a str> {
        if self.find(others, distance).is_some() {
            return None;
        }
        let text = &self.rest()[..distance];
        self.at += distance + len;
        Some(text)
    }

    pub(super) fn spaces(&mut self) {
        let rest = &self.rest()[..self.plain_len()];
        self.at += rest.len() - rest.trim_start().len();
    }

    /// Steps over typed text.
    pub(super) fn literal(&mut self, text: &str) -> Option<()> {
        let found = self.plain_len() >= text.len() && self.rest().starts_with(text);
        found.then(|| self.at += text.len())
    }

    pub(super) fn starts_with(&self, c: char) -> bool {
        self.plain_len() > 0 && self.rest().starts_with(c)
    }

    /// Typed text for as long as `belongs` says.
    pub(super) fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = &self.rest()[..self.plain_len()];
        let len = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.rest().is_empty()
    }
}
