//! A `.muse` file mapped into memory. The one place of this crate with unsafe code.
//!
//! A mapping of a file that somebody shortens answers the next touch of a lost page with SIGBUS, which ends the
//! process; nothing in the process can turn that into an error. So the file is opened read-only under a shared
//! `flock` that is held as long as any tensor lives, `muse-quantize` writes a new file and renames it over the old
//! (a mapping keeps the old one), and the service owns its models folder: what is left is an administrator who
//! truncates a model in place.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use memmap2::{Advice, Mmap, MmapMut, MmapOptions, UncheckedAdvice};
use muse_format::{FormatError, Generation, Layout, Provenance, Spec, Text};
use muse_kernels::{BackendError, Bytes, Tensor};

use crate::LoadError;
use crate::drafter::check as check_drafter;
use crate::huge_pages::{HUGE_PAGE, Reserve};

/// Bytes that [`Pages::want`] asks for at once. Of one piece of advice a kernel reads no more than its unit of reading
/// ahead, whatever the length: 128 KiB where nobody changed it.
const WANTED: usize = 128 << 10;
/// Bytes that [`Mapped::into_memory`] reads at once.
const CHUNK: usize = 4 << 20;

/// The bytes of the file, which begin `map`.
struct Owner {
    map: Mmap,
    len: usize,
    /// Whether `map` is of the file: pages that are given back come from there again.
    of_file: bool,
    /// Holds the shared `flock`.
    file: File,
}

impl AsRef<[u8]> for Owner {
    fn as_ref(&self) -> &[u8] {
        &self.map[..self.len]
    }
}

/// Where a tensor lies in the mapping.
#[derive(Debug, Clone)]
struct Extent {
    layout: Layout,
    rows: usize,
    cols: usize,
    range: Range<usize>,
}

/// Memory for `len` bytes from the kernel's reserve of huge pages, all of it or none.
fn reserved_memory(len: usize) -> io::Result<MmapMut> {
    let room = len.next_multiple_of(HUGE_PAGE);
    MmapOptions::new().len(room).huge(Some(HUGE_PAGE.trailing_zeros() as u8)).map_anon()
}

/// Puts what is in small pages of `map` into huge ones, as far as the kernel finds any: where files fill the memory, less
/// than half is granted as it is touched. Each pass moves pages of others away, which makes room for the next one's.
fn gather(map: &Mmap) {
    // A huge page begins at a multiple of its size, which a mapping need not.
    let skipped = map.as_ptr().align_offset(HUGE_PAGE).min(map.len());
    let pages = map[skipped..].chunks_exact(HUGE_PAGE);
    // A huge page at a time: of more, the kernel leaves out all behind the first that it cannot grant.
    let refused = |page: &&[u8]| {
        // SAFETY: the page is this process's own memory, and the advice changes none of its bytes.
        unsafe { libc::madvise(page.as_ptr().cast_mut().cast(), page.len(), libc::MADV_COLLAPSE) != 0 }
    };
    while_it_pays(pages.len(), || pages.clone().filter(refused).count());
}

/// Calls `pass`, which says how many of `all` it left, until it leaves none or more than three quarters of those that the
/// pass before it did. So a kernel before 6.1, which knows no such advice, is asked once.
fn while_it_pays(all: usize, mut pass: impl FnMut() -> usize) {
    let mut small = all;
    while small > 0 {
        let left = pass();
        if left > small - small.div_ceil(4) {
            return;
        }
        small = left;
    }
}

/// The bytes of `from` in memory of this process, in huge pages as far as there are any.
fn read_anywhere(from: &Owner) -> io::Result<Owner> {
    if let Ok(map) = reserved_memory(from.len) {
        return read_into(map, from);
    }
    let map = MmapMut::map_anon(from.len.next_multiple_of(HUGE_PAGE))?;
    // Small pages do as well, more slowly.
    let _ = map.advise(Advice::HugePage);
    let owner = read_into(map, from)?;
    gather(&owner.map);
    Ok(owner)
}

