//! Which tokens of a sequence an image takes the place of.

use muse_format::Vision;

use super::Image;
use crate::engine::Placed;

/// A run of tokens that are one image's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Position of the first.
    pub at: u32,
    pub len: u32,
}

/// Tokens and images that do not fit together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    #[error("the model takes no images")]
    NoVision,
    #[error("image {image} is {tokens} tokens; {found} of id {id} are left for it in a row")]
    TooFew { image: usize, tokens: u32, found: u32, id: u32 },
    #[error("{left} tokens of id {id} are left over: {images} images need fewer")]
    TooMany { left: u32, id: u32, images: usize },
}

/// The places of `images` among `tokens`, in order: each takes as many of the tokens that stand for images as it has
/// vectors, one after another.
///
/// # Errors
/// [`PlaceError`] where the tokens are more or fewer, or something stands between those of an image.
pub fn places(tokens: &[u32], images: &[Image], vision: &Vision) -> Result<Vec<Place>, PlaceError> {
    let id = vision.token;
    let mut rest = 0;
    let mut places = Vec::with_capacity(images.len());
    for (index, image) in images.iter().enumerate() {
        let len = image.tokens(vision);
        let at = tokens[rest..].iter().position(|token| *token == id).map_or(tokens.len(), |at| rest + at);
        let found = tokens[at..].iter().take(len as usize).take_while(|token| **token == id).count() as u32;
        if found < len {
            return Err(PlaceError::TooFew { image: index, tokens: len, found, id });
        }
        rest = at + len as usize;
        places.push(Place { at: at as u32, len });
    }
    let left = tokens[rest..].iter().filter(|token| **token == id).count() as u32;
    if left > 0 {
        return Err(PlaceError::TooMany { left, id, images: images.len() });
    }
    Ok(places)
}

/// How many of the `len` tokens from `start` on may go into one step, which sees one image at most, and which of
/// `places` that is, with its rows counted from `start`.
pub fn part(places: &[Place], start: u32, len: u32) -> (u32, Option<(usize, Placed)>) {
    let touches = |place: &Place| place.at < start + len && place.at + place.len > start;
    let mut touched = places.iter().enumerate().filter(|(_, place)| touches(place));
    let Some((index, place)) = touched.next() else { return (len, None) };
    let len = touched.next().map_or(len, |(_, next)| next.at - start);
    let (first, end) = (place.at.max(start), (place.at + place.len).min(start + len));
    (len, Some((index, Placed { row: first - start, from: first - place.at, len: end - first })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_takes_one_image() {
        let places = [Place { at: 3, len: 4 }, Place { at: 7, len: 2 }, Place { at: 12, len: 1 }];
        let placed = |row, from, len| Placed { row, from, len };
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
}
