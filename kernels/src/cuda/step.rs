//! Steps as graphs: the launches of a step of a few rows are captured once and launched together from then on.
//!
//! What differs between steps of one shape reaches kernels through memory: where rows stand, tokens, rows to gather, and
//! what spans do to recurrent states. It lies in what a graph reads of the host, beside numbers that do not differ, and goes
//! to the device in one copy before the graph. What an operation derives from it on the host, such as over how many blocks
//! attention is split, is noted as a [`Need`]: a graph is launched where all of its own hold, and another is captured where
//! none does.
//!
//! A graph is dropped when any memory of its device was freed since it was captured, so that no address in it is old. A step
//! that cannot be captured runs launch by launch.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use super::attention::Seen;
use super::backend::CudaBackend;
use super::driver::Graph;
use super::launch::FEW;
use super::recording::{Need, Recording, Recurrent, not_in_a_graph, numbers_of, places};
use super::scratch::GRAPHS_BYTES;
use crate::cache::row_count;
use crate::delta::stretches;
use crate::{BackendError, Pass, Span, Step};

/// Most rows of a step that is captured.
const ROWS_MAX: usize = 2 * FEW;
/// Graphs kept; the one that was not launched for longest is dropped for another.
const GRAPHS_MAX: usize = 16;
/// Shapes of steps that are known to have run.
const SHAPES_MAX: usize = 64;

/// All that a graph's launches follow from, but for what they read from memory.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Shape {
    pass: Pass,
    lens: Vec<Vec<u32>>,
    counts: Vec<usize>,
    fixed: Vec<Vec<u32>>,
}

fn lens(spans: &[Span]) -> impl Iterator<Item = u32> + '_ {
    spans.iter().map(|span| span.len)
}

impl Shape {
    fn of(step: &Step<'_>) -> Self {
        Self {
            pass: step.pass,
            lens: step.spans.iter().map(|spans| lens(spans).collect()).collect(),
            counts: step.lists.iter().map(|list| list.len()).collect(),
            fixed: step.fixed.iter().map(|fixed| fixed.to_vec()).collect(),
        }
    }

    fn is_of(&self, step: &Step<'_>) -> bool {
        let alike = self.pass == step.pass && self.lens.len() == step.spans.len();
        let spans = self.lens.iter().zip(step.spans);
        alike
            && spans.into_iter().all(|(own, spans)| own.iter().copied().eq(lens(spans)))
            && self.counts.iter().copied().eq(step.lists.iter().map(|list| list.len()))
            && self.fixed == step.fixed
    }
}

#[derive(Debug)]
struct Captured {
    shape: Shape,
    needs: Vec<Need>,
    recurrent: Option<Recurrent>,
    inputs: Vec<u32>, // of each spans (rows, 3), then of each list (count), then what operations put behind them
    graph: Graph,
    /// What the context had freed when it was captured.
    freed: u64,
    /// Bytes that the driver had less of when it was made.
    bytes: u64,
}

/// Graphs of a backend.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub(super) recording: Option<Recording>,
    /// The last launched is the last.
    graphs: Vec<Captured>,
    /// Graphs that were kept so far.
    pub(super) captures: u64,
    /// Shapes that have run, and whether they may be captured.
    known: Vec<(Shape, bool)>,
}

impl Steps {
    /// Refuses to go on where a step is being captured: the caller's launches follow from what differs between steps.
    pub(super) fn refuse(&self) -> Result<(), BackendError> {
        if self.recording.is_some() { Err(not_in_a_graph()) } else { Ok(()) }
    }

    /// Keeps a graph, in the place of those that were not launched for longest where there are too many or the driver took
    /// too much for them.
    fn keep(&mut self, captured: Captured) {
        let bytes = |graphs: &[Captured]| graphs.iter().map(|graph| graph.bytes).sum::<u64>();
        while self.graphs.len() == GRAPHS_MAX || bytes(&self.graphs) > GRAPHS_BYTES - captured.bytes {
            self.graphs.remove(0);
        }
        self.graphs.push(captured);
        self.captures += 1;
    }

