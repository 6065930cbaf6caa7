//! `musectl`, the person's client: a command line, one module for each command.

mod args;
mod chat;
mod client;
mod doctor;
mod embed;
mod frames;
mod generate;
mod jetson;
mod models;
mod show;
mod status;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use zbus::DBusError;

pub use args::{Args, Command};

/// Why a command failed, in words for a person. Exit code 1.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot reach the {bus} bus: {problem}; {remedy}")]
    NoBus { bus: &'static str, problem: zbus::Error, remedy: &'static str },
    #[error(
        "the service is not running and the bus cannot start it; try `systemctl start mused`, or `musectl doctor`"
    )]
    NoService,
    #[error(
        "the bus does not let you talk to the service; add yourself to group muse: `sudo usermod -aG muse $USER`, then log in again"
    )]
    Denied,
    /// A named error of the service; its text says what to do.
    #[error("{message} ({name})")]
    Service { name: String, message: String },
    #[error("the bus: {0}")]
    Bus(zbus::Error),
    #[error("the answer broke off: the service ended its stream without a last frame")]
    BrokenOff,
    #[error("the answer ended with an error: {message} ({name})")]
    Answer { name: String, message: String },
    #[error("the service sent a frame that is not understood: {0}")]
    Frame(#[from] serde_json::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("the prompt is empty; give it as an argument or on standard input")]
    NoPrompt,
    #[error("there is no text; give it as an argument, or lines on standard input")]
    NoTexts,
    #[error("{}: {problem}", path.display())]
    File { path: PathBuf, problem: std::io::Error },
    #[error("{} is not JSON: {problem}", path.display())]
    Json { path: PathBuf, problem: serde_json::Error },
    #[error("{} is not a JSON array of messages, objects with role and content", path.display())]
    Messages { path: PathBuf },
    #[error("the terminal: {0}")]
    Terminal(#[from] rustyline::error::ReadlineError),
    /// Everything is already said.
    #[error("some checks failed")]
    Unhealthy,
}

impl From<zbus::Error> for Error {
    fn from(error: zbus::Error) -> Self {
        let (name, message) = match &error {
            zbus::Error::MethodError(name, message, _) => (name.to_string(), message.clone()),
            // Errors of the standard come told apart.
            zbus::Error::FDO(standard) => {
                (standard.name().to_string(), standard.description().map(str::to_owned))
            }
            _ => return Self::Bus(error),
        };
        match name.rsplit('.').next().unwrap_or_default() {
            "ServiceUnknown" | "NameHasNoOwner" => Self::NoService,
            "AccessDenied" => Self::Denied,
            kind => Self::Service { name: kind.to_owned(), message: message.unwrap_or_default() },
        }
    }
}

/// Runs one command line.
pub fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader of our output has seen enough.
        Err(Error::Io(problem)) if problem.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(Error::Unhealthy) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("musectl: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> Result<(), Error> {
    let session = args.session;
    match args.command {
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "musectl", &mut text);
            return Ok(std::io::stdout().write_all(&text)?);
        }
        Command::Man { folder } => return write_man_pages(&folder),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    match args.command {
        Command::Chat(chat) => chat::run(&runtime, session, &chat),
        Command::Generate(generate) => runtime.block_on(generate::run(session, generate)),
        Command::Embed(embed) => runtime.block_on(embed::run(session, embed)),
        Command::Models { json } => runtime.block_on(models::list(session, json)),
        Command::Load { model } => runtime.block_on(models::load(session, &model)),
        Command::Unload { model, force } => runtime.block_on(models::unload(session, &model, force)),
        Command::Status { json } => runtime.block_on(status::run(session, json)),
        Command::Doctor { json, config, selftest } => {
            runtime.block_on(doctor::run(session, json, config.as_deref(), selftest))
        }
        Command::Completions { .. } | Command::Man { .. } => Ok(()),
    }
}

/// `mused.8`, `musectl.1` and a page for each of its commands.
fn write_man_pages(folder: &Path) -> Result<(), Error> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Args::command(), folder)?;
    let mused = clap_mangen::Man::new(crate::args::Args::command()).section("8");
    let mut page = Vec::new();
    mused.render(&mut page)?;
    Ok(std::fs::write(folder.join("mused.8"), page)?)
}

/// Bytes for a person: `1.4 GiB`.
fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// Columns padded to their widest cell; the last column is not padded.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let cells = row.iter().enumerate().map(|(c, cell)| format!("{cell:<width$}", width = widths[c]));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Args::command().debug_assert();
        crate::args::Args::command().debug_assert();
    }

    #[test]
    fn bytes_are_readable() {
        for (bytes, text) in
            [(0, "0.0 KiB"), (1536, "1.5 KiB"), (5 << 30, "5.0 GiB"), (u64::MAX, "16777216.0 TiB")]
        {
            assert_eq!(human_bytes(bytes), text);
        }
    }

    #[test]
    fn columns_line_up() {
        let rows = [["a", "bb", "c"], ["long", "b", ""]].map(|r| r.map(String::from).to_vec());
        assert_eq!(table(&rows), "a     bb  c\nlong  b\n");
    }
}
