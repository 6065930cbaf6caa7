//! One `.safetensors` file.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use half::{bf16, f16};
use safetensors::Dtype;
use safetensors::tensor::Metadata;

use super::folder::malformed;
use crate::checkpoint::{Group, ImportError, Native, TensorSource};

/// The format's own bound on its header.
const HEADER_MAX: u64 = 100_000_000;
/// Bytes read at once.
const CHUNK: usize = 1 << 20;

struct Shard {
    file: File,
    /// For messages.
    path: String,
}

impl Shard {
    fn read(&self, out: &mut [u8], at: u64) -> Result<(), ImportError> {
        let io = |source| ImportError::Io { path: self.path.clone(), source };
        self.file.read_exact_at(out, at).map_err(io)
    }
}

struct Stored {
    shard: Arc<Shard>,
    name: String,
    dtype: Dtype,
    /// Of the first byte, in the file.
    offset: u64,
    rows: usize,
    cols: usize,
}

/// The tensors of `dir/name`, their extents checked against the file.
pub(super) fn open(dir: &Path, name: &str) -> Result<BTreeMap<String, Box<dyn TensorSource>>, ImportError> {
    let path = dir.join(name);
    let io = |source| ImportError::Io { path: path.display().to_string(), source };
    let file = File::open(&path).map_err(io)?;
    let file_len = file.metadata().map_err(io)?.len();
    let shard = Arc::new(Shard { file, path: path.display().to_string() });
    if file_len < 8 {
        return Err(malformed(name, &format!("is {file_len} bytes, too short for a safetensors file")));
    }
    let mut prefix = [0; 8];
    shard.read(&mut prefix, 0)?;
    let header_len = u64::from_le_bytes(prefix);
    if header_len > HEADER_MAX {
        let (file, what) = (name.to_owned(), "the header".to_owned());
        return Err(ImportError::TooLarge { file, what, len: header_len, limit: HEADER_MAX });
    }
    let data = 8 + header_len;
    if data > file_len {
        let problem =
            format!("is {file_len} bytes, but its header alone ends at {data}: incomplete download?");
        return Err(malformed(name, &problem));
    }
    let mut header = vec![0; usize::try_from(header_len).expect("HEADER_MAX fits any usize")];
    shard.read(&mut header, 8)?;
    let header: Metadata = serde_json::from_slice(&header).map_err(|e| malformed(name, &e.to_string()))?;
    let expected = (header.data_len() as u64).checked_add(data);
    if expected != Some(file_len) {
        let expected = expected.unwrap_or(u64::MAX);
        let problem =
            format!("is {file_len} bytes, but its header describes {expected}: incomplete download?");
        return Err(malformed(name, &problem));
    }
    let mut tensors: BTreeMap<String, Box<dyn TensorSource>> = BTreeMap::new();
    for (tensor, info) in header.tensors() {
        let (rows, cols) = match info.shape[..] {
            [] => (1, 1),
            [n] => (1, n),
            // Matrices one below the other: the experts of a layer.
            [matrices, rows, cols] => (matrices * rows, cols),
            // Validated by the header's parser: the product of all dimensions fits usize.
            [rows, ref rest @ ..] => (rows, rest.iter().product()),
        };
        let offset = data + info.data_offsets.0 as u64;
        let stored =
            Stored { shard: shard.clone(), name: tensor.clone(), dtype: info.dtype, offset, rows, cols };
        tensors.insert(tensor, Box::new(stored));
    }
    Ok(tensors)
}

impl Stored {
    /// Reads `out.len()` elements of `N` bytes from byte `at` on.
    fn elements<const N: usize>(
        &self,
        mut at: u64,
        out: &mut [f32],
        decode: impl Fn([u8; N]) -> f32,
    ) -> Result<(), ImportError> {
        let mut bytes = vec![0; CHUNK.min(N * out.len())];
        for out in out.chunks_mut(CHUNK / N) {
            let bytes = &mut bytes[..N * out.len()];
            self.shard.read(bytes, at)?;
            at += bytes.len() as u64;
            let (elements, _) = bytes.as_chunks::<N>();
            for (value, element) in out.iter_mut().zip(elements) {
                *value = decode(*element);
            }
        }
        Ok(())
    }
}

impl Stored {
    /// Reads `out.len()` elements from the `first` on.
    fn run(&self, first: usize, out: &mut [f32]) -> Result<(), ImportError> {
        let skip = first as u64;
        match self.dtype {
            Dtype::F32 => self.elements(self.offset + 4 * skip, out, f32::from_le_bytes),
            Dtype::F16 => self.elements(self.offset + 2 * skip, out, |b| f16::from_le_bytes(b).to_f32()),
            Dtype::BF16 => self.elements(self.offset + 2 * skip, out, |b| bf16::from_le_bytes(b).to_f32()),
            other => Err(ImportError::TensorType { name: self.name.clone(), kind: format!("{other:?}") }),
        }
    }
}

impl TensorSource for Stored {
    fn shape(&self) -> (usize, usize) {
        (self.rows, self.cols)
    }

    fn native(&self) -> Native {
        match self.dtype {
            Dtype::F32 => Native::F32,
            Dtype::F16 => Native::F16,
            Dtype::BF16 => Native::Bf16,
            _ => Native::Other("an integer or 8-bit float type"),
        }
    }

    fn read(&self, rows: Range<usize>, out: &mut [f32]) -> Result<(), ImportError> {
        assert!(
            rows.end <= self.rows && out.len() == rows.len() * self.cols,
            "rows {rows:?} of {}",
            self.name
        );
        self.run(rows.start * self.cols, out)
    }

    fn read_columns(
        &self,
        rows: Range<usize>,
        cols: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), ImportError> {
        assert!(
            rows.end <= self.rows && cols.end <= self.cols && out.len() == rows.len() * cols.len(),
            "rows {rows:?}, columns {cols:?} of {}",
            self.name
        );
        let mut parts = rows.zip(out.chunks_exact_mut(cols.len()));
        parts.try_for_each(|(row, out)| self.run(row * self.cols + cols.start, out))
    }

    fn groups(&self, _row: usize) -> Result<Vec<Group>, ImportError> {
        Err(ImportError::TensorType {
            name: self.name.clone(),
            kind: format!("{:?}, not groups", self.dtype),
        })
    }
}
