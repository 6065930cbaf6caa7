//! What a model says of a text, for comparing files, backends and other implementations.
//!
//! Every function drives slot 0 from position 0, so an engine that serves sessions is not the one to hand in.

mod input;

use muse_kernels::BackendError;
use serde::Serialize;

pub use self::input::Input;
use self::input::Sequence;
use crate::{Draft, Engine, PROPOSED_MAX, PlaceError, TextError};

/// Why an evaluation was not made.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    #[error("there are no tokens to evaluate")]
    Empty,
    #[error("this model makes vectors of texts and has no logits: use eval embed")]
    MakesVectors,
    #[error("{tokens} tokens were asked for; the model is loaded with a context of {context}")]
    TooLong { tokens: u64, context: u32 },
    #[error("token {token} is outside the vocabulary of {vocab}")]
    Token { token: u32, vocab: u32 },
    #[error("there is no position {position}; the {tokens} tokens have positions 0 to {}", tokens - 1)]
    Position { position: u64, tokens: u64 },
    #[error("a window of {context} positions has none to predict; take at least 2, and 3 with a BOS token")]
    Window { context: u32 },
    #[error("the text is {tokens} tokens; at least 2 are needed")]
    TooShort { tokens: u64 },
    #[error("the vocabularies differ: {reference} and {other} tokens")]
    Vocab { reference: u32, other: u32 },
    #[error("the logits at position {position} are not finite")]
    NotFinite { position: u64 },
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Media(#[from] PlaceError),
    #[error(transparent)]
    Backend(#[from] BackendError),
}

/// Perplexity of a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Perplexity {
    /// `exp(nll)`.
    pub perplexity: f64,
    /// Mean negative log-likelihood of a predicted token, in nats.
    pub nll: f64,
    /// Predicted tokens.
    pub tokens: u64,
    /// Positions of a window.
    pub context: u32,
    pub windows: u64,
}

/// How far one model's predictions are from another's over a text.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Divergence {
    /// Mean of `KL(reference || other)` over the positions, in nats.
    pub mean_kl: f64,
    pub max_kl: f64,
    /// Share of positions at which both rank the same token first.
    pub top1_agreement: f64,
    pub positions: u64,
    /// Positions of a window.
    pub context: u32,
}

fn check(engine: &dyn Engine, tokens: &[u32], more: u64) -> Result<(), EvalError> {
    let info = engine.info();
    let total = tokens.len() as u64 + more;
    if info.embedding.is_some() {
        return Err(EvalError::MakesVectors);
    }
    if tokens.is_empty() {
        return Err(EvalError::Empty);
    }
    if total > u64::from(info.context) {
        return Err(EvalError::TooLong { tokens: total, context: info.context });
    }
    match tokens.iter().find(|t| **t >= info.vocab) {
        Some(token) => Err(EvalError::Token { token: *token, vocab: info.vocab }),
        None => Ok(()),
    }
}

/// Steps `sequence` and gives `visit` the logits of every position, in order.
fn every_row(
    engine: &mut dyn Engine,
    sequence: &Sequence<'_>,
    mut visit: impl FnMut(u64, &[f32]) -> Result<(), EvalError>,
) -> Result<(), EvalError> {
    let (chunk, vocab) = {
        let info = engine.info();
        (info.batch_tokens.min(info.logit_rows) as usize, info.vocab as usize)
    };
    let (mut logits, mut done) = (Vec::new(), 0);
    while done < sequence.tokens.len() {
        // A step that is longer is made again for the rows whose logits there was no room for.
        let (mut shown, mut rows) = (0, usize::MAX);
        while shown < rows {
            let wanted = |rows: u32| (shown as u32..rows).take(chunk).collect();
            rows = sequence.step(engine, done, chunk, wanted, &mut logits)?;
            for row in logits.chunks_exact(vocab) {
                visit(u64::from(sequence.start) + (done + shown) as u64, row)?;
                shown += 1;
            }
        }
        done += rows;
    }
    Ok(())
}

