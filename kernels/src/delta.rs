//! What gated DeltaNet layers keep of each sequence: a matrix for each value head in place of keys and values.

use muse_format::DELTA_KEY_DIM_MAX;

use crate::cache::zeroed;
use crate::{BackendError, Span};

/// Columns of a state that lie together, so that a kernel reads one stream.
pub(crate) const COLUMNS: usize = 32;
/// Numbers of a cache line, at which states begin: no load of a vector meets two lines.
const LINE: usize = 16;
/// Rows of a state: a tile of them fits a thread's stack.
pub(crate) const KEY_DIM_MAX: usize = DELTA_KEY_DIM_MAX as usize;

/// One gated DeltaNet layer's heads, for every slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeltaShape {
    pub slots: u32,
    pub key_heads: u32,
    /// A multiple of `key_heads`; neighbours share a key head.
    pub value_heads: u32,
    pub key_dim: u32,
    pub value_dim: u32,
    /// Rows that the short convolution sees, its own included.
    pub taps: u32,
    /// Rows at the end of a step that the next one may take back.
    pub undo: u32,
}

impl DeltaShape {
    /// Width of a row of queries, keys and values together.
    pub fn channels(&self) -> u32 {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }

    /// Bytes of states, of what takes rows back and of the convolution's inputs, all of it twice: as it is and as it is
    /// remembered.
    pub fn byte_len(&self) -> u64 {
        4 * self.lens().into_iter().sum::<u64>()
    }

    /// Bytes of one slot's states, without what takes rows back.
    pub fn slot_bytes(&self) -> u64 {
        4 * u64::from(self.value_heads) * u64::from(self.key_dim) * self.columns() as u64
    }

    /// Numbers of one slot's states, of the keys, deltas and decays of its open rows, and of the convolution's inputs.
    pub(crate) fn slot_lens(&self) -> [u64; 5] {
        let [key_heads, value_heads, key_dim, taps, undo] =
            [self.key_heads, self.value_heads, self.key_dim, self.taps, self.undo].map(u64::from);
        let columns = self.columns() as u64;
        let channels = u64::from(self.channels());
        [
            value_heads * key_dim * columns,
            undo * key_heads * key_dim,
            undo * value_heads * columns,
            undo * value_heads,
            (taps - 1 + undo) * channels,
        ]
    }

    /// Elements of [`HostDeltaState`]'s buffers, in their order.
    fn lens(&self) -> [u64; 8] {
        let of_slots = self.slot_lens().map(|len| u64::from(self.slots) * len);
        let [states, keys, deltas, decays, inputs] = of_slots;
        let remembered = of_slots.iter().sum();
        let before = u64::from(self.taps - 1) * u64::from(self.channels());
        [states + LINE as u64, keys, deltas, decays, inputs, remembered, before, 2 * u64::from(self.key_dim)]
    }

    /// [`value_dim`](Self::value_dim), rounded up to whole tiles.
    pub(crate) fn columns(&self) -> usize {
        (self.value_dim as usize).next_multiple_of(COLUMNS)
    }

    /// Which of all slots' open rows is that of `position`.
    pub(crate) fn open_at(&self, slot: usize, position: u32) -> usize {
        slot * self.undo as usize + (position % self.undo.max(1)) as usize
    }

    /// Positions whose inputs of the convolution are kept.
    pub(crate) fn ring(&self) -> usize {
        (self.taps - 1 + self.undo) as usize
    }
}

/// From where a sequence in a recurrent state can go on.
///
/// A state cannot forget what it has taken in. So the last rows of a step stay open: they are answered, and taken in
/// when the next step goes on behind them. What is behind its start is forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Held {
    settled: u32,
    end: u32,
}

impl Held {
    /// Positions held at most.
    pub fn end(self) -> u32 {
        self.end
    }

    /// What is still held where the positions from `end` on are another sequence's.
    #[must_use]
    pub fn up_to(self, end: u32) -> Self {
        if end < self.settled { Self::default() } else { Self { end: self.end.min(end), ..self } }
    }

    /// Whether a span may begin at `position`: at the end, at an open row, or at 0, where a sequence begins anew.
    pub fn reaches(self, position: u32) -> bool {
        position == 0 || (self.settled..=self.end).contains(&position)
    }

