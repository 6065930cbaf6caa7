use std::collections::HashMap;

use muse_format::{Audio, Spec, Vision};

use super::mla::Part;
use super::origin::{Named, Transform};
use super::{Config, ImageMarkers, Rope, VideoMarkers};
use crate::checkpoint::ImportError;

/// Changes what a tower says of pixels.
pub(super) type ReadProcessor = fn(&Config<'_>, &mut Vision) -> Result<(), ImportError>;

/// Changes what a tower says of samples.
pub(super) type ReadExtractor = fn(&Config<'_>, &mut Audio) -> Result<(), ImportError>;

/// What a family makes of a config.
pub(super) struct Draft {
    pub spec: Spec,
    pub ropes: Vec<Rope>,
    /// Vectors that no checkpoint holds: our name, a layer's number aside, and what each element is.
    pub constants: Vec<(&'static str, f32)>,
    /// Tensors of ours that are made of what another is made of, and which.
    pub aliases: HashMap<String, String>,
    /// What becomes of the values of a layer's tensors where it is not what [`Family::centred`] says: our name, a layer's
    /// number aside, and what.
    pub transforms: Vec<(&'static str, Transform)>,
    /// Matrices of a layer that theirs hold in turns, each in blocks of equal size: our name, which of how many, and the
    /// outputs of a block.
    pub alternating: Vec<(&'static str, [usize; 2], usize)>,
    /// Matrices that are the first rows of a longer one of theirs: our name, and how many rows theirs has.
    pub longer: Vec<(&'static str, usize)>,
    /// Tensors of theirs that the reference implementation does not use, by the names that ours would have.
    pub unused: Vec<String>,
    /// Tensors that the family's rules for a decoder do not name, by our names.
    pub named: HashMap<String, Named>,
    /// Tensors that are some rows of one of theirs, by our names.
    pub parts: HashMap<String, Part>,
    /// Tensors outside the decoder that no checkpoint holds.
    pub computed: HashMap<String, Vec<f32>>,
    pub image_markers: Option<ImageMarkers>,
    pub video_markers: Option<VideoMarkers>,
    /// Takes from `preprocessor_config.json` how an image becomes patches.
    pub read_processor: Option<ReadProcessor>,
    /// Takes from `video_preprocessor_config.json` which frames become patches, and of what size.
    pub read_video_processor: Option<ReadProcessor>,
    pub audio_markers: Option<ImageMarkers>,
    /// Takes from the settings of a feature extractor how a sound becomes samples.
    pub read_extractor: Option<ReadExtractor>,
    /// Tensors of theirs that an answer does not depend on, by their own names.
    pub ignored: Vec<String>,
    /// What the names of tensors begin with of which every one is used, or ignored.
    pub whole: Option<String>,
    /// Whether the model makes vectors of texts.
    pub embeds: Embeds,
}

/// Whether a model makes vectors of texts, and writes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Embeds {
    /// Where its tokens see both sides, but for a drafter.
    Bidirectional,
    /// Where sentence-transformers' files are beside it.
    WithModules,
    /// It has layers alone.
    Always,
}

impl Draft {
    pub fn new(spec: Spec, ropes: Vec<Rope>) -> Self {
        Self {
            spec,
            ropes,
            constants: Vec::new(),
            aliases: HashMap::new(),
            transforms: Vec::new(),
            alternating: Vec::new(),
            longer: Vec::new(),
            unused: Vec::new(),
            named: HashMap::new(),
            parts: HashMap::new(),
            computed: HashMap::new(),
            image_markers: None,
            video_markers: None,
            read_processor: None,
            read_video_processor: None,
            audio_markers: None,
            read_extractor: None,
            ignored: Vec::new(),
            whole: None,
            embeds: Embeds::Bidirectional,
        }
    }
}
