//! The container, versions 2 and 3, little-endian: header, metadata, tensor table. Facts: the GGUF specification
//! (ggml, `docs/gguf.md`).

use std::collections::HashSet;
use std::sync::Arc;

use super::metadata::Metadata;
use super::reader::{Cursor, Source};
use super::types::Kind;
use crate::checkpoint::ImportError;

const TENSORS_MAX: u64 = 1 << 16;
const NAME_BYTES_MAX: u64 = 256;
/// A name's length, one dimension, the type and the offset.
const ENTRY_BYTES_MIN: u64 = 8 + 4 + 8 + 4 + 8;
const ALIGNMENT_MAX: u32 = 1 << 20;
/// Matrices of one tensor: experts of a layer.
const MATRICES_MAX: u64 = 4096;

/// One tensor; its extent lies in the file and overlaps no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) kind: Kind,
    /// `(rows, cols)`; a vector is `(1, n)`. GGUF writes the innermost dimension first.
    pub(super) shape: (usize, usize),
    /// Matrices of this shape, one behind the other: the experts of a layer. 1 for any other tensor.
    pub(super) matrices: usize,
    /// Where the first row starts in the file.
    pub(super) at: u64,
    /// Bytes of one row.
    pub(super) row_bytes: usize,
}

impl Tensor {
    fn bytes(&self) -> u64 {
        // `entry` checked the product against the file's length.
        self.row_bytes as u64 * self.shape.0 as u64 * self.matrices as u64
    }

    /// Its matrix `index` alone.
    pub(super) fn matrix(&self, index: usize) -> Self {
        let at = self.at + self.row_bytes as u64 * self.shape.0 as u64 * index as u64;
        Self { name: format!("{}[{index}]", self.name), at, matrices: 1, ..self.clone() }
    }
}

/// A parsed container.
pub(super) struct Gguf {
    pub(super) source: Arc<Source>,
    pub(super) metadata: Metadata,
    pub(super) tensors: Vec<Tensor>,
}

pub(super) fn parse(source: Source) -> Result<Gguf, ImportError> {
    let source = Arc::new(source);
    let mut cursor = Cursor::new(&source, 0);
    if source.len < 4 || cursor.array("the magic")? != *b"GGUF" {
        return Err(source.malformed("not a GGUF file; of a Hugging Face checkpoint pass the folder"));
    }
    match cursor.u32("the version")? {
        2 | 3 => {}
        0x0200_0000 | 0x0300_0000 => {
            return Err(source.malformed("big-endian GGUF is not supported: convert it to little-endian"));
        }
        other => {
            return Err(source.malformed(format!("GGUF version {other} is not supported; 2 and 3 are")));
        }
    }
    let tensor_count = cursor.u64("the tensor count")?;
    let entry_count = cursor.u64("the metadata count")?;
    let metadata = Metadata::read(&source, &mut cursor, entry_count)?;
    let shards = metadata.integer("split.count")?.unwrap_or(1);
    if shards > 1 {
        let problem =
            format!("the model is split into {shards} files; merge them first (llama-gguf-split --merge)");
        return Err(source.malformed(problem));
    }
    let alignment = metadata.integer("general.alignment")?.unwrap_or(32);
    if !alignment.is_power_of_two() || alignment > ALIGNMENT_MAX {
        let rule = format!("it must be a power of two, at most {ALIGNMENT_MAX}");
        let (key, value) = ("general.alignment".into(), alignment.to_string());
        return Err(ImportError::Config { key, value, rule });
    }
    let tensors = table(&mut cursor, tensor_count, alignment.into())?;
    Ok(Gguf { source: source.clone(), metadata, tensors })
}

fn table(cursor: &mut Cursor<'_>, count: u64, alignment: u64) -> Result<Vec<Tensor>, ImportError> {
    let source = cursor.source;
    if count > TENSORS_MAX || count.saturating_mul(ENTRY_BYTES_MIN) > cursor.left() {
        return Err(source.malformed(format!("{count} tensors do not fit in {} bytes", cursor.left())));
    }
    let mut tensors = (0..count).map(|index| entry(cursor, index)).collect::<Result<Vec<_>, _>>()?;
    let data = cursor.at.next_multiple_of(alignment);
    let mut names = HashSet::new();
    for tensor in &mut tensors {
        if !names.insert(tensor.name.clone()) {
            return Err(source.malformed(format!("tensor {} is listed twice", tensor.name)));
        }
        if tensor.at % alignment != 0 {
            let problem = format!("tensor {} at {} is not aligned to {alignment}", tensor.name, tensor.at);
            return Err(source.malformed(problem));
        }
        // The sum that saturates lies outside any file.
        tensor.at = tensor.at.saturating_add(data);
        source.check(tensor.at, tensor.bytes(), &format!("tensor {}", tensor.name))?;
    }
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by_key(|tensor| tensor.at);
    for (first, second) in order.iter().zip(order.iter().skip(1)) {
        if first.at + first.bytes() > second.at {
            let problem = format!("tensors {} and {} overlap", first.name, second.name);
            return Err(source.malformed(problem));
        }
    }
    Ok(tensors)
}

/// One entry of the table; `at` is still relative to the data.
fn entry(cursor: &mut Cursor<'_>, index: u64) -> Result<Tensor, ImportError> {
    let source = cursor.source;
    let name = cursor.text(NAME_BYTES_MAX, &format!("the name of tensor {index}"))?;
    let what = format!("tensor {name}");
    let dims = cursor.u32(&what)?;
    if !(1..=4).contains(&dims) {
        return Err(source.malformed(format!("{what} has {dims} dimensions; 1 to 4 are possible")));
    }
    let mut shape = [1u64; 4];
    for (dim, _) in shape.iter_mut().zip(0..dims) {
        *dim = cursor.u64(&what)?;
    }
    let code = cursor.u32(&what)?;
    let at = cursor.u64(&what)?;
    let kind = Kind::from_code(code).map_err(|kind| ImportError::TensorType { name: name.clone(), kind })?;
    let [cols, rows, matrices @ 0..=MATRICES_MAX, 1] = shape else {
        let problem = format!(
            "{what} is {shape:?}; only vectors and matrices, and up to {MATRICES_MAX} of one shape, are supported"
        );
        return Err(source.malformed(problem));
    };
    let block = kind.block();
    if cols == 0 || rows == 0 || matrices == 0 || cols % block.weights as u64 != 0 {
        let problem = format!(
            "{what} is {rows} x {cols}: a row of {kind:?} is a multiple of {} weights",
            block.weights
        );
        return Err(source.malformed(problem));
    }
    let row_bytes = (cols / block.weights as u64).checked_mul(block.bytes as u64);
    let all_rows = rows.saturating_mul(matrices);
    let bytes = row_bytes.and_then(|row| row.checked_mul(all_rows)).unwrap_or(u64::MAX);
    if bytes > source.len {
        let times = if matrices == 1 { String::new() } else { format!("{matrices} x ") };
        let problem = format!("{what} is {times}{rows} x {cols}; the whole file is {} bytes", source.len);
        return Err(source.malformed(problem));
    }
    let fit = |n: u64| usize::try_from(n).map_err(|_| source.malformed(format!("{what} is too large")));
    let row_bytes = fit(bytes / all_rows)?;
    Ok(Tensor { name, kind, shape: (fit(rows)?, fit(cols)?), matrices: fit(matrices)?, at, row_bytes })
}
