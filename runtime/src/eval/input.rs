//! What is stepped: tokens, and media in the place of some of them.

use muse_kernels::{BackendError, Span};

use crate::media::{Place, part, places};
use crate::{Engine, Medium, PlaceError};

/// Tokens to evaluate, and the media that the place of some of them is for, those of a kind in order.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub tokens: &'a [u32],
    pub media: &'a [Medium],
}

impl<'a, T: AsRef<[u32]> + ?Sized> From<&'a T> for Input<'a> {
    fn from(tokens: &'a T) -> Self {
        Self { tokens: tokens.as_ref(), media: &[] }
    }
}

/// Consecutive tokens of slot 0.
pub(super) struct Sequence<'a> {
    /// Position of the first.
    pub(super) start: u32,
    pub(super) tokens: &'a [u32],
    media: &'a [Medium],
    /// Counted from `start`.
    places: Vec<Place>,
    /// The medium of each place.
    which: Vec<usize>,
}

impl<'a> Sequence<'a> {
    pub(super) fn text(start: u32, tokens: &'a [u32]) -> Self {
        Self { start, tokens, media: &[], places: Vec::new(), which: Vec::new() }
    }

    /// An input from position 0 on. Tokens that stand for media may have none.
    pub(super) fn new(engine: &dyn Engine, input: Input<'a>) -> Result<Self, PlaceError> {
        let Input { tokens, media } = input;
        let (places, which) = places(tokens, media, engine.info())?.into_iter().unzip();
        Ok(Self { start: 0, tokens, media, places, which })
    }

    /// The first `len` tokens.
    pub(super) fn cut(self, len: usize) -> Self {
        Self { tokens: &self.tokens[..len], ..self }
    }

    /// Steps at most `most` of the tokens from the `done`-th on; returns how many. `wanted` is given that, and says which
    /// rows' logits go to `logits`.
    pub(super) fn step(
        &self,
        engine: &mut dyn Engine,
        done: usize,
        most: usize,
        wanted: impl FnOnce(u32) -> Vec<u32>,
        logits: &mut Vec<f32>,
    ) -> Result<usize, BackendError> {
        let (len, placed) = part(&self.places, done as u32, most.min(self.tokens.len() - done) as u32);
        if let Some((place, _)) = placed {
            engine.perceive(&self.media[self.which[place]])?;
        }
        let placed: Vec<_> = placed.into_iter().map(|(_, placed)| placed).collect();
        let wanted = wanted(len);
        logits.resize(wanted.len() * engine.info().vocab as usize, 0.0);
        let span = Span { slot: 0, start: self.start + done as u32, len };
        let tokens = &self.tokens[done..done + len as usize];
        engine.step_with_media(&[span], tokens, &placed, &wanted, logits)?;
        Ok(len as usize)
    }
}
