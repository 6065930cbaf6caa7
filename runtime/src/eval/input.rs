//! What is stepped: tokens, and media in the place of some of them.

use muse_kernels::{BackendError, Span};

use crate::media::{Place, part, places, turn};
use crate::{Engine, MediaRows, Medium, PlaceError};

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
    /// From position 0 on, with the rows and columns of their vectors: media of models whose rows turn by those.
    areas: Vec<(Place, [u32; 2])>,
}

impl<'a> Sequence<'a> {
    pub(super) fn text(start: u32, tokens: &'a [u32]) -> Self {
        Self { start, tokens, media: &[], places: Vec::new(), which: Vec::new(), areas: Vec::new() }
    }

    /// Text at `start`, behind all of this.
    pub(super) fn followed_by<'b>(&self, start: u32, tokens: &'b [u32]) -> Sequence<'b> {
        Sequence { areas: self.areas.clone(), ..Sequence::text(start, tokens) }
    }

    /// An input from position 0 on. Tokens that stand for media may have none.
    pub(super) fn new(engine: &dyn Engine, input: Input<'a>) -> Result<Self, PlaceError> {
        let Input { tokens, media } = input;
        let info = engine.info();
        let (places, which): (Vec<Place>, Vec<usize>) = places(tokens, media, info)?.into_iter().unzip();
        let area = |(place, which): (&Place, &usize)| Some((*place, media[*which].area(info)?));
        let areas = places.iter().zip(&which).filter_map(area).collect();
        Ok(Self { start: 0, tokens, media, places, which, areas })
    }

    /// The first `len` tokens, and the rest of a medium among them that is read in one step.
    pub(super) fn cut(self, len: usize) -> Self {
        let ends = self.places.iter().filter(|place| place.joint && (place.at as usize) < len);
        let ends = ends.map(|place| (place.at + place.len) as usize).max();
        Self { tokens: &self.tokens[..ends.unwrap_or(0).max(len)], ..self }
    }

    /// Steps at most `most` of the tokens from the `done`-th on, or all of a medium that is read in one step; returns how many. `wanted` is given that, and says which
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
        let turns = self.turns(span);
        let media = MediaRows { placed: &placed, turns: &turns };
        engine.step_with_media(&[span], tokens, media, &wanted, logits)?;
        Ok(len as usize)
    }
    /// What the rows of `span` turn by, where not by their positions.
    fn turns(&self, span: Span) -> Vec<[u32; 3]> {
        let positions = span.start..span.start + span.len;
        if self.areas.iter().all(|(place, _)| place.at >= positions.end) {
            return Vec::new();
        }
        positions.map(|position| turn(self.areas.iter().copied(), position)).collect()
    }
}
