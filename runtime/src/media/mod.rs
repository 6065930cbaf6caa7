//! What a prompt holds beside text, each a run of tokens that it takes the place of.

mod places;
mod turns;

use std::fmt;

pub use self::places::{Place, PlaceError, part, places};
pub use self::turns::turn;
use crate::{Image, ModelInfo, Sound};

/// An image or a sound, ready for the tower of its model.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Medium {
    Image(Image),
    Sound(Sound),
}

/// What people call a [`Medium`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum MediumKind {
    Image,
    Sound,
}

impl MediumKind {
    pub(crate) const ALL: [Self; 2] = [Self::Image, Self::Sound];
}

impl fmt::Display for MediumKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Image => "image",
            Self::Sound => "sound",
        })
    }
}

impl Medium {
    pub fn kind(&self) -> MediumKind {
        match self {
            Self::Image(_) => MediumKind::Image,
            Self::Sound(_) => MediumKind::Sound,
        }
    }

    /// What two media with the same vectors share, and others do not.
    pub fn hash(&self) -> &[u8; 32] {
        match self {
            Self::Image(image) => image.hash(),
            Self::Sound(sound) => sound.hash(),
        }
    }

    /// Vectors that a model makes of it; `None` where it takes no such media.
    pub fn tokens(&self, info: &ModelInfo) -> Option<u32> {
        match self {
            Self::Image(image) => info.vision.as_ref().map(|vision| image.tokens(&vision.spec)),
            Self::Sound(sound) => info.audio.as_ref().map(|audio| sound.tokens(&audio.spec)),
        }
    }

    /// Rows and columns of its vectors in a model whose rows turn by them; `None` in others.
    pub fn area(&self, info: &ModelInfo) -> Option<[u32; 2]> {
        let vision = &info.vision.as_ref()?.spec;
        match self {
            Self::Image(image) => vision.axes.map(|_| image.area(vision)),
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
            MediumKind::Sound => self.audio.as_ref().map(|audio| audio.spec.token),
        }
    }
}
