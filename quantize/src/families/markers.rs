//! The tokens that a prompt has for what is not text.

/// The tokens that a prompt has for an image or a sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageMarkers {
    /// The config's key that says `token`.
    pub key: &'static str,
    /// For each of its vectors.
    pub token: Marker,
    /// What a template writes for all of it, where that is another.
    pub written: Option<Marker>,
    /// In front of them and behind them, where the template does not write those.
    pub around: Option<[Marker; 2]>,
    /// Behind a tile beside another, behind a row of them, and in front of all of it in one.
    pub tiles: Option<[Marker; 3]>,
    /// Whether an empty line stands in front of it and behind it.
    pub lines: bool,
}

impl ImageMarkers {
    /// Those of what a template writes as one of its vectors' tokens, and which is whole.
    pub(super) fn new(key: &'static str, token: Marker, around: Option<[Marker; 2]>) -> Self {
        Self { key, token, written: None, around, tiles: None, lines: false }
    }
}

/// A token, as a family knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marker {
    Text(&'static str),
    /// As the config says.
    Id(u32),
}

/// The tokens that a prompt has for a video, by text; see [`muse_format::VideoText`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoMarkers {
    pub token: &'static str,
    pub begin: Option<&'static str>,
    pub time: [&'static str; 2],
    pub middle: bool,
    pub before: Option<&'static str>,
    pub after: Option<&'static str>,
    pub between: Option<&'static str>,
    pub end: Option<&'static str>,
}