/// Steps `sequence` and gives the logits of its last position.
fn last_row(engine: &mut dyn Engine, sequence: &Sequence<'_>) -> Result<Vec<f32>, EvalError> {
    row(engine, sequence, sequence.tokens.len() - 1)
}

/// Steps `sequence` as far as its token `at` and gives the logits behind that.
fn row(engine: &mut dyn Engine, sequence: &Sequence<'_>, at: usize) -> Result<Vec<f32>, EvalError> {
    let chunk = engine.info().batch_tokens as usize;
    let (mut logits, mut done) = (Vec::new(), 0);
    while done <= at {
        let own = |rows: u32| {
            if at < done + rows as usize { vec![(at - done) as u32] } else { Vec::new() }
        };
        done += sequence.step(engine, done, chunk, own, &mut logits)?;
    }
    Ok(logits)
}

/// The logits, `(vocab)`, after `position`, by default the last, of `tokens`.
///
/// # Errors
/// [`EvalError`] for tokens that are none, too many or unknown, for a position they do not have, and for media that do
/// not fit them.
pub fn logits<'a>(
    engine: &mut dyn Engine,
    input: impl Into<Input<'a>>,
    position: Option<u64>,
) -> Result<Vec<f32>, EvalError> {
    let input = input.into();
    let tokens = input.tokens;
    check(engine, tokens, 0)?;
    let count = tokens.len() as u64;
    let position = position.unwrap_or(count - 1);
    let at = usize::try_from(position).ok().filter(|p| *p < tokens.len());
    let at = at.ok_or(EvalError::Position { position, tokens: count })?;
    let sequence = Sequence::new(engine, input)?.cut(at + 1);
    row(engine, &sequence, at)
}

/// The logits of every position of `tokens`, handed to `visit` one after another.
///
/// # Errors
/// See [`logits`].
pub fn every_position<'a>(
    engine: &mut dyn Engine,
    input: impl Into<Input<'a>>,
    mut visit: impl FnMut(u64, &[f32]),
) -> Result<(), EvalError> {
    let input = input.into();
    check(engine, input.tokens, 0)?;
    let sequence = Sequence::new(engine, input)?;
    every_row(engine, &sequence, |position, row| {
        visit(position, row);
        Ok(())
    })
}

/// The `count` tokens that follow `tokens` greedily: the largest logit, the lowest id where several are equal. Stop
/// ids do not end it: a comparison wants all of them.
///
/// # Errors
/// See [`logits`]; also where the logits are not finite.
pub fn generate<'a>(
    engine: &mut dyn Engine,
    input: impl Into<Input<'a>>,
    count: u32,
) -> Result<Vec<u32>, EvalError> {
    generate_drafted(engine, input, count).map(|generated| generated.tokens)
}

/// Greedy tokens, and what became of those that a drafter proposed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Generated {
    pub tokens: Vec<u32>,
    pub proposed_tokens: u32,
    pub accepted_tokens: u32,
    /// Steps that gave the tokens.
    pub steps: u32,
}

/// [`generate`], with a block of the model's drafter verified in every step where it has one. The tokens are the same.
///
/// # Errors
/// As [`generate`].
pub fn generate_drafted<'a>(
    engine: &mut dyn Engine,
    input: impl Into<Input<'a>>,
    count: u32,
) -> Result<Generated, EvalError> {
    let input = input.into();
    check(engine, input.tokens, u64::from(count))?;
    let mut out = Generated::default();
    let mut at = input.tokens.len() as u32;
    let sequence = Sequence::new(engine, input)?;
    let mut rows = if count == 0 { Vec::new() } else { last_row(engine, &sequence)? };
    let vocab = engine.info().vocab as usize;
    let mut proposed = Vec::new();
    while out.tokens.len() < count as usize {
        out.steps += 1;
        // The token of each row, as long as it is the one that the next row was computed for.
        for (i, row) in rows.chunks_exact(vocab).enumerate() {
            let token = top(row).ok_or(EvalError::NotFinite { position: u64::from(at) - 1 })?;
            out.tokens.push(token);
            at += 1;
            if proposed.get(i) != Some(&token) {
                break;
            }
            out.accepted_tokens += 1;
        }
        let left = count - out.tokens.len() as u32;
        if left > 0 {
            let last = out.tokens[out.tokens.len() - 1];
            proposed = block(engine, at - 1, last, left - 1)?;
            out.proposed_tokens += proposed.len() as u32;
            let tokens = [&[last], proposed.as_slice()].concat();
            let all = |rows| (0..rows).collect();
            sequence.followed_by(at - 1, &tokens).step(engine, 0, tokens.len(), all, &mut rows)?;
        }
    }
    Ok(out)
}

