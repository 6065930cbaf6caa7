//! What is on the device, and the launches that several operations share.

use std::sync::Arc;

use muse_format::Layout;
use zerocopy::IntoBytes;

use super::driver::{Context, CudaMemory};
use super::experts::Table;
use super::images::Origin;
use super::launch::{Kernels, THREADS, launch};
use super::memory::{Bounce, Chunks, Memory, Part};
use super::recording::places;
use super::scratch::Scratch;
use super::shared::Registered;
use super::step::Steps;
use crate::delta::Stretch;
use crate::reference::GROUP;
use crate::{Backend, BackendError, Held, Span};

/// The first GPU of this machine.
#[derive(Debug)]
pub struct CudaBackend {
    pub(super) steps: Steps,
    pub(super) kernels: Kernels,
    pub(super) scratch: Scratch,
    /// What `scratch.batch` holds.
    pub(super) spans: Vec<Span>,
    /// What `scratch.pieces` holds.
    pub(super) pieces: Vec<(Span, bool)>,
    /// What `scratch.stretches` holds.
    pub(super) stretches: Vec<Stretch>,
    /// What each recurrent state holds of each slot.
    pub(super) held: Vec<Vec<Held>>,
    pub(super) bounce: Bounce,
    /// Room for weights that are not loaded yet.
    pub(super) chunks: Chunks,
    /// What is read in place.
    pub(super) shared: Vec<Arc<Registered>>,
    /// One of each mixture of experts.
    pub(super) tables: Vec<Table>,
    pub(super) context: Arc<Context>,
}

/// A tensor on the device, in the bytes of its layout.
#[derive(Debug)]
pub struct CudaWeight {
    pub(super) layout: Layout,
    pub(super) rows: u32,
    pub(super) cols: u32,
    pub(super) memory: Part,
}

/// f32 activations on the device.
#[derive(Debug)]
pub struct CudaBuffer {
    pub(super) memory: Memory,
    pub(super) len: usize,
}

impl CudaWeight {
    /// Rows of the matrix.
    pub fn rows(&self) -> u32 {
        self.rows
    }
}

impl CudaBuffer {
    /// Numbers that it holds.
    #[allow(clippy::len_without_is_empty)] // none is made to hold nothing
    pub fn len(&self) -> usize {
        self.len
    }

    /// The address of its first number, where it holds `len`.
    pub(super) fn at(&self, len: usize) -> u64 {
        assert!(len <= self.len, "{len} numbers of a buffer of {}", self.len);
        self.memory.at()
    }
}

/// Blocks of [`THREADS`] for `count` threads.
pub(super) fn blocks(count: usize) -> Result<u32, BackendError> {
    let blocks = count.div_ceil(THREADS as usize);
    u32::try_from(blocks).map_err(|_| BackendError::Unsupported(format!("{count} numbers at once")))
}

pub(super) fn small(number: usize) -> u32 {
    u32::try_from(number).expect("shapes are checked at load")
}

impl CudaBackend {
    /// Opens the first GPU and loads the kernels for it.
    ///
    /// # Errors
    /// [`CudaError`] says what is missing: the driver, a newer one, a GPU, or kernels for it.
    pub fn new() -> Result<Self, BackendError> {
        let context = Context::open()?;
        let kernels = Kernels::load(&context)?;
        let (scratch, bounce) = (Scratch::new(&context)?, Bounce::new(&context)?);
        let (spans, pieces) = (Vec::new(), Vec::new());
        let (stretches, held, tables) = (Vec::new(), Vec::new(), Vec::new());
        let (steps, chunks, shared) = (Steps::default(), Chunks::default(), Vec::new());
        Ok(Self {
            steps,
            kernels,
            scratch,
            spans,
            pieces,
            stretches,
            held,
            bounce,
            chunks,
            shared,
            tables,
            context,
        })
    }

    /// What memory there is for a model.
    ///
    /// # Errors
    /// [`CudaError::Call`](crate::CudaError::Call) where the device is lost.
    pub fn memory(&self) -> Result<CudaMemory, BackendError> {
        Ok(self.context.memory()?)
    }

    /// The GPU's name and what its kernels are compiled for.
    pub fn describe(&self) -> String {
        format!("cuda, {}, sm_{}", self.context.name, self.context.sm)
    }

