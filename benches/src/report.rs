//! What `muse-bench` prints, as a table or as JSON.

use std::fmt;

use muse_format::WriteError;
use muse_kernels::BackendError;
use muse_runtime::LoadError;
use serde::Serialize;

use crate::cold::ColdStart;
use crate::measure::Rates;
use crate::neighbour::Neighbour;

/// Everything that a run prints. `Display` prints it as tables.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub model: String,
    /// Layouts of the matrices.
    pub layouts: Vec<String>,
    pub weight_bytes: u64,
    /// Bytes of the weights in huge pages after the last row; none where the kernel does not say.
    pub huge_page_bytes: Option<u64>,
    pub working_bytes: u64,
    pub backend: String,
    pub depth: u32,
    pub prompt_tokens: u32,
    pub answer_tokens: u32,
    pub rounds: u32,
    pub rows: Vec<Row>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cold_start: Option<ColdStart>,
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub threads: usize,
    /// Sessions that take each step together.
    pub parallel: u32,
    /// What ran beside it.
    pub neighbour: Option<Neighbour>,
    /// Prompt tokens a second; none where no prompt was asked for, and of several sessions.
    pub prefill_tok_per_s: Option<f64>,
    /// Generated tokens a second of all sessions together; none where none were asked for.
    pub decode_tok_per_s: Option<f64>,
    /// Bytes that must be read for a token: its session's part of every weight but an embedding that is only looked
    /// up, and its cache up to the middle of the answer.
    pub bytes_per_token: u64,
    /// `bytes_per_token` times `decode_tok_per_s`, in 1e9 bytes.
    pub decode_gb_per_s: Option<f64>,
    /// What as many threads read from memory before and after each answer: the median over rounds.
    pub probe_gb_per_s: f64,
    /// Share of the probe that decoding reached: the median of the rounds' own.
    pub decode_of_probe: Option<f64>,
    /// What decoding read from the disk, where experts stay there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flash: Option<Flash>,
    /// Share of the same row without the neighbour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefill_of_quiet: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decode_of_quiet: Option<f64>,
}

/// Reading of experts from the disk while decoding.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Flash {
    pub bytes_per_token: u64,
    pub read_gb_per_s: f64,
    /// What direct reads of the same file gave at best, in the same seconds.
    pub probe_gb_per_s: f64,
}

impl Row {
    pub fn new(threads: usize, parallel: u32, rates: &Rates, bytes_per_token: u64) -> Self {
        Self {
            threads,
            parallel,
            neighbour: None,
            prefill_tok_per_s: rates.prefill,
            decode_tok_per_s: rates.decode,
            bytes_per_token,
            decode_gb_per_s: rates.decode.map(|rate| rate * bytes_per_token as f64 / 1e9),
            probe_gb_per_s: rates.probe / 1e9,
            decode_of_probe: rates.decode_of_probe.map(|share| share * bytes_per_token as f64),
            flash: rates.flash.map(|flash| Flash {
                bytes_per_token: flash.bytes_per_token as u64,
                read_gb_per_s: flash.read / 1e9,
                probe_gb_per_s: flash.probe / 1e9,
            }),
            prefill_of_quiet: None,
            decode_of_quiet: None,
        }
    }

    /// The row as measured beside `neighbour`, where `quiet` is the same without.
    pub fn beside(self, neighbour: Neighbour, quiet: &Rates) -> Self {
        let share =
            |value: Option<f64>, quiet: Option<f64>| value.zip(quiet).map(|(value, quiet)| value / quiet);
        Self {
            prefill_of_quiet: share(self.prefill_tok_per_s, quiet.prefill),
            decode_of_quiet: share(self.decode_tok_per_s, quiet.decode),
            neighbour: Some(neighbour),
            ..self
        }
    }
}