    /// What is held after `span`, of which the first row settles in any case and the last `undo` others stay open.
    #[must_use]
    pub fn after(span: Span, undo: u32) -> Self {
        let end = span.start + span.len;
        Self { settled: end - undo.min(span.len - 1), end }
    }
}

/// The states of one layer in host memory.
#[derive(Debug)]
pub struct HostDeltaState {
    shape: DeltaShape,
    /// Of each slot.
    held: Vec<Held>,
    /// `(slots, value_heads, columns / 32, key_dim, 32)` from `first` on
    pub(crate) states: Vec<f32>,
    /// Where a cache line begins.
    pub(crate) first: usize,
    /// Keys of open rows, at their position modulo `undo`: `(slots, undo, key_heads * key_dim)`
    pub(crate) keys: Vec<f32>,
    /// What open rows add along their keys: `(slots, undo, value_heads * columns)`
    pub(crate) deltas: Vec<f32>,
    /// How much of the state open rows keep: `(slots, undo, value_heads)`
    pub(crate) decays: Vec<f32>,
    /// Inputs of the convolution, at their position modulo the ring: `(slots, taps - 1 + undo, channels)`
    pub(crate) inputs: Vec<f32>,
    /// All of it for each slot as it was remembered: `(slots, the above of one slot)`
    remembered: Vec<f32>,
    /// Of each slot, what was held then.
    remembered_held: Vec<Held>,
    /// Weights of norms that divide by a head's length, of queries and of keys: `(key_dim)` each
    pub(crate) norms: [Vec<f32>; 2],
    /// Working memory: the inputs before a span, `(taps - 1, channels)`
    pub(crate) before: Vec<f32>,
}

/// What one span does to its slot's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) slot: usize,
    /// The first row in the batch.
    pub(crate) row: usize,
    pub(crate) len: usize,
    /// Position of the first row; the state is zero before position 0.
    pub(crate) start: u32,
    /// Open rows before it that are taken in: from this position on.
    pub(crate) settled: u32,
    /// Rows of it that are taken in at once; the others stay open.
    pub(crate) settling: usize,
}

impl Stretch {
    /// What its slot holds after it.
    pub(crate) fn held(&self, undo: u32) -> Held {
        let span = Span { slot: self.slot as u32, start: self.start, len: self.len as u32 };
        Held::after(span, undo)
    }
}

/// What each span of a batch does to slots that hold `held`, whose last `undo` rows of a step stay open.
///
/// # Panics
/// If two spans are of one slot, or one starts where its slot's state cannot go on.
pub(crate) fn stretches(held: &[Held], undo: u32, spans: &[Span]) -> Vec<Stretch> {
    let mut row = 0;
    let mut stretches: Vec<Stretch> = Vec::with_capacity(spans.len());
    for span in spans {
        let (slot, len) = (span.slot as usize, span.len as usize);
        let held = held[slot];
        assert!(held.reaches(span.start), "{span:?} of a state that holds {held:?}");
        assert!(stretches.iter().all(|other| other.slot != slot), "two spans of slot {slot}");
        let settled = if span.start == 0 { 0 } else { held.settled };
        let settling = (Held::after(*span, undo).settled - span.start) as usize;
        stretches.push(Stretch { slot, row, len, start: span.start, settled, settling });
        row += len;
    }
    stretches
}

