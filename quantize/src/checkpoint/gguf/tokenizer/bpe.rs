//! Byte-level BPE (`gpt2`): merges are in the file; how text is cut before them is a name in `tokenizer.ggml.pre`,
//! and what it stands for is in the `tokenizer.json` that each model family publishes.

use serde_json::{Value, json};

use super::Kind;
use super::vocabulary::Vocabulary;
use crate::checkpoint::ImportError;
use crate::checkpoint::gguf::metadata::Metadata;

/// How text is cut into the pieces that merges work in.
struct PreTokenizer {
    names: &'static [&'static str],
    /// Applied one after the other: each cuts what the one before left, and keeps the parts between its matches.
    splits: &'static [&'static str],
    /// The pattern of GPT-2 after the splits.
    gpt2: bool,
    /// NFC on the text first.
    nfc: bool,
    /// A piece that is a token as it stands is not put together by merges.
    ignore_merges: bool,
    add_bos: bool,
}

const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], splits: &[], gpt2: false, nfc: false, ignore_merges: false, add_bos: false };

/// Words with one leading mark, numbers of up to three digits, marks with one leading space, then white space.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Llama 3, with every digit alone.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As Llama 3, with words cut before a capital and every digit alone.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const PRE_TOKENIZERS: [PreTokenizer; 6] = [
    PreTokenizer { names: &["gpt-2"], gpt2: true, ..PLAIN },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r"],
        splits: &[r"\p{N}"],
        gpt2: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        splits: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    PreTokenizer { names: &["qwen2", "deepseek-r1-qwen"], splits: &[QWEN2], nfc: true, ..PLAIN },
    PreTokenizer { names: &["tekken"], splits: &[TEKKEN], ignore_merges: true, add_bos: true, ..PLAIN },
    // What llama.cpp does with a file that names nothing: runs of marks alone, digits in threes.
    PreTokenizer {
        names: &["default"],
        splits: &[
            r"[\p{P}\$\+<=>\^~\|]+",
            r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
            r"\p{N}+",
            r"[0-9][0-9][0-9]",
        ],
        ..PLAIN
    },
];

impl PreTokenizer {
    fn json(&self) -> Value {
        let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
        let mut steps: Vec<Value> = self.splits.iter().map(split).collect();
        steps.push(byte_level(self.gpt2));
        json!({"type": "Sequence", "pretokenizers": steps})
    }
}

fn byte_level(use_regex: bool) -> Value {
    json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex})
}

pub(super) fn kind(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Kind, ImportError> {
    let key = "tokenizer.ggml.pre";
    let name = metadata.text(key)?.unwrap_or("default");
    let pre = PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).copied().collect();
        let rule = format!("supported are {}", known.join(", "));
        ImportError::Config { key: key.into(), value: name.into(), rule }
    })?;
    Ok(Kind {
        normalizer: if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
        pre_tokenizer: pre.json(),
        decoder: byte_level(true),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": pre.ignore_merges,
            "vocab": vocabulary.map(),
            "merges": merges(metadata, vocabulary)?,
        }),
        add_bos: pre.add_bos,
    })
}

/// The merges as pairs, each of which must make a token.
fn merges(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Vec<(String, String)>, ImportError> {
    let key = "tokenizer.ggml.merges";
    let list = metadata.required(key, metadata.texts(key)?)?;
    let mut pairs = Vec::with_capacity(list.len());
    for (rank, merge) in list.iter().enumerate() {
        let refuse = |rule: &str| ImportError::Config {
            key: format!("{key}[{rank}]"),
            value: format!("{merge:?}"),
            rule: rule.into(),
        };
        let (left, right) = merge.split_once(' ').ok_or_else(|| refuse("two tokens with a space between"))?;
        let whole = [left, right].concat();
        if [left, right, &whole].iter().any(|text| !vocabulary.ids.contains_key(*text)) {
            return Err(refuse("both parts and the whole must be tokens"));
        }
        pairs.push((left.to_owned(), right.to_owned()));
    }
    Ok(pairs)
}
