//! `muse-products`: single operations on the first NVIDIA GPU, beside what it reads and multiplies at most.
#![forbid(unsafe_code)]

use std::path::PathBuf;
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
    /// Write what is printed to a file too, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let extent = if arguments.tiny { Extent::tiny() } else { Extent::full(arguments.quick) };
    let report = match measure(&extent) {
        Ok(report) => report,
        Err(error) => {
            eprintln!("muse-products: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!("{report}");
    let Some(file) = arguments.json else { return ExitCode::SUCCESS };
    let json = serde_json::to_string_pretty(&report).expect("plain numbers and text");
    match std::fs::write(&file, json + "\n") {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("muse-products: {} could not be written: {error}", file.display());
            ExitCode::FAILURE
        }
    }
}