impl HostDeltaState {
    /// Allocates zeroed states.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] where the machine refuses.
    ///
    /// # Panics
    /// If `shape` is not one that [`muse_format::Spec::validate`] lets through.
    pub fn new(shape: DeltaShape) -> Result<Self, BackendError> {
        assert!((1..=KEY_DIM_MAX).contains(&(shape.key_dim as usize)) && shape.taps > 0, "{shape:?}");
        assert!(shape.key_heads > 0 && shape.value_heads.is_multiple_of(shape.key_heads), "{shape:?}");
        let buffer = |len: u64| {
            let wanted = len.saturating_mul(4);
            zeroed(usize::try_from(len).map_err(|_| BackendError::OutOfMemory { wanted })?)
        };
        let [states, keys, deltas, decays, inputs, remembered, before, _] = shape.lens().map(buffer);
        let states: Vec<f32> = states?;
        let root = (shape.key_dim as f32).sqrt();
        Ok(Self {
            shape,
            held: vec![Held::default(); shape.slots as usize],
            first: states.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE),
            states,
            keys: keys?,
            deltas: deltas?,
            decays: decays?,
            inputs: inputs?,
            remembered: remembered?,
            remembered_held: vec![Held::default(); shape.slots as usize],
            before: before?,
            norms: [root.powi(-2), root.powi(-1)].map(|weight| vec![weight; shape.key_dim as usize]),
        })
    }

    pub fn shape(&self) -> DeltaShape {
        self.shape
    }

    /// Keeps what `slot` holds for [`recall`](Self::recall), in the place of what was remembered before.
    pub(crate) fn remember(&mut self, slot: u32) {
        self.remembered_held[slot as usize] = self.held[slot as usize];
        self.each_of(slot as usize, |now, then| then.copy_from_slice(now));
    }

    /// Makes `slot` hold what was last remembered of it.
    pub(crate) fn recall(&mut self, slot: u32) {
        self.held[slot as usize] = self.remembered_held[slot as usize];
        self.each_of(slot as usize, |now, then| now.copy_from_slice(then));
    }

    /// Shows `visit` each buffer's part of a slot as it is and as it is remembered.
    fn each_of(&mut self, slot: usize, visit: impl Fn(&mut [f32], &mut [f32])) {
        let slots = self.shape.slots as usize;
        let states = self.first..self.first + (self.states.len() - LINE);
        let len = self.remembered.len() / slots;
        let mut then = &mut self.remembered[slot * len..][..len];
        let buffers =
            [&mut self.states[states], &mut self.keys, &mut self.deltas, &mut self.decays, &mut self.inputs];
        for buffer in buffers {
            let len = buffer.len() / slots;
            let (own, rest) = std::mem::take(&mut then).split_at_mut(len);
            visit(&mut buffer[slot * len..][..len], own);
            then = rest;
        }
    }

    /// What each span of a batch does. [`settle`](Self::settle) is to follow.
    ///
    /// # Panics
    /// See [`stretches`].
    pub(crate) fn stretches(&self, spans: &[Span]) -> Vec<Stretch> {
        stretches(&self.held, self.shape.undo, spans)
    }

    /// Keeps what open rows need of `x`, `(rows, channels)` with normalised keys, and of `decay`,
    /// `(rows, value_heads)`; their deltas are written by the kernels.
    pub(crate) fn settle(&mut self, stretches: &[Stretch], x: &[f32], decay: &[f32]) {
        let shape = self.shape;
        let width = (shape.key_heads * shape.key_dim) as usize;
        let (channels, heads) = (shape.channels() as usize, shape.value_heads as usize);
        for stretch in stretches {
            for i in stretch.settling..stretch.len {
                let (row, at) = (stretch.row + i, shape.open_at(stretch.slot, stretch.start + i as u32));
                self.keys[at * width..][..width].copy_from_slice(&x[row * channels + width..][..width]);
                self.decays[at * heads..][..heads].copy_from_slice(&decay[row * heads..][..heads]);
            }
            self.held[stretch.slot] = stretch.held(shape.undo);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_goes_on_from_its_end_from_open_rows_and_from_the_beginning() {
        let held = Held::after(Span { slot: 0, start: 10, len: 4 }, 12);
        let reached: Vec<u32> = (0..20).filter(|position| held.reaches(*position)).collect();
        assert_eq!(reached, [0, 11, 12, 13, 14], "the first row is not taken back");
        let held = Held::after(Span { slot: 0, start: 0, len: 100 }, 3);
        let reached: Vec<u32> = (0..200).filter(|position| held.reaches(*position)).collect();
        assert_eq!(reached, [0, 97, 98, 99, 100]);
        let held = Held::after(Span { slot: 0, start: 7, len: 1 }, 3);
        assert!(held.reaches(8) && !held.reaches(7) && !held.reaches(9));
        assert!(Held::default().reaches(0) && !Held::default().reaches(1));
        let held = Held::after(Span { slot: 0, start: 0, len: 100 }, 3);
        assert!(held.up_to(98).reaches(98) && !held.up_to(98).reaches(99) && held.up_to(98).end() == 98);
        assert_eq!((held.up_to(96), held.up_to(200), held.up_to(200).end()), (Held::default(), held, 100));
    }
}
