//! The kernel's reserve of huge pages, see `Documentation/admin-guide/mm/hugetlbpage.rst` of Linux.

use std::fs;
use std::io;
use std::path::Path;

/// Size and alignment of a huge page on the systems that this runs on.
pub(crate) const HUGE_PAGE: usize = 2 << 20;
/// What the kernel says of its reserve of pages of that size.
const FOLDER: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// Pages of [`HUGE_PAGE`] bytes that an administrator has set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reserve {
    pub(crate) total: u64,
    /// Those that nobody uses or has been promised.
    pub(crate) free: u64,
}

impl Reserve {
    /// # Errors
    /// Where the kernel has no reserve of this size.
    pub(crate) fn read() -> io::Result<Self> {
        Self::read_from(Path::new(FOLDER))
    }

    fn read_from(folder: &Path) -> io::Result<Self> {
        let number = |name| {
            let text = fs::read_to_string(folder.join(name))?;
            text.trim().parse::<u64>().map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))
        };
        let promised = number("resv_hugepages")?;
        Ok(Self { total: number("nr_hugepages")?, free: number("free_hugepages")?.saturating_sub(promised) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_that_are_promised_are_not_free() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Reserve::read_from(folder.path()).is_err());
        for (name, text) in [("nr_hugepages", "40\n"), ("free_hugepages", "30\n"), ("resv_hugepages", "12\n")]
        {
            fs::write(folder.path().join(name), text).unwrap();
        }
        assert_eq!(Reserve::read_from(folder.path()).unwrap(), Reserve { total: 40, free: 18 });
        fs::write(folder.path().join("free_hugepages"), "many").unwrap();
        assert_eq!(Reserve::read_from(folder.path()).unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
