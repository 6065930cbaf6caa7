//! What is printed of single operations, as a table or as JSON.

use std::fmt;

use serde::Serialize;

use super::Dims;

/// Everything that a run prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Products {
    /// The GPU, where its kernels come from, its memory and its driver.
    pub device: String,
    pub rounds: u32,
    /// What a kernel that does nothing else reads at best, in 1e9 bytes a second.
    pub read_gb_per_s: f64,
    /// `mma.sync` of f16 in registers at best, in 1e12 multiplications and additions a second.
    pub half_tera_per_s: f64,
    /// The same of signed bytes.
    pub bytes_tera_per_s: f64,
    /// An operation of a graph that has nothing to do, in microseconds.
    pub launch_us: f64,
    pub rows: Vec<Row>,
}

/// An operation.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    /// Whose sizes it has.
    pub shape: String,
    pub operation: String,
    /// Of the weights, or of the cache.
    pub layout: String,
    /// Of the input.
    pub rows: usize,
    /// Of one operation, with the quantization of its input.
    pub us: f64,
    /// Bytes of weights or of keys and values that it must read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// Multiplications and additions that it must do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operations: Option<u64>,
    /// Whether it ran in a graph; none where it is not to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub graph: Option<bool>,
}

impl Row {
    pub(super) fn new(dims: &Dims, operation: &str, layout: String, rows: usize, seconds: f64) -> Self {
        let (shape, operation) = (dims.name.clone(), operation.to_owned());
        Self { shape, operation, layout, rows, us: 1e6 * seconds, bytes: None, operations: None, graph: None }
    }

    pub(super) fn reading(self, bytes: u64, graph: bool) -> Self {
        Self { bytes: Some(bytes), graph: Some(graph), ..self }
    }

    pub(super) fn multiplying(self, operations: u64) -> Self {
        Self { operations: Some(operations), ..self }
    }

    /// 1e9 bytes a second.
    pub fn gb_per_s(&self) -> Option<f64> {
        self.bytes.map(|bytes| bytes as f64 / self.us / 1e3)
    }

    /// 1e12 multiplications and additions a second.
    pub fn tera_per_s(&self) -> Option<f64> {
        self.operations.map(|operations| operations as f64 / self.us / 1e6)
    }
}

fn share(of: Option<f64>, all: f64) -> String {
    of.map_or("-".into(), |value| format!("{:.0}%", 100.0 * value / all))
}

fn number(value: Option<f64>) -> String {
    value.map_or("-".into(), |value| format!("{value:.1}"))
}

impl fmt::Display for Products {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { read_gb_per_s, half_tera_per_s, bytes_tera_per_s, .. } = *self;
        writeln!(f, "{}", self.device)?;
        writeln!(
            f,
            "at most: reads {read_gb_per_s:.1} GB/s; mma of f16 {half_tera_per_s:.1} and of bytes {bytes_tera_per_s:.1} T/s; \
             {:.2} us an empty operation; medians of {} rounds",
            self.launch_us, self.rounds
        )?;
        write!(
            f,
            "{:<17}{:<10}{:<18}{:>5}{:>10}{:>9}{:>8}{:>8}{:>8}{:>9}  graph",
            "shape", "operation", "layout", "rows", "us", "GB/s", "of read", "T/s", "of f16", "of bytes"
        )?;
        self.rows.iter().try_for_each(|row| {
            let (bytes, tera) = (row.gb_per_s(), row.tera_per_s());
            let (read, half, int8) =
                (share(bytes, read_gb_per_s), share(tera, half_tera_per_s), share(tera, bytes_tera_per_s));
            let graph = row.graph.map_or("-", |graph| if graph { "yes" } else { "NO" });
            write!(
                f,
                "\n{:<17}{:<10}{:<18}{:>5}{:>10.1}{:>9}{read:>8}{:>8}{half:>8}{int8:>9}  {graph}",
                row.shape,
                row.operation,
                row.layout,
                row.rows,
                row.us,
                number(bytes),
                number(tera)
            )
        })
    }
}
