//! SentencePiece BPE (`llama`): the file has a score for each piece and no merges. Any two pieces may join into a
//! third, the best score first, so the merges are every way to cut a piece in two, by the score of the whole: what
//! transformers does when it converts a SentencePiece model.

use serde_json::{Value, json};

use super::Kind;
use super::vocabulary::{Type, Vocabulary};
use crate::checkpoint::ImportError;
use crate::checkpoint::gguf::metadata::Metadata;

/// SentencePiece writes a space as this.
pub(super) const SPACE: &str = "\u{2581}";
const SCORES: &str = "tokenizer.ggml.scores";
/// Bytes of one piece: the cuts of a piece take time in its square. The longest published ones have under 100.
const PIECE_BYTES_MAX: usize = 512;

pub(super) fn kind(metadata: &Metadata, vocabulary: &Vocabulary) -> Result<Kind, ImportError> {
    let scores = metadata.required(SCORES, metadata.floats(SCORES)?)?;
    if scores.len() != vocabulary.tokens.len() || scores.iter().any(|score| !score.is_finite()) {
        let value = format!("{} scores", scores.len());
        let rule = format!("there are {} tokens, each with a finite score", vocabulary.tokens.len());
        return Err(ImportError::Config { key: SCORES.into(), value, rule });
    }
    let given = vocabulary.id(metadata, "tokenizer.ggml.unknown_token_id")?;
    let unknown =
        given.or_else(|| vocabulary.used().find(|(_, token)| token.kind == Type::Unknown).map(|(id, _)| id));
    let prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let replace =
        |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let mut normalizers = vec![replace(" ", SPACE)];
    let mut decoders = vec![replace(SPACE, " "), json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": SPACE}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(Kind {
        normalizer: json!({"type": "Sequence", "normalizers": normalizers}),
        pre_tokenizer: Value::Null,
        decoder: json!({"type": "Sequence", "decoders": decoders}),
        model: json!({
            "type": "BPE",
            "dropout": null,
            "unk_token": unknown.map(|id| vocabulary.text(id)),
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": true,
            "byte_fallback": vocabulary.used().any(|(_, token)| token.kind == Type::Byte),
            "ignore_merges": false,
            "vocab": vocabulary.map(),
            "merges": merges(vocabulary, &scores)?,
        }),
        add_bos: true,
    })
}

/// One way to cut a piece in two.
struct Cut<'a> {
    score: f32,
    parts: (&'a str, &'a str),
    /// In characters.
    lens: (usize, usize),
    ids: (u32, u32),
}

/// Every cut of every piece, the best score first; of one score the longer left part first, then the longer right
/// part. A user-defined piece is whole in any text, so its cuts come before all others, whatever its score.
fn merges<'a>(vocabulary: &'a Vocabulary, scores: &[f32]) -> Result<Vec<(&'a str, &'a str)>, ImportError> {
    let joins = |id: u32| {
        let kind = vocabulary.tokens.get(id as usize).map(|token| token.kind);
        matches!(kind, Some(Type::Normal | Type::UserDefined))
    };
    let mut cuts = Vec::new();
    for ((id, token), score) in (0u32..).zip(&vocabulary.tokens).zip(scores).filter(|((id, _), _)| joins(*id))
    {
        let text = token.text.as_str();
        if text.len() > PIECE_BYTES_MAX {
            let (key, value) = (format!("tokenizer.ggml.tokens[{id}]"), format!("{} bytes", text.len()));
            return Err(ImportError::Config { key, value, rule: format!("at most {PIECE_BYTES_MAX}") });
        }
        let score = if token.kind == Type::UserDefined { f32::INFINITY } else { *score + 0.0 }; // no negative zero
        let first = cuts.len();
        let chars = text.chars().count();
        for (left_len, (at, _)) in text.char_indices().enumerate().skip(1) {
            let (left, right) = text.split_at(at);
            let id = |part: &str| vocabulary.ids.get(part).copied().filter(|id| joins(*id));
            if let (Some(left_id), Some(right_id)) = (id(left), id(right)) {
                let lens = (left_len, chars - left_len);
                cuts.push(Cut { score, parts: (left, right), lens, ids: (left_id, right_id) });
            }
        }
        if let Some(own) = cuts.get_mut(first..) {
            own.sort_by_key(|cut| cut.ids);
        }
    }
    cuts.sort_by(|a, b| b.score.total_cmp(&a.score).then(b.lens.cmp(&a.lens)));
    Ok(cuts.into_iter().map(|cut| cut.parts).collect())
}
