//! `mused`: local apps talk to models over D-Bus; `musectl`: a person does.
//!
//! This crate translates between D-Bus and the scheduler of `muse_runtime`; it computes nothing. The way of a call:
//!
//! ```text
//! bus/ (wire types, named errors) -> service.rs (limits, sessions) -> models.rs (load on demand) -> Scheduler
//! app  <- socketpair <- stream.rs <- bounded queue <- Sink <- Scheduler
//! ```
//!
//! * The wire interface is published under `interfaces/*.xml`; a test compares it with what the daemon answers.
//! * To add an option of a call, add one line to `bus/options.rs`; unknown options are errors, never ignored.
//! * A prompt or an answer is never logged.
//!
//! It refuses to open a path that a client names, to wait for a slow reader, and to outlive a client's interest.
#![forbid(unsafe_code)]

pub mod affinity;
pub mod args;
pub mod bus;
pub mod clients;
pub mod config;
pub mod ctl;
pub mod folder;
pub mod idle;
pub mod log;
pub mod models;
pub mod notify;
pub mod service;
pub mod stream;

/// The well-known bus name.
pub const BUS_NAME: &str = "org.museproject.Inference1";
/// The object that carries the Manager and the ObjectManager.
pub const ROOT: &str = "/org/museproject/Inference1";
