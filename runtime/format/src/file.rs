//! Reading: one pass that checks everything, then views that cannot fail.

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{Expected, FormatError, Generation, Layer, Layout, Provenance, Role, Spec, Text};

/// First bytes of a file. The high bit, CR LF and Ctrl-Z catch a copy through something that is not 8-bit clean.
pub const MAGIC: [u8; 8] = *b"\x89MUSE\r\n\x1a";
/// The one version that this build reads and writes.
pub const VERSION: u32 = 2;
/// Tensors start at multiples of this, so that a mapping of one shares no page with another.
pub const ALIGN: u64 = PAGE as u64;
pub(crate) const PAGE: usize = 4096;

pub(crate) const TENSORS_MAX: u64 = 1 << 20;
/// Names and most bytes of the sections.
pub(crate) const SECTIONS: [(&str, u64); 6] = [
    ("spec", 1 << 22),
    ("text", 1 << 20),
    ("generation", 1 << 20),
    ("provenance", 1 << 20),
    ("tokenizer", 1 << 28),
    ("chat template", 1 << 22),
];

/// Offset and length of a part of the file, in bytes.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Extent {
    pub offset: U64,
    pub len: U64,
}

/// The first 256 bytes of the file's first page; the rest of that page is zero.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Header {
    pub magic: [u8; 8],
    pub version: U32,
    pub reserved_flags: U32,
    pub file_len: U64,
    /// BLAKE3 of this page with these 32 bytes zero, then of the file from `tail` on.
    pub hash: [u8; 32],
    /// Where the tensor data ends and the tensor table and the sections begin.
    pub tail: U64,
    pub table: Extent,
    /// In the order of [`SECTIONS`].
    pub sections: [Extent; 6],
    pub reserved: [u8; 80],
}
const _: () = assert!(size_of::<Header>() == 256);

/// One entry of the tensor table.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(crate) struct Entry {
    /// ASCII, padded with zeros; at most 63 bytes.
    pub name: [u8; 64],
    pub layout_kind: U16,
    pub layout_group: U16,
    pub reserved: U32,
    pub rows: U64,
    pub cols: U64,
    pub extent: Extent,
    /// BLAKE3 of the tensor's bytes.
    pub hash: [u8; 32],
    pub reserved_tail: [u8; 24],
}
const _: () = assert!(size_of::<Entry>() == 160);

/// A tensor of a parsed file.
#[derive(Debug, Clone, Copy)]
pub struct TensorRef<'a> {
    pub name: &'a str,
    pub layout: Layout,
    pub rows: u64,
    pub cols: u64,
    /// Where `bytes` starts in the file; a multiple of [`ALIGN`].
    pub offset: u64,
    pub bytes: &'a [u8],
    pub hash: [u8; 32],
}

/// A parsed file, borrowing from the bytes it was parsed from.
///
/// Holding one tells: every extent lies inside the file and overlaps no other, the tensors are exactly those that
/// [`Spec::tensors`] asks for, in shape and permitted layout, and the header, table and sections match their hash.
/// The tensors' own hashes are checked by [`verify`](Self::verify) alone, which reads the whole file.
#[derive(Debug)]
pub struct File<'a> {
    pub spec: Spec,
    pub text: Text,
    pub generation: Generation,
    pub provenance: Provenance,
    /// `tokenizer.json` of the `tokenizers` library.
    pub tokenizer: &'a [u8],
    /// Jinja source; empty where the model has none.
    pub chat_template: &'a str,
    /// BLAKE3 over everything, tensors by their hashes: the identity of this model.
    pub hash: [u8; 32],
    bytes: &'a [u8],
    tail: u64,
    tensors: Vec<TensorRef<'a>>,
    index: HashMap<&'a str, usize>,
}

