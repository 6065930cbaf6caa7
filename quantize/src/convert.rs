//! The pipeline: an [`Import`] in file order -> layouts -> bytes, band by band, so that memory holds a few bands of
//! one tensor whatever the size of the model.

use std::borrow::Cow;
use std::io::{Seek, Write};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use half::f16;
use muse_format::{ALIGN, Layout, Meta, Role, TILE_ROWS, WriteError, Writer};
use rayon::prelude::*;

use crate::checkpoint::{Checkpoint, ImportError, TensorSource};
use crate::families::{Import, Imported, Origin, Rows, Transform};
use crate::pack::{self, Loss, TooLarge};
use crate::policy::{Policy, Storage};

/// f32 values that one batch of bands may hold, over all threads: 64 MiB.
const BATCH_VALUES: usize = 1 << 24;

/// Why a conversion stopped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConvertError {
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error("{path}: {source}")]
    Write { path: String, source: WriteError },
    #[error(
        "tensor {name} holds {value} at row {row}, too large for the f16 scales of {layout}: use --bits 32 or 16"
    )]
    TooLarge { name: String, row: usize, value: f32, layout: Layout },
    #[error("interrupted; nothing was written")]
    Interrupted,
}

/// A tensor with its layout decided.
#[derive(Debug)]
pub struct Job<'a> {
    pub tensor: &'a Imported,
    pub layout: Layout,
    /// True where the source's groups are copied.
    pub kept: bool,
}

impl Job<'_> {
    /// Bytes in the file.
    pub fn byte_len(&self) -> u64 {
        let len = self.layout.byte_len(self.tensor.rows as u64, self.tensor.cols as u64);
        len.expect("the spec bounds every shape")
    }
}

/// What became of a tensor.
#[derive(Debug)]
pub struct Done {
    pub name: String,
    pub layout: Layout,
    pub kept: bool,
    pub weights: u64,
    pub bytes: u64,
    pub loss: Loss,
}

/// Watches a conversion: told the bytes written, asked whether to go on.
pub struct Watch<'a> {
    pub progress: &'a (dyn Fn(u64) + Sync),
    pub interrupted: &'a AtomicBool,
}

impl Watch<'_> {
    fn check(&self) -> Result<(), ConvertError> {
        if self.interrupted.load(Ordering::Relaxed) { Err(ConvertError::Interrupted) } else { Ok(()) }
    }
}

/// Decides the layout of every tensor. Reads those whose storage depends on their values.
pub fn plan<'a>(
    import: &'a Import,
    checkpoint: &Checkpoint,
    policy: &Policy,
    watch: &Watch<'_>,
) -> Result<Vec<Job<'a>>, ConvertError> {
    import
        .tensors
        .iter()
        .map(|tensor| {
            let (layout, kept) = match source(checkpoint, tensor) {
                None => (Layout::F32, false),
                Some((source, ..)) => match policy.storage(&tensor.name, tensor.role, source.native()) {
                    Storage::Kept(layout) => (layout, true),
                    Storage::Rounded(layout) => (layout, false),
                    Storage::F16IfItFits => {
                        let fits = largest(tensor, checkpoint, watch)? <= f16::MAX.to_f32();
                        (if fits { Layout::F16 } else { Layout::Bf16 }, false)
                    }
                },
            };
            Ok(Job { tensor, layout, kept })
        })
        .collect()
}

