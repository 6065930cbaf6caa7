//! Bytes by position: a file read with `pread`, or a slice in tests. Nothing is read past the end, so a length that
//! the file claims is compared with what the file has before anything is allocated for it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use crate::checkpoint::ImportError;

/// Where the bytes of a GGUF come from.
enum Bytes {
    File(File),
    Memory(Vec<u8>),
}

/// A GGUF's bytes and its name for messages.
pub(super) struct Source {
    pub(super) name: String,
    pub(super) len: u64,
    bytes: Bytes,
}

impl Source {
    pub(super) fn file(name: String, file: File) -> Result<Self, ImportError> {
        let len = file.metadata().map_err(|source| ImportError::Io { path: name.clone(), source })?.len();
        Ok(Self { name, len, bytes: Bytes::File(file) })
    }

    pub(super) fn memory(name: String, bytes: Vec<u8>) -> Self {
        Self { name, len: bytes.len() as u64, bytes: Bytes::Memory(bytes) }
    }

    pub(super) fn malformed(&self, problem: impl Into<String>) -> ImportError {
        ImportError::Malformed { file: self.name.clone(), problem: problem.into() }
    }

    /// Refuses `len` bytes at `at` where the file has fewer.
    pub(super) fn check(&self, at: u64, len: u64, what: &str) -> Result<(), ImportError> {
        match at.checked_add(len) {
            Some(end) if end <= self.len => Ok(()),
            _ => {
                let problem =
                    format!("{what}: {len} bytes at {at} run past the end of the file, {}", self.len);
                Err(self.malformed(problem))
            }
        }
    }

    /// Fills `out` from the bytes at `at`.
    pub(super) fn read(&self, at: u64, out: &mut [u8], what: &str) -> Result<(), ImportError> {
        self.check(at, out.len() as u64, what)?;
        let done = match &self.bytes {
            Bytes::File(file) => file.read_exact_at(out, at),
            Bytes::Memory(bytes) => {
                let start = usize::try_from(at).ok();
                match start.and_then(|start| bytes.get(start..)?.get(..out.len())) {
                    Some(from) => {
                        out.copy_from_slice(from);
                        Ok(())
                    }
                    None => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
        };
        done.map_err(|source| ImportError::Io { path: self.name.clone(), source })
    }
}

const WINDOW: usize = 1 << 16;

/// Reads forward through a [`Source`], a window at a time.
pub(super) struct Cursor<'a> {
    pub(super) source: &'a Source,
    pub(super) at: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(source: &'a Source, at: u64) -> Self {
        Self { source, at, window: Vec::new(), window_at: at }
    }

    /// Bytes from here to the end of the file.
    pub(super) fn left(&self) -> u64 {
        self.source.len.saturating_sub(self.at)
    }

    fn fill(&mut self, out: &mut [u8], what: &str) -> Result<(), ImportError> {
        self.source.check(self.at, out.len() as u64, what)?;
        if out.len() > WINDOW {
            self.source.read(self.at, out, what)?;
        } else {
            let from = match self.buffered(out.len()) {
                Some(from) => from,
                None => {
                    let len = usize::try_from(self.left()).unwrap_or(WINDOW).min(WINDOW);
                    self.window.resize(len, 0);
                    self.source.read(self.at, &mut self.window, what)?;
                    self.window_at = self.at;
                    self.buffered(out.len()).expect("the window was just filled from here")
                }
            };
            out.copy_from_slice(from);
        }
        self.at += out.len() as u64;
        Ok(())
    }

    fn buffered(&self, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(self.at.checked_sub(self.window_at)?).ok()?;
        self.window.get(start..)?.get(..len)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], ImportError> {
        let mut out = [0; N];
        self.fill(&mut out, what)?;
        Ok(out)
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32, ImportError> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64, ImportError> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// A length and that many bytes of UTF-8; more than `limit` are refused before they are read.
    pub(super) fn text(&mut self, limit: u64, what: &str) -> Result<String, ImportError> {
        let len = self.u64(what)?;
        self.source.check(self.at, len, what)?;
        let fits = usize::try_from(len).ok().filter(|_| len <= limit).ok_or_else(|| {
            ImportError::TooLarge { file: self.source.name.clone(), what: what.into(), len, limit }
        })?;
        let mut bytes = vec![0; fits];
        self.fill(&mut bytes, what)?;
        String::from_utf8(bytes).map_err(|e| self.source.malformed(format!("{what}: {e}")))
    }

    pub(super) fn skip(&mut self, len: u64, what: &str) -> Result<(), ImportError> {
        self.source.check(self.at, len, what)?;
        self.at += len;
        Ok(())
    }
}