/// `bytes[offset..offset + len]`, refusing what does not lie in `from..bytes.len()`.
fn slice<'a>(bytes: &'a [u8], extent: &Extent, from: u64, section: &str) -> Result<&'a [u8], FormatError> {
    let (offset, len, file) = (extent.offset.get(), extent.len.get(), bytes.len() as u64);
    let fits = offset >= from && offset.checked_add(len).is_some_and(|end| end <= file);
    let range = usize::try_from(offset).ok().zip(usize::try_from(len).ok()).filter(|_| fits);
    range.and_then(|(start, len)| bytes.get(start..)?.get(..len)).ok_or_else(|| FormatError::Extent {
        section: section.into(),
        offset,
        len,
        file,
    })
}

fn json<T: DeserializeOwned>(bytes: &[u8], section: &'static str) -> Result<T, FormatError> {
    serde_json::from_slice(bytes).map_err(|e| FormatError::Section { section, problem: e.to_string() })
}

/// The hash that the header stores: see [`Header::hash`].
pub(crate) fn root_hash(first_page: &[u8], tail: &[u8]) -> [u8; 32] {
    let (before, rest) = first_page.split_at(first_page.len().min(24));
    let after = rest.get(32..).unwrap_or_default();
    let mut hasher = blake3::Hasher::new();
    hasher.update(before).update(&[0; 32]).update(after).update(tail);
    *hasher.finalize().as_bytes()
}

impl<'a> File<'a> {
    /// Parses and checks `bytes`, a whole file. Reads the first page and the tail; touches no tensor data.
    ///
    /// # Errors
    /// [`FormatError`], by the first check that fails.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, FormatError> {
        let (header, _) = Header::ref_from_prefix(bytes).map_err(|_| FormatError::Magic)?;
        if header.magic != MAGIC {
            return Err(FormatError::Magic);
        }
        if header.version.get() != VERSION {
            return Err(FormatError::Version(header.version.get()));
        }
        let (expected, actual) = (header.file_len.get(), bytes.len() as u64);
        if expected != actual {
            return Err(FormatError::Length { expected, actual });
        }
        let tail = header.tail.get();
        let tail_extent = Extent { offset: tail.into(), len: actual.saturating_sub(tail).into() };
        let tail_bytes = slice(bytes, &tail_extent, ALIGN, "the tail")?;
        let first_page = bytes.get(..PAGE).ok_or(FormatError::Magic)?;
        if root_hash(first_page, tail_bytes) != header.hash {
            return Err(FormatError::Hash("the header, tensor table or metadata".into()));
        }
        if header.reserved_flags.get() != 0 {
            return Err(FormatError::Reserved(12));
        }
        if let Some(at) = first_page.iter().skip(176).position(|b| *b != 0) {
            return Err(FormatError::Reserved(176 + at as u64));
        }
        let mut sections = [[].as_slice(); 6];
        for ((extent, (name, limit)), section) in header.sections.iter().zip(SECTIONS).zip(&mut sections) {
            if extent.len.get() > limit {
                return Err(FormatError::TooLarge { section: name, len: extent.len.get(), limit });
            }
            *section = slice(bytes, extent, tail, name)?;
        }
        let [spec, text, generation, provenance, tokenizer, chat_template] = sections;
        let spec: Spec = json(spec, "spec")?;
        spec.validate()?;
        let chat_template = std::str::from_utf8(chat_template)
            .map_err(|e| FormatError::Section { section: "chat template", problem: e.to_string() })?;
        let tensors = parse_table(bytes, &header.table, tail)?;
        let mut index = HashMap::with_capacity(tensors.len());
        for (i, tensor) in tensors.iter().enumerate() {
            if index.insert(tensor.name, i).is_some() {
                return Err(FormatError::Duplicate(tensor.name.into()));
            }
        }
        let mut extents: Vec<_> = tensors.iter().map(|t| (t.offset, t.bytes.len() as u64, t.name)).collect();
        let named = |(extent, (name, _)): (&Extent, (&'static str, u64))| {
            (extent.offset.get(), extent.len.get(), name)
        };
        extents.extend(header.sections.iter().zip(SECTIONS).map(named));
        extents.push(named((&header.table, ("tensor table", 0))));
        refuse_overlap(extents)?;
        let file = Self {
            text: json(text, "text")?,
            generation: json(generation, "generation")?,
            provenance: json(provenance, "provenance")?,
            spec,
            tokenizer,
            chat_template,
            hash: header.hash,
            bytes,
            tail,
            tensors,
            index,
        };
        file.check_against_spec()?;
        Ok(file)
    }