    /// Notes that `step` has run, and whether it may be captured.
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
        let rows = step.spans.iter().map(|spans| row_count(spans)).max().unwrap_or(0);
        if !(1..=ROWS_MAX).contains(&rows) {
            return operations(self);
        }
        let freed = self.context.freed();
        self.steps.graphs.retain(|captured| captured.freed == freed);
        let own = |captured: &Captured| captured.shape.is_of(step) && self.holds(captured, step);
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
            Ok(captured) if captured.bytes <= GRAPHS_BYTES => {
                self.steps.keep(captured);
                self.replay(self.steps.graphs.len() - 1, step)
            }
            // Nothing of it ran. What is wrong beside it is said again.
            Ok(_) | Err(_) => {
                self.steps.note(step, false);
                operations(self)
            }
        }
    }

    fn holds(&self, captured: &Captured, step: &Step<'_>) -> bool {
        let recurrent = captured.recurrent.as_ref();
        recurrent.is_none_or(|recurrent| self.go_on(recurrent, step.spans[recurrent.spans]))
            && captured.needs.iter().all(|need| match need {
                Need::Below { list, count } => step.lists[*list].iter().all(|number| number < count),
                Need::Slots { spans, count } => step.spans[*spans].iter().all(|span| span.slot < *count),
                Need::Positions { spans, within } => {
                    step.spans[*spans].iter().all(|span| span.start + span.len <= *within)
                }
                Need::Splits(spans, own) => {
                    let seen = Seen::Plain.most(step.spans[*spans], &own.shape);
                    let met = if own.top > 0 { seen.min(own.top as usize) } else { seen };
                    seen <= own.capacity && self.splits(own.blocks, met) == own.splits
                }
            })
    }

    /// Whether all states hold the same of the slots of `spans`, from which those go on.
    fn go_on(&self, recurrent: &Recurrent, spans: &[Span]) -> bool {
        let first = &self.held[recurrent.states[0]];
        spans.iter().enumerate().all(|(i, span)| {
            let slot = span.slot as usize;
            let held = |state: &usize| self.held[*state].get(slot);
            let same = recurrent.states.iter().all(|state| held(state) == first.get(slot));
            let alone = spans[..i].iter().all(|other| other.slot != span.slot);
            same && alone && first.get(slot).is_some_and(|held| held.reaches(span.start))
        })
    }

    fn capture(
        &mut self,
        step: &Step<'_>,
        operations: &mut dyn FnMut(&mut Self) -> Result<(), BackendError>,
    ) -> Result<Captured, BackendError> {
        self.scratch.reserve_inputs()?;
        let freed = self.context.freed();
        let recording = Recording::new(step)?;
        let (free, _) = self.context.free_and_total()?;
        self.context.begin_capture()?;
        self.steps.recording = Some(recording);
        // Of a capture that is left open nothing can be freed any more.
        let done = catch_unwind(AssertUnwindSafe(|| operations(self)));
        let recording = self.steps.recording.take().expect("begun above");
        let graph = self.context.end_capture();
        done.unwrap_or_else(|panic| resume_unwind(panic))?;
        let (Recording { needs, recurrent, inputs, .. }, graph) = (recording, graph?);
        let bytes = free.saturating_sub(self.context.free_and_total()?.0);
        Ok(Captured { shape: Shape::of(step), needs, recurrent, inputs, graph, freed, bytes })
    }

    fn replay(&mut self, index: usize, step: &Step<'_>) -> Result<(), BackendError> {
        let mut captured = self.steps.graphs.remove(index);
        let rows = step.spans.iter().flat_map(|spans| places(spans));
        let numbers = rows.flatten().chain(step.lists.iter().flat_map(|list| list.iter().copied()));
        captured.inputs.iter_mut().zip(numbers).for_each(|(to, number)| *to = number);
        let mut done = Vec::new();
        if let Some(Recurrent { spans, at, undo, states }) = &captured.recurrent {
            done = stretches(&self.held[states[0]], *undo, step.spans[*spans]);
            let numbers = done.iter().flat_map(numbers_of);
            captured.inputs[*at..].iter_mut().zip(numbers).for_each(|(to, number)| *to = number);
        }
        self.bounce.send(&self.scratch.inputs, &captured.inputs)?;
        // SAFETY: no memory was freed since it was captured (`run_step`), so that every address in it is of what it was; the
        // launches in it were right for a step of this shape, and what they follow from beside it holds (`holds`).
        unsafe { captured.graph.launch() }?;
        if let Some(Recurrent { undo, states, .. }) = &captured.recurrent {
            for state in states {
                done.iter().for_each(|stretch| self.held[*state][stretch.slot] = stretch.held(*undo));
            }
        }
        self.steps.graphs.push(captured);
        Ok(())
    }
}
