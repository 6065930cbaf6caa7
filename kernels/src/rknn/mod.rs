//! Prompts on the NPU of Rockchip's RK3588, by its library's products of 8-bit matrices.
//!
//! An answer's token reads every weight once, for which the CPU is as fast: it reads 4 bits where the NPU reads 8. A
//! prompt's rows share what is read, and there the NPU multiplies several times as fast as four A76. So everything is the
//! CPU's ([`CpuBackend`](crate::CpuBackend)) but products of packed weights by 32 rows of prompts or more.
//!
//! Nothing is kept in a second layout: a tile of weights is brought to 8 bits a number and one scale a row (`weights.rs`)
//! while the cores multiply the tile before it (`products.rs`), so that the NPU's memory is some MB, whatever the model's size.
//! Activations have one scale a row as well, and rows with numbers far above the rest 15 bits (`rows.rs`).
//! What rounds so is a prompt's alone: a token of an answer does not depend on what else a step computes.
//!
//! The interface is `kernels/rknn/rknn_matmul.h`; `kernels/rknn/NOTES.md` says what was seen where.

mod core;
mod error;
mod library;
mod products;
mod rows;
#[allow(clippy::all, dead_code, missing_docs, non_camel_case_types, non_snake_case, non_upper_case_globals)]
#[allow(unused, clippy::undocumented_unsafe_blocks, clippy::missing_safety_doc, unsafe_op_in_unsafe_fn)]
#[rustfmt::skip] // as bindgen writes it
mod sys;
mod weights;

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ops::Range;
use std::sync::Arc;

use self::core::Core;
pub use self::error::RknnError;
use self::library::{Context, Library, Memory, Shape};
use self::products::parts;
use self::rows::Scales;
use crate::cache::row_count;
use crate::shape::PROMPT_ROWS;
use crate::{PromptRows, Span, Tensor};

/// Cores of an RK3588's NPU, each with products of its own.
const CORES: usize = 3;

/// Most columns of one product: past it the library takes weights in an order of its own.
const COLUMNS_MAX: usize = 8192;

/// Rows of weights that a core multiplies at a time.
const TILE: usize = 256;

/// Fewest and most rows of one product; numbers between are powers of two.
const ROWS_MIN: usize = 32;
const ROWS_MAX: usize = 512;

/// The NPU, opened, and the memory that it reads.
pub struct Npu {
    cores: [Core; CORES],
    library: Arc<Library>,
    /// Columns of the products of what was loaded.
    noted: BTreeSet<usize>,
    /// Most rows of a product.
    rows: Option<usize>,
    widths: Vec<Width>,
    results: Vec<Results>,
    scales: Scales,
    /// Of the rows of the tiles that are written, multiplied and taken up.
    steps: [Vec<f32>; 3],
    /// Where the rows stand of which those of long spans are prompts'.
    spans: Vec<Span>,
    /// Whether all are.
    all: bool,
    failed: Option<RknnError>,
}

/// What products of inputs of `k` columns need; lists are of [`sizes`].
struct Width {
    k: usize,
    contexts: Vec<[Arc<Context>; CORES]>,
    /// Rows, and what rounding left of some.
    a: [Vec<Arc<Memory>>; 2],
    /// A tile a core, twice.
    b: [[Option<Memory>; CORES]; 2],
}

/// The results of so many rows of both kinds, of each of those tiles.
#[derive(Default)]
struct Results([[[Option<Memory>; 2]; CORES]; 2]);

/// The numbers of rows that products of up to `rows` have.
fn sizes(rows: usize) -> impl Iterator<Item = usize> {
    let most = rows.clamp(ROWS_MIN, ROWS_MAX).next_power_of_two();
    std::iter::successors(Some(ROWS_MIN), |m| Some(2 * m)).take_while(move |m| *m <= most)
}

impl Npu {
    /// Opens Rockchip's library and asks it for a product on each core.
    ///
    /// # Errors
    /// [`RknnError`] says what is missing: the library, a newer one, its driver, or an NPU of this kind.
    pub fn open() -> Result<Self, RknnError> {
        Self::open_at("librknnrt.so".as_ref())
    }