    /// Every tensor in file order.
    pub fn tensors(&self) -> &[TensorRef<'a>] {
        &self.tensors
    }

    /// The tensor of that name.
    pub fn tensor(&self, name: &str) -> Option<&TensorRef<'a>> {
        self.tensors.get(*self.index.get(name)?)
    }

    fn check_against_spec(&self) -> Result<(), FormatError> {
        let mut known = 0;
        // Ends at the first that the table lacks, so that memory and time follow the table, not what a spec claims.
        self.spec.try_each_tensor(|e| {
            let t = self.tensor(&e.name).ok_or_else(|| FormatError::Missing(e.name.clone()))?;
            known += 1;
            self.check_tensor(&e, t)
        })?;
        if self.tensors.len() == known {
            return Ok(());
        }
        let expected = self.spec.tensors();
        let known: std::collections::HashSet<_> = expected.iter().map(|e| e.name.as_str()).collect();
        let unused = self.tensors.iter().find(|t| !known.contains(t.name));
        unused.map_or(Ok(()), |t| Err(FormatError::Unused(t.name.into())))
    }

    fn check_tensor(&self, e: &Expected, t: &TensorRef<'_>) -> Result<(), FormatError> {
        let rope = e.cols == 0;
        // No wider than a head of each layer that is rotated by it.
        let users = self
            .spec
            .layers
            .iter()
            .filter_map(Layer::rotation)
            .filter(|(table, _)| e.name.strip_prefix("rope.").is_some_and(|n| n == table.to_string()));
        let half = users.map(|(_, width)| u64::from(width) / 2).min().unwrap_or(u64::from(u32::MAX));
        let cols_fit = if rope { (1..=half).contains(&t.cols) } else { t.cols == e.cols };
        if t.rows != e.rows || !cols_fit {
            return Err(FormatError::Shape {
                name: e.name.clone(),
                rows: e.rows,
                cols: if rope { half } else { e.cols },
                actual_rows: t.rows,
                actual_cols: t.cols,
            });
        }
        if e.role == Role::Vector && t.layout != Layout::F32 {
            let problem = "vectors are f32";
            return Err(FormatError::Role { name: e.name.clone(), layout: t.layout.to_string(), problem });
        }
        if e.role == Role::Router && t.layout.is_quantized() {
            let problem = "routers are f32, f16 or bf16";
            return Err(FormatError::Role { name: e.name.clone(), layout: t.layout.to_string(), problem });
        }
        Ok(())
    }

    /// Reads the whole file and checks every tensor's hash and that the padding between tensors is zero.
    /// `progress` is told the bytes done so far.
    ///
    /// # Errors
    /// [`FormatError::Hash`] with the tensor's name, or [`FormatError::Reserved`].
    pub fn verify(&self, mut progress: impl FnMut(u64)) -> Result<(), FormatError> {
        const STEP: usize = 1 << 22;
        let mut ends = vec![ALIGN];
        for tensor in &self.tensors {
            let mut hasher = blake3::Hasher::new();
            for chunk in tensor.bytes.chunks(STEP) {
                hasher.update(chunk);
                progress(chunk.len() as u64);
            }
            if *hasher.finalize().as_bytes() != tensor.hash {
                return Err(FormatError::Hash(format!("tensor {}", tensor.name)));
            }
            ends.push(tensor.offset + tensor.bytes.len() as u64);
        }
        let mut starts: Vec<u64> = self.tensors.iter().map(|t| t.offset).collect();
        starts.sort_unstable();
        for end in ends {
            let next = starts.get(starts.partition_point(|start| *start < end)).copied().unwrap_or(self.tail);
            let gap = Extent { offset: end.into(), len: next.saturating_sub(end).into() };
            let gap = slice(self.bytes, &gap, 0, "padding")?;
            if let Some(at) = gap.iter().position(|b| *b != 0) {
                return Err(FormatError::Reserved(end + at as u64));
            }
        }
        Ok(())
    }
}