/// The bytes of `from` in `map`.
fn read_into(mut map: MmapMut, from: &Owner) -> io::Result<Owner> {
    for (i, chunk) in map[..from.len].chunks_mut(CHUNK).enumerate() {
        from.file.read_exact_at(chunk, (i * CHUNK) as u64)?;
    }
    // The kernel's own copy of the file is not needed any more.
    let _ = rustix::fs::fadvise(&from.file, 0, None, rustix::fs::Advice::DontNeed);
    Ok(Owner { map: map.make_read_only()?, len: from.len, of_file: false, file: from.file.try_clone()? })
}

/// A mapped and checked `.muse` file. Holding one tells what holding a [`muse_format::File`] tells.
pub struct Mapped {
    pub path: PathBuf,
    pub spec: Spec,
    pub text: Text,
    pub generation: Generation,
    pub provenance: Provenance,
    /// `tokenizer.json` of the `tokenizers` library.
    pub tokenizer: Vec<u8>,
    /// Jinja source; empty where the model has none.
    pub chat_template: String,
    /// BLAKE3 of the file, see [`muse_format::File::hash`].
    pub hash: [u8; 32],
    /// What drafts for it, see [`with_drafter`](Self::with_drafter).
    drafter: Option<Box<Mapped>>,
    owner: Arc<Owner>,
    tensors: HashMap<String, Extent>,
}

