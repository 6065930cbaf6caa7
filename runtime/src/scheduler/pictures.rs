//! The images of a prompt: from files in messages to places among its tokens.

use std::sync::Arc;

use muse_format::ImageText;

use crate::engine::Placed;
use crate::vision::{Place, part};
use crate::{Image, Message, ModelInfo, Refusal, Text, TextError};

/// Images, and the tokens that they take the place of, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Pictures {
    places: Vec<Place>,
    images: Vec<Arc<Image>>,
}

/// What tells a sequence with images from another with the same tokens.
pub(super) type Key = (Place, [u8; 32]);

/// Reads the images of `messages` and makes room for them in `tokens`, in which each is one token.
///
/// # Errors
/// [`Refusal::Image`] for a file that is none or too large, [`Refusal::PromptTooLong`] as soon as they are more than the
/// context takes, [`Refusal::Text`] where the template has not written a place for each.
pub(super) fn place(
    tokens: Vec<u32>,
    messages: &[Message],
    info: &ModelInfo,
    text: &dyn Text,
) -> Result<(Vec<u32>, Pictures), Refusal> {
    let files: Vec<_> = messages.iter().flat_map(|message| &message.images).collect();
    if files.is_empty() {
        return Ok((tokens, Pictures::default()));
    }
    let known = info.vision.as_ref().zip(text.image());
    let (vision, ImageText { token, before, after }) = known.ok_or(TextError::NoImages)?;
    let placed = tokens.iter().filter(|id| **id == token).count();
    if placed != files.len() {
        return Err(TextError::Places { placed, images: files.len() }.into());
    }
    let (mut ids, mut pictures) = (Vec::with_capacity(tokens.len()), Pictures::default());
    for id in tokens {
        if id != token {
            ids.push(id);
            continue;
        }
        let index = pictures.images.len();
        let image = Image::decode(files[index], &vision.spec, vision.image_tokens);
        let image = image.map_err(|problem| Refusal::Image { image: index, problem })?;
        let len = image.tokens(&vision.spec);
        ids.extend(before);
        pictures.places.push(Place { at: ids.len() as u32, len });
        ids.extend(std::iter::repeat_n(token, len as usize));
        ids.extend(after);
        pictures.images.push(Arc::new(image));
        // So that the images at hand are bounded by the context.
        let (tokens, limit) = (ids.len() as u32, info.context - 1);
        if tokens > limit {
            return Err(Refusal::PromptTooLong { tokens, limit });
        }
    }
    Ok((ids, pictures))
}

impl Pictures {
    /// Those that begin before position `end`.
    pub(super) fn keys(&self, end: u32) -> Vec<Key> {
        let keys = self.places.iter().zip(&self.images).map(|(place, image)| (*place, *image.hash()));
        keys.filter(|(place, _)| place.at < end).collect()
    }

    /// How many of `len` tokens from `start` on one step may take, and the image that it needs for them.
    pub(super) fn part(&self, start: u32, len: u32) -> (u32, Option<(&Arc<Image>, Placed)>) {
        let (len, placed) = part(&self.places, start, len);
        (len, placed.map(|(index, placed)| (&self.images[index], placed)))
    }
}

/// How many of the first `common` positions two sequences share whose tokens are the same so far: up to the first image
/// that is not the same in both.
pub(super) fn agreed(common: u32, held: &[Key], known: &[Key]) -> u32 {
    let mut index = 0;
    loop {
        let pair = (held.get(index), known.get(index));
        match pair {
            (Some(a), Some(b)) if a == b => index += 1,
            (None, None) => return common,
            (a, b) => return [a, b].into_iter().flatten().map(|(place, _)| place.at).fold(common, u32::min),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_agree_up_to_the_first_other_image() {
        let key = |at, hash| (Place { at, len: 4 }, [hash; 32]);
        let cases = [
            (vec![], vec![], 20),
            (vec![key(3, 1)], vec![key(3, 1)], 20),
            (vec![key(3, 1)], vec![key(3, 2)], 3),
            (vec![key(3, 1), key(9, 1)], vec![key(3, 1), key(9, 2)], 9),
            (vec![key(3, 1)], vec![], 3),
            (vec![], vec![key(5, 1)], 5),
            (vec![key(3, 1), key(9, 1)], vec![key(3, 1)], 9),
            (vec![key(30, 1)], vec![key(40, 1)], 20),
            (vec![key(3, 1)], vec![key(4, 1)], 3),
        ];
        for (held, known, expected) in cases {
            assert_eq!(agreed(20, &held, &known), expected, "{held:?} {known:?}");
        }
    }
}
