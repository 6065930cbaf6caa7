//! The on-device runtime: a mapped `.muse` file, one graph, sessions and the loop that serves them.
//!
//! It knows models, tokens and time; it does not know D-Bus, a config file or a person.
#![deny(unsafe_code)]

mod decoder;
mod engine;
mod request;
mod sampler;
mod scheduler;
pub mod sim;
mod stop;

pub use engine::{Engine, ModelInfo, Text, TextDecoder, TextError};
pub use request::{
    ChatOptions, Event, FinishReason, GenerateOptions, Message, Mode, Priority, Prompt, Refusal, Sink,
    SinkClosed, Timing, Usage,
};
pub use sampler::{SampleError, Sampler, SamplerOptions};
pub use scheduler::{ModelStatus, Scheduler, SchedulerOptions, Status};
pub use sim::{SimEngine, SimOptions};
