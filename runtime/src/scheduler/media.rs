//! The media of a prompt: from files in messages to places among its tokens.

use std::sync::Arc;

use muse_format::MediaText;

use crate::engine::Placed;
use crate::media::{Place, part, turn};
use crate::{Image, Medium, MediumKind, Message, ModelInfo, Refusal, Sound, Text, TextError};

/// Media, and the tokens that they take the place of, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Media {
    places: Vec<Place>,
    media: Vec<Arc<Medium>>,
    /// Rows and columns of the vectors of those that the model's rows turn by.
    areas: Vec<(Place, [u32; 2])>,
}

/// What tells a sequence with media from another with the same tokens.
pub(super) type Key = (Place, [u8; 32]);

/// The files of one kind that are sent with a prompt.
struct Sent<'a> {
    kind: MediumKind,
    text: MediaText,
    files: Vec<&'a [u8]>,
    /// Of `files`: the first that has no place yet.
    next: usize,
}

/// Reads the files of `messages` and makes room for their media in `tokens`, in which each is one token.
///
/// # Errors
/// [`Refusal::Image`] or [`Refusal::Sound`] for a file that is none or too large, [`Refusal::PromptTooLong`] as soon as they are more than the
/// context takes, [`Refusal::Text`] where the template has not written a place for each.
pub(super) fn place(
    tokens: Vec<u32>,
    messages: &[Message],
    info: &ModelInfo,
    text: &dyn Text,
) -> Result<(Vec<u32>, Media), Refusal> {
    let sent = MediumKind::ALL.into_iter().map(|kind| sent(kind, &tokens, messages, info, text));
    let mut sent = sent.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
    if sent.is_empty() {
        return Ok((tokens, Media::default()));
    }
    let (mut ids, mut media) = (Vec::with_capacity(tokens.len()), Media::default());
    for id in tokens {
        let Some(sent) = sent.iter_mut().find(|sent| sent.text.token == id) else {
            ids.push(id);
            continue;
        };
        let medium = decode(sent.kind, sent.next, sent.files[sent.next], info)?;
        sent.next += 1;
        let len = medium.tokens(info).ok_or(TextError::NoTower { kind: sent.kind })?;
        ids.extend(sent.text.before);
        let place = Place { at: ids.len() as u32, len };
        media.places.push(place);
        ids.extend(std::iter::repeat_n(id, len as usize));
        ids.extend(sent.text.after);
        media.areas.extend(medium.area(info).map(|area| (place, area)));
        media.media.push(Arc::new(medium));
        // So that the media at hand are bounded by the context.
        let (tokens, limit) = (ids.len() as u32, info.context - 1);
        if tokens > limit {
            return Err(Refusal::PromptTooLong { tokens, limit });
        }
    }
    Ok((ids, media))
}

/// What `messages` have of a kind, for which `tokens` have as many places; `None` where they have nothing.
fn sent<'a>(
    kind: MediumKind,
    tokens: &[u32],
    messages: &'a [Message],
    info: &ModelInfo,
    text: &dyn Text,
) -> Result<Option<Sent<'a>>, TextError> {
    let files: Vec<_> = messages.iter().flat_map(|message| message.files(kind)).map(AsRef::as_ref).collect();
    if files.is_empty() {
        return Ok(None);
    }
    let known = text.medium(kind).filter(|_| info.token_of(kind).is_some());
    let text = known.ok_or(TextError::NoTower { kind })?;
    let placed = tokens.iter().filter(|id| **id == text.token).count();
    if placed != files.len() {
        return Err(TextError::Places { kind, placed, sent: files.len() });
    }
    Ok(Some(Sent { kind, text, files, next: 0 }))
}

/// The `index`-th medium of its kind.
fn decode(kind: MediumKind, index: usize, file: &[u8], info: &ModelInfo) -> Result<Medium, Refusal> {
    match kind {
        MediumKind::Image => {
            let vision = info.vision.as_ref().ok_or(TextError::NoTower { kind })?;
            let image = Image::decode(file, &vision.spec, vision.image_tokens);
            image.map(Medium::Image).map_err(|problem| Refusal::Image { image: index, problem })
        }
        MediumKind::Sound => {
            let audio = info.audio.as_ref().ok_or(TextError::NoTower { kind })?;
            let sound = Sound::decode(file, &audio.spec, audio.audio_tokens);
            sound.map(Medium::Sound).map_err(|problem| Refusal::Sound { sound: index, problem })
        }
    }
}

impl Media {
    /// Those that begin before position `end`.
    pub(super) fn keys(&self, end: u32) -> Vec<Key> {
        let keys = self.places.iter().zip(&self.media).map(|(place, medium)| (*place, *medium.hash()));
        keys.filter(|(place, _)| place.at < end).collect()
    }

    /// Whether positions before `end` turn by others than themselves.
    pub(super) fn turns_before(&self, end: u32) -> bool {
        self.areas.first().is_some_and(|(place, _)| place.at < end)
    }

    /// What `len` positions from `start` on turn by.
    pub(super) fn turns(&self, start: u32, len: u32) -> impl Iterator<Item = [u32; 3]> {
        (start..start + len).map(move |position| turn(self.areas.iter().copied(), position))
    }

    /// How many of `len` tokens from `start` on one step may take, and the medium that it needs for them.
    pub(super) fn part(&self, start: u32, len: u32) -> (u32, Option<(&Arc<Medium>, Placed)>) {
        let (len, placed) = part(&self.places, start, len);
        (len, placed.map(|(index, placed)| (&self.media[index], placed)))
    }
}

/// How many of the first `common` positions two sequences share whose tokens are the same so far: up to the first medium
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
    fn sequences_agree_up_to_the_first_other_medium() {
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
