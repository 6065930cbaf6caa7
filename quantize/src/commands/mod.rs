//! One file per subcommand. Results go to standard output, everything else to standard error.

mod convert;
mod embed;
mod eval;
mod inspect;
mod output;
mod verify;

use std::error::Error;
use std::io::{self, Write};
use std::path::Path;

use clap::CommandFactory;
use serde::Serialize;

use crate::cli::{Cli, Command};

/// What `main` prints; each message carries its numbers and remedy.
type Failure = Box<dyn Error>;

pub fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Convert(args) => convert::run(&args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Eval(args) => eval::run(&args),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "muse-quantize", &mut script);
            Ok(io::stdout().write_all(&script)?)
        }
        Command::Man { dir } => {
            std::fs::create_dir_all(&dir).map_err(|e| at(&dir, &e))?;
            clap_mangen::generate_to(Cli::command(), &dir).map_err(|e| at(&dir, &e).into())
        }
    }
}

pub fn is_broken_pipe(error: &(dyn Error + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// A message about a path.
fn at(path: &Path, error: &dyn Error) -> String {
    format!("{}: {error}", path.display())
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    print(&(serde_json::to_string_pretty(value)? + "\n"))
}
