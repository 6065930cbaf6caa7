//! The small JSON sections beside the [`crate::Spec`]. Unknown keys are an error: a key that this version does
//! not know may change an answer.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::spec::is_false;

/// What a sampler uses where the caller says nothing; from `generation_config.json` or GGUF metadata.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Generation {
    /// Ids that end an answer.
    pub stop_ids: Vec<u32>,
    pub temperature: Option<f32>,
    pub top_k: Option<u32>,
    pub top_p: Option<f32>,
    pub min_p: Option<f32>,
    pub repetition_penalty: Option<f32>,
}

/// What text needs beyond `tokenizer.json`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Text {
    /// The id put in front of raw text (not of a rendered chat, whose template writes its own).
    pub bos_id: Option<u32>,
    /// True where raw text gets `bos_id` in front.
    pub add_bos: bool,
    /// Variables that a chat template may read: `bos_token`, `eos_token`, `pad_token`, ...
    pub template_tokens: BTreeMap<String, String>,
    /// How an image is written; absent where a model takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<MediaText>,
    /// How a video is written; absent where a conversation has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub video: Option<VideoText>,
    /// How a sound is written; absent where a model takes none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audio: Option<MediaText>,
}

/// The tokens of an image or another medium in a prompt. A chat template writes `token` once, which becomes as many of its
/// tower's as the medium has vectors, between `before` and `after`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaText {
    pub token: u32,
    pub before: Option<u32>,
    pub after: Option<u32>,
    /// What is between its tiles, where it is cut into some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiles: Option<TileText>,
    /// Whether an empty line is written in front of it and behind it, `"\n\n"`, before the text around it becomes tokens.
    #[serde(default, skip_serializing_if = "is_false")]
    pub lines: bool,
}

/// The tokens between the tiles of a medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TileText {
    /// Behind a tile that has another beside it.
    pub across: u32,
    /// Behind the last of a row.
    pub down: u32,
    /// In front of all of it in one.
    pub whole: u32,
}

/// A video in a prompt. A chat template writes `token` once, which becomes `begin`, the grids, `between` two of them, and
/// `end`. A grid is the text of its time, `before`, as many `token` as it has vectors, and `after`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoText {
    pub token: u32,
    pub begin: Option<u32>,
    /// In front of the seconds, with one digit behind the point, and behind them.
    pub time: [String; 2],
    /// Whether the time is the middle between those of a grid's first and last frame; else it is that of the first.
    pub middle: bool,
    pub before: Option<u32>,
    pub after: Option<u32>,
    pub between: Option<u32>,
    pub end: Option<u32>,
}

impl VideoText {
    /// The text of the time of a grid, of whose first and last frame these are.
    pub fn time(&self, [first, last]: [f64; 2]) -> String {
        let [before, after] = &self.time;
        let seconds = if self.middle { (first + last) / 2.0 } else { first };
        format!("{before}{seconds:.1}{after}")
    }

    /// Every token of it.
    pub fn tokens(&self) -> impl Iterator<Item = u32> {
        let Self { token, begin, before, after, between, end, .. } = *self;
        [Some(token), begin, before, after, between, end].into_iter().flatten()
    }
}

/// Where the file comes from. Holds no time and no path, so that equal input gives equal bytes.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Provenance {
    /// Tool and version: `muse-quantize 0.1.0`.
    pub tool: String,
    /// File or folder name of the source, without its path.
    pub source: String,
    /// `safetensors` or `gguf`.
    pub source_format: String,
    /// `architectures[0]` or `general.architecture`.
    pub architecture: String,
    /// Quantizer: `rtn`, `kept`.
    pub method: String,
    /// Board profile the file was made for.
    pub board: String,
    /// Layout family that the board's kernels read: `cpu`.
    pub target: String,
    pub license: Option<String>,
    /// Parts of the source that the file does not hold: `vision`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<String>,
    /// What tells the source's weights from those of another model of the same sizes: the same of a model and of what its
    /// checkpoint holds to draft for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weights: Option<String>,
}
