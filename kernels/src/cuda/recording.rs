//! What is noted of a step while it is captured.

use super::scratch::INPUTS_BYTES;
use super::step::Steps;
use crate::delta::Stretch;
use crate::{AttentionShape, BackendError, Span, Step};

/// Numbers of the host that a graph reads.
const INPUTS_MAX: usize = INPUTS_BYTES as usize / 4;

/// What has to hold of a step for a graph to be its own; which of its spans and of its lists are meant.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Need {
    /// Numbers of a list are below.
    Below { list: usize, count: u32 },
    /// Slots are below.
    Slots { spans: usize, count: u32 },
    /// Rows stand at positions below.
    Positions { spans: usize, within: u32 },
    /// Attention is split as it was.
    Splits(usize, Splits),
}

/// Attention of `blocks` blocks, over at most `capacity` positions, is split over `splits`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Splits {
    pub shape: AttentionShape,
    /// Positions that are chosen; 0 where a row sees all.
    pub top: u32,
    pub capacity: usize,
    pub blocks: u64,
    pub splits: u32,
}

/// The recurrent states that a graph brings along: all of them do the same, and the host follows what they hold.
#[derive(Debug)]
pub(super) struct Recurrent {
    /// Which of the step's.
    pub spans: usize,
    /// Where among the inputs it lies what spans do to them: `(spans, 6)`
    pub at: usize,
    pub undo: u32,
    /// Which of the backend's.
    pub states: Vec<usize>,
}

/// A step while it is captured.
#[derive(Debug)]
pub(super) struct Recording {
    /// Of each of its spans: their address and number, and where their rows lie among the inputs.
    spans: Vec<[usize; 3]>,
    /// The same of its lists.
    lists: Vec<[usize; 3]>,
    pub(super) needs: Vec<Need>,
    pub(super) recurrent: Option<Recurrent>,
    pub(super) inputs: Vec<u32>,
}

/// Slot, position and last position of each row of `spans`.
pub(super) fn places(spans: &[Span]) -> impl Iterator<Item = [u32; 3]> + '_ {
    spans.iter().flat_map(|span| {
        let (slot, start, last) = (span.slot, span.start, span.start + (span.len - 1));
        (start..=last).map(move |position| [slot, position, last])
    })
}

/// As kernels read them: delta.cu.
pub(super) fn numbers_of(stretch: &Stretch) -> [u32; 6] {
    let Stretch { slot, row, len, start, settled, settling } = *stretch;
    [slot as u32, row as u32, len as u32, start, settled, settling as u32]
}

pub(super) fn not_in_a_graph() -> BackendError {
    BackendError::Unsupported("this step as a graph".into())
}

/// Which of `known` is `slice`, by its address and number.
fn find<T>(known: &[[usize; 3]], slice: &[T]) -> Option<(usize, u64)> {
    let own = |[at, len, _]: &[usize; 3]| [*at, *len] == [slice.as_ptr().addr(), slice.len()];
    known.iter().position(own).map(|index| (index, 4 * known[index][2] as u64))
}

impl Recording {
    pub(super) fn new(step: &Step<'_>) -> Result<Self, BackendError> {
        let (mut spans, mut lists, mut inputs) = (Vec::new(), Vec::new(), Vec::new());
        for own in step.spans {
            spans.push([own.as_ptr().addr(), own.len(), inputs.len()]);
            inputs.extend(places(own).flatten());
        }
        for own in step.lists {
            lists.push([own.as_ptr().addr(), own.len(), inputs.len()]);
            inputs.extend_from_slice(own);
        }
        let recording = Self { spans, lists, needs: Vec::new(), recurrent: None, inputs };
        if recording.inputs.len() > INPUTS_MAX { Err(not_in_a_graph()) } else { Ok(recording) }
    }

    fn need(&mut self, need: Need) {
        if !self.needs.contains(&need) {
            self.needs.push(need);
        }
    }

    /// Where numbers lie that all steps of the shape have.
    fn put(&mut self, numbers: impl ExactSizeIterator<Item = u32>) -> Result<usize, BackendError> {
        let at = self.inputs.len();
        if numbers.len() > INPUTS_MAX - at {
            return Err(not_in_a_graph());
        }
        self.inputs.extend(numbers);
        Ok(at)
    }
}

/// Where a captured step finds numbers among the inputs is said in bytes; `None` outside of one.
impl Steps {
    /// Notes what rows of `spans` must keep to in a captured step.
    pub(super) fn need(&mut self, spans: &[Span], need: impl FnOnce(usize) -> Need) {
        let Some(recording) = &mut self.recording else { return };
        // Spans that are not the step's are refused where their rows are asked for.
        if let Some((index, _)) = find(&recording.spans, spans) {
            recording.need(need(index));
        }
    }

    /// Where the rows of `spans` stand.
    pub(super) fn batch(&self, spans: &[Span]) -> Result<Option<u64>, BackendError> {
        let Some(recording) = &self.recording else { return Ok(None) };
        find(&recording.spans, spans).map(|(_, at)| Some(at)).ok_or_else(not_in_a_graph)
    }

    /// A list of the step, whose numbers stay below `count`.
    pub(super) fn list(&mut self, list: &[u32], count: u32) -> Result<Option<u64>, BackendError> {
        let Some(recording) = &mut self.recording else { return Ok(None) };
        let (list, at) = find(&recording.lists, list).ok_or_else(not_in_a_graph)?;
        recording.need(Need::Below { list, count });
        Ok(Some(at))
    }

    /// The same, or numbers that all steps of its shape have.
    pub(super) fn numbers(&mut self, numbers: &[u32], count: u32) -> Result<Option<u64>, BackendError> {
        let Some(recording) = &mut self.recording else { return Ok(None) };
        if find(&recording.lists, numbers).is_some() {
            return self.list(numbers, count);
        }
        Ok(Some(4 * recording.put(numbers.iter().copied())? as u64))
    }

    /// What `spans` do to the backend's `state`, of which `undo` rows stay open. All states of a step must do the same.
    pub(super) fn stretches(
        &mut self,
        state: usize,
        undo: u32,
        spans: &[Span],
        stretches: &[Stretch],
    ) -> Result<Option<u64>, BackendError> {
        let Some(recording) = &mut self.recording else { return Ok(None) };
        let (spans, _) = find(&recording.spans, spans).ok_or_else(not_in_a_graph)?;
        let numbers: Vec<u32> = stretches.iter().flat_map(numbers_of).collect();
        if recording.recurrent.is_none() {
            let at = recording.put(numbers.iter().copied())?;
            recording.recurrent = Some(Recurrent { spans, at, undo, states: Vec::new() });
        }
        let own = recording.recurrent.as_mut().expect("made above");
        let same = own.spans == spans && own.undo == undo;
        if !same || recording.inputs[own.at..own.at + numbers.len()] != numbers {
            return Err(not_in_a_graph());
        }
        if !own.states.contains(&state) {
            own.states.push(state);
        }
        Ok(Some(4 * own.at as u64))
    }
}
