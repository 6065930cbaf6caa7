//! Products of a prompt's rows, a tile of weights after another: while the cores multiply tiles, the CPU writes the next
//! and takes up the results of the last.

use std::ops::Range;
use std::sync::Arc;

use zerocopy::FromBytes;

use super::core::{Core, Job, Run};
use super::library::Memory;
use super::rows::{FINE, Scales};
use super::weights::{Columns, STRIP, write_strip};
use super::{COLUMNS_MAX, CORES, Npu, ROWS_MAX, Results, TILE, Width};
use crate::cpu::{CpuBackend, Pool};
use crate::output::Output;
use crate::{Linear, RknnError, Tensor};

/// Rows that a thread takes up at a time.
const BLOCK: usize = 16;

/// Jobs of each core, those of every other turn.
type Jobs = [[Option<Job>; CORES]; 2];

/// One matrix of a call.
struct Product<'a> {
    out: Output<'a, f32>,
    weight: &'a Tensor,
    bias: Option<&'a [f32]>,
}

/// Rows of weights, from `first`, that one core multiplies at a time.
#[derive(Clone, Copy)]
struct Tile<'a> {
    product: &'a Product<'a>,
    first: usize,
}

/// What the tiles of one call have in common.
struct Part<'a> {
    tiles: Vec<Tile<'a>>,
    columns: Columns,
    scales: &'a Scales,
    rows: usize,
    /// Rows of the products that the NPU makes.
    m: [usize; 2],
}

/// Weights to be written.
struct Fill<'a> {
    tile: Tile<'a>,
    out: Output<'a, i8>,
    steps: Output<'a, f32>,
}

/// Results to be taken up.
struct Drain<'a> {
    tile: Tile<'a>,
    sums: [&'a [i32]; 2],
    steps: &'a [f32],
}

/// The columns of an input in as few products as the NPU takes, each of whole groups.
pub(super) fn parts(cols: usize) -> impl Iterator<Item = Columns> {
    let parts = cols.div_ceil(COLUMNS_MAX).max(1);
    let width = cols.div_ceil(parts).next_multiple_of(128);
    (0..cols).step_by(width).map(move |first| Columns { first, len: width.min(cols - first) })
}

impl Npu {
    /// [`crate::Backend::linear`] of the rows `rows`, by weights that are all quantized.
    pub(crate) fn linear(
        &mut self,
        pool: &mut Pool,
        x: &[f32],
        rows: Range<usize>,
        products: &mut [Linear<'_, CpuBackend>],
    ) -> Result<(), RknnError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let Some(cols) = products.first().map(|product| product.weight.cols()) else { return Ok(()) };
        assert!(products.iter().all(|product| product.weight.cols() == cols), "products of one input");
        for first in rows.clone().step_by(ROWS_MAX) {
            let rows = first..rows.end.min(first + ROWS_MAX);
            let x = &x[rows.start * cols..rows.end * cols];
            let products: Vec<_> = products.iter_mut().map(|p| Product::new(p, rows.clone())).collect();
            for columns in parts(cols) {
                let done = self.part(pool, x, cols, columns, &products);
                // What it has of the NPU's memory is lost then.
                done.inspect_err(|error| self.failed = Some(error.clone()))?;
            }
        }
        Ok(())
    }

