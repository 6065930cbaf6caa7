//! Weights that stay in a file's mapping, which a device that shares the machine's memory reads in place.
//!
//! A driver is asked to register the mapping's pages, read-only, and says at which address the device finds them. They stay
//! in memory as long as they are registered, as pages of the file, of which the kernel keeps one copy for all.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use cudarc::driver::sys::{self, CUdevice_attribute_enum as Attribute};

use super::backend::CudaBackend;
use super::driver::{Context, failed};
use super::launch::{THREADS, launch};
use super::memory::{CHUNK_BYTES, Memory, Part};
use crate::{BackendError, Bytes, CudaError};

use zerocopy::IntoBytes;

/// `CU_MEMHOSTREGISTER_DEVICEMAP`, for an address on the device, and `CU_MEMHOSTREGISTER_READ_ONLY`.
const FLAGS: u32 = 0x02 | 0x08;
/// What a tensor begins at a multiple of in a file, and so a piece in memory.
const PAGE: usize = 4096;
/// Most rows of [`PAGE`] bytes that are read to see what the device finds: more than its caches hold.
const PROBE_ROWS: usize = 4096;
/// Times that they are read.
const PROBES: u32 = 4;

/// What has to be 1 for a device to read a file in place.
const NEEDED: [(Attribute, &str); 3] = [
    (Attribute::CU_DEVICE_ATTRIBUTE_INTEGRATED, "INTEGRATED: it shares no memory with the machine"),
    (
        Attribute::CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED,
        "HOST_REGISTER_SUPPORTED: its driver registers no memory of others",
    ),
    (
        Attribute::CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED,
        "READ_ONLY_HOST_REGISTER_SUPPORTED: its driver registers no memory that is mapped read-only",
    ),
];

/// What was seen as a device read pages in place, in GB/s.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CudaSharing {
    pub in_place: f64,
    /// The same bytes from memory of the device's own.
    pub copied: f64,
}

/// A piece of a mapping that is registered.
pub(super) struct Registered {
    context: Arc<Context>,
    bytes: Bytes,
    range: Range<usize>,
    /// The device's address of the first byte.
    at: u64,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered").field("range", &self.range).field("at", &self.at).finish_non_exhaustive()
    }
}

impl Registered {
    fn new(context: &Arc<Context>, bytes: &Bytes, range: Range<usize>) -> Result<Self, BackendError> {
        context.bind()?;
        context.outside_graph("cuMemHostRegister")?;
        let mut piece = Self { context: Arc::clone(context), bytes: Arc::clone(bytes), range, at: 0 };
        let (host, len) = (piece.host().as_ptr().cast_mut().cast(), piece.range.len());
        // SAFETY: the piece is of a mapping that `bytes` keeps; the driver only reads it (`FLAGS`).
        let done = unsafe { sys::cuMemHostRegister_v2(host, len, FLAGS) }.result();
        if let Err(error) = done {
            // There is nothing to take back.
            piece.range = 0..0;
            return Err(match error.0 {
                sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => BackendError::OutOfMemory { wanted: len as u64 },
                _ => failed("cuMemHostRegister")(error).into(),
            });
        }
        // SAFETY: registered above, for an address on the device.
        let found = unsafe { sys::cuMemHostGetDevicePointer_v2(&raw mut piece.at, host, 0) }.result();
        found.map_err(failed("cuMemHostGetDevicePointer"))?;
        Ok(piece)
    }

    fn host(&self) -> &[u8] {
        &(*self.bytes).as_ref()[self.range.clone()]
    }

    pub(super) fn at(&self) -> u64 {
        self.at
    }

    /// Where in it `bytes` begin, where they are of it.
    fn offset(&self, bytes: &[u8]) -> Option<usize> {
        let (own, other) = (self.host().as_ptr_range(), bytes.as_ptr_range());
        let within = !bytes.is_empty() && own.start <= other.start && other.end <= own.end;
        within.then(|| other.start.addr() - own.start.addr())
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        if !self.range.is_empty() {
            self.context.free();
            let _ = self.context.bind();
            let _ = self.context.synchronize();
            let host = self.host().as_ptr().cast_mut().cast();
            // SAFETY: registered by `new`; what the device still does with it was waited for, or the device is lost.
            let _ = unsafe { sys::cuMemHostUnregister(host) }.result();
        }
    }
}

/// Tensors beside each other in pieces of at most [`CHUNK_BYTES`], but for one that is longer.
fn pieces(tensors: &[Range<usize>], most: usize) -> Vec<Range<usize>> {
    let mut tensors: Vec<_> = tensors.iter().filter(|range| !range.is_empty()).cloned().collect();
    tensors.sort_unstable_by_key(|range| range.start);
    let mut pieces: Vec<Range<usize>> = Vec::new();
    for tensor in tensors {
        match pieces.last_mut().filter(|last| tensor.end - last.start <= most) {
            Some(last) => last.end = tensor.end.max(last.end),
            None => pieces.push(tensor),
        }
    }
    pieces
}