/// Upper bound of the file's size: tensors, their padding, the table and the sections.
pub fn file_len(jobs: &[Job<'_>], meta: &Meta) -> u64 {
    let tensors: u64 = jobs.iter().map(|j| j.byte_len().next_multiple_of(ALIGN)).sum();
    let layers = meta.spec.layers.len() as u64;
    let blocks = meta.spec.vision.as_ref().map_or(0, |vision| vision.layers.len() as u64);
    // An entry is 160 bytes; a layer of the spec is under 1 KiB of JSON, one of a tower under 32 bytes, everything else
    // of it under 16 KiB.
    let prompts = meta.spec.embedding.iter().flat_map(|embedding| &embedding.prompts);
    // JSON writes a byte as six at most.
    let prompts: u64 = prompts.map(|(name, text)| 6 * (name.len() + text.len()) as u64).sum();
    let tail = 160 * jobs.len() as u64 + 1024 * layers + 32 * blocks + prompts + (16 << 10);
    ALIGN + tensors + tail + (meta.tokenizer.len() + meta.chat_template.len()) as u64
}

/// Writes the whole file to `sink`; `path` is for messages.
pub fn write<W: Write + Seek + Send>(
    sink: W,
    path: &str,
    checkpoint: &Checkpoint,
    jobs: &[Job<'_>],
    meta: &Meta,
    watch: &Watch<'_>,
) -> Result<(W, Vec<Done>), ConvertError> {
    let fail = |source| ConvertError::Write { path: path.into(), source };
    let mut writer = Writer::new(sink).map_err(fail)?;
    let mut done = Vec::with_capacity(jobs.len());
    for job in jobs {
        let Imported { name, rows, cols, .. } = job.tensor;
        writer.begin(name, job.layout, *rows as u64, *cols as u64).map_err(fail)?;
        let loss = match &job.tensor.origin {
            Origin::Computed(values) => {
                let mut bytes = Vec::new();
                let loss = pack::floats(Layout::F32, values, &mut bytes);
                writer.write(&bytes).map_err(fail)?;
                (watch.progress)(bytes.len() as u64);
                loss
            }
            Origin::Tensor { .. } => write_tensor(&mut writer, job, checkpoint, watch, fail)?,
        };
        writer.end().map_err(fail)?;
        let (weights, bytes) = ((rows * cols) as u64, job.byte_len());
        done.push(Done { name: name.clone(), layout: job.layout, kept: job.kept, weights, bytes, loss });
    }
    watch.check()?;
    Ok((writer.finish(meta).map_err(fail)?, done))
}

/// One tensor; the next batch is computed while the last is written.
fn write_tensor<W: Write + Seek + Send>(
    writer: &mut Writer<W>,
    job: &Job<'_>,
    checkpoint: &Checkpoint,
    watch: &Watch<'_>,
    fail: impl Fn(WriteError) -> ConvertError + Send + Sync,
) -> Result<Loss, ConvertError> {
    let from = source(checkpoint, job.tensor).expect("families::import found it");
    let compute = |tiles: Range<usize>| -> Result<Vec<(Vec<u8>, Loss)>, ConvertError> {
        let values = Batch::new(job.tensor, from, tiles.clone())?;
        tiles.into_par_iter().map(|tile| band(job, from, tile, &values)).collect()
    };
    let mut loss = Loss::default();
    let mut ready: Vec<(Vec<u8>, Loss)> = Vec::new();
    let mut put = |ready: Vec<(Vec<u8>, Loss)>| -> Result<(), ConvertError> {
        for (bytes, lost) in ready {
            writer.write(&bytes).map_err(&fail)?;
            (watch.progress)(bytes.len() as u64);
            loss.add(lost);
        }
        Ok(())
    };
    for tiles in batches(job.tensor) {
        watch.check()?;
        let (written, next) = rayon::join(|| put(std::mem::take(&mut ready)), || compute(tiles));
        written?;
        ready = next?;
    }
    put(ready)?;
    Ok(loss)
}

/// Ranges of 16-row tiles that together hold at most [`BATCH_VALUES`], or one tile.
fn batches(tensor: &Imported) -> impl Iterator<Item = Range<usize>> {
    let tiles = tensor.rows.div_ceil(TILE_ROWS);
    let step = (BATCH_VALUES / (TILE_ROWS * tensor.cols)).max(1);
    (0..tiles).step_by(step).map(move |start| start..tiles.min(start + step))
}

/// The rows of a tile that exist.
fn rows_of(tensor: &Imported, tile: usize) -> Range<usize> {
    tile * TILE_ROWS..tensor.rows.min((tile + 1) * TILE_ROWS)
}

/// The values of some tiles. Where rows are columns of theirs, which lie far apart, all are read at once; else a tile's are
/// read as it is wanted.
struct Batch {
    first_row: usize,
    /// `(rows, cols)`
    values: Option<Vec<f32>>,
}

impl Batch {
    fn new(tensor: &Imported, from: Source<'_>, tiles: Range<usize>) -> Result<Self, ImportError> {
        let rows = tiles.start * TILE_ROWS..tensor.rows.min(tiles.end * TILE_ROWS);
        let first_row = rows.start;
        let values = match from.2 {
            Transform::Transpose { .. } => Some(read(tensor, from, rows)?),
            _ => None,
        };
        Ok(Self { first_row, values })
    }

    /// The values of `rows`, which are of these tiles.
    fn rows<'a>(
        &'a self,
        tensor: &Imported,
        from: Source<'_>,
        rows: Range<usize>,
    ) -> Result<Cow<'a, [f32]>, ImportError> {
        match &self.values {
            None => read(tensor, from, rows).map(Cow::Owned),
            Some(values) => {
                let at = |row: usize| (row - self.first_row) * tensor.cols;
                Ok(Cow::Borrowed(&values[at(rows.start)..at(rows.end)]))
            }
        }
    }
}