/// What the model's drafter expects behind `token`, at `start` of slot 0: `most` tokens at most; none where there is no
/// drafter or no room for its block.
fn block(engine: &mut dyn Engine, start: u32, token: u32, most: u32) -> Result<Vec<u32>, BackendError> {
    let info = engine.info();
    let fits = info.drafter.as_ref().filter(|drafter| start.saturating_add(drafter.block) <= info.context);
    // No more can be taken back.
    let rows = (info.logit_rows - 1).min(info.batch_tokens - 1).min(PROPOSED_MAX).min(most);
    let count = fits.map_or(0, |drafter| drafter.length_max().min(rows));
    if count == 0 {
        return Ok(Vec::new());
    }
    let vocab = info.vocab as usize;
    let mut logits = vec![0.0; count as usize * vocab];
    engine.draft(&[Draft { slot: 0, start, token, count }], &mut logits)?;
    Ok(logits.chunks_exact(vocab).map(|row| top(row).unwrap_or(0)).collect())
}

/// Index of the largest value, the first where several are; `None` where one is not finite.
pub(crate) fn top(row: &[f32]) -> Option<u32> {
    let mut best = (None, f32::NEG_INFINITY);
    for (i, x) in row.iter().enumerate() {
        if !x.is_finite() {
            return None;
        }
        if *x > best.1 {
            best = (Some(i as u32), *x);
        }
    }
    best.0
}

