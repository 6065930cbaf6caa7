//! Which format a template and a vocabulary declare.

use super::marker::{AddedToken, Kind, Marker};
use super::tagged::Tags;
use super::{Format, Protocol, Syntax};

use Kind::{
    CallClose, CallOpen, KeyClose, KeyOpen, Message, MessageEnd, OtherTurn, Quote, ReasoningClose,
    ReasoningOpen, Start, TurnEnd, ValueClose, ValueOpen,
};

const MUSE: [(Kind, &str); 4] =
    [(Start, "<|start|>"), (Message, "<|message|>"), (MessageEnd, "<|eom|>"), (TurnEnd, "<|eot|>")];
const GEMMA: [(Kind, &str); 6] = [
    (ReasoningOpen, "<|channel>"),
    (ReasoningClose, "<channel|>"),
    (CallOpen, "<|tool_call>"),
    (CallClose, "<tool_call|>"),
    (Quote, "<|\"|>"),
    (OtherTurn, "<|tool_response>"),
];
const THINK: [(Kind, &str); 2] = [(ReasoningOpen, "<think>"), (ReasoningClose, "</think>")];
const TOOL_CALL: [(Kind, &str); 2] = [(CallOpen, "<tool_call>"), (CallClose, "</tool_call>")];
const GLM: [(Kind, &str); 4] = [
    (KeyOpen, "<arg_key>"),
    (KeyClose, "</arg_key>"),
    (ValueOpen, "<arg_value>"),
    (ValueClose, "</arg_value>"),
];
/// Llama 3, then 4.
const PYTHON: [(Kind, &str); 3] =
    [(CallOpen, "<|python_tag|>"), (CallOpen, "<|python_start|>"), (CallClose, "<|python_end|>")];

impl Protocol {
    /// What a chat template's source and the vocabulary, `token` of a text, declare.
    pub fn declared(template: &str, token: impl Fn(&str) -> Option<AddedToken>) -> Self {
        let has = |text: &str| template.contains(text);
        let mark = |(kind, text): (Kind, &'static str)| Marker { kind, text, token: token(text) };
        let known = |pairs: &[(Kind, &'static str)]| pairs.iter().copied().map(mark).collect::<Vec<_>>();

        let muse = known(&MUSE);
        if has("to=self") && muse.iter().all(|m| m.token.is_some() || m.kind == TurnEnd) {
            return Self {
                format: Format::Channels(muse.into_iter().filter(|m| m.token.is_some()).collect()),
            };
        }
        if has("<|channel>") && token("<|channel>").is_some() && token("<channel|>").is_some() {
            let markers = known(&GEMMA).into_iter().filter(|m| m.token.is_some()).collect();
            let syntax = if has("<|tool_call>") { Syntax::Braces } else { Syntax::None };
            return Self { format: Format::Tagged(Tags { markers, syntax, channel: "thought\n" }) };
        }
        let mut markers = Vec::new();
        let thinks = known(&THINK);
        // A vocabulary that has both is one of a model that reasons, whatever its template writes.
        if has("<think>") || has("</think>") || thinks.iter().all(|m| m.token.is_some()) {
            markers.extend(thinks);
        }
        let syntax = if has("<tool_call>") && has("<arg_key>") {
            markers.extend(known(&TOOL_CALL).into_iter().chain(known(&GLM)));
            Syntax::KeyValues
        } else if has("<tool_call>") {
            markers.extend(known(&TOOL_CALL));
            if has("<function=") { Syntax::FunctionTags } else { Syntax::Json }
        } else if has("tool_calls") && (has("\"parameters\":") || has("\\\"parameters\\\":")) {
            markers.extend(known(&PYTHON).into_iter().filter(|m| m.token.is_some()));
            Syntax::BareJson
        } else {
            Syntax::None
        };
        if markers.is_empty() && syntax == Syntax::None {
            return Self::default();
        }
        Self { format: Format::Tagged(Tags { markers, syntax, channel: "" }) }
    }
}