impl Mapped {
    /// Maps `path` and parses it. Reads the first page and the metadata; the tensors come in as they are touched.
    ///
    /// # Errors
    /// [`LoadError::Open`], [`LoadError::Writing`] where somebody holds the file locked for writing, or
    /// [`LoadError::Format`].
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let open = |source| LoadError::Open { path: path.into(), source };
        // Before opening: a FIFO would block in `open`.
        if !std::fs::metadata(path).map_err(open)?.is_file() {
            return Err(LoadError::NotAFile { path: path.into() });
        }
        let file = File::open(path).map_err(open)?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => return Err(LoadError::Writing { path: path.into() }),
            // Some file systems have no locks; the mapping works there all the same.
            Ok(()) | Err(TryLockError::Error(_)) => {}
        }
        if file.metadata().map_err(open)?.len() == 0 {
            return Err(LoadError::Format { path: path.into(), source: FormatError::Magic });
        }
        // SAFETY: the mapping is read-only and shared, nothing in this process writes the file, and the lock above
        // keeps writers that honour it away while `Owner` lives. A writer that does not can change bytes under us:
        // they are plain integers and floats, of which every bit pattern is valid, and no length or extent is
        // read from the mapping after the parse below. Truncation is the module's first paragraph.
        let map = unsafe { Mmap::map(&file) }.map_err(open)?;
        // A wish that few file systems grant; see `huge_bytes`.
        let _ = map.advise(Advice::HugePage);
        Self::parse(path, Arc::new(Owner { len: map.len(), map, of_file: true, file }))
    }

    /// The same model with its bytes read into memory of this process, in huge pages: from the kernel's reserve
    /// (`vm.nr_hugepages`) where that is large enough, else as far as transparent ones are granted. For kernels that
    /// hold files in small pages, which cost up to a fifth of the memory's bandwidth; the memory cannot be
    /// reclaimed as a file's can.
    ///
    /// # Errors
    /// [`LoadError::Open`] where there is no such memory or the file became shorter.
    pub fn into_memory(mut self) -> Result<Self, LoadError> {
        self.drafter = self.drafter.map(|drafter| drafter.into_memory().map(Box::new)).transpose()?;
        let path = self.path.clone();
        let owner = read_anywhere(&self.owner);
        self.owner = Arc::new(owner.map_err(|source| LoadError::Open { path, source })?);
        Ok(self)
    }

    /// As [`into_memory`](Self::into_memory), from the kernel's reserve of huge pages alone: whoever sets that aside
    /// learns that it is too small.
    ///
    /// # Errors
    /// [`LoadError::HugePages`] where it is, [`LoadError::Open`] where the kernel has none or the file became shorter.
    pub fn into_reserved(mut self) -> Result<Self, LoadError> {
        self.drafter = self.drafter.map(|drafter| drafter.into_reserved().map(Box::new)).transpose()?;
        let path = self.path.clone();
        let open = |source| LoadError::Open { path: path.clone(), source };
        let map = match reserved_memory(self.owner.len) {
            Ok(map) => map,
            Err(refused) => {
                let Reserve { total, free } = Reserve::read().map_err(open)?;
                let wanted = self.owner.len.div_ceil(HUGE_PAGE) as u64;
                // Something else than their number: a limit of the process's group, say.
                if wanted <= free {
                    return Err(open(refused));
                }
                return Err(LoadError::HugePages { path, wanted, free, needed: total + (wanted - free) });
            }
        };
        self.owner = Arc::new(read_into(map, &self.owner).map_err(open)?);
        Ok(self)
    }

    /// This model with `drafter` to propose its tokens. Copies of it in memory are of both.
    ///
    /// # Errors
    /// [`LoadError::NotADrafter`], or [`LoadError::DrafterFits`] where the drafter is of another model.
    pub fn with_drafter(mut self, drafter: Self) -> Result<Self, LoadError> {
        check_drafter(&self, &drafter)?;
        self.drafter = Some(Box::new(drafter));
        Ok(self)
    }

    /// What drafts for it.
    pub fn drafter(&self) -> Option<&Self> {
        self.drafter.as_deref()
    }

    fn parse(path: &Path, owner: Arc<Owner>) -> Result<Self, LoadError> {
        let file = muse_format::File::parse((*owner).as_ref())
            .map_err(|source| LoadError::Format { path: path.into(), source })?;
        let fits = |value: u64| usize::try_from(value).expect("a mapped length fits the address space");
        let extents = file.tensors().iter().map(|t| {
            let start = fits(t.offset);
            let range = start..start + t.bytes.len();
            (t.name.into(), Extent { layout: t.layout, rows: fits(t.rows), cols: fits(t.cols), range })
        });
        Ok(Self {
            path: path.into(),
            tensors: extents.collect(),
            tokenizer: file.tokenizer.to_vec(),
            chat_template: file.chat_template.to_owned(),
            hash: file.hash,
            spec: file.spec,
            text: file.text,
            generation: file.generation,
            provenance: file.provenance,
            drafter: None,
            owner: owner.clone(),
        })
    }

    /// The whole file, for [`muse_format::File::parse`] and its `verify`.
    pub fn bytes(&self) -> &[u8] {
        (*self.owner).as_ref()
    }

    /// Tells the kernel to read the whole file ahead: for who is about to run the model, not to look at it.
    pub fn read_ahead(&self) {
        // Not MADV_SEQUENTIAL: it lets the kernel drop pages once read, and every token reads all of them again.
        // A kernel that refuses reads the pages as they are touched.
        let _ = self.owner.map.advise(Advice::WillNeed);
        if let Some(drafter) = &self.drafter {
            drafter.read_ahead();
        }
    }

    /// Gives back the memory of a tensor's pages, of the mapping and of what the kernel keeps of the file; who reads them
    /// again waits for the disk. Where the bytes are not the file's own nothing is given back.
    pub(crate) fn give_back(&self, name: &str) {
        let Some(range) = self.extent(name).filter(|_| self.owner.of_file) else { return };
        let Some(len) = std::num::NonZero::new(range.len() as u64) else { return };
        let Owner { map, file, .. } = &*self.owner;
        // SAFETY: `of_file`: the mapping is shared, read-only and of a file, so that a page that is touched again, of this
        // tensor or of a neighbour, holds what it held as far as `open` says. The range is within it.
        let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
        let _ = rustix::fs::fadvise(file, range.start as u64, Some(len), rustix::fs::Advice::DontNeed);
    }

    /// Bytes of each tensor, and of the drafter's, as they lie in the files.
    pub(crate) fn tensor_bytes(&self) -> Vec<u64> {
        let mut extents: Vec<_> = self.tensors.values().map(|tensor| tensor.range.clone()).collect();
        extents.sort_unstable_by_key(|range| range.start);
        let own = extents.into_iter().map(|range| range.len() as u64);
        own.chain(self.drafter.iter().flat_map(|drafter| drafter.tensor_bytes())).collect()
    }

    /// The mapping, and where in it each tensor lies.
    #[cfg(feature = "cuda")]
    pub(crate) fn shared(&self) -> (Bytes, Vec<Range<usize>>) {
        (self.owner.clone(), self.tensors.values().map(|tensor| tensor.range.clone()).collect())
    }

    /// Where a tensor's bytes lie in [`bytes`](Self::bytes).
    pub(crate) fn extent(&self, name: &str) -> Option<Range<usize>> {
        self.tensors.get(name).map(|tensor| tensor.range.clone())
    }

    /// The pages of the mapping, to be asked for.
    pub(crate) fn pages(&self) -> Pages {
        Pages { owner: self.owner.clone() }
    }

    /// Bytes of all tensors.
    pub fn weight_bytes(&self) -> u64 {
        self.tensors.values().map(|t| t.range.len() as u64).sum()
    }

    /// Bytes of the mapping that are in huge pages now; `None` where the kernel does not say.
    pub fn huge_bytes(&self) -> Option<u64> {
        let addresses = self.bytes().as_ptr_range();
        crate::smaps::huge_bytes(addresses.start.addr()..addresses.end.addr()).ok()
    }

    /// Layout and bytes of a tensor.
    pub fn stored(&self, name: &str) -> Option<(Layout, u64)> {
        self.tensors.get(name).map(|t| (t.layout, t.range.len() as u64))
    }

    /// A view of a tensor of `rows x cols`; `cols` 0 takes any width. The view keeps the mapping alive.
    ///
    /// # Errors
    /// [`BackendError::Tensor`] where there is none of that name and shape.
    pub fn tensor(&self, name: &str, rows: u32, cols: u32) -> Result<Tensor, BackendError> {
        let bad = |problem: String| BackendError::Tensor { problem: format!("{name}: {problem}") };
        let extent = self.tensors.get(name).ok_or_else(|| bad("missing".into()))?;
        if extent.rows != rows as usize || cols != 0 && extent.cols != cols as usize {
            return Err(bad(format!("is {} x {}, not {rows} x {cols}", extent.rows, extent.cols)));
        }
        let bytes: Bytes = self.owner.clone();
        Tensor::new(extent.layout, extent.rows, extent.cols, bytes, extent.range.clone())
    }
}

