//! Ids to bytes: what each token adds to a text, worked out once from the `decoder` of a `tokenizer.json`.
//!
//! The decoders in use, byte-level and sentence pieces with byte fallback, are sums of their tokens' bytes but for
//! spaces in front of the whole text, so that text can be made as tokens come. Without a decoder tokens are words, a space
//! between them. Where bytes are not UTF-8 the
//! `tokenizers` library and this differ in how many U+FFFD they write.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;
use tokenizers::Tokenizer;

use crate::decoder::Utf8Stream;
use crate::{TextDecoder, TextError};

/// Ids are below this; the largest vocabularies in use have 262144.
const IDS_MAX: u32 = 1 << 22;

/// Bytes that a token may add to a text; white space of some vocabularies has a few hundred.
const PIECE_MAX: usize = 16 << 10;
/// Bytes that all may.
const PIECES_MAX: usize = 256 << 20;

/// What every token adds to a text.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    /// Where the bytes of each id end.
    ends: Vec<u32>,
    strip: Strip,
}

/// Characters in front of a whole text that are not part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strip {
    Never,
    /// At most `most` of them.
    Leading {
        byte: u8,
        most: usize,
    },
    /// All spaces in front of the first token.
    FirstToken,
}

/// The decoders that are sums of pieces, as `tokenizer.json` writes them.
#[derive(Debug, Deserialize)]
#[serde(tag = "type")]
enum Step {
    ByteLevel {},
    Metaspace {
        replacement: char,
        #[serde(default)]
        prepend_scheme: Option<String>,
    },
    Sequence {
        decoders: Vec<Step>,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    ByteFallback {},
    Fuse {},
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    #[serde(other)]
    Other,
}

#[derive(Debug, Deserialize)]
enum Pattern {
    String(String),
    Regex(IgnoredAny),
}

/// The steps in the order in which a piece goes through them.
#[derive(Debug)]
struct Rule {
    /// A space in front of each.
    spaced: bool,
    byte_level: bool,
    replace: Vec<(String, String)>,
    byte_fallback: bool,
    fused: bool,
    strip: Strip,
}

impl Rule {
    fn of(step: Option<Step>) -> Result<Self, TextError> {
        let mut rule = Self {
            spaced: step.is_none(),
            byte_level: false,
            replace: Vec::new(),
            byte_fallback: false,
            fused: false,
            strip: if step.is_none() { Strip::Leading { byte: b' ', most: 1 } } else { Strip::Never },
        };
        let steps = match step {
            None => Vec::new(),
            Some(Step::Sequence { decoders }) => decoders,
            Some(one) => vec![one],
        };
        for step in steps {
            rule.add(step)?;
        }
        Ok(rule)
    }

    fn add(&mut self, step: Step) -> Result<(), TextError> {
        let early = !self.byte_level && !self.fused && self.strip == Strip::Never;
        match step {
            Step::ByteLevel {} if early && self.replace.is_empty() && !self.byte_fallback => {
                self.byte_level = true;
            }
            Step::Replace { pattern: Pattern::String(from), content } if early && !self.byte_fallback => {
                self.replace.push((from, content));
            }
            Step::Metaspace { replacement, prepend_scheme } if early && !self.byte_fallback => {
                self.replace.push((replacement.into(), " ".into()));
                if prepend_scheme.as_deref() != Some("never") {
                    self.strip = Strip::FirstToken;
                }
            }
            Step::ByteFallback {} if early => self.byte_fallback = true,
            Step::Fuse {} if early => self.fused = true,
            Step::Strip { content, start, stop: 0 }
                if self.fused && self.strip == Strip::Never && content.is_ascii() =>
            {
                self.strip = Strip::Leading { byte: content as u8, most: start };
            }
            step => {
                return Err(TextError::Tokenizer(format!(
                    "its decoder has {step:?} where this version cannot stream it; it knows ByteLevel, Metaspace, \
                     and sequences of Replace, ByteFallback, Fuse and a leading Strip"
                )));
            }
        }
        Ok(())
    }