/// `x - log(sum(exp(x)))` of a row, in f64.
fn log_softmax(row: &[f32]) -> Vec<f64> {
    let max = f64::from(row.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = row.iter().map(|x| (f64::from(*x) - max).exp()).sum();
    let log_sum = max + sum.ln();
    row.iter().map(|x| f64::from(*x) - log_sum).collect()
}

/// Non-overlapping windows of at most `context` tokens over a text, each with BOS in front where the model asks for
/// it. A last window in which nothing would be predicted is left out.
fn windows(engine: &dyn Engine, text: &str, context: u32) -> Result<Vec<Vec<u32>>, EvalError> {
    if engine.info().embedding.is_some() {
        return Err(EvalError::MakesVectors);
    }
    if context > engine.info().context {
        return Err(EvalError::TooLong { tokens: context.into(), context: engine.info().context });
    }
    let coder = engine.text();
    let bos = coder.encode("")?;
    let tokens = coder.encode(text)?;
    let body = tokens.strip_prefix(bos.as_slice()).unwrap_or(&tokens);
    let room = (context as usize).saturating_sub(bos.len());
    if room == 0 || context < 2 {
        return Err(EvalError::Window { context });
    }
    let windows = body.chunks(room).map(|chunk| [bos.as_slice(), chunk].concat());
    let windows: Vec<_> = windows.filter(|window| window.len() > 1).collect();
    if windows.is_empty() {
        return Err(EvalError::TooShort { tokens: tokens.len() as u64 });
    }
    windows.iter().try_for_each(|window| check(engine, window, 0))?;
    Ok(windows)
}

/// Perplexity over non-overlapping windows of `context` tokens: every token of a window but its first is predicted
/// from those before it in the window.
///
/// # Errors
/// [`EvalError`]; also where a logit is not finite.
pub fn perplexity(engine: &mut dyn Engine, text: &str, context: u32) -> Result<Perplexity, EvalError> {
    let windows = windows(engine, text, context)?;
    let (mut nll, mut tokens) = (0.0, 0_u64);
    for window in &windows {
        every_row(engine, &Sequence::text(0, &window[..window.len() - 1]), |position, row| {
            let target = window[position as usize + 1];
            let log_likelihood = log_softmax(row)[target as usize];
            if !log_likelihood.is_finite() {
                return Err(EvalError::NotFinite { position });
            }
            nll -= log_likelihood;
            tokens += 1;
            Ok(())
        })?;
    }
    let nll = nll / tokens as f64;
    Ok(Perplexity { perplexity: nll.exp(), nll, tokens, context, windows: windows.len() as u64 })
}

/// `KL(reference || other)` at every position that [`perplexity`] would predict from. The text is tokenized by the
/// reference.
///
/// # Errors
/// [`EvalError`]; also where the vocabularies differ or a logit is not finite.
pub fn kl(
    reference: &mut dyn Engine,
    other: &mut dyn Engine,
    text: &str,
    context: u32,
) -> Result<Divergence, EvalError> {
    let vocabs = (reference.info().vocab, other.info().vocab);
    if vocabs.0 != vocabs.1 {
        return Err(EvalError::Vocab { reference: vocabs.0, other: vocabs.1 });
    }
    if context > other.info().context {
        return Err(EvalError::TooLong { tokens: context.into(), context: other.info().context });
    }
    let windows = windows(reference, text, context)?;
    let (mut sum, mut max, mut agree, mut positions) = (0.0, 0.0_f64, 0_u64, 0_u64);
    for window in &windows {
        let inputs = &window[..window.len() - 1];
        // Chunks, so that memory is bounded by a chunk of logits and not by a window of them.
        let chunk = reference.info().logit_rows.min(reference.info().batch_tokens) as usize;
        for (i, tokens) in inputs.chunks(chunk).enumerate() {
            let start = (i * chunk) as u32;
            let mut rows = Vec::new();
            every_row(reference, &Sequence::text(start, tokens), |_, row| {
                rows.push(row.to_vec());
                Ok(())
            })?;
            let mut expected = rows.iter();
            every_row(other, &Sequence::text(start, tokens), |position, row| {
                let expected = expected.next().expect("both engines give a row a token");
                let tops = top(expected).zip(top(row)).ok_or(EvalError::NotFinite { position })?;
                let kl = divergence(expected, row);
                sum += kl;
                max = max.max(kl);
                agree += u64::from(tops.0 == tops.1);
                positions += 1;
                Ok(())
            })?;
        }
    }
    let mean = |sum: f64| sum / positions as f64;
    let top1_agreement = mean(agree as f64);
    Ok(Divergence { mean_kl: mean(sum), max_kl: max, top1_agreement, positions, context })
}

/// `sum(p * ln(p / q))` of two rows of logits; 0 at least, whatever rounding says.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let (p, q) = (log_softmax(p), log_softmax(q));
    p.iter().zip(&q).map(|(p, q)| p.exp() * (p - q)).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uniform_row_has_log_probabilities_of_its_length() {
        for p in log_softmax(&[3.0; 8]) {
            assert!((p + 8_f64.ln()).abs() <= 1e-15);
        }
    }

    #[test]
    fn the_top_is_the_first_of_equals_and_needs_numbers() {
        assert_eq!(top(&[1.0, 5.0, 5.0, 2.0]), Some(1));
        for bad in [&[1.0, f32::NAN][..], &[0.0, f32::NEG_INFINITY], &[0.0, f32::INFINITY], &[]] {
            assert_eq!(top(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn divergence_is_what_its_definition_says() {
        // p = (1/2, 1/2), q = (1/4, 3/4): 1/2 ln 2 + 1/2 ln(2/3). Logits are f32: ln 3 errs by half an ulp, 6e-8.
        let expected = 0.5 * 2_f64.ln() + 0.5 * (2.0_f64 / 3.0).ln();
        let actual = divergence(&[0.0, 0.0], &[0.0, 3_f32.ln()]);
        assert!((actual - expected).abs() <= 1e-7, "{actual} vs {expected}");
        assert_eq!(divergence(&[1.0, 2.0, -4.0], &[1.0, 2.0, -4.0]), 0.0);
    }
}
