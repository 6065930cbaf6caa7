//! The on-device runtime: a mapped `.muse` file, one graph, sessions and the loop that serves them.
//!
//! It knows models, tokens and time; it does not know D-Bus, a config file or a person.
#![deny(unsafe_code)]

mod engine;
mod request;

pub use engine::{Engine, ModelInfo, Text, TextDecoder, TextError};
pub use request::{
    ChatOptions, Event, FinishReason, GenerateOptions, Message, Mode, Priority, Prompt, Refusal, Sink,
    SinkClosed, Timing, Usage,
};
