//! How much longer than a text is what a tokenizer makes of it on its way to ids.
//!
//! A tokenizer comes from anybody: forty replacements of `a` by `aa` make a terabyte of a letter. So the steps are asked for
//! their worst, and a text that could become more than [`GROWN_MAX`] is not begun.

use serde::Serialize;
use serde_json::Value;
use tokenizers::{ModelWrapper, Tokenizer};

/// Bytes that a text may become; the library takes 17 bytes of memory for each.
const GROWN_MAX: usize = 64 << 20;
/// Characters of a word that word pieces are looked for in, which takes the square of their number; BERT's are 100.
const WORD_MAX: usize = 1024;
/// Bytes that a model puts to every piece of a word, as `##` is.
const AFFIX_MAX: usize = 64;

/// Bytes that a text may have for `tokenizer`: `most`, or fewer where its steps make longer ones of it.
///
/// # Errors
/// The setting of the model that has no bound.
pub(super) fn text_max(tokenizer: &Tokenizer, most: usize) -> Result<usize, String> {
    check_model(tokenizer)?;
    let steps = [json(&tokenizer.get_normalizer())?, json(&tokenizer.get_pre_tokenizer())?];
    let growth = steps.iter().fold(1, |growth: usize, step| growth.saturating_mul(of(step)));
    Ok(most.min(GROWN_MAX / growth))
}

/// A step as `tokenizer.json` writes it, whatever form it was read from.
fn json(step: &impl Serialize) -> Result<Value, String> {
    serde_json::to_value(step).map_err(|error| error.to_string())
}

/// Most bytes that a step makes of each byte.
fn of(step: &Value) -> usize {
    let text = |key: &str| step[key].as_str().unwrap_or_default().len();
    let growth = match step["type"].as_str() {
        Some("Sequence") => {
            let inner = step.get("normalizers").or_else(|| step.get("pretokenizers"));
            let inner = inner.and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            return inner.iter().fold(1, |growth: usize, step| growth.saturating_mul(of(step)));
        }
        Some("Replace") => match step["pattern"]["String"].as_str() {
            Some(pattern) if !pattern.is_empty() => text("content").div_ceil(pattern.len()),
            // It may be found between any two characters.
            _ => 1 + text("content"),
        },
        // In front of every piece, of a byte at least.
        Some("Prepend") => 1 + text("prepend"),
        Some("Metaspace") => 1 + text("replacement"),
        // Each byte a character of two bytes at most, where it is said with a space in front of a piece.
        Some("ByteLevel") if step["add_prefix_space"] == false => 2,
        Some("ByteLevel") => 4,
        // Spaces around a character, and accents apart.
        Some("BertNormalizer") => 6,
        // U+0390 becomes three characters, U+FDFA eighteen.
        Some("NFC" | "NFD") => 3,
        Some("NFKC" | "NFKD") => 11,
        Some("Lowercase") => 2,
        Some("Precompiled") => longest(step["precompiled_charsmap"].as_str().unwrap_or_default()),
        _ => 1,
    };
    growth.max(1)
}

/// The longest text of a table of SentencePiece's, in base64: the bytes of a trie behind their number, and behind them texts
/// with a zero between.
fn longest(table: &str) -> usize {
    let six_bits = |digit: u8| match digit {
        b'A'..=b'Z' => Some(digit - b'A'),
        b'a'..=b'z' => Some(digit - b'a' + 26),
        b'0'..=b'9' => Some(digit - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bytes, mut held, mut bits) = (Vec::new(), 0u32, 0);
    for digit in table.bytes().filter_map(six_bits) {
        (held, bits) = (held << 6 | u32::from(digit), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
        }
    }
    let trie = bytes.first_chunk().map_or(0, |len| u32::from_le_bytes(*len) as usize / 4 * 4);
    let texts = bytes.get(4 + trie..).unwrap_or_default();
    texts.split(|byte| *byte == 0).map(<[u8]>::len).max().unwrap_or(0)
}

/// The settings of a model that its time and memory follow.
fn check_model(tokenizer: &Tokenizer) -> Result<(), String> {
    let (word, affixes) = match tokenizer.get_model() {
        ModelWrapper::WordPiece(model) => {
            (model.max_input_chars_per_word, vec![&model.continuing_subword_prefix])
        }
        ModelWrapper::BPE(model) => {
            (0, model.continuing_subword_prefix.iter().chain(&model.end_of_word_suffix).collect())
        }
        _ => (0, Vec::new()),
    };
    let affix = affixes.iter().map(|affix| affix.len()).max().unwrap_or(0);
    match () {
        () if word > WORD_MAX => {
            Err(format!("it looks for pieces in words of {word} characters; at most {WORD_MAX} are taken"))
        }
        () if affix > AFFIX_MAX => {
            Err(format!("it puts {affix} bytes to every piece of a word; at most {AFFIX_MAX} are taken"))
        }
        () => Ok(()),
    }
}
