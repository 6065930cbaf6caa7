//! Gated DeltaNet on the device: the states of a layer, and the launches that read and write them.

use super::backend::{CudaBackend, CudaBuffer, CudaWeight, small};
use super::launch::{self as kernels, STATE_COLUMNS, STATE_THREADS, THREADS, launch};
use super::memory::Memory;
use super::recording::numbers_of;
use crate::cache::row_count;
use crate::delta::{KEY_DIM_MAX, stretches};
use crate::{BackendError, DeltaShape, Held, Span};

use muse_format::Layout;
use zerocopy::IntoBytes;

/// The states of one layer on the device.
#[derive(Debug)]
pub struct CudaDeltaState {
    shape: DeltaShape,
    /// Which of the backend's: what its slots hold the host knows, which a graph does not tell.
    index: usize,
    /// Of each slot its states, keys, deltas, decays and inputs, one behind the other: `(slots, stride)`
    now: Memory,
    /// The same as it was remembered.
    then: Memory,
    /// Of each slot, what was held then.
    held_then: Vec<Held>,
}

impl CudaDeltaState {
    pub(super) fn new(cuda: &mut CudaBackend, shape: DeltaShape) -> Result<Self, BackendError> {
        assert!((1..=KEY_DIM_MAX).contains(&(shape.key_dim as usize)) && shape.taps > 0, "{shape:?}");
        assert!(shape.key_heads > 0 && shape.value_heads.is_multiple_of(shape.key_heads), "{shape:?}");
        let numbers = shape.slot_lens().iter().sum::<u64>().saturating_mul(shape.slots.into());
        let wanted = numbers.saturating_mul(4);
        let bytes = usize::try_from(wanted).map_err(|_| BackendError::OutOfMemory { wanted })?;
        let held = vec![Held::default(); shape.slots as usize];
        let memory = || Memory::zeroed(&cuda.context, bytes);
        let (now, then, index) = (memory()?, memory()?, cuda.held.len());
        cuda.held.push(held.clone());
        Ok(Self { shape, index, now, then, held_then: held })
    }

    fn argument(&self) -> kernels::DeltaState {
        let DeltaShape { key_heads, value_heads, key_dim, value_dim, taps, undo, .. } = self.shape;
        let lens = self.shape.slot_lens();
        let at = |part: usize| self.now.at() + 4 * lens[..part].iter().sum::<u64>();
        kernels::DeltaState {
            states: at(0),
            keys: at(1),
            deltas: at(2),
            decays: at(3),
            inputs: at(4),
            stride: lens.iter().sum(),
            key_heads,
            value_heads,
            key_dim,
            value_dim,
            columns: small(self.shape.columns()),
            taps,
            undo,
        }
    }

    /// Where `slot` lies and how long it is, in bytes.
    fn slot(&self, slot: u32) -> (usize, usize) {
        assert!(slot < self.shape.slots, "slot {slot} of {:?}", self.shape);
        let bytes = self.now.bytes() / self.shape.slots as usize;
        (slot as usize * bytes, bytes)
    }
}

impl CudaBackend {
    /// See [`crate::Backend::remember`].
    pub(super) fn kept(&mut self, state: &mut CudaDeltaState, slot: u32) -> Result<(), BackendError> {
        let (at, bytes) = state.slot(slot);
        state.held_then[slot as usize] = self.held[state.index][slot as usize];
        Ok(state.then.copy(&state.now, at, bytes)?)
    }

    /// See [`crate::Backend::recall`].
    pub(super) fn recalled(&mut self, state: &mut CudaDeltaState, slot: u32) -> Result<(), BackendError> {
        let (at, bytes) = state.slot(slot);
        self.held[state.index][slot as usize] = state.held_then[slot as usize];
        Ok(state.now.copy(&state.then, at, bytes)?)
    }

    /// Puts on the device what `spans` do to `state`; the layers of a step share it.
    fn stretch(&mut self, state: &CudaDeltaState, spans: &[Span]) -> Result<u64, BackendError> {
        let wanted = stretches(&self.held[state.index], state.shape.undo, spans);
        if let Some(at) = self.steps.stretches(state.index, state.shape.undo, spans, &wanted)? {
            return Ok(self.scratch.inputs.at() + at);
        }
        if self.stretches != wanted {
            let numbers: Vec<[u32; 6]> = wanted.iter().map(numbers_of).collect();
            self.make_room(numbers.len())?;
            self.stretches.clear();
            self.scratch.stretches.write(numbers.as_bytes())?;
            self.stretches = wanted;
        }
        Ok(self.scratch.stretches.at())
    }

    /// See [`crate::Backend::convolve`].
    pub(super) fn convolve_rows(
        &mut self,
        x: &CudaBuffer,
        weight: &CudaWeight,
        state: &CudaDeltaState,
        spans: &[Span],
    ) -> Result<(), BackendError> {
        let channels = state.shape.channels();
        assert!(weight.layout == Layout::F32 && weight.cols == channels && weight.rows == state.shape.taps);
        let x = x.at(row_count(spans) * channels as usize);
        let (stretches, argument, weight) =
            (self.stretch(state, spans)?, state.argument(), weight.memory.at());
        let grid = (channels.div_ceil(THREADS), small(spans.len()));
        // SAFETY: `x` holds all rows (`at`), the weight `taps` of them (above), the state's slots those of `stretches`.
        Ok(unsafe { launch!(self.kernels, "convolve", grid, THREADS, [x, weight, argument, stretches]) }?)
    }

    /// See [`crate::Backend::delta_rule`]; `inputs` are `x`, `decay` and `beta`.
    pub(super) fn rule(
        &mut self,
        out: &CudaBuffer,
        inputs: [&CudaBuffer; 3],
        rate: &CudaWeight,
        state: &mut CudaDeltaState,
        spans: &[Span],
    ) -> Result<(), BackendError> {
        let shape = state.shape;
        let (rows, heads) = (row_count(spans), shape.value_heads as usize);
        assert!(rate.layout == Layout::F32 && rate.rows as usize * rate.cols as usize == heads);
        let out = out.at(rows * heads * shape.value_dim as usize);
        let lens = [shape.channels() as usize, heads, heads];
        let [x, decay, beta] = [0, 1, 2].map(|i| inputs[i].at(rows * lens[i]));
        let (stretches, argument, rate) = (self.stretch(state, spans)?, state.argument(), rate.memory.at());
        let (count, tiles) = (small(spans.len()), argument.columns / STATE_COLUMNS);
        // SAFETY: the operands hold all rows (`at`), `rate` a number a head, the state the slots of `stretches`.
        unsafe {
            let grid = (small(rows), 1);
            launch!(self.kernels, "delta_prepare", grid, THREADS, [x, decay, beta, rate, argument])?;
            let grid = (shape.value_heads * tiles, count);
            let name = if shape.key_dim <= 128 { "delta_rule_128" } else { "delta_rule_256" };
            launch!(self.kernels, name, grid, STATE_THREADS, [out, x, decay, beta, argument, stretches])?;
            let grid = (shape.undo, count);
            launch!(self.kernels, "delta_settle", grid, THREADS, [x, decay, argument, stretches])?;
        }
        // What is captured has not run: `step.rs` notes it where it has.
        if self.steps.recording.is_none() {
            for stretch in &self.stretches {
                self.held[state.index][stretch.slot] = stretch.held(shape.undo);
            }
        }
        Ok(())
    }
}
