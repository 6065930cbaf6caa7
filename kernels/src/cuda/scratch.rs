//! Working memory on the device, made at load for the largest batch.

use crate::ExpertsShape;
use crate::reference::GROUP;

/// Tokens that the kernels called `prompt` multiply together, and so a work has at most.
pub(super) const PROMPT: usize = 64;

/// Bytes of `rows` rows of `cols` activations in 8 bits, with their scales.
fn quantized_bytes(rows: u64, cols: u64) -> [u64; 2] {
    let groups = cols.div_ceil(GROUP as u64);
    [rows * groups * GROUP as u64, rows * groups * 4]
}

/// Bytes of the slots and positions, and of the indices, of `rows` rows.
fn batch_bytes(rows: u64) -> [u64; 2] {
    [8 * rows, 4 * rows]
}

/// Where the list of works begins, behind their number.
pub(super) const WORKS_AT: u64 = 16;

/// Works of `pairs` choices among `count` experts, at most: a full one for every [`PROMPT`], and of each expert a part of one.
pub(super) fn works(pairs: u64, count: u64) -> u64 {
    pairs / PROMPT as u64 + count.min(pairs)
}

/// Bytes that `CudaBackend` takes for the addresses of a mixture of `count` experts, three matrices each.
pub fn cuda_table_bytes(count: u64) -> u64 {
    3 * 8 * count
}

/// Bytes of what the rows of a mixture chose, with what weight, in which order, of works, hidden values twice, and what
/// each choice made.
fn experts_parts(rows: u64, shape: ExpertsShape) -> [u64; 7] {
    let [count, used, dim, ffn] =
        [shape.count, shape.used, shape.dim, shape.ffn_dim].map(|number| number as u64);
    let pairs = rows * used;
    let works = WORKS_AT + 12 * works(pairs, count);
    [4 * pairs, 4 * pairs, 4 * pairs, works, 4 * pairs * ffn, 4 * pairs * ffn, 4 * pairs * dim]
}

/// Bytes that `CudaBackend` reserves for `rows` rows of at most `cols` activations.
pub fn cuda_reserved_bytes(rows: u64, cols: u64) -> u64 {
    quantized_bytes(rows, cols).iter().chain(&batch_bytes(rows)).sum()
}

/// Bytes that `CudaBackend` reserves for mixtures of experts, its quantized hidden values included.
pub fn cuda_experts_bytes(rows: u64, shape: ExpertsShape) -> u64 {
    let hidden = quantized_bytes(rows * shape.used as u64, shape.ffn_dim as u64);
    experts_parts(rows, shape).iter().chain(&hidden).sum()
}

#[cfg(feature = "cuda")]
pub(super) use on_device::Scratch;

#[cfg(feature = "cuda")]
mod on_device {
    use std::sync::Arc;

    use super::{batch_bytes, experts_parts, quantized_bytes};
    use crate::cuda::driver::{Context, Memory};
    use crate::{BackendError, ExpertsShape};

    /// The parts; each grows where an operation comes before its `reserve`.
    #[derive(Debug)]
    pub(in crate::cuda) struct Scratch {
        /// Slot and position of each row: `(rows, 2)` u32
        pub(in crate::cuda) batch: Memory,
        /// Tokens, or rows to gather: `(rows)` u32
        pub(in crate::cuda) indices: Memory,
        /// Activations of a product: `(rows, groups * 32)` i8
        pub(in crate::cuda) quants: Memory,
        /// `(rows, groups)` f32
        pub(in crate::cuda) scales: Memory,
        /// Expert of each choice: `(rows, used)` u32
        pub(in crate::cuda) expert: Memory,
        /// Its weight: `(rows, used)` f32
        pub(in crate::cuda) weight: Memory,
        /// Choices by expert: `(rows, used)` u32
        pub(in crate::cuda) order: Memory,
        /// How many works there are, and from [`WORKS_AT`](super::WORKS_AT) on which.
        pub(in crate::cuda) works: Memory,
        pub(in crate::cuda) gate: Memory, // (rows, used, ffn_dim)
        pub(in crate::cuda) up: Memory,   // (rows, used, ffn_dim)
        pub(in crate::cuda) down: Memory, // (rows, used, dim)
        /// Hidden values in 8 bits: `(rows, used, groups * 32)` i8
        pub(in crate::cuda) hidden_quants: Memory,
        /// `(rows, used, groups)` f32
        pub(in crate::cuda) hidden_scales: Memory,
        context: Arc<Context>,
    }

    impl Scratch {
        pub(in crate::cuda) fn new(context: &Arc<Context>) -> Result<Self, BackendError> {
            let none = || Memory::zeroed(context, 0);
            Ok(Self {
                batch: none()?,
                indices: none()?,
                quants: none()?,
                scales: none()?,
                expert: none()?,
                weight: none()?,
                order: none()?,
                works: none()?,
                gate: none()?,
                up: none()?,
                down: none()?,
                hidden_quants: none()?,
                hidden_scales: none()?,
                context: Arc::clone(context),
            })
        }

        /// Room for `rows` rows of at most `cols` activations.
        pub(in crate::cuda) fn reserve(&mut self, rows: usize, cols: usize) -> Result<(), BackendError> {
            let [quants, scales] = quantized_bytes(rows as u64, cols as u64);
            let [batch, indices] = batch_bytes(rows as u64);
            grow(&self.context, &mut self.quants, quants)?;
            grow(&self.context, &mut self.scales, scales)?;
            grow(&self.context, &mut self.batch, batch)?;
            grow(&self.context, &mut self.indices, indices)
        }

        /// Room for mixtures of `rows` rows.
        pub(in crate::cuda) fn reserve_experts(
            &mut self,
            rows: usize,
            shape: ExpertsShape,
        ) -> Result<(), BackendError> {
            let [expert, weight, order, works, gate, up, down] = experts_parts(rows as u64, shape);
            let [quants, scales] = quantized_bytes((rows * shape.used) as u64, shape.ffn_dim as u64);
            for (memory, bytes) in [
                (&mut self.expert, expert),
                (&mut self.weight, weight),
                (&mut self.order, order),
                (&mut self.works, works),
                (&mut self.gate, gate),
                (&mut self.up, up),
                (&mut self.down, down),
                (&mut self.hidden_quants, quants),
                (&mut self.hidden_scales, scales),
            ] {
                grow(&self.context, memory, bytes)?;
            }
            Ok(())
        }
    }

    fn grow(context: &Arc<Context>, memory: &mut Memory, bytes: u64) -> Result<(), BackendError> {
        let wanted = usize::try_from(bytes).map_err(|_| BackendError::OutOfMemory { wanted: bytes })?;
        if memory.bytes() < wanted {
            *memory = Memory::zeroed(context, wanted)?;
        }
        Ok(())
    }
}
