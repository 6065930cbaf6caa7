//! What the kernel tells of this process's memory in `/proc/self/smaps`, see `man 5 proc_pid_smaps`.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// Lines that count bytes in huge pages.
const HUGE: [&str; 5] =
    ["AnonHugePages:", "ShmemPmdMapped:", "FilePmdMapped:", "Shared_Hugetlb:", "Private_Hugetlb:"];

/// Bytes in huge pages of the areas that hold the addresses in `range`.
pub(crate) fn huge_bytes(range: Range<usize>) -> io::Result<u64> {
    count(BufReader::new(File::open("/proc/self/smaps")?), range)
}

fn count(smaps: impl BufRead, range: Range<usize>) -> io::Result<u64> {
    let (mut inside, mut bytes) = (false, 0);
    for line in smaps.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if let Some(area) = area(first) {
            inside = area.start < range.end && range.start < area.end;
        } else if inside && HUGE.contains(&first) {
            let kib: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            bytes += kib * 1024;
        }
    }
    Ok(bytes)
}

/// `7f3a00000000-7f3a40000000`, the first word of an area's first line.
fn area(word: &str) -> Option<Range<usize>> {
    let (start, end) = word.split_once('-')?;
    let address = |hex| usize::from_str_radix(hex, 16).ok();
    Some(address(start)?..address(end)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-3000 r--s 00000000 fe:00 99    /models/a-b.muse
Size:                  8 kB
AnonHugePages:         0 kB
FilePmdMapped:      2048 kB
Private_Hugetlb:       1 kB
VmFlags: rd mr hg
3000-5000 rw-p 00000000 00:00 0
AnonHugePages:      4096 kB
8000-9000 rw-p 00000000 00:00 0     [heap]
AnonHugePages:         7 kB
";

    #[test]
    fn areas_that_the_range_touches_are_counted() {
        let kib = |range| count(SMAPS.as_bytes(), range).unwrap() / 1024;
        assert_eq!(kib(0x1000..0x2000), 2049);
        assert_eq!(kib(0x2fff..0x3001), 2049 + 4096);
        assert_eq!(kib(0x5000..0x8000), 0);
        assert_eq!(kib(0..0x1000), 0);
        assert_eq!(kib(0..0x8001), 2049 + 4096 + 7);
    }

    #[test]
    fn this_process_is_read() {
        let memory = vec![1_u8; 1 << 16];
        let start = memory.as_ptr().addr();
        assert!(huge_bytes(start..start + memory.len()).is_ok());
    }
}
