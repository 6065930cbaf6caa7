use std::path::Path;

use muse_runtime::{EmbedOptions, Embedded, EncodedTexts, LoadOptions, Refusal, embed_texts, encode_texts};
use serde_json::json;

use super::eval::options;
use super::{Failure, print};
use crate::cli::{EvalCommon, Tokens};

/// Numbers of a vector that are printed without --json.
const SHOWN: usize = 6;
/// Texts of one step.
const TEXTS: u32 = 8;

/// The vectors of `texts`, or of `tokens` where there are any.
pub fn run(
    file: &Path,
    texts: &[String],
    tokens: &[Tokens],
    how: &EmbedOptions,
    common: &EvalCommon,
) -> Result<(), Failure> {
    let mut engine = muse_runtime::load(file, &LoadOptions { slots: TEXTS, ..options(common) })?;
    let info = engine.info();
    let encoded = if tokens.is_empty() {
        encode_texts(info, &*engine.text(), texts, how)?
    } else {
        if info.embedding.is_none() {
            return Err(Refusal::WritesText.into());
        }
        for (index, Tokens(ids)) in tokens.iter().enumerate() {
            if ids.is_empty() {
                return Err(Refusal::EmptyText { index }.into());
            }
            if ids.len() > info.context as usize {
                return Err(Refusal::TextTooLong { index, tokens: ids.len(), limit: info.context }.into());
            }
        }
        EncodedTexts { texts: tokens.iter().map(|Tokens(ids)| ids.clone()).collect(), truncated: 0 }
    };
    let made = embed_texts(&mut *engine, &encoded)?;
    if common.json {
        let counts: Vec<usize> = encoded.texts.iter().map(Vec::len).collect();
        let value = json!({ "embeddings": made.vectors, "tokens": counts, "truncated": made.truncated });
        // One line: vectors are for programs.
        return print(&format!("{value}\n"));
    }
    print(&table(&made, &encoded))
}

/// A line a text, with how near it is to the first.
fn table(made: &Embedded, encoded: &EncodedTexts) -> String {
    let first = made.vectors.first().map_or(&[][..], Vec::as_slice);
    let mut out =
        format!("{:>4} {:>7} {:>7}  vector of {} numbers\n", "text", "tokens", "cosine", first.len());
    for (i, (vector, ids)) in made.vectors.iter().zip(&encoded.texts).enumerate() {
        let shown: Vec<String> = vector.iter().take(SHOWN).map(|x| format!("{x:.4}")).collect();
        let cosine = cosine(first, vector);
        out += &format!("{i:>4} {:>7} {cosine:>7.4}  {} ...\n", ids.len(), shown.join(" "));
    }
    out
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}
