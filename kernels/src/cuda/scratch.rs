//! Working memory on the device, made at load for the largest batch.

use crate::reference::GROUP;
use crate::{Best, ExpertsShape, HeadsShape};

/// Blocks that positions of attention are split over, at most, and so the queries that parts are kept of.
pub(super) const BLOCKS_MAX: u64 = 256;
/// Heads that share what a block of attention reads, and the widest.
pub(super) const QUERIES: u64 = 8;
pub(super) const HEAD_DIM_MAX: u64 = 640;
/// Rows that choose positions at once.
pub(super) const CHOOSE_ROWS: u64 = 16;

/// Numbers of a row that a block of best.cu looks at.
pub(super) const BEST_PART: u64 = 8192;

/// Tokens that the kernels called `prompt` multiply together, and so a work has at most.
pub(super) const PROMPT: usize = 64;

/// Bytes of what a graph reads of the host.
pub(super) const INPUTS_BYTES: u64 = 64 << 10;

/// Bytes that a driver may take for the graphs of steps that are kept, all together.
pub(super) const GRAPHS_BYTES: u64 = 64 << 20;

/// Bytes of `rows` rows of `cols` activations in 8 bits, with their scales.
fn quantized_bytes(rows: u64, cols: u64) -> [u64; 2] {
    let groups = cols.div_ceil(GROUP as u64);
    [rows * groups * GROUP as u64, rows * groups * 4]
}

/// Bytes of where `rows` rows stand, the same in spans whose rows see each other, of up to 3 numbers for each, and of what
/// as many spans do to a recurrent state.
fn batch_bytes(rows: u64) -> [u64; 4] {
    [12 * rows, 12 * rows, 12 * rows, 24 * rows]
}

/// Bytes of the parts of attention of queries of `cols`.
fn parts_bytes(cols: u64) -> u64 {
    4 * BLOCKS_MAX * QUERIES * (cols.min(HEAD_DIM_MAX) + 2)
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
    INPUTS_BYTES + quantized_bytes(rows, cols).iter().chain(&batch_bytes(rows)).sum::<u64>()
}

/// Bytes that `CudaBackend` leaves to the driver for graphs of steps; what would take more is launched one by one.
pub fn cuda_graphs_bytes() -> u64 {
    GRAPHS_BYTES
}

/// Bytes that `CudaBackend` reserves for attention of queries of at most `cols`.
pub fn cuda_attention_bytes(cols: u64) -> u64 {
    parts_bytes(cols)
}

/// Bytes that `CudaBackend` reserves for products of heads of `rows` rows.
pub fn cuda_heads_bytes(rows: u64, shape: HeadsShape) -> u64 {
    quantized_bytes(rows * shape.heads as u64, shape.cols as u64).iter().sum()
}

/// Bytes that `CudaBackend` reserves to choose among `positions`.
pub fn cuda_choose_bytes(positions: u64) -> u64 {
    4 * CHOOSE_ROWS * positions
}

/// Bytes of the best of each part of `rows` rows of `width`, where they stand, and of a part's largest number and sum.
fn best_parts(rows: u64, width: u64) -> [u64; 3] {
    let parts = rows * width.div_ceil(BEST_PART);
    [4 * parts * Best::COUNT as u64, 4 * parts * Best::COUNT as u64, 8 * parts]
}

/// Bytes that `CudaBackend` reserves to find the best of `rows` rows of `width`.
pub fn cuda_best_bytes(rows: u64, width: u64) -> u64 {
    best_parts(rows, width).iter().sum()
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

    use super::{
        INPUTS_BYTES, batch_bytes, best_parts, cuda_choose_bytes, experts_parts, parts_bytes, quantized_bytes,
    };
    use crate::cuda::driver::Context;
    use crate::cuda::memory::Memory;
    use crate::{BackendError, ExpertsShape, HeadsShape};

    /// The parts; each grows where an operation comes before its `reserve`.
    #[derive(Debug)]
    pub(in crate::cuda) struct Scratch {
        /// Slot, position and last position of the span of each row: `(rows, 3)` u32
        pub(in crate::cuda) batch: Memory,
        /// The same of a batch of which the rows of some spans see each other: of the others, the last is a row's own
        pub(in crate::cuda) pieces: Memory,
        /// Tokens, rows to gather, places or turns: `(rows, 3)` u32
        pub(in crate::cuda) indices: Memory,
        /// What a graph reads of the host: `step.rs`
        pub(in crate::cuda) inputs: Memory,
        /// What spans do to a recurrent state: `(spans, 6)` u32
        pub(in crate::cuda) stretches: Memory,
        /// Of attention: a maximum, a total and `head_dim` sums of each query and part
        pub(in crate::cuda) parts: Memory,
        /// Activations of heads: `(rows, heads, groups * 32)` i8
        pub(in crate::cuda) heads_quants: Memory,
        /// `(rows, heads, groups)` f32
        pub(in crate::cuda) heads_scales: Memory,
        /// Of positions that are chosen among: `(CHOOSE_ROWS, positions)`
        pub(in crate::cuda) ranks: Memory,
        /// What is known of parts of rows of logits: best.cu
        pub(in crate::cuda) best: Memory,
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
                pieces: none()?,
                indices: none()?,
                inputs: none()?,
                stretches: none()?,
                parts: none()?,
                heads_quants: none()?,
                heads_scales: none()?,
                ranks: none()?,
                best: none()?,
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
            let [batch, pieces, indices, stretches] = batch_bytes(rows as u64);
            grow(&self.context, &mut self.quants, quants)?;
            grow(&self.context, &mut self.scales, scales)?;
            grow(&self.context, &mut self.batch, batch)?;
            grow(&self.context, &mut self.pieces, pieces)?;
            grow(&self.context, &mut self.indices, indices)?;
            grow(&self.context, &mut self.stretches, stretches)?;
            self.reserve_inputs()
        }

        /// Room for what a graph reads of the host.
        pub(in crate::cuda) fn reserve_inputs(&mut self) -> Result<(), BackendError> {
            grow(&self.context, &mut self.inputs, INPUTS_BYTES)
        }

        /// Room for attention of queries of at most `cols`.
        pub(in crate::cuda) fn reserve_parts(&mut self, cols: usize) -> Result<(), BackendError> {
            grow(&self.context, &mut self.parts, parts_bytes(cols as u64))
        }

        /// Room for products of heads of `rows` rows.
        pub(in crate::cuda) fn reserve_heads(
            &mut self,
            rows: usize,
            shape: HeadsShape,
        ) -> Result<(), BackendError> {
            let [quants, scales] = quantized_bytes((rows * shape.heads) as u64, shape.cols as u64);
            grow(&self.context, &mut self.heads_quants, quants)?;
            grow(&self.context, &mut self.heads_scales, scales)
        }

        /// Room to choose among `positions`.
        pub(in crate::cuda) fn reserve_ranks(&mut self, positions: usize) -> Result<(), BackendError> {
            grow(&self.context, &mut self.ranks, cuda_choose_bytes(positions as u64))
        }

        /// Room for the best of `rows` rows of `width`; where their numbers, indices and sums lie.
        pub(in crate::cuda) fn reserve_best(
            &mut self,
            rows: usize,
            width: usize,
        ) -> Result<[u64; 3], BackendError> {
            let [numbers, indices, sums] = best_parts(rows as u64, width as u64);
            grow(&self.context, &mut self.best, numbers + indices + sums)?;
            let at = self.best.at();
            Ok([at, at + numbers, at + numbers + indices])
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
