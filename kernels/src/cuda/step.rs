//! Steps as graphs: the launches of a step of a few rows are captured once and launched together from then on.
//!
//! What differs between steps of one shape reaches kernels through memory: where rows stand, and tokens. Both lie in front
//! of what a graph reads of the host, with the numbers that do not differ behind them, and go to the device in one copy
//! before the graph. What an operation derives from them on the host, such as over how many blocks attention is split, is
//! noted as a [`Need`]: a graph is launched where all of its own hold, and another is captured where none does.
//!
//! A graph is dropped when any memory of its device was freed since it was captured, so that no address in it is old. A step
//! that cannot be captured runs launch by launch.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::attention::Seen;
use super::backend::CudaBackend;
use super::driver::Graph;
use super::launch::FEW;
use super::scratch::INPUTS_BYTES;
use crate::{AttentionShape, BackendError, Span, Step};

/// Most rows of a step that is captured.
const ROWS_MAX: usize = 2 * FEW;
/// Graphs kept; the one that was not launched for longest is dropped for another.
const GRAPHS_MAX: usize = 16;
/// Shapes of steps that are known to have run.
const SHAPES_MAX: usize = 64;
/// Numbers of the host that a graph reads.
pub(super) const INPUTS_MAX: usize = INPUTS_BYTES as usize / 4;

/// What has to hold of a step for a graph to be its own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Need {
    /// Tokens are below.
    Tokens(u32),
    /// Slots are below.
    Slots(u32),
    /// Attention of `blocks` blocks, over at most `capacity` positions, is split over so many.
    Splits(Splits),
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Splits {
    pub shape: AttentionShape,
    /// Positions that are chosen; 0 where a row sees all.
    pub top: u32,
    pub capacity: usize,
    pub blocks: u64,
    pub splits: u32,
}

/// All that a graph's launches follow from, but for what they read from memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    lens: Vec<u32>,
    wanted: Vec<u32>,
}

impl Shape {
    fn of(step: &Step<'_>) -> Self {
        Self { lens: step.spans.iter().map(|span| span.len).collect(), wanted: step.wanted.to_vec() }
    }

    fn is_of(&self, step: &Step<'_>) -> bool {
        self.lens.iter().copied().eq(step.spans.iter().map(|span| span.len)) && self.wanted == step.wanted
    }
}

/// A step while it is captured.
#[derive(Debug)]
struct Recording {
    spans: Vec<Span>,
    /// Address and number of the step's tokens.
    tokens: (usize, usize),
    needs: Vec<Need>,
    inputs: Vec<u32>,
}

#[derive(Debug)]
struct Captured {
    shape: Shape,
    needs: Vec<Need>,
    inputs: Vec<u32>, // (rows, 3), then (rows), then what operations put behind them
    graph: Graph,
    /// What the context had freed when it was captured.
    freed: u64,
}

/// Graphs of a backend.
#[derive(Debug, Default)]
pub(super) struct Steps {
    recording: Option<Recording>,
    /// The last launched is the last.
    graphs: Vec<Captured>,
    /// Shapes that have run, and whether they may be captured.
    known: Vec<(Shape, bool)>,
}

/// Slot, position and last position of each row of `spans`.
pub(super) fn places(spans: &[Span]) -> impl Iterator<Item = [u32; 3]> + '_ {
    spans.iter().flat_map(|span| {
        let (slot, start, last) = (span.slot, span.start, span.start + (span.len - 1));
        (start..=last).map(move |position| [slot, position, last])
    })
}

fn not_in_a_graph() -> BackendError {
    BackendError::Unsupported("this step as a graph".into())
}

impl Steps {
    /// Notes what a captured step must keep to.
    pub(super) fn need(&mut self, need: Need) {
        if let Some(recording) = self.recording.as_mut().filter(|recording| !recording.needs.contains(&need))
        {
            recording.needs.push(need);
        }
    }

    /// Refuses to go on where a step is being captured: the caller's launches follow from what differs between steps.
    pub(super) fn refuse(&self) -> Result<(), BackendError> {
        if self.recording.is_some() { Err(not_in_a_graph()) } else { Ok(()) }
    }

    /// Where in the inputs, in bytes, a captured step finds where the rows of `spans` stand; `None` outside of one.
    pub(super) fn batch(&self, spans: &[Span]) -> Result<Option<u64>, BackendError> {
        match &self.recording {
            None => Ok(None),
            Some(recording) if recording.spans == spans => Ok(Some(0)),
            Some(_) => Err(not_in_a_graph()),
        }
    }

    /// The same of its tokens.
    pub(super) fn tokens(&self, tokens: &[u32]) -> Result<Option<u64>, BackendError> {
        match &self.recording {
            None => Ok(None),
            Some(own) if own.tokens == (tokens.as_ptr().addr(), tokens.len()) => {
                Ok(Some(12 * tokens.len() as u64))
            }
            Some(_) => Err(not_in_a_graph()),
        }
    }