    /// The products of some columns: stored for the first, added for others.
    fn part(
        &mut self,
        pool: &mut Pool,
        x: &[f32],
        cols: usize,
        columns: Columns,
        products: &[Product<'_>],
    ) -> Result<(), RknnError> {
        let own = columns.first..columns.first + columns.len;
        self.scales.find(pool, x, cols, own.clone());
        let Self { cores, widths, results, scales, steps, .. } = self;
        let width = widths.iter_mut().find(|width| width.k == columns.padded());
        let width = width.expect("the width of a weight that was loaded");
        let rows = x.len() / cols;
        let sizes = [rows, scales.left].map(|rows| width.size_for(rows));
        // Where nothing is left the second operand is not written, and not multiplied.
        let numbers = sizes.map(Option::unwrap_or_default);
        let m = numbers.map(|size| width.rows(size));
        let [whole, rest] = &mut width.a;
        let [whole, rest] = [&mut whole[numbers[0]], &mut rest[numbers[1]]]
            .map(|a| signed(Arc::get_mut(a).expect("a job gives back what it has")));
        scales.write(pool, x, cols, own, [(whole, m[0]), (rest, m[1])]);
        let of = |product: &Product<'_>| (0..product.weight.rows()).step_by(TILE);
        let tiles = products.iter().flat_map(|product| of(product).map(move |first| Tile { product, first }));
        let part = Part { tiles: tiles.collect(), columns, scales, rows, m };
        let mut jobs = take(width, results, sizes)?;
        part.run(pool, cores, &mut jobs, steps)?;
        put_back(width, results, sizes, jobs);
        Ok(())
    }
}

/// Makes jobs of what the NPU reads and writes, once the left operands are seen by it.
fn take(width: &mut Width, results: &mut [Results], sizes: [Option<usize>; 2]) -> Result<Jobs, RknnError> {
    for (a, size) in width.a.iter().zip(sizes) {
        size.map_or(Ok(()), |size| a[size].flush())?;
    }
    let mut jobs = Jobs::default();
    for (parity, jobs) in jobs.iter_mut().enumerate() {
        for (core, job) in jobs.iter_mut().enumerate() {
            let mut run = |which: usize| {
                sizes[which].map(|size| Run {
                    context: Arc::clone(&width.contexts[size][core]),
                    a: Arc::clone(&width.a[which][size]),
                    c: results[size].0[parity][core][which].take().expect("put back by the last call"),
                })
            };
            let runs = [run(0), run(1)];
            let b = width.b[parity][core].take().expect("put back by the last call");
            *job = Some(Job { b, runs });
        }
    }
    Ok(jobs)
}

fn put_back(width: &mut Width, results: &mut [Results], sizes: [Option<usize>; 2], jobs: Jobs) {
    for (parity, jobs) in jobs.into_iter().enumerate() {
        for (core, job) in jobs.into_iter().enumerate() {
            let Some(Job { b, runs }) = job else { continue };
            width.b[parity][core] = Some(b);
            for (which, (run, size)) in runs.into_iter().zip(sizes).enumerate() {
                if let Some((run, size)) = run.zip(size) {
                    results[size].0[parity][core][which] = Some(run.c);
                }
            }
        }
    }
}

fn signed(memory: &mut Memory) -> &mut [i8] {
    <[i8]>::mut_from_bytes(memory.bytes_mut()).expect("bytes are bytes")
}

impl<'a> Product<'a> {
    fn new(product: &'a mut Linear<'_, CpuBackend>, rows: Range<usize>) -> Self {
        let width = product.weight.rows();
        let bias = product.bias.map(Tensor::f32);
        assert!(bias.is_none_or(|bias| bias.len() == width));
        let out = Output::new(&mut product.out[rows.start * width..rows.end * width]);
        Self { out, weight: product.weight, bias }
    }
}

impl<'a> Part<'a> {
    /// The tiles that the cores multiply at a time.
    fn of_turn(&self, turn: usize) -> &[Tile<'a>] {
        let at = |turn: usize| self.tiles.len().min(turn * CORES);
        &self.tiles[at(turn)..at(turn + 1)]
    }

    fn run(
        &self,
        pool: &mut Pool,
        cores: &[Core; CORES],
        jobs: &mut Jobs,
        steps: &mut [Vec<f32>; 3],
    ) -> Result<(), RknnError> {
        let turns = self.tiles.len().div_ceil(CORES);
        for turn in 0..turns + 2 {
            let (own, others) = (turn % 2, 1 - turn % 2);
            self.turn(pool, turn, &mut jobs[own], steps);
            for core in 0..self.of_turn(turn).len() {
                cores[core].begin(jobs[own][core].take().expect("it is here"))?;
            }
            for core in 0..turn.checked_sub(1).map_or(0, |turn| self.of_turn(turn).len()) {
                jobs[others][core] = Some(cores[core].end()?);
            }
        }
        Ok(())
    }

