//! How much memory a tokenizer takes for a text on its way to ids, and what of its settings the time follows that cannot be
//! watched: an added token's and a model's, which the library works on in one go.
//!
//! A tokenizer comes from anybody: forty replacements of `a` by `aa` make a terabyte of a letter, and a text cut at every
//! character takes hundreds of bytes for each. So the steps are asked for their worst, and a text that could take more
//! than [`MEMORY_MAX`] is not begun.

use serde::Serialize;
use serde_json::Value;
use tokenizers::{ModelWrapper, NormalizerWrapper, Tokenizer};

/// Bytes of memory that a text may take, about, which leaves tokenizers in use texts of a MiB.
const MEMORY_MAX: usize = 1536 << 20;
/// Bytes of memory for each byte of a text: itself, where it comes from (16), and the place of a match (24).
const BYTE: usize = 17 + 24;
/// Bytes of memory for each piece that a text is cut in: what it was, what it became, its token. It
/// is 390 for the dots of a text in BERT's tokenizer.
const PIECE: usize = 400;
/// Characters of a word that word pieces are looked for in, which takes the cube of their number: each of their pairs is
/// looked up, as a text of its own. BERT's are 100.
const WORD_MAX: usize = 200;
/// Bytes that a model puts to every piece of a word, as `##` is, or in place of one that it does not know.
const AFFIX_MAX: usize = 64;
/// Steps that an automaton may take for the added tokens in a text, of which each of its bytes can begin the longest: a few
/// seconds.
const SEARCH_MAX: usize = 1 << 30;
/// Bytes of a token of a unigram model, of which all that begin at a byte are looked up. They are 16 characters where nobody
/// asked for more.
const UNIGRAM_MAX: usize = 128;
/// Bytes of a piece of a text times those of a unigram model's longest token, which it works on in one go: 4 s at worst.
const UNIGRAM_WORK: usize = 1 << 26;

/// Bytes that a text may have for `tokenizer`: `most`, or fewer where its steps make much of it.
///
/// # Errors
/// The setting of the model that has no bound.
pub(super) fn text_max(tokenizer: &Tokenizer, most: usize) -> Result<usize, String> {
    check_model(tokenizer)?;
    // Tokens that were added are cut out first of all, and may be a byte.
    let mut worst = Worst { growth: 1, pieces: 1 };
    worst.take(&json(&tokenizer.get_normalizer())?);
    // Others are looked for in what the normalizer made, as it makes them; two of them have a piece of a byte or more between
    // them.
    let added = tokenizer.get_added_tokens_decoder();
    let normal = added.iter().filter(|(_, token)| token.normalized);
    let normal = normal.filter_map(|(id, _)| Some(tokenizer.id_to_token(*id)?.len()));
    let (shortest, longest) = normal.fold((None, 0), |(shortest, longest): (Option<usize>, _), len| {
        (Some(shortest.map_or(len, |shortest| shortest.min(len))), len.max(longest))
    });
    if let Some(shortest) = shortest {
        worst.pieces = worst.pieces.max(worst.growth.saturating_mul(2).div_ceil(shortest + 1));
    }
    let searched = worst.growth.saturating_mul(longest).max(1);
    worst.take(&json(&tokenizer.get_pre_tokenizer())?);
    Ok(most.min(MEMORY_MAX / worst.memory()).min(SEARCH_MAX / searched).min(piece_max(tokenizer)))
}

/// Bytes of a piece that the model of `tokenizer` takes.
pub(super) fn piece_max(tokenizer: &Tokenizer) -> usize {
    longest_unigram(tokenizer).map_or(usize::MAX, |longest| UNIGRAM_WORK / longest.max(1))
}

/// Bytes of the longest token of a unigram model; none of another.
fn longest_unigram(tokenizer: &Tokenizer) -> Option<usize> {
    match tokenizer.get_model() {
        ModelWrapper::Unigram(model) => model.iter().map(|(token, _)| token.len()).max(),
        _ => None,
    }
}

/// Most bytes that `normalizer` makes of each byte.
pub(super) fn growth_of(normalizer: Option<&NormalizerWrapper>) -> Result<usize, String> {
    let mut worst = Worst { growth: 1, pieces: 1 };
    worst.take(&json(&normalizer)?);
    Ok(worst.growth)
}

/// A step as `tokenizer.json` writes it, whatever form it was read from.
fn json(step: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(step).map_err(|error| error.to_string())
}

/// The most that steps make of each byte.
struct Worst {
    /// Bytes.
    growth: usize,
    /// Pieces, wherever there are most.
    pieces: usize,
}

impl Worst {
    fn take(&mut self, step: &Value) {
        if step["type"] == "Sequence" {
            let inner = step.get("normalizers").or_else(|| step.get("pretokenizers"));
            inner.and_then(Value::as_array).into_iter().flatten().for_each(|step| self.take(step));
        } else {
            self.pieces = self.pieces.max(self.growth.saturating_mul(cuts(step)));
            self.growth = self.growth.saturating_mul(growth(step));
        }
    }

