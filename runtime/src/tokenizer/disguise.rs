//! Control tokens that are only mentioned.
//!
//! Hugging Face encodes a rendered conversation as one text, so a message that contains `<|im_end|>` ends its turn.
//! Here a mark, a character that nobody may use, is put into every such mention before the template sees it, and
//! taken out after the control tokens were found. Text without a mention is not touched, so it has the same ids.
//!
//! Control tokens are the special ones, and those that the template itself writes (`<tool_response>`), except that
//! an assistant's message may hold the latter: there they are what the model said. A token of one character has no
//! inside to mark; a template that takes messages apart and glues them together could rebuild a mention.

use std::borrow::Cow;

use aho_corasick::AhoCorasick;
use tokenizers::Tokenizer;

use crate::{Message, TextError};

/// Those of `texts` that no other is the begin of. Where another begins one of these does, so the same places are found,
/// and each once: of tokens that are a letter, two of it, three, a text would have as many mentions as its length squared.
fn shortest<'a>(texts: &[&'a str]) -> Vec<&'a str> {
    let mut sorted = texts.to_vec();
    sorted.sort_unstable();
    let mut kept: Vec<&str> = Vec::new();
    for text in sorted {
        if kept.last().is_none_or(|last| !text.starts_with(last)) {
            kept.push(text);
        }
    }
    kept
}

pub(super) struct Disguise {
    special: AhoCorasick,
    /// `special` and what the template writes.
    control: AhoCorasick,
    /// Noncharacters that the template does not use.
    marks: Vec<char>,
}

impl Disguise {
    pub(super) fn new(tokenizer: &Tokenizer, template: &str) -> Result<Self, TextError> {
        let added = tokenizer.get_added_tokens_decoder();
        let long = added.values().filter(|token| token.content.chars().nth(1).is_some());
        let (special, ordinary): (Vec<_>, Vec<_>) = long.partition(|token| token.special);
        let special: Vec<_> = special.into_iter().map(|token| token.content.as_str()).collect();
        // Runs of white space are added tokens of some models, and no template's control.
        let written = ordinary.into_iter().map(|token| token.content.as_str());
        let written = written.filter(|token| !token.trim().is_empty() && template.contains(token));
        let control: Vec<_> = special.iter().copied().chain(written).collect();
        let build = |texts: &[&str]| {
            AhoCorasick::new(shortest(texts))
                .map_err(|error| TextError::Tokenizer(format!("special tokens: {error}")))
        };
        let marks = ('\u{fdd0}'..='\u{fdef}').filter(|&mark| !template.contains(mark)).collect();
        Ok(Self { special: build(&special)?, control: build(&control)?, marks })
    }

    /// A mark that is in none of the texts.
    pub(super) fn mark(
        &self,
        messages: &[Message],
        tools: Option<&serde_json::Value>,
    ) -> Result<char, TextError> {
        let tools = tools.map(serde_json::Value::to_string).unwrap_or_default();
        let texts: Vec<_> = messages.iter().flat_map(Message::texts).chain([tools.into()]).collect();
        let free = self.marks.iter().find(|&&mark| !texts.iter().any(|text| text.contains(mark)));
        free.copied().ok_or_else(|| TextError::Encode("it uses every noncharacter from U+FDD0 on".into()))
    }

    /// `text` of a message of `role` with `mark` inside every control token.
    pub(super) fn hide<'a>(&self, text: &'a str, role: &str, mark: char) -> Cow<'a, str> {
        let tokens = if role == "assistant" { &self.special } else { &self.control };
        let mut starts: Vec<usize> = tokens.find_overlapping_iter(text).map(|found| found.start()).collect();
        if starts.is_empty() {
            return Cow::Borrowed(text);
        }
        starts.sort_unstable();
        starts.dedup();
        let mut out = String::with_capacity(text.len() + mark.len_utf8() * starts.len());
        let mut done = 0;
        for start in starts {
            let first = text[start..].chars().next().expect("a token is not empty");
            let inside = start + first.len_utf8();
            out.push_str(&text[done..inside]);
            out.push(mark);
            done = inside;
        }
        out.push_str(&text[done..]);
        Cow::Owned(out)
    }

    /// [`hide`](Self::hide) in every text of `value`, keys included.
    pub(super) fn hide_json(&self, value: &serde_json::Value, mark: char) -> serde_json::Value {
        use serde_json::Value;
        match value {
            Value::String(text) => Value::String(self.hide(text, "", mark).into_owned()),
            Value::Array(items) => items.iter().map(|item| self.hide_json(item, mark)).collect(),
            Value::Object(fields) => {
                let hidden = |(key, item): (&String, &Value)| {
                    (self.hide(key, "", mark).into_owned(), self.hide_json(item, mark))
                };
                Value::Object(fields.iter().map(hidden).collect())
            }
            other => other.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::shortest;

    #[test]
    fn of_tokens_that_begin_with_each_other_the_shortest_is_looked_for() {
        assert_eq!(shortest(&["ab", "<x>", "abc", "b", "<x>y", "a", "a"]), ["<x>", "a", "b"]);
        let letters: Vec<String> = (2..2000).map(|len| "a".repeat(len)).collect();
        assert_eq!(shortest(&letters.iter().map(String::as_str).collect::<Vec<_>>()), ["aa"]);
    }
}
