//! The offline quantizer: a checkpoint in, one `.muse` file out. The binary `muse-quantize` is its front.
#![forbid(unsafe_code)]

pub mod checkpoint;
pub mod families;