    /// [`open`](Self::open) of the library at `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_at(path: &OsStr) -> Result<Self, RknnError> {
        let library = Library::open(path)?;
        contexts(&library, Shape { m: ROWS_MIN, k: 32, n: TILE })?;
        Ok(Self {
            cores: std::array::from_fn(Core::new),
            library,
            noted: BTreeSet::new(),
            rows: None,
            widths: Vec::new(),
            results: Vec::new(),
            scales: Scales::default(),
            steps: std::array::from_fn(|_| vec![0.0; CORES * TILE]),
            spans: Vec::new(),
            all: false,
            failed: None,
        })
    }

    /// `3 cores`
    pub fn describe(&self) -> String {
        format!("{} cores", self.cores.len())
    }

    /// Bytes that products of up to `rows` rows take, of inputs of the widths `cols`.
    pub fn bytes(rows: u64, cols: impl IntoIterator<Item = u64>) -> u64 {
        let (tile, cores) = (TILE as u64, CORES as u64);
        let rows: u64 = sizes(rows as usize).map(|m| m as u64).sum();
        let widths: BTreeSet<usize> =
            cols.into_iter().flat_map(|cols| parts(cols as usize).map(|part| part.padded())).collect();
        let columns: u64 = widths.iter().map(|k| *k as u64).sum();
        2 * rows * columns + 2 * cores * tile * columns + 2 * 2 * cores * tile * 4 * rows
    }

    /// Notes a tensor that products may be of, and makes room for them where [`reserve`](Self::reserve) has said of how
    /// many rows.
    pub(crate) fn note(&mut self, tensor: &Tensor) -> Result<(), RknnError> {
        if tensor.layout().is_quantized() {
            self.noted.extend(parts(tensor.cols()).map(|part| part.padded()));
        }
        self.rows.map_or(Ok(()), |rows| self.make_room(rows))
    }

    /// Makes room for products of up to `rows` rows, which the first call decides.
    pub(crate) fn reserve(&mut self, rows: usize) -> Result<(), RknnError> {
        let rows = *self.rows.get_or_insert(rows);
        self.scales.reserve(rows.min(ROWS_MAX));
        self.make_room(rows)
    }

    fn make_room(&mut self, rows: usize) -> Result<(), RknnError> {
        for k in self.noted.iter().copied() {
            if !self.widths.iter().any(|width| width.k == k) {
                self.widths.push(Width::new(&self.library, rows, k)?);
            }
        }
        let Some(width) = self.widths.first() else { return Ok(()) };
        for (m, contexts) in sizes(rows).zip(&width.contexts).skip(self.results.len()) {
            let mut results = Results::default();
            for cores in &mut results.0 {
                for (memory, owner) in cores.iter_mut().zip(contexts) {
                    *memory =
                        [Some(Memory::new(owner, 4 * TILE * m)?), Some(Memory::new(owner, 4 * TILE * m)?)];
                }
            }
            self.results.push(results);
        }
        Ok(())
    }

    /// See [`crate::Backend::prompt_rows`].
    pub(crate) fn prompt_rows(&mut self, rows: PromptRows<'_>) {
        self.spans.clear();
        self.all = matches!(rows, PromptRows::All);
        if let PromptRows::Of(spans) = rows {
            self.spans.extend_from_slice(spans);
        }
    }

    /// The rows of an operation of `tokens` as runs, and whether each is a prompt's.
    pub(crate) fn shares(&self, tokens: usize) -> Vec<(Range<usize>, bool)> {
        let mut runs: Vec<(Range<usize>, bool)> = Vec::new();
        if row_count(&self.spans) != tokens {
            return vec![(0..tokens, self.all && tokens >= ROWS_MIN)];
        }
        let mut first = 0;
        for span in &self.spans {
            let rows = first..first + span.len as usize;
            first = rows.end;
            match runs.last_mut().filter(|(_, prompts)| *prompts == (span.len >= PROMPT_ROWS)) {
                Some((run, _)) => run.end = rows.end,
                None => runs.push((rows, span.len >= PROMPT_ROWS)),
            }
        }
        runs
    }
}

impl Width {
    fn new(library: &Arc<Library>, rows: usize, k: usize) -> Result<Self, RknnError> {
        let contexts: Result<Vec<_>, _> =
            sizes(rows).map(|m| contexts(library, Shape { m, k, n: TILE })).collect();
        let contexts = contexts?;
        // What one core's thread makes the NPU see is owned by a context of that core, which no other thread calls.
        let owners = &contexts[0];
        let a =
            || sizes(rows).map(|m| Memory::new(&owners[0], m * k).map(Arc::new)).collect::<Result<_, _>>();
        let a = [a()?, a()?];
        let mut b: [[Option<Memory>; CORES]; 2] = Default::default();
        for cores in &mut b {
            for (memory, owner) in cores.iter_mut().zip(owners) {
                *memory = Some(Memory::new(owner, TILE * k)?);
            }
        }
        Ok(Self { k, a, b, contexts })
    }

    /// The rows of the products number `size`.
    fn rows(&self, size: usize) -> usize {
        self.contexts[size][0].shape().m
    }

    /// The number of the smallest products of so many rows; none of no rows.
    fn size_for(&self, rows: usize) -> Option<usize> {
        let found = self.contexts.iter().position(|contexts| contexts[0].shape().m >= rows);
        assert!(found.is_some(), "{rows} rows were not reserved");
        found.filter(|_| rows > 0)
    }
}

/// A context of one shape for each core.
fn contexts(library: &Arc<Library>, shape: Shape) -> Result<[Arc<Context>; CORES], RknnError> {
    use sys::_rknn_core_mask::{RKNN_NPU_CORE_0, RKNN_NPU_CORE_1, RKNN_NPU_CORE_2};
    let of = |mask| Context::new(library, shape, mask);
    Ok([of(RKNN_NPU_CORE_0)?, of(RKNN_NPU_CORE_1)?, of(RKNN_NPU_CORE_2)?])
}
