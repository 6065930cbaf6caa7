//! What the service knows about the machine it runs on: one TOML file a board, numbers only.
//!
//! A profile says which cores are fast, how much memory a model may take, how fast that memory is and which layout
//! family the board's kernels read. Code never names a board; `profiles/NAME.toml` existing is what makes one. A
//! profile inherits from another with `inherit` and overrides single values.
//!
//! ```
//! let board = muse_boards::by_name("rk3588")?;
//! assert_eq!(board.cpu.big_cores, [4, 5, 6, 7]);
//! assert!(board.check_budget(16 << 30, 6 << 30).is_err());
//! # Ok::<(), muse_boards::UnknownBoard>(())
//! ```
//!
//! To add a board, add a file and name in `compatible` what its device tree says; the tests parse it.
//!
//! It refuses to guess: what a profile does not say is asked of the kernel, and a model that does not fit is an
//! error with the numbers.
#![forbid(unsafe_code)]

mod budget;
mod cores;
mod detect;
mod files;
pub mod jetson;
mod memory;
mod profile;

pub use budget::BudgetError;
pub use detect::detect;
pub use memory::available_bytes;
pub use profile::{Board, Cpu, Gpu, Layout, Memory, UnknownBoard, all, by_name};