/// Why nothing is printed.
#[derive(Debug, thiserror::Error)]
pub enum BenchError {
    #[error("the GPU computes {what} wrong: off by {error:.1e} of its size, of {bound:.1e} at most")]
    Wrong { what: String, error: f64, bound: f64 },
    #[error("{what} left {value} at {at} where it should have written a number")]
    Unwritten { what: String, at: usize, value: f32 },
    #[error("there is no shape to measure")]
    NoShape,
    #[error("an answer failed: {0}")]
    Answer(String),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Step(#[from] BackendError),
    #[error("the random model could not be written: {0}")]
    Write(#[from] WriteError),
    #[error("no memory for the bandwidth probe: {0}")]
    Probe(std::io::Error),
    #[error("no temporary folder: {0}")]
    Folder(std::io::Error),
    #[error("the model could not be read: {0}")]
    Read(std::io::Error),
    #[error("no neighbour could be run: {0}")]
    Neighbour(std::io::Error),
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.1}"))
}

fn percent(value: Option<f64>) -> String {
    value.map_or("-".into(), |share| format!("{:.0}%", 100.0 * share))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let layouts = self.layouts.join("+");
        write!(f, "{} {layouts}, {:.1} MiB of weights", self.model, mib(self.weight_bytes))?;
        if let Some(huge) = self.huge_page_bytes {
            let share = huge as f64 / self.weight_bytes as f64;
            write!(f, " ({} in huge pages)", percent(Some(share.min(1.0))))?;
        }
        writeln!(f, ", {}, depth {}", self.backend, self.depth)?;
        write!(
            f,
            "{:>7} {:>8} {:>13} {:>12} {:>8} {:>11} {:>10} {:>8}",
            "threads",
            "sessions",
            "prefill tok/s",
            "decode tok/s",
            "MB/token",
            "decode GB/s",
            "probe GB/s",
            "of probe"
        )?;
        self.rows.iter().try_for_each(|row| write!(f, "\n{row}"))?;
        self.cold_start.iter().try_for_each(|cold| write!(f, "\n{cold}"))
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:>7} {:>8} {:>13} {:>12} {:>8.1} {:>11} {:>10.1} {:>8}",
            self.threads,
            self.parallel,
            number(self.prefill_tok_per_s),
            number(self.decode_tok_per_s),
            self.bytes_per_token as f64 / 1e6,
            number(self.decode_gb_per_s),
            self.probe_gb_per_s,
            percent(self.decode_of_probe),
        )?;
        if let Some(flash) = self.flash {
            let Flash { bytes_per_token, read_gb_per_s, probe_gb_per_s } = flash;
            let (megabytes, share) = (bytes_per_token as f64 / 1e6, read_gb_per_s / probe_gb_per_s);
            write!(
                f,
                "  from disk: {megabytes:.1} MB/token, {read_gb_per_s:.2} of {probe_gb_per_s:.2} GB/s"
            )?;
            write!(f, " ({})", percent(Some(share)))?;
        }
        let Some(neighbour) = self.neighbour else { return Ok(()) };
        let pinned = if neighbour == Neighbour::Pinned { " on the last core" } else { "" };
        let [prefill, decode] = [self.prefill_of_quiet, self.decode_of_quiet].map(percent);
        write!(f, "  beside a busy loop{pinned}: prefill {prefill}, decode {decode} of quiet")
    }
}

impl fmt::Display for ColdStart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.threads == 1 { "" } else { "s" };
        write!(f, "start with {} thread{plural}, file of {:.1} MiB:", self.threads, mib(self.file_bytes))?;
        if self.cold.is_none() {
            write!(f, "\n  cold: not measured, as the system keeps the file in memory")?;
        }
        for (name, start) in [("cold", self.cold), ("warm", Some(self.warm))] {
            let Some(start) = start else { continue };
            let [first, read] = [start.first_token_s, start.read_s].map(|s| 1e3 * s);
            write!(f, "\n  {name}: first token after {first:.1} ms; reading the file takes {read:.1} ms")?;
        }
        Ok(())
    }
}