    /// Appends what `token` adds to a text.
    ///
    /// # Errors
    /// Where that is more than [`PIECE_MAX`] bytes: replacements of replacements grow without end.
    fn append(&self, token: &str, out: &mut Vec<u8>) -> Result<(), TextError> {
        if self.byte_level {
            let start = out.len();
            for c in token.chars() {
                let Some(byte) = byte_of(c) else {
                    // An added token, kept as it is.
                    out.truncate(start);
                    out.extend_from_slice(token.as_bytes());
                    return Ok(());
                };
                out.push(byte);
            }
            return Ok(());
        }
        if self.spaced {
            out.push(b' ');
        }
        let mut token = token.to_owned();
        for (from, to) in &self.replace {
            let len = token.len() + token.matches(from.as_str()).count() * to.len();
            if len > PIECE_MAX {
                let problem =
                    format!("a token adds up to {len} bytes to a text; at most {PIECE_MAX} are taken");
                return Err(TextError::Tokenizer(problem));
            }
            token = token.replace(from.as_str(), to);
        }
        let hex =
            token.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>')).filter(|hex| hex.len() == 2);
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()).filter(|_| self.byte_fallback) {
            Some(byte) => out.push(byte),
            None => out.extend_from_slice(token.as_bytes()),
        }
        Ok(())
    }
}

/// The byte that a character of a byte-level vocabulary stands for. GPT-2's table: printable Latin-1 characters
/// stand for themselves, the other bytes, ascending, for U+0100 and up.
fn byte_of(c: char) -> Option<u8> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|&byte| printable(byte)),
        code => (0..=255u8).filter(|&byte| !printable(byte)).nth(code as usize - 0x100),
    }
}

impl Pieces {
    /// # Errors
    /// [`TextError::Tokenizer`] where the decoder is not a sum of pieces or an id is out of range.
    pub(super) fn new(tokenizer: &Tokenizer, tokenizer_json: &[u8]) -> Result<Self, TextError> {
        #[derive(Deserialize)]
        struct Parts {
            decoder: Option<Step>,
        }
        let parts: Parts = serde_json::from_slice(tokenizer_json)
            .map_err(|error| TextError::Tokenizer(error.to_string()))?;
        let rule = Rule::of(parts.decoder)?;
        let added = tokenizer.get_added_tokens_decoder();
        let mut vocabulary: Vec<(u32, String)> =
            tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        vocabulary.sort_unstable();
        let mut pieces = Self { bytes: Vec::new(), ends: Vec::new(), strip: rule.strip };
        for (id, token) in vocabulary {
            if id >= IDS_MAX {
                return Err(TextError::Tokenizer(format!("it has id {id}; ids must be below {IDS_MAX}")));
            }
            // Ids without a token, and special ones, add nothing.
            pieces.ends.resize(id as usize + 1, pieces.bytes.len() as u32);
            if !added.get(&id).is_some_and(|token| token.special) {
                rule.append(&token, &mut pieces.bytes)?;
            }
            if pieces.bytes.len() > PIECES_MAX {
                let problem = format!("its tokens are more than {PIECES_MAX} bytes of text");
                return Err(TextError::Tokenizer(problem));
            }
            pieces.ends[id as usize] = pieces.bytes.len() as u32;
        }
        Ok(pieces)
    }

    /// What `id` adds to a text.
    pub(super) fn get(&self, id: u32) -> &[u8] {
        let Some(&end) = self.ends.get(id as usize) else { return &[] };
        let start = id.checked_sub(1).map_or(0, |before| self.ends[before as usize]);
        &self.bytes[start as usize..end as usize]
    }
}

/// Streams the text of ids. Special tokens are silent.
pub(super) struct PieceDecoder {
    pieces: Arc<Pieces>,
    utf8: Utf8Stream,
    /// What may still be stripped.
    strip: Strip,
}

impl PieceDecoder {
    pub(super) fn new(pieces: Arc<Pieces>, continues: bool) -> Self {
        let strip = if continues { Strip::Never } else { pieces.strip };
        Self { pieces, utf8: Utf8Stream::default(), strip }
    }
}

impl TextDecoder for PieceDecoder {
    fn push(&mut self, id: u32) -> String {
        let mut bytes = self.pieces.get(id);
        if bytes.is_empty() {
            return String::new();
        }
        match &mut self.strip {
            Strip::Never => {}
            Strip::FirstToken => {
                bytes = bytes.trim_ascii_start();
                self.strip = Strip::Never;
            }
            Strip::Leading { byte, most } => {
                let leading = bytes.iter().take(*most).take_while(|b| *b == byte).count();
                bytes = &bytes[leading..];
                *most -= leading;
                if !bytes.is_empty() {
                    self.strip = Strip::Never;
                }
            }
        }
        self.utf8.push_bytes(bytes)
    }

    fn finish(&mut self) -> String {
        self.utf8.take()
    }
}