    fn memory(&self) -> usize {
        self.growth.saturating_mul(BYTE).saturating_add(self.pieces.saturating_mul(PIECE))
    }
}

/// Most pieces that a step cuts a byte in, none where it does not cut.
fn cuts(step: &Value) -> usize {
    match step["type"].as_str() {
        Some("ByteLevel") if step["use_regex"] == false => 0,
        // The space that it puts in front of a piece may be one.
        Some("ByteLevel") if step["add_prefix_space"] == true => 2,
        Some("Metaspace") if step["split"] == false => 0,
        Some(
            "BertPreTokenizer" | "ByteLevel" | "CharDelimiterSplit" | "Digits" | "FixedLength" | "Metaspace"
            | "Punctuation" | "Split" | "UnicodeScripts" | "Whitespace" | "WhitespaceSplit",
        ) => 1,
        _ => 0,
    }
}

/// Most bytes that a step makes of each byte.
fn growth(step: &Value) -> usize {
    let text = |key: &str| step[key].as_str().unwrap_or_default().len();
    let growth = match step["type"].as_str() {
        Some("Replace") => {
            let pattern = &step["pattern"];
            let shortest = match (pattern["String"].as_str(), pattern["Regex"].as_str()) {
                (Some(pattern), _) => pattern.len(),
                (_, Some(pattern)) => shortest(pattern),
                _ => 0,
            };
            match shortest {
                // Between any two characters, in front of them and behind them.
                0 => text("content").saturating_mul(2).saturating_add(1),
                shortest => text("content").div_ceil(shortest),
            }
        }
        // In front of every piece, of a byte at least.
        Some("Prepend") => 1 + text("prepend"),
        Some("Metaspace") => 1 + text("replacement"),
        // Each byte a character of two bytes at most, where it is said with a space in front of a piece.
        Some("ByteLevel") if step["add_prefix_space"] == false => 2,
        Some("ByteLevel") => 4,
        // U+0390 becomes three characters, U+FDFA eighteen.
        Some("NFC" | "NFD") => 3,
        // As NFD, but for ideographs, three bytes with a space on either side.
        Some("BertNormalizer") => 3,
        Some("NFKC" | "NFKD") => 11,
        Some("Lowercase") => 2,
        Some("Precompiled") => longest(step["precompiled_charsmap"].as_str().unwrap_or_default()),
        _ => 1,
    };
    growth.max(1)
}

/// The fewest bytes that a pattern matches; 0 where that is not known.
fn shortest(pattern: &str) -> usize {
    let read = regex_syntax::parse(pattern).ok();
    read.and_then(|read| read.properties().minimum_len()).unwrap_or(0)
}

/// The longest text of a table of SentencePiece's, in base64: the bytes of a trie behind their number, and behind them texts
/// with a zero between.
fn longest(table: &str) -> usize {
    let bytes = base64::decode(table).unwrap_or_default();
    let trie = bytes.first_chunk().map_or(0, |len| u32::from_le_bytes(*len) as usize / 4 * 4);
    let texts = bytes.get(4 + trie..).unwrap_or_default();
    texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}

/// The settings of a model that its time and memory follow.
fn check_model(tokenizer: &Tokenizer) -> Result<(), String> {
    if let Some(longest) = longest_unigram(tokenizer).filter(|longest| *longest > UNIGRAM_MAX) {
        return Err(format!(
            "a token is {longest} bytes; at most {UNIGRAM_MAX} are taken of a unigram model"
        ));
    }
    if let ModelWrapper::BPE(model) = tokenizer.get_model()
        && let Some(dropout) = model.dropout.filter(|dropout| *dropout != 0.0)
    {
        return Err(format!("it leaves out merges at random (dropout {dropout}): set that to null"));
    }
    let (word, unknown, affixes) = match tokenizer.get_model() {
        ModelWrapper::WordPiece(model) => {
            (model.max_input_chars_per_word, Some(&model.unk_token), vec![&model.continuing_subword_prefix])
        }
        ModelWrapper::WordLevel(model) => (0, Some(&model.unk_token), Vec::new()),
        ModelWrapper::BPE(model) => (
            0,
            model.unk_token.as_ref(),
            model.continuing_subword_prefix.iter().chain(&model.end_of_word_suffix).collect(),
        ),
        ModelWrapper::Unigram(_) => (0, None, Vec::new()),
    };
    let affix = affixes.iter().map(|affix| affix.len()).max().unwrap_or(0);
    let unknown = unknown.map_or(0, String::len);
    match () {
        () if word > WORD_MAX => {
            Err(format!("it looks for pieces in words of {word} characters; at most {WORD_MAX} are taken"))
        }
        () if affix > AFFIX_MAX => {
            Err(format!("it puts {affix} bytes to every piece of a word; at most {AFFIX_MAX} are taken"))
        }
        () if unknown > AFFIX_MAX => Err(format!(
            "its token for what it does not know is {unknown} bytes; at most {AFFIX_MAX} are taken"
        )),
        () => Ok(()),
    }
}