/// The pages of a mapping.
pub(crate) struct Pages {
    owner: Arc<Owner>,
}

impl Pages {
    /// Asks the kernel to read `range` of [`Mapped::bytes`], and does not wait for it.
    pub fn want(&self, range: &Range<usize>) {
        for start in range.clone().step_by(WANTED) {
            let len = WANTED.min(range.end - start);
            // A kernel that refuses reads the pages as they are touched.
            let _ = self.owner.map.advise_range(Advice::WillNeed, start, len);
        }
    }
}

impl std::fmt::Debug for Mapped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mapped({}, {} tensors)", self.path.display(), self.tensors.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passes_end_where_they_leave_nothing_or_do_not_pay() {
        for (all, left, expected) in [
            (0, &[][..], 0),
            (1, &[1], 1),
            (2, &[2], 1),
            (3, &[3], 1),
            (4, &[4], 1),
            (1, &[0], 1),
            (3, &[2, 2], 2),
            (1000, &[300, 60, 10, 3, 3], 5),
            (1000, &[751], 1),
            (1000, &[750, 600], 2),
        ] {
            let mut next = left.iter();
            while_it_pays(all, || *next.next().expect("no pass more than these"));
            assert_eq!(left.len() - next.len(), expected, "{all}: {left:?}");
        }
    }
}
