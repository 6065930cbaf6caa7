//! How fast kernels and whole models are, as a share of what the memory can give.
//!
//! * `muse-bench` measures a model: prompt and answer tokens a second, with a bandwidth probe beside each row; also
//!   at a depth, of several sessions in one step, beside a busy neighbour, and from a cold page cache.
//! * `muse-products` measures single operations on a GPU.
//! * `cargo bench -p muse-benches` measures single operations over every layout and set of instructions.
//!
//! Decoding reads nearly every weight once a token, so tokens a second times the bytes of a token is a bandwidth, and
//! the probe of the same threads in the same run is its ceiling. A figure without that ceiling is not printed.
//!
//! To add a shape to `--synthetic`, add a line to [`shapes::SHAPES`].
#![forbid(unsafe_code)]

pub mod cold;
#[cfg(feature = "cuda")]
pub mod device;
pub mod disk;
pub mod measure;
pub mod neighbour;
pub mod probe;
#[cfg(feature = "cuda")]
pub mod products;
pub mod report;
pub mod shapes;
pub mod speculation;
pub mod synthetic;
