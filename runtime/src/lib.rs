//! The on-device runtime: a mapped `.muse` file, one graph, sessions and the loop that serves them.
//!
//! It knows models, tokens and time; it does not know D-Bus, a config file or a person.
//!
//! [`Mapped`] opens a file, [`Plan`] says every byte that loading it allocates, [`load_mapped`] makes it an
//! [`Engine`]; [`eval`] asks an engine for logits, greedy tokens, perplexity and divergence.
//!
//! A new kind of block is a field of [`muse_format::Spec`], its tensors in `Spec::tensors`, and its operations in
//! `graph/`. Nothing here asks for a model's name, repacks a weight or allocates after load.
#![deny(unsafe_code)]

mod audio;
mod constraint;
mod decoder;
mod device;
mod drafter;
mod embed;
mod engine;
pub mod eval;
mod flash;
mod graph;
mod huge_pages;
mod load;
mod media;
mod model;
mod plan;
pub mod protocol;
pub mod random;
mod request;
mod rows;
mod sampler;
mod scheduler;
pub mod selftest;
pub mod sim;
mod smaps;
mod stop;
mod template;
mod tokenizer;
mod vision;
mod weights;

pub use audio::{Sound, SoundError};
pub use device::{available_bytes, cuda_device, npu_device};
pub use drafter::{Draft, DrafterInfo};
pub use embed::{EmbedOptions, Embedded, EncodedTexts, embed_texts, encode_texts};
pub use engine::{
    AudioInfo, EmbeddingInfo, Engine, MediaRows, ModelInfo, Placed, Text, TextDecoder, TextError, VisionInfo,
};
pub use load::{
    BackendChoice, LoadError, LoadOptions, Placement, TARGET, load, load_mapped, open, place, plan, read_text,
};
pub use media::{Medium, MediumKind, PlaceError};
pub use model::Model;
pub use muse_kernels::CacheDtype;
pub use plan::{
    CONTEXT_DEFAULT, DrafterFile, ExpertsOnFlash, Item, OverBudget, PROPOSED_MAX, Plan, WeightBytes,
};
pub use request::{
    ChatOptions, Event, FinishReason, GenerateOptions, Message, Mode, Priority, Prompt, Refusal, Sink,
    SinkClosed, Speculation, Timing, Usage,
};
pub use rows::LogitRows;
pub use sampler::{SampleError, Sampler, SamplerOptions};
pub use scheduler::{Begun, EmbedEnd, EmbedSink, ModelStatus, Scheduler, SchedulerOptions, Status};
pub use sim::{SimDrafter, SimEngine, SimOptions};
pub use tokenizer::{HfText, WholeText};
pub use vision::{FrameGrid, Grids, Image, ImageError, Tiles, Video, VideoError};
pub use weights::Mapped;