fn parse_table<'a>(bytes: &'a [u8], extent: &Extent, tail: u64) -> Result<Vec<TensorRef<'a>>, FormatError> {
    let limit = TENSORS_MAX * size_of::<Entry>() as u64;
    if extent.len.get() > limit {
        return Err(FormatError::TooLarge { section: "tensor table", len: extent.len.get(), limit });
    }
    let table = slice(bytes, extent, tail, "tensor table")?;
    let entries = <[Entry]>::ref_from_bytes(table).map_err(|_| FormatError::Section {
        section: "tensor table",
        problem: format!("{} bytes is not a whole number of entries", table.len()),
    })?;
    entries.iter().enumerate().map(|(index, entry)| parse_entry(bytes, index, entry, tail)).collect()
}

fn parse_entry<'a>(
    bytes: &'a [u8],
    index: usize,
    entry: &'a Entry,
    tail: u64,
) -> Result<TensorRef<'a>, FormatError> {
    let bad = |problem: &str| FormatError::Tensor { index, problem: problem.into() };
    let end = entry.name.iter().position(|b| *b == 0).ok_or_else(|| bad("its name has no end"))?;
    let (name, padding) = entry.name.split_at(end);
    let printable = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    let name =
        std::str::from_utf8(name).ok().filter(|_| printable).ok_or_else(|| bad("its name is not ASCII"))?;
    if padding.iter().chain(&entry.reserved_tail).any(|b| *b != 0) || entry.reserved.get() != 0 {
        return Err(bad("its reserved bytes are not zero"));
    }
    let (kind, group) = (entry.layout_kind.get(), entry.layout_group.get());
    let layout = Layout::from_code(kind, group)
        .ok_or_else(|| bad(&format!("{name} has unknown layout {kind} with group {group}")))?;
    let (rows, cols) = (entry.rows.get(), entry.cols.get());
    if rows == 0 || cols == 0 {
        return Err(bad(&format!("{name} is empty: {rows} x {cols}")));
    }
    let len = entry.extent.len.get();
    let expected = layout.byte_len(rows, cols).unwrap_or(u64::MAX);
    if len != expected {
        let layout = layout.to_string();
        return Err(FormatError::TensorLength { name: name.into(), rows, cols, layout, len, expected });
    }
    let offset = entry.extent.offset.get();
    if !offset.is_multiple_of(ALIGN) {
        return Err(bad(&format!("{name} starts at {offset}, which is not a multiple of {ALIGN}")));
    }
    let data = bytes.get(..usize::try_from(tail).unwrap_or(0)).unwrap_or_default();
    let data = slice(data, &entry.extent, ALIGN, name)?;
    Ok(TensorRef { name, layout, rows, cols, offset, bytes: data, hash: entry.hash })
}

fn refuse_overlap(mut extents: Vec<(u64, u64, &str)>) -> Result<(), FormatError> {
    extents.retain(|(_, len, _)| *len > 0);
    extents.sort_unstable();
    for pair in extents.windows(2) {
        if let [(offset, len, first), (next, _, second)] = pair
            && offset + len > *next
        {
            return Err(FormatError::Overlap { first: (*first).into(), second: (*second).into() });
        }
    }
    Ok(())
}
