//! `muse-products`: single operations on the first NVIDIA GPU, beside what it reads and multiplies at most.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use muse_benches::products::{Extent, measure};

/// Measures matrix products and attention alone on the first NVIDIA GPU.
#[derive(Parser)]
#[command(name = "muse-products", version)]
struct Arguments {
    /// Only symmetric 4 bits, an f16 cache and 3 rounds
    #[arg(long)]
    quick: bool,
    /// Too little to measure: only whether all of it runs, as on an emulated driver
    #[arg(long, conflicts_with = "quick")]
    tiny: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let extent = if arguments.tiny { Extent::tiny() } else { Extent::full(arguments.quick) };
    match measure(&extent) {
        Ok(report) if arguments.json => {
            println!("{}", serde_json::to_string_pretty(&report).expect("plain numbers and text"));
            ExitCode::SUCCESS
        }
        Ok(report) => {
            println!("{report}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("muse-products: {error}");
            ExitCode::FAILURE
        }
    }
}