    /// The same of numbers that all steps of its shape have.
    pub(super) fn numbers(&mut self, numbers: &[u32]) -> Result<Option<u64>, BackendError> {
        let Some(recording) = &mut self.recording else { return Ok(None) };
        let at = recording.inputs.len();
        if numbers.len() > INPUTS_MAX - at {
            return Err(not_in_a_graph());
        }
        recording.inputs.extend_from_slice(numbers);
        Ok(Some(4 * at as u64))
    }

    fn begin(&mut self, step: &Step<'_>) {
        let mut inputs: Vec<u32> = places(step.spans).flatten().collect();
        inputs.extend_from_slice(step.tokens);
        self.recording = Some(Recording {
            spans: step.spans.to_vec(),
            tokens: (step.tokens.as_ptr().addr(), step.tokens.len()),
            needs: Vec::new(),
            inputs,
        });
    }

    /// Notes that `step` has run, and whether it may be captured; returns what was known of it before.
    fn note(&mut self, step: &Step<'_>, captured: bool) {
        self.known.retain(|(shape, _)| !shape.is_of(step));
        if self.known.len() == SHAPES_MAX {
            self.known.remove(0);
        }
        self.known.push((Shape::of(step), captured));
    }
}

impl CudaBackend {
    /// See [`crate::Backend::step`]. A shape runs launch by launch once, which makes what is made lazily, and is captured
    /// where it comes again.
    pub(super) fn run_step(
        &mut self,
        step: &Step<'_>,
        operations: &mut dyn FnMut(&mut Self) -> Result<(), BackendError>,
    ) -> Result<(), BackendError> {
        let rows = step.tokens.len();
        if !(1..=ROWS_MAX).contains(&rows) {
            return operations(self);
        }
        assert_eq!(rows, crate::cache::row_count(step.spans), "a token for each row");
        let freed = self.context.freed();
        self.steps.graphs.retain(|captured| captured.freed == freed);
        let own = |captured: &Captured| captured.shape.is_of(step) && self.holds(&captured.needs, step);
        if let Some(found) = self.steps.graphs.iter().position(own) {
            return self.replay(found, step);
        }
        match self.steps.known.iter().find(|(shape, _)| shape.is_of(step)) {
            Some((_, true)) => {}
            Some((_, false)) => return operations(self),
            None => {
                operations(self)?;
                self.steps.note(step, true);
                return Ok(());
            }
        }
        match self.capture(step, operations) {
            Ok(captured) => {
                if self.steps.graphs.len() == GRAPHS_MAX {
                    self.steps.graphs.remove(0);
                }
                self.steps.graphs.push(captured);
                self.replay(self.steps.graphs.len() - 1, step)
            }
            // Nothing of it ran. What is wrong beside it is said again.
            Err(_) => {
                self.steps.note(step, false);
                operations(self)
            }
        }
    }

    fn holds(&self, needs: &[Need], step: &Step<'_>) -> bool {
        needs.iter().all(|need| match need {
            Need::Tokens(count) => step.tokens.iter().all(|token| token < count),
            Need::Slots(count) => step.spans.iter().all(|span| span.slot < *count),
            Need::Splits(own) => {
                let seen = Seen::Plain.most(step.spans, &own.shape);
                let met = if own.top > 0 { seen.min(own.top as usize) } else { seen };
                seen <= own.capacity && self.splits(own.blocks, met) == own.splits
            }
        })
    }

    fn capture(
        &mut self,
        step: &Step<'_>,
        operations: &mut dyn FnMut(&mut Self) -> Result<(), BackendError>,
    ) -> Result<Captured, BackendError> {
        self.scratch.reserve_inputs()?;
        let freed = self.context.freed();
        self.context.begin_capture()?;
        self.steps.begin(step);
        // Of a capture that is left open nothing can be freed any more.
        let done = catch_unwind(AssertUnwindSafe(|| operations(self)));
        let recording = self.steps.recording.take().expect("begun above");
        let graph = self.context.end_capture();
        done.unwrap_or_else(|panic| resume_unwind(panic))?;
        let Recording { needs, inputs, .. } = recording;
        Ok(Captured { shape: Shape::of(step), needs, inputs, graph: graph?, freed })
    }

    fn replay(&mut self, index: usize, step: &Step<'_>) -> Result<(), BackendError> {
        let mut captured = self.steps.graphs.remove(index);
        for (to, place) in captured.inputs.chunks_exact_mut(3).zip(places(step.spans)) {
            to.copy_from_slice(&place);
        }
        let rows = step.tokens.len();
        captured.inputs[3 * rows..4 * rows].copy_from_slice(step.tokens);
        self.bounce.send(&self.scratch.inputs, &captured.inputs)?;
        // SAFETY: no memory was freed since it was captured (`run_step`), so that every address in it is of what it was; the
        // launches in it were right for a step of this shape, and what they follow from beside it holds (`holds`).
        unsafe { captured.graph.launch() }?;
        self.steps.graphs.push(captured);
        Ok(())
    }
}