fn band(
    job: &Job<'_>,
    from: Source<'_>,
    tile: usize,
    values: &Batch,
) -> Result<(Vec<u8>, Loss), ConvertError> {
    let rows = rows_of(job.tensor, tile);
    let cols = job.tensor.cols;
    let first = rows.start;
    let too_large = |TooLarge { row, value }| ConvertError::TooLarge {
        name: job.tensor.name.clone(),
        row: first + row,
        value,
        layout: job.layout,
    };
    let weights = values.rows(job.tensor, from, rows.clone())?;
    if job.kept {
        let groups: Result<Vec<_>, _> = rows.map(|row| from.0.groups(from.1.source(row))).collect();
        return pack::keep_tile(job.layout, &groups?, &weights, cols).map_err(too_large);
    }
    if job.layout.is_quantized() {
        return pack::quantize_tile(job.layout, &weights, cols).map_err(too_large);
    }
    let mut bytes = Vec::with_capacity(weights.len() * job.layout.block_bytes());
    let loss = pack::floats(job.layout, &weights, &mut bytes);
    Ok((bytes, loss))
}

/// Finite values of `rows`, transformed.
fn read(
    tensor: &Imported,
    (source, from, transform): Source<'_>,
    rows: Range<usize>,
) -> Result<Vec<f32>, ImportError> {
    let mut values = vec![0.0; rows.len() * tensor.cols];
    match transform {
        Transform::Transpose { first } => {
            let mut theirs = vec![0.0; values.len()];
            let columns = from.first + rows.start..from.first + rows.end;
            source.read_columns(first..first + tensor.cols, columns, &mut theirs)?;
            for (row, values) in values.chunks_exact_mut(tensor.cols).enumerate() {
                let column = theirs.iter().skip(row).step_by(rows.len());
                values.iter_mut().zip(column).for_each(|(value, theirs)| *value = *theirs);
            }
        }
        Transform::TransposeBlocks => transposed(source, from, tensor.cols, rows.clone(), &mut values)?,
        _ if tensor.role == Role::Vector
            && tensor.rows == 1
            && !(from.are_contiguous() && source.shape().1 == tensor.cols) =>
        {
            let mut theirs = vec![0.0; source.shape().1];
            source.read(0..1, &mut theirs)?;
            values.iter_mut().enumerate().for_each(|(i, value)| *value = theirs[from.source(i)]);
        }
        _ if from.are_contiguous() => {
            source.read(from.first + rows.start..from.first + rows.end, &mut values)?;
        }
        _ => {
            for (row, values) in rows.clone().zip(values.chunks_exact_mut(tensor.cols)) {
                let row = from.source(row);
                source.read(row..row + 1, values)?;
            }
        }
    }
    transform.apply(&mut values, tensor.cols);
    if let Some(at) = values.iter().position(|v| !v.is_finite()) {
        let (name, row) = (tensor.name.clone(), rows.start + at / tensor.cols);
        return Err(ImportError::NotFinite { name, row, value: values[at] });
    }
    Ok(values)
}

/// `rows` of ours where each block of `cols` rows of theirs is turned into as many as theirs has columns.
fn transposed(
    source: &dyn TensorSource,
    from: Rows,
    cols: usize,
    rows: Range<usize>,
    values: &mut [f32],
) -> Result<(), ImportError> {
    let width = source.shape().1;
    let mut theirs = vec![0.0; cols * width];
    for (row, values) in rows.clone().zip(values.chunks_exact_mut(cols)) {
        let (block, at) = (row / width, row % width);
        if at == 0 || row == rows.start {
            let first = from.source(block * cols);
            source.read(first..first + cols, &mut theirs)?;
        }
        values.iter_mut().zip(theirs.chunks_exact(width)).for_each(|(value, theirs)| *value = theirs[at]);
    }
    Ok(())
}

/// The largest magnitude of a tensor.
fn largest(tensor: &Imported, checkpoint: &Checkpoint, watch: &Watch<'_>) -> Result<f32, ConvertError> {
    let (source, rows, transform) = source(checkpoint, tensor).expect("families::import found it");
    // What becomes of values is not looked at, but where they lie.
    let turns = matches!(transform, Transform::Transpose { .. } | Transform::TransposeBlocks);
    let mut largest = 0.0f32;
    for tiles in batches(tensor) {
        watch.check()?;
        let from = (source, rows, if turns { transform } else { Transform::AsIs });
        let batch = Batch::new(tensor, from, tiles.clone())?;
        let of_tile = |tile| {
            let values = batch.rows(tensor, from, rows_of(tensor, tile))?;
            Ok::<_, ImportError>(values.iter().fold(0.0f32, |max, v| max.max(v.abs())))
        };
        let maxima: Result<Vec<f32>, _> = tiles.into_par_iter().map(of_tile).collect();
        largest = maxima?.into_iter().fold(largest, f32::max);
    }
    Ok(largest)
}

/// A tensor of the checkpoint, which of its rows are ours, and what becomes of their values.
type Source<'a> = (&'a dyn TensorSource, Rows, Transform);

fn source<'a>(checkpoint: &'a Checkpoint, tensor: &Imported) -> Option<Source<'a>> {
    match &tensor.origin {
        Origin::Computed(_) => None,
        Origin::Tensor { name, rows, transform } => {
            let source = checkpoint.tensors.get(name).expect("families::import found it");
            Some((source.as_ref(), *rows, *transform))
        }
    }
}
