//! What the disk gives: bytes that this process had read from it, and the ceiling of reading a file past the page cache.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::thread;
use std::time::Instant;

use memmap2::MmapMut;
use rustix::fs::OFlags;

/// Bytes of one read: large against any disk's own unit.
const PIECE: usize = 1 << 20;
/// Bytes that one probe reads.
const BYTES: u64 = 256 << 20;
/// Readers at once; the best of them is the ceiling.
const READERS: [u64; 2] = [1, 4];

/// Bytes that storage gave this process, reading ahead included; `None` where the system does not count them.
pub fn read_bytes() -> Option<u64> {
    parse(&fs::read_to_string("/proc/self/io").ok()?)
}

fn parse(counters: &str) -> Option<u64> {
    counters.lines().find_map(|line| line.strip_prefix("read_bytes: "))?.trim().parse().ok()
}

/// Bytes a second of direct reads of `path` in pieces of 1 MiB, by one reader or four, whichever is faster. `round` picks
/// another part of the file each time.
///
/// # Errors
/// Where the file is shorter than a piece, or its file system has no direct reads.
pub fn probe(path: &Path, round: u64) -> io::Result<f64> {
    let file = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path)?;
    let len = file.metadata()?.len() / PIECE as u64 * PIECE as u64;
    if len == 0 {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than 1 MiB"));
    }
    let mut best = 0.0_f64;
    for readers in READERS {
        let each = (BYTES.min(len) / readers).max(PIECE as u64) / PIECE as u64 * PIECE as u64;
        let began = Instant::now();
        thread::scope(|scope| {
            let read = |reader: u64| {
                // An odd number of pieces apart, so that no two rounds or readers read the same ones.
                let start = (round * READERS.len() as u64 + reader) * 7919 * PIECE as u64;
                let file = &file;
                scope.spawn(move || read_part(file, start, each, len))
            };
            let running: Vec<_> = (0..readers).map(read).collect();
            running.into_iter().try_for_each(|reader| reader.join().expect("a reader does not panic"))
        })?;
        best = best.max((each * readers) as f64 / began.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Reads `count` bytes from `start` on, going on at the file's begin after `len`. All are multiples of [`PIECE`].
fn read_part(file: &File, start: u64, count: u64, len: u64) -> io::Result<()> {
    // A mapping is aligned to pages, as direct reads ask for.
    let mut piece = MmapMut::map_anon(PIECE)?;
    for at in (0..count).step_by(PIECE) {
        file.read_exact_at(&mut piece, (start + at) % len)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_of_reads_is_found_among_the_others() {
        let counters = "rchar: 5\nwchar: 6\nread_bytes: 40960\nwrite_bytes: 1\ncancelled_write_bytes: 0\n";
        assert_eq!(parse(counters), Some(40960));
        assert_eq!(parse("rchar: 5\n"), None);
    }

    #[test]
    fn a_file_too_short_to_measure_is_an_error() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert!(probe(file.path(), 0).is_err());
    }
}
