//! What a prompt holds beside text, each a run of tokens that it takes the place of.

mod places;
mod turns;

use std::fmt;

pub(crate) use self::places::cut;
pub use self::places::{Place, PlaceError, part, places};
pub use self::turns::turn;
use crate::{Image, ModelInfo, Sound};

/// An image or a sound, ready for the tower of its model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Medium {
    Image(Image),
    /// A grid of a video: as many frames as a patch has.
    Video(Image),
    Sound(Sound),
}

/// What people call a [`Medium`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MediumKind {
    Image,
    Video,
    Sound,
}

impl MediumKind {
    pub(crate) const ALL: [Self; 3] = [Self::Image, Self::Video, Self::Sound];
}

impl fmt::Display for MediumKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Video => "video",
            Self::Sound => "sound",
        })
    }
}

impl MediumKind {
    /// What people call what one [`Medium`] of the kind is.
    pub(crate) fn part(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Video => "video grid",
            Self::Sound => "sound",
        }
    }
}

impl Medium {
    pub fn kind(&self) -> MediumKind {
        match self {
            Self::Image(_) => MediumKind::Image,
            Self::Video(_) => MediumKind::Video,
            Self::Sound(_) => MediumKind::Sound,
        }
    }

    /// What two media with the same vectors share, and others do not.
    pub fn hash(&self) -> &[u8; 32] {
        match self {
            Self::Image(image) | Self::Video(image) => image.hash(),
            Self::Sound(sound) => sound.hash(),
        }
    }

    /// Vectors that a model makes of it; `None` where it takes no such media.
    pub fn tokens(&self, info: &ModelInfo) -> Option<u32> {
        match self {
            Self::Image(image) | Self::Video(image) => {
                info.vision.as_ref().map(|vision| image.tokens(&vision.spec))
            }
            Self::Sound(sound) => info.audio.as_ref().map(|audio| sound.tokens(&audio.spec)),
        }
    }

    /// Whether its rows see each other, also those behind them, so that one step reads them all.
    pub fn joint(&self, info: &ModelInfo) -> bool {
        match self {
            Self::Image(_) | Self::Video(_) => info.vision.as_ref().is_some_and(|vision| vision.spec.joint),
            Self::Sound(_) => false,
        }
    }

    /// Rows and columns of its vectors in a model whose rows turn by them; `None` in others.
    pub fn area(&self, info: &ModelInfo) -> Option<[u32; 2]> {
        let vision = &info.vision.as_ref()?.spec;
        match self {
            Self::Image(image) | Self::Video(image) => vision.axes.map(|_| image.area(vision)),
            Self::Sound(_) => None,
        }
    }
}

impl From<Image> for Medium {
    fn from(image: Image) -> Self {
        Self::Image(image)
    }
}

impl From<Sound> for Medium {
    fn from(sound: Sound) -> Self {
        Self::Sound(sound)
    }
}

impl ModelInfo {
    /// The token that stands for one vector of a medium; `None` where the model takes none of the kind.
    pub fn token_of(&self, kind: MediumKind) -> Option<u32> {
        match kind {
            MediumKind::Image => self.vision.as_ref().map(|vision| vision.spec.token),
            MediumKind::Video => Some(self.vision.as_ref()?.spec.video.as_ref()?.token),
            MediumKind::Sound => self.audio.as_ref().map(|audio| audio.spec.token),
        }
    }
}