    /// Writes the tiles of `turn`, and takes up the results of two before it, which are in the same jobs.
    fn turn(&self, pool: &mut Pool, turn: usize, jobs: &mut [Option<Job>; CORES], steps: &mut [Vec<f32>; 3]) {
        let drained = turn.checked_sub(2).map_or(&[][..], |turn| self.of_turn(turn));
        let steps = steps.get_disjoint_mut([turn % 3, (turn + 1) % 3]).expect("two of three");
        let [written, read] = steps.map(|steps| steps.as_chunks_mut::<TILE>().0);
        let (mut fills, mut drains) = (Vec::with_capacity(CORES), Vec::with_capacity(CORES));
        for (core, (job, (written, read))) in jobs.iter_mut().zip(written.iter_mut().zip(read)).enumerate() {
            let Job { b, runs } = job.as_mut().expect("it is here");
            if let Some(tile) = self.of_turn(turn).get(core) {
                fills.push(Fill { tile: *tile, out: Output::new(signed(b)), steps: Output::new(written) });
            }
            if let Some(tile) = drained.get(core) {
                let sums = runs.each_ref().map(|run| run.as_ref().map_or(&[][..], |run| sums(&run.c)));
                drains.push(Drain { tile: *tile, sums, steps: read });
            }
        }
        let strips = fills.len() * (TILE / STRIP);
        let blocks = if drains.is_empty() { 0 } else { self.rows.div_ceil(BLOCK) };
        pool.run(strips + blocks, &|chunk| match chunk.checked_sub(strips) {
            None => fills[chunk / (TILE / STRIP)].strip(chunk % (TILE / STRIP), self.columns),
            Some(block) => {
                for row in block * BLOCK..self.rows.min((block + 1) * BLOCK) {
                    drains.iter().for_each(|drain| drain.row(row, self));
                }
            }
        });
    }
}

fn sums(memory: &Memory) -> &[i32] {
    <[i32]>::ref_from_bytes(memory.bytes()).expect("the library gives whole pages")
}

impl Fill<'_> {
    fn strip(&self, strip: usize, columns: Columns) {
        let Tile { product, first } = self.tile;
        if first + strip * STRIP >= product.weight.rows() {
            return;
        }
        let len = STRIP * columns.padded();
        // SAFETY: strips do not meet, and each is in one chunk.
        let (out, steps) =
            unsafe { (self.out.slice(strip * len, len), self.steps.slice(strip * STRIP, STRIP)) };
        write_strip(out, steps, product.weight, first / STRIP + strip, columns);
    }
}

impl Drain<'_> {
    fn row(&self, row: usize, part: &Part<'_>) {
        let Tile { product, first } = self.tile;
        let (width, scales) = (product.weight.rows(), part.scales);
        let rows = TILE.min(width - first);
        // SAFETY: a row is in one chunk, and tiles of one matrix do not meet.
        let out = unsafe { product.out.slice(row * width + first, rows) };
        let (step, rest) = (scales.steps[row], scales.rest[row]);
        let fine = step / FINE;
        for (at, (out, steps)) in out.chunks_mut(4).zip(self.steps.chunks(4)).enumerate() {
            let of = |which: usize, row: usize| &self.sums[which][(at * part.m[which] + row) * 4..][..4];
            let mut sums: [f32; 4] = std::array::from_fn(|i| of(0, row)[i] as f32 * step);
            if let Some(row) = rest {
                sums.iter_mut().zip(of(1, row)).for_each(|(sum, rest)| *sum += *rest as f32 * fine);
            }
            let first = first + 4 * at;
            for (i, (out, (sum, step))) in out.iter_mut().zip(sums.iter().zip(steps)).enumerate() {
                let before = match part.columns.first {
                    0 => product.bias.map_or(0.0, |bias| bias[first + i]),
                    _ => *out,
                };
                *out = before + sum * step;
            }
        }
    }
}