impl Context {
    /// Refuses a device that cannot read a file's pages in place.
    pub(super) fn can_share(&self) -> Result<(), CudaError> {
        match NEEDED.iter().find(|(attribute, _)| self.attribute(*attribute) == 0) {
            None => Ok(()),
            Some((_, missing)) => Err(CudaError::NotShared { device: self.name.clone(), missing }),
        }
    }
}

impl CudaBackend {
    /// Leaves tensors where they are in `bytes`: [`Backend::load`](crate::Backend::load) of one of them copies nothing, and
    /// the device reads them in place. Each begins at a multiple of 4096 bytes of a mapping. Says how fast the device
    /// reads there.
    ///
    /// # Errors
    /// [`CudaError::NotShared`] where the device or its driver cannot, [`CudaError::Call`] where the driver refuses,
    /// [`CudaError::SharedBytes`] where the device finds others. Nothing stays registered then.
    pub fn share(&mut self, bytes: &Bytes, tensors: &[Range<usize>]) -> Result<CudaSharing, BackendError> {
        self.context.can_share()?;
        let own = pieces(tensors, CHUNK_BYTES);
        let own: Vec<_> = own
            .into_iter()
            .map(|range| Registered::new(&self.context, bytes, range).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let seen = own.iter().max_by_key(|piece| piece.range.len()).map(|piece| self.probe(piece));
        let seen = seen.unwrap_or(Ok(CudaSharing { in_place: 0.0, copied: 0.0 }))?;
        self.shared.extend(own);
        Ok(seen)
    }

    /// Where `bytes` lie, where they are of what is shared.
    pub(super) fn in_place(&self, bytes: &[u8]) -> Option<Part> {
        let of = |piece: &Arc<Registered>| {
            piece.offset(bytes).map(|offset| Part::Shared { piece: piece.clone(), offset })
        };
        self.shared.iter().find_map(of)
    }

    /// Reads pages from all over `piece` through a kernel, in place and copied.
    fn probe(&mut self, piece: &Registered) -> Result<CudaSharing, BackendError> {
        let host = piece.host();
        let all = host.len() / PAGE;
        let rows: Vec<u32> =
            (0..all).step_by(all.div_ceil(PROBE_ROWS).max(1)).map(|row| row as u32).collect();
        let order: Vec<u32> = (0..rows.len() as u32).collect();
        let page = |row: &u32| &host[*row as usize * PAGE..][..PAGE];
        let expected: Vec<u8> = rows.iter().flat_map(page).copied().collect();
        let (indices, order) = (self.bounce.upload(rows.as_bytes())?, self.bounce.upload(order.as_bytes())?);
        let copy = self.bounce.upload(&expected)?;
        let out = Memory::zeroed(&self.context, expected.len())?;
        let mut read = vec![0; expected.len()];
        let mut seen = [0.0; 2];
        for (rate, (at, indices)) in seen.iter_mut().zip([(piece.at, &indices), (copy.at(), &order)]) {
            let mut started = Instant::now();
            for time in 0..=PROBES {
                // The first is not measured: pages may come from the disk.
                if time == 1 {
                    self.context.synchronize()?;
                    started = Instant::now();
                }
                let (out, indices, width) = (out.at(), indices.at(), (PAGE / 4) as u32);
                let grid = (rows.len() as u32, 1);
                // SAFETY: `out` holds a row of each index, and what is read the last of them.
                unsafe { launch!(self.kernels, "gather", grid, THREADS, [out, at, indices, width]) }?;
            }
            self.context.synchronize()?;
            *rate = f64::from(PROBES) * expected.len() as f64 / started.elapsed().as_secs_f64() / 1e9;
            out.read(&mut read)?;
            if read != expected {
                return Err(CudaError::SharedBytes { device: self.context.name.clone() }.into());
            }
        }
        Ok(CudaSharing { in_place: seen[0], copied: seen[1] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_beside_each_other_are_one_piece_and_none_is_cut() {
        for (case, tensors, expected) in [
            ("none", &[][..], &[][..]),
            ("nothing", &[(4096, 4096)], &[]),
            ("in any order", &[(8192, 9000), (4096, 8192)], &[(4096, 9000)]),
            ("to the last byte", &[(0, 4096), (4096, 10000)], &[(0, 10000)]),
            ("one byte more", &[(0, 4096), (4096, 10001)], &[(0, 4096), (4096, 10001)]),
            (
                "longer than a piece",
                &[(0, 99), (4096, 90000), (90112, 90113)],
                &[(0, 99), (4096, 90000), (90112, 90113)],
            ),
        ] {
            let ranges: Vec<_> = tensors.iter().map(|(start, end)| *start..*end).collect();
            let made: Vec<_> =
                pieces(&ranges, 10000).into_iter().map(|piece| (piece.start, piece.end)).collect();
            assert_eq!(made, expected, "{case}");
        }
    }
}
