//! Which tokens of a sequence a medium takes the place of.

use super::{Medium, MediumKind};
use crate::ModelInfo;
use crate::engine::Placed;
use muse_kernels::Span;

/// A run of tokens that are one medium's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Position of the first.
    pub at: u32,
    pub len: u32,
    /// [`Medium::joint`].
    pub joint: bool,
}

/// Tokens and media that do not fit together. Media of a kind are counted from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    #[error("the model takes no {kind}s")]
    NoTower { kind: MediumKind },
    #[error("{} {index} is {tokens} tokens; {found} of id {id} are left for it in a row", kind.part())]
    TooFew { kind: MediumKind, index: usize, tokens: u32, found: u32, id: u32 },
    #[error("{left} tokens of id {id} are left over: {count} {}s need fewer", kind.part())]
    TooMany { kind: MediumKind, left: u32, id: u32, count: usize },
}

/// The places of `media` among `tokens`, first to last, each with the index of its medium. Those of a kind are in the
/// order of their tokens: each takes as many of the tokens that stand for its kind as it has vectors.
///
/// # Errors
/// [`PlaceError`] where the tokens are more or fewer, or something stands between those of a medium.
pub fn places(tokens: &[u32], media: &[Medium], info: &ModelInfo) -> Result<Vec<(Place, usize)>, PlaceError> {
    let mut places = Vec::with_capacity(media.len());
    for kind in MediumKind::ALL {
        let of_kind = || media.iter().enumerate().filter(|(_, medium)| medium.kind() == kind);
        let count = of_kind().count();
        if count == 0 {
            continue;
        }
        let id = info.token_of(kind).ok_or(PlaceError::NoTower { kind })?;
        let mut rest = 0;
        for (index, (which, medium)) in of_kind().enumerate() {
            let len = medium.tokens(info).ok_or(PlaceError::NoTower { kind })?;
            let at = tokens[rest..].iter().position(|token| *token == id);
            let at = at.map_or(tokens.len(), |at| rest + at);
            let run = tokens[at..].iter().take(len as usize).take_while(|token| **token == id);
            let found = run.count() as u32;
            if found < len {
                return Err(PlaceError::TooFew { kind, index, tokens: len, found, id });
            }
            rest = at + len as usize;
            places.push((Place { at: at as u32, len, joint: medium.joint(info) }, which));
        }
        let left = tokens[rest..].iter().filter(|token| **token == id).count() as u32;
        if left > 0 {
            return Err(PlaceError::TooMany { kind, left, id, count });
        }
    }
    places.sort_unstable_by_key(|(place, _)| place.at);
    Ok(places)
}

/// How many of the `len` tokens from `start` on may go into one step, which sees one medium at most, and which of
/// `places` that is, with its rows counted from `start`. Of a medium whose rows see each other all go into a step, also where
/// that makes it longer than `len`, or none.
pub fn part(places: &[Place], start: u32, len: u32) -> (u32, Option<(usize, Placed)>) {
    let touches = |place: &Place| place.at < start + len && place.at + place.len > start;
    let mut touched = places.iter().enumerate().filter(|(_, place)| touches(place));
    let Some((index, place)) = touched.next() else { return (len, None) };
    let len = touched.next().map_or(len, |(_, next)| next.at - start);
    let (begins, ends) = (place.at.saturating_sub(start), place.at + place.len - start);
    let len = match place.joint && ends > len {
        true if begins > 0 => return (begins, None),
        true => ends,
        false => len,
    };
    let (first, end) = (place.at.max(start), (place.at + place.len).min(start + len));
    let placed = Placed { row: first - start, from: first - place.at, len: end - first, joint: place.joint };
    (len, Some((index, placed)))
}

/// Cuts `spans`, the rows of a step, so that those rows of `placed` that see each other are spans of their own; `joint` says
/// which of the pieces are.
pub(crate) fn cut(spans: &[Span], placed: &[Placed], pieces: &mut Vec<Span>, joint: &mut Vec<bool>) {
    pieces.clear();
    joint.clear();
    let mut add = |span: Span, together: bool| {
        if span.len > 0 {
            pieces.push(span);
            joint.push(together);
        }
    };
    let (mut row, mut placed) = (0, placed.iter().filter(|placed| placed.joint).peekable());
    for span in spans {
        let (mut start, end) = (span.start, span.start + span.len);
        while let Some(next) = placed.next_if(|next| next.row < row + span.len) {
            let first = span.start + (next.row - row);
            add(Span { start, len: first - start, ..*span }, false);
            add(Span { start: first, len: next.len, ..*span }, true);
            start = first + next.len;
        }
        add(Span { start, len: end - start, ..*span }, false);
        row += span.len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_one_medium() {
        let places = [(3, 4), (7, 2), (12, 1)].map(|(at, len)| Place { at, len, joint: false });
        let placed = |row, from, len| Placed { row, from, len, joint: false };
        let cases = [
            (0, 3, (3, None)),
            (0, 5, (5, Some((0, placed(3, 0, 2))))),
            (0, 20, (7, Some((0, placed(3, 0, 4))))),
            (5, 2, (2, Some((0, placed(0, 2, 2))))),
            (7, 20, (5, Some((1, placed(0, 0, 2))))),
            (8, 3, (3, Some((1, placed(0, 1, 1))))),
            (9, 3, (3, None)),
            (12, 5, (5, Some((2, placed(0, 0, 1))))),
        ];
        for (start, len, expected) in cases {
            assert_eq!(part(&places, start, len), expected, "{start} + {len}");
        }
    }

    #[test]
    fn a_step_takes_all_of_a_medium_whose_rows_see_each_other() {
        let places = [Place { at: 3, len: 4, joint: true }, Place { at: 8, len: 5, joint: true }];
        let placed = |row, from, len| Placed { row, from, len, joint: true };
        let cases = [
            (0, 3, (3, None)),
            (0, 5, (3, None)),
            (0, 7, (7, Some((0, placed(3, 0, 4))))),
            (3, 1, (4, Some((0, placed(0, 0, 4))))),
            // What was computed before saw all of it.
            (5, 1, (2, Some((0, placed(0, 2, 2))))),
            (3, 9, (5, Some((0, placed(0, 0, 4))))),
            (8, 30, (30, Some((1, placed(0, 0, 5))))),
        ];
        for (start, len, expected) in cases {
            assert_eq!(part(&places, start, len), expected, "{start} + {len}");
        }
    }

    #[test]
    fn rows_that_see_each_other_are_cut_out_of_a_step() {
        let span = |slot, start, len| Span { slot, start, len };
        let placed = |row, len, joint| Placed { row, from: 0, len, joint };
        let of = |spans: &[Span], placed: &[Placed]| {
            let (mut pieces, mut joint) = (Vec::new(), Vec::new());
            cut(spans, placed, &mut pieces, &mut joint);
            pieces.into_iter().zip(joint).collect::<Vec<_>>()
        };
        let spans = [span(2, 10, 6), span(0, 0, 1), span(1, 7, 4)];
        let whole = [(spans[0], false), (spans[1], false), (spans[2], false)];
        assert_eq!(of(&spans, &[]), whole);
        assert_eq!(of(&spans, &[placed(1, 3, false)]), whole);
        let cut = [
            (span(2, 10, 1), false),
            (span(2, 11, 3), true),
            (span(2, 14, 2), false),
            (spans[1], false),
            (spans[2], true),
        ];
        assert_eq!(of(&spans, &[placed(1, 3, true), placed(7, 4, true)]), cut);
    }
}
