//! The offline quantizer: a checkpoint in, one `.muse` file out. The binary `muse-quantize` is its front.
//!
//! `checkpoint` reads what others wrote, `families` says what it means, `policy` picks layouts, `quant` and `pack` make
//! bytes, `convert` drives them band by band, `report` tells what was lost.
//!
//! To add a model family, see [`families`]; a file format, see [`checkpoint`]. It refuses to guess: an unknown
//! architecture, config key or tensor is an error that names it.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod convert;
pub mod families;
pub mod images;
pub mod inputs;
pub mod pack;
pub mod policy;
pub mod quant;
pub mod report;
pub mod sounds;
pub mod text;