    /// The GPU, its compute capability, where its kernels come from, its memory and its driver, for people.
    ///
    /// # Errors
    /// [`CudaError::Call`](crate::CudaError::Call) where the device is lost.
    pub fn report(&self) -> Result<String, BackendError> {
        let Context { name, sm, .. } = &*self.context;
        let kernels = match &self.kernels.origin {
            Origin::Cubin => "kernels compiled for it".to_owned(),
            Origin::Ptx => "kernels that its driver compiles".to_owned(),
            Origin::PtxAfter(refused) => {
                format!("kernels that its driver compiles, as it refused those compiled for it ({refused})")
            }
        };
        let memory = match self.memory()? {
            CudaMemory::Shared => "memory shared with the system".to_owned(),
            CudaMemory::Own { free, total } => format!("{} of {} MiB free", free >> 20, total >> 20),
        };
        let (major, minor, driver) = (sm / 10, sm % 10, self.context.driver());
        let shares = match self.context.can_share() {
            Ok(()) => "files can be read in place",
            Err(_) => "weights are copied",
        };
        Ok(format!(
            "{name}, compute capability {major}.{minor}, {kernels}; {memory}, {shares}; driver for {driver}"
        ))
    }

    /// Puts the slot and position of each row of `spans`, and the last of its span, on the device; the layers of a step
    /// share them.
    pub(super) fn batch(&mut self, spans: &[Span]) -> Result<u64, BackendError> {
        if let Some(at) = self.steps.batch(spans)? {
            return Ok(self.scratch.inputs.at() + at);
        }
        if self.spans != spans {
            let rows: Vec<[u32; 3]> = places(spans).collect();
            self.make_room(rows.len())?;
            self.spans.clear();
            self.scratch.batch.write(rows.as_bytes())?;
            self.spans.extend_from_slice(spans);
        }
        Ok(self.scratch.batch.at())
    }

    /// [`batch`](Self::batch) of spans, one flag each, of which the rows of some see each other; of any other the last that a row
    /// sees is itself.
    pub(super) fn pieces(&mut self, spans: &[Span], joint: &[bool]) -> Result<u64, BackendError> {
        // What an image is in them differs between steps of one shape.
        self.steps.refuse()?;
        let pieces = || spans.iter().copied().zip(joint.iter().copied());
        if !self.pieces.iter().copied().eq(pieces()) {
            let of = |(span, joint): (Span, bool)| {
                let last = span.start + (span.len - 1);
                (span.start..=last).map(move |at| [span.slot, at, if joint { last } else { at }])
            };
            let rows: Vec<[u32; 3]> = pieces().flat_map(of).collect();
            self.make_room(rows.len())?;
            self.pieces.clear();
            self.scratch.pieces.write(rows.as_bytes())?;
            self.pieces.extend(pieces());
        }
        Ok(self.scratch.pieces.at())
    }

    /// Room for what is said of `rows` rows, where an operation comes before its `reserve`.
    pub(super) fn make_room(&mut self, rows: usize) -> Result<(), BackendError> {
        if self.scratch.batch.bytes() < 12 * rows { self.reserve(rows, 0) } else { Ok(()) }
    }

    /// Puts up to 3 numbers for each row on the device, that are below `count`; of a step that is captured, one of its lists
    /// or what all of its shape have.
    pub(super) fn indices(&mut self, numbers: &[u32], count: usize) -> Result<u64, BackendError> {
        if let Some(at) = self.steps.numbers(numbers, u32::try_from(count).unwrap_or(u32::MAX))? {
            return Ok(self.scratch.inputs.at() + at);
        }
        self.make_room(numbers.len().div_ceil(3))?;
        self.scratch.indices.write(numbers.as_bytes())?;
        Ok(self.scratch.indices.at())
    }

    /// Quantizes `rows` rows of `cols` numbers at `x`.
    pub(super) fn quantize(&self, to: [u64; 2], x: u64, rows: usize, cols: u32) -> Result<(), BackendError> {
        self.quantize_weighted(to, x, 0, rows, cols, 1)
    }

    /// Quantizes `rows` rows, of which `share` each are one row at `x` times their numbers at `weight`, where that is not 0.
    pub(super) fn quantize_weighted(
        &self,
        [quants, scales]: [u64; 2],
        x: u64,
        weight: u64,
        rows: usize,
        cols: u32,
        share: u32,
    ) -> Result<(), BackendError> {
        let groups = rows * (cols as usize).div_ceil(GROUP);
        let (grid, rows) = ((blocks(32 * groups)?, 1), small(rows));
        // SAFETY: the caller reserved `rows` rows of quants and scales, and `x` holds `rows / share * cols` numbers.
        Ok(unsafe {
            launch!(self.kernels, "quantize", grid, THREADS, [quants, scales, x, weight, rows, cols, share])
        }?)
    }
}
