//! The `.muse` file: a quantized model whose tensor bytes are already in the layout that a kernel reads.
//!
//! This crate is the leaf of the workspace. It knows bytes, lengths and hashes; it opens no file of its own
//! choosing, does no arithmetic on weights and holds no unsafe code. [`FORMAT.md`](../FORMAT.md) is normative.
//!
//! ```
//! use muse_format::{File, FormatError};
//! assert_eq!(File::parse(b"GGUF").err(), Some(FormatError::Magic));
//! ```
//!
//! * [`File::parse`] checks every length and extent once; nothing after it can fail.
//! * [`Writer`] is the only code that emits the format.
//! * [`Spec`] is the model as data. To add a tensor to a model, name it in [`Spec::tensors`].
//! * To add a storage layout, add it to [`Layout`] and to FORMAT.md.
//!
//! It refuses to repack, to repair, and to read any version but [`VERSION`].
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::cast_possible_truncation, clippy::indexing_slicing, clippy::unwrap_used))]

mod blocks;
mod error;
mod expected;
mod file;
mod layout;
mod meta;
mod spec;
#[cfg(test)]
mod tests;
mod writer;

pub use blocks::{Block, BlockMut};
pub use error::FormatError;
pub use expected::{CLIPS, Expected, Role};
pub use file::{ALIGN, File, MAGIC, TensorRef, VERSION};
pub use layout::{CODEBOOK, Layout, TILE_ROWS};
pub use meta::{Generation, MediaText, Provenance, Text, TileText, VideoText};
pub use spec::{
    Activation, Attention, Audio, AudioStage, BlockDrafter, ChainDrafter, DELTA_KEY_DIM_MAX, DeltaNet, Dense,
    Drafter, Embedding, Encoder, Experts, Ffn, Fit, Given, Indexer, Join, Laid, LatentAttention, Layer,
    Mixer, PerLayer, Pixels, Pooling, Resampling, Score, Sparse, Spec, Taken, Temperature, Video, Vision,
    VisionLayer,
};
pub use writer::{Meta, WriteError, Writer};
