//! The media of a prompt: from files in messages to places among its tokens.

use std::sync::Arc;

use muse_format::{MediaText, TileText};

use crate::engine::Placed;
use crate::media::{Place, part, turn};
use crate::{
    FrameGrid, Medium, MediumKind, Message, ModelInfo, Refusal, Sound, Text, TextError, Tiles, Video,
};

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

/// What is sent of one kind with a prompt.
struct Sent<'a> {
    kind: MediumKind,
    text: MediaText,
    sources: Vec<Source<'a>>,
    /// Of `sources`: the first that has no place yet.
    next: usize,
}

/// What a place in a prompt is for.
#[derive(Clone, Copy)]
enum Source<'a> {
    Image(&'a [u8]),
    Video(&'a Video),
    Sound(&'a [u8]),
}

/// A prompt in which places are being made.
struct Room<'a> {
    ids: Vec<u32>,
    media: Media,
    info: &'a ModelInfo,
    text: &'a dyn Text,
}

/// Reads the files of `messages` and makes room for their media in `tokens`, in which each is one token.
///
/// # Errors
/// [`Refusal::Image`], [`Refusal::Video`] and [`Refusal::Sound`] for a file that is none or too large,
/// [`Refusal::PromptTooLong`] as soon as they are more than the context takes, [`Refusal::Text`] where the template has not
/// written a place for each.
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
    let ids = Vec::with_capacity(tokens.len());
    let mut room = Room { ids, media: Media::default(), info, text };
    for id in tokens {
        let Some(sent) = sent.iter_mut().find(|sent| sent.text.token == id) else {
            room.ids.push(id);
            continue;
        };
        room.place(sent)?;
        sent.next += 1;
    }
    Ok((room.ids, room.media))
}

/// What `messages` have of a kind, for which `tokens` have as many places; `None` where they have nothing.
fn sent<'a>(
    kind: MediumKind,
    tokens: &[u32],
    messages: &'a [Message],
    info: &ModelInfo,
    text: &dyn Text,
) -> Result<Option<Sent<'a>>, TextError> {
    let of = |message: &'a Message| -> Vec<Source<'a>> {
        match kind {
            MediumKind::Image => message.images.iter().map(|file| Source::Image(file)).collect(),
            MediumKind::Video => message.videos.iter().map(Source::Video).collect(),
            MediumKind::Sound => message.sounds.iter().map(|file| Source::Sound(file)).collect(),
        }
    };
    let sources: Vec<_> = messages.iter().flat_map(of).collect();
    if sources.is_empty() {
        return Ok(None);
    }
    let known = text.medium(kind).filter(|_| info.token_of(kind).is_some());
    let text = known.ok_or(TextError::NoTower { kind })?;
    let placed = tokens.iter().filter(|id| **id == text.token).count();
    if placed != sources.len() {
        return Err(TextError::Places { kind, placed, sent: sources.len() });
    }
    Ok(Some(Sent { kind, text, sources, next: 0 }))
}

impl Room<'_> {
    /// Makes room for what is next of `sent`.
    fn place(&mut self, sent: &Sent<'_>) -> Result<(), Refusal> {
        let none = || TextError::NoTower { kind: sent.kind };
        let MediaText { before, after, .. } = sent.text;
        let index = sent.next;
        match sent.sources[index] {
            Source::Image(file) => {
                let vision = self.info.vision.as_ref().ok_or_else(none)?;
                let tiles = Tiles::decode(file, &vision.spec, vision.image_tokens);
                self.picture(tiles.map_err(|problem| Refusal::Image { image: index, problem })?, sent)
            }
            Source::Video(video) => self.video(video, sent),
            Source::Sound(file) => {
                let audio = self.info.audio.as_ref().ok_or_else(none)?;
                let sound = Sound::decode(file, &audio.spec, audio.audio_tokens);
                let sound = sound.map_err(|problem| Refusal::Sound { sound: index, problem })?;
                self.put(Medium::Sound(sound), sent, [before, after])
            }
        }
    }

    /// Makes room for the images of a picture, with what is between its tiles.
    fn picture(&mut self, picture: Tiles, sent: &Sent<'_>) -> Result<(), Refusal> {
        let MediaText { before, after, tiles, .. } = sent.text;
        let last = picture.images.len() - 1;
        self.ids.extend(before);
        for (index, image) in picture.images.into_iter().enumerate() {
            let ends_row = (index + 1).is_multiple_of(picture.cols as usize);
            let around = tiles.map(|TileText { across, down, whole }| match index {
                _ if index == last => [Some(whole), None],
                _ if ends_row => [None, Some(down)],
                _ => [None, Some(across)],
            });
            self.put(Medium::Image(image), sent, around.unwrap_or_default())?;
        }
        self.ids.extend(after);
        Ok(())
    }

    /// Makes room for the grids of a video, each behind the text of its time.
    fn video(&mut self, video: &Video, sent: &Sent<'_>) -> Result<(), Refusal> {
        let (text, vision) = (self.text, self.info.vision.as_ref());
        let known = text.video().zip(vision.filter(|vision| vision.spec.video.is_some()));
        let (written, vision) = known.ok_or(TextError::NoTower { kind: sent.kind })?;
        let problem = |problem| Refusal::Video { video: sent.next, problem };
        self.ids.extend(written.begin);
        for (index, grid) in video.grids(&vision.spec, vision.image_tokens).map_err(problem)?.enumerate() {
            let FrameGrid { image, times } = grid.map_err(problem)?;
            if index > 0 {
                self.ids.extend(written.between);
            }
            self.ids.extend(text.encode_part(&written.time(times))?);
            self.put(Medium::Video(image), sent, [written.before, written.after])?;
        }
        self.ids.extend(written.end);
        Ok(())
    }

    /// Puts a medium behind all that is there, with what is around it.
    fn put(
        &mut self,
        medium: Medium,
        sent: &Sent<'_>,
        [before, after]: [Option<u32>; 2],
    ) -> Result<(), Refusal> {
        let len = medium.tokens(self.info).ok_or(TextError::NoTower { kind: sent.kind })?;
        self.ids.extend(before);
        let (at, joint) = (self.ids.len() as u32, medium.joint(self.info));
        let place = Place { at, len, joint };
        self.media.places.push(place);
        let vector = self.info.token_of(sent.kind).ok_or(TextError::NoTower { kind: sent.kind })?;
        self.ids.extend(std::iter::repeat_n(vector, len as usize));
        self.ids.extend(after);
        self.media.areas.extend(medium.area(self.info).map(|area| (place, area)));
        self.media.media.push(Arc::new(medium));
        // So that the media at hand are bounded by the context.
        let (tokens, limit) = (self.ids.len() as u32, self.info.context - 1);
        if tokens > limit { Err(Refusal::PromptTooLong { tokens, limit }) } else { Ok(()) }
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

    /// How many of `len` tokens from `start` on one step may take, or more where fewer are no whole medium that is read in one
    /// step, and the medium that it needs for them.
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
        let key = |at, hash| (Place { at, len: 4, joint: false }, [hash; 32]);
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
