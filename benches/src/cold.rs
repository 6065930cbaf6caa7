//! From a file on the disk to the first token, beside what reading the same bytes takes.

use std::fs::File;
use std::io::{self, IoSliceMut, Read};
use std::path::Path;
use std::time::Instant;

use muse_kernels::Span;
use muse_runtime::{LoadOptions, Mapped, load_mapped, place, random};
use rustix::fs::{Advice, fadvise};
use rustix::io::{ReadWriteFlags, preadv2};
use serde::Serialize;

use crate::measure::median;
use crate::report::BenchError;

/// Bytes of one `read`.
const PIECE: usize = 4 << 20;

/// A start with and without the file in the page cache.
#[derive(Debug, Clone, Serialize)]
pub struct ColdStart {
    pub threads: usize,
    pub file_bytes: u64,
    /// None where the system kept pages of the file: another process maps it, or its file system is memory.
    pub cold: Option<Start>,
    pub warm: Start,
}

/// Medians over the rounds.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Start {
    /// From `open` to the logits after a prompt of one token. No tokenizer is built.
    pub first_token_s: f64,
    /// To `read` the file in pieces of 4 MiB.
    pub read_s: f64,
}

/// Measures how `path` starts. Nobody in this process may have it mapped.
///
/// # Errors
/// Where the file cannot be read, loaded or stepped.
pub fn measure(path: &Path, options: &LoadOptions, rounds: u32) -> Result<ColdStart, BenchError> {
    let file = File::open(path).map_err(BenchError::Read)?;
    let file_bytes = file.metadata().map_err(BenchError::Read)?.len();
    let start = |forget: bool| {
        let (mut first_token, mut plain_read) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            if forget && !self::forget(&file, file_bytes)? {
                return Ok(None);
            }
            first_token.push(first_token_s(path, options)?);
            if forget && !self::forget(&file, file_bytes)? {
                return Ok(None);
            }
            plain_read.push(read_s(path).map_err(BenchError::Read)?);
        }
        let (first_token_s, read_s) = (median(first_token), median(plain_read));
        Ok::<_, BenchError>(
            first_token_s.zip(read_s).map(|(first_token_s, read_s)| Start { first_token_s, read_s }),
        )
    };
    let cold = start(true)?;
    // What a cold round left in the cache may not be all of the file.
    read_s(path).map_err(BenchError::Read)?;
    let warm = start(false)?.expect("there is at least one round");
    Ok(ColdStart { threads: options.threads.unwrap_or(1), file_bytes, cold, warm })
}

/// Asks the system to drop the file's pages; whether it did.
fn forget(file: &File, len: u64) -> Result<bool, BenchError> {
    // Only pages that are on the disk can be dropped.
    file.sync_all().map_err(BenchError::Read)?;
    fadvise(file, 0, None, Advice::DontNeed).map_err(|e| BenchError::Read(e.into()))?;
    Ok(!in_memory(file, len))
}

/// Whether pages of the file are in memory, as far as the system says.
fn in_memory(file: &File, len: u64) -> bool {
    // Three places only: asking for a page may bring in those after it.
    [1, 2, 3].iter().any(|quarter| {
        let mut byte = [0];
        let read =
            preadv2(file, &mut [IoSliceMut::new(&mut byte)], len / 4 * quarter, ReadWriteFlags::NOWAIT);
        read != Err(rustix::io::Errno::AGAIN)
    })
}

fn first_token_s(path: &Path, options: &LoadOptions) -> Result<f64, BenchError> {
    let began = Instant::now();
    let mapped = place(Mapped::open(path)?, options)?;
    let mut engine = load_mapped(&mapped, options, random::no_text())?;
    let mut logits = vec![0.0; engine.info().vocab as usize];
    engine.step(&[Span { slot: 0, start: 0, len: 1 }], &[1], &[0], &mut logits)?;
    let elapsed = began.elapsed();
    std::hint::black_box(logits);
    Ok(elapsed.as_secs_f64())
}

fn read_s(path: &Path) -> io::Result<f64> {
    let mut piece = vec![0; PIECE];
    let began = Instant::now();
    let mut file = File::open(path)?;
    while file.read(&mut piece)? > 0 {}
    Ok(began.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_page_that_was_just_read_is_not_forgotten() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[1; 1 << 16]).unwrap();
        assert!(in_memory(&file, 1 << 16));
    }
}
