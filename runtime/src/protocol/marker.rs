//! The texts that structure an answer, and where they are tokens of their own.

/// What a marker does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    ReasoningOpen,
    ReasoningClose,
    CallOpen,
    CallClose,
    /// Around a parameter's name and around its value, inside a call.
    KeyOpen,
    KeyClose,
    ValueOpen,
    ValueClose,
    /// On both sides of a string, inside a call.
    Quote,
    /// Somebody else's turn begins: the answer is over.
    OtherTurn,
    /// A message begins, its header ends, it ends, the turn ends.
    Start,
    Message,
    MessageEnd,
    TurnEnd,
}

/// A token of the vocabulary whose text is always one token: `added_tokens` of a `tokenizer.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddedToken {
    pub id: u32,
    /// It is never part of a text.
    pub special: bool,
}

/// One marker of a format. Where it is a token, only that token is the marker: the same text made of other tokens
/// was typed and is text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Marker {
    pub(super) kind: Kind,
    pub(super) text: &'static str,
    pub(super) token: Option<AddedToken>,
}

impl Marker {
    /// What it shows as where it marks nothing, inside a body that turned out to be text.
    pub(super) fn shown(&self) -> &'static str {
        if self.token.is_some_and(|token| token.special) { "" } else { self.text }
    }
}
