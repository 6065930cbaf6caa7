//! Writing, as a stream: tensor bytes go out as they come, the table and the header last.

use std::collections::HashSet;
use std::io::{self, Seek, SeekFrom, Write};

use zerocopy::IntoBytes;

use crate::file::{Entry, Extent, Header, PAGE, SECTIONS, root_hash};
use crate::{ALIGN, FormatError, Generation, Layout, MAGIC, Provenance, Spec, Text, VERSION};

/// Bytes that go to the sink at once, at multiples of themselves: page caches that can hold files in huge pages make
/// such pages of such writes, and whoever maps the file then reads it a fifth faster.
const CHUNK: usize = 4 << 20;

/// Everything of a model but its tensors.
#[derive(Debug, Clone)]
pub struct Meta {
    pub spec: Spec,
    pub text: Text,
    pub generation: Generation,
    pub provenance: Provenance,
    pub tokenizer: Vec<u8>,
    pub chat_template: String,
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Format(#[from] FormatError),
    #[error("tensor name {0:?} is not 1 to 63 printable ASCII bytes")]
    Name(String),
    #[error("tensor {name}: {written} bytes were written, {rows} x {cols} takes {expected}")]
    Short { name: String, rows: u64, cols: u64, written: u64, expected: u64 },
}

/// Writes one file to a seekable sink. Atomic replacement is the caller's: write to a temporary file, then rename.
///
/// ```
/// # use muse_format::{Layout, Writer};
/// let mut writer = Writer::new(std::io::Cursor::new(Vec::new()))?;
/// writer.begin("norm", Layout::F32, 1, 2)?;
/// writer.write(&[0; 8])?;
/// writer.end()?;
/// # Ok::<(), muse_format::WriteError>(())
/// ```
pub struct Writer<W> {
    sink: W,
    /// What the sink has not got yet, less than [`CHUNK`]; ends at `at`.
    pending: Vec<u8>,
    at: u64,
    entries: Vec<Entry>,
    names: HashSet<String>,
    hasher: blake3::Hasher,
}

impl<W: Write + Seek> Writer<W> {
    /// Starts a file at the sink's beginning; its first page stays zero until [`finish`](Self::finish), so an
    /// interrupted file does not parse.
    pub fn new(mut sink: W) -> Result<Self, WriteError> {
        sink.seek(SeekFrom::Start(0))?;
        let mut pending = Vec::with_capacity(CHUNK);
        pending.resize(PAGE, 0);
        Ok(Self {
            sink,
            pending,
            at: ALIGN,
            entries: Vec::new(),
            names: HashSet::new(),
            hasher: blake3::Hasher::new(),
        })
    }

    /// Starts a tensor; its bytes follow by [`write`](Self::write), then [`end`](Self::end).
    pub fn begin(&mut self, name: &str, layout: Layout, rows: u64, cols: u64) -> Result<(), WriteError> {
        let printable = name.bytes().all(|b| b.is_ascii_graphic());
        let mut field = [0; 64];
        let slot = field.get_mut(..name.len()).filter(|_| name.len() < 64 && !name.is_empty() && printable);
        slot.ok_or_else(|| WriteError::Name(name.into()))?.copy_from_slice(name.as_bytes());
        if !self.names.insert(name.into()) {
            return Err(FormatError::Duplicate(name.into()).into());
        }
        self.pad()?;
        let (kind, group) = layout.code();
        self.entries.push(Entry {
            name: field,
            layout_kind: kind.into(),
            layout_group: group.into(),
            reserved: 0.into(),
            rows: rows.into(),
            cols: cols.into(),
            extent: Extent { offset: self.at.into(), len: 0.into() },
            hash: [0; 32],
            reserved_tail: [0; 24],
        });
        self.hasher.reset();
        Ok(())
    }

    /// Appends to the tensor that [`begin`](Self::begin) started.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.hasher.update(bytes);
        self.append(bytes)?;
        Ok(())
    }

    /// Ends a tensor and checks its length against its shape.
    pub fn end(&mut self) -> Result<(), WriteError> {
        let entry = self.entries.last_mut().expect("end follows begin");
        let written = self.at - entry.extent.offset.get();
        let (rows, cols) = (entry.rows.get(), entry.cols.get());
        let layout = Layout::from_code(entry.layout_kind.get(), entry.layout_group.get());
        let expected = layout.and_then(|l| l.byte_len(rows, cols)).unwrap_or(u64::MAX);
        if written != expected {
            let name = String::from_utf8_lossy(&entry.name).trim_end_matches('\0').to_owned();
            return Err(WriteError::Short { name, rows, cols, written, expected });
        }
        entry.extent.len = written.into();
        entry.hash = *self.hasher.finalize().as_bytes();
        Ok(())
    }

    /// Writes the table, the sections and the header, and gives the sink back.
    ///
    /// # Errors
    /// Also [`FormatError::Spec`] when `meta.spec` is out of bounds. That the tensors are those of the spec is
    /// checked where the file is read: a writer of a huge model learns it from `File::parse` of what it wrote.
    pub fn finish(mut self, meta: &Meta) -> Result<W, WriteError> {
        meta.spec.validate()?;
        self.pad()?;
        let tail_at = self.at;
        let json = |section: &'static str, value: serde_json::Result<Vec<u8>>| {
            value.map_err(|e| FormatError::Section { section, problem: e.to_string() })
        };
        let sections: [Vec<u8>; 6] = [
            json("spec", serde_json::to_vec(&meta.spec))?,
            json("text", serde_json::to_vec(&meta.text))?,
            json("generation", serde_json::to_vec(&meta.generation))?,
            json("provenance", serde_json::to_vec(&meta.provenance))?,
            meta.tokenizer.clone(),
            meta.chat_template.clone().into_bytes(),
        ];
        let mut tail = self.entries.as_slice().as_bytes().to_vec();
        let table = Extent { offset: tail_at.into(), len: (tail.len() as u64).into() };
        let mut extents = [Extent::default(); SECTIONS.len()];
        for (extent, section) in extents.iter_mut().zip(&sections) {
            tail.resize(tail.len().next_multiple_of(8), 0);
            *extent =
                Extent { offset: (tail_at + tail.len() as u64).into(), len: (section.len() as u64).into() };
            tail.extend_from_slice(section);
        }
        let header = Header {
            magic: MAGIC,
            version: VERSION.into(),
            reserved_flags: 0.into(),
            file_len: (tail_at + tail.len() as u64).into(),
            hash: [0; 32],
            tail: tail_at.into(),
            table,
            sections: extents,
            reserved: [0; 80],
        };
        let mut page = header.as_bytes().to_vec();
        page.resize(PAGE, 0);
        let hash = root_hash(&page, &tail);
        let header = Header { hash, ..header };
        self.append(&tail)?;
        self.sink.write_all(&self.pending)?;
        self.sink.seek(SeekFrom::Start(0))?;
        self.sink.write_all(header.as_bytes())?;
        self.sink.flush()?;
        Ok(self.sink)
    }

    fn pad(&mut self) -> Result<(), WriteError> {
        let gap = self.pending.len().next_multiple_of(PAGE) - self.pending.len();
        self.append(&vec![0; gap])?;
        Ok(())
    }

    fn append(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        self.at += bytes.len() as u64;
        while self.pending.len() + bytes.len() >= CHUNK {
            let (now, later) = bytes.split_at(CHUNK - self.pending.len());
            self.pending.extend_from_slice(now);
            self.sink.write_all(&self.pending)?;
            self.pending.clear();
            bytes = later;
        }
        self.pending.extend_from_slice(bytes);
        Ok(())
    }
}
