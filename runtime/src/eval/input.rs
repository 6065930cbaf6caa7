//! What is stepped: tokens, and images in the place of some of them.

use muse_kernels::{BackendError, Span};

use crate::vision::{Place, part, places};
use crate::{Engine, Image, PlaceError};

/// Tokens to evaluate, and the images that the place of some of them is for, in order.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    pub tokens: &'a [u32],
    pub images: &'a [Image],
}

impl<'a, T: AsRef<[u32]> + ?Sized> From<&'a T> for Input<'a> {
    fn from(tokens: &'a T) -> Self {
        Self { tokens: tokens.as_ref(), images: &[] }
    }
}

/// Consecutive tokens of slot 0.
pub(super) struct Sequence<'a> {
    /// Position of the first.
    pub(super) start: u32,
    pub(super) tokens: &'a [u32],
    images: &'a [Image],
    /// Counted from `start`.
    places: Vec<Place>,
}

impl<'a> Sequence<'a> {
    pub(super) fn text(start: u32, tokens: &'a [u32]) -> Self {
        Self { start, tokens, images: &[], places: Vec::new() }
    }

    /// An input from position 0 on. Tokens that stand for images may have none.
    pub(super) fn new(engine: &dyn Engine, input: Input<'a>) -> Result<Self, PlaceError> {
        let Input { tokens, images } = input;
        let places = match &engine.info().vision {
            _ if images.is_empty() => Vec::new(),
            None => return Err(PlaceError::NoVision),
            Some(vision) => places(tokens, images, &vision.spec)?,
        };
        Ok(Self { start: 0, tokens, images, places })
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
        if let Some((image, _)) = placed {
            engine.look(&self.images[image])?;
        }
        let placed: Vec<_> = placed.into_iter().map(|(_, placed)| placed).collect();
        let wanted = wanted(len);
        logits.resize(wanted.len() * engine.info().vocab as usize, 0.0);
        let span = Span { slot: 0, start: self.start + done as u32, len };
        let tokens = &self.tokens[done..done + len as usize];
        engine.step_with_image(&[span], tokens, &placed, &wanted, logits)?;
        Ok(len as usize)
    }
}
