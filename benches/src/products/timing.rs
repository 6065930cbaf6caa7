//! Medians of the device's own times.

use std::sync::atomic::{AtomicU32, Ordering};

use muse_kernels::{Backend, BackendError, CudaBackend, CudaBuffer, CudaPeak, Pass, Span, Step};

use super::{Extent, put};
use crate::measure::median;
use crate::report::BenchError;

/// What is timed.
pub(super) type Operations<'a> = &'a mut dyn FnMut(&mut CudaBackend) -> Result<(), BackendError>;

/// Operations of a prompt that are timed together, as torch_products.py does.
const IN_A_ROW: u32 = 4;

/// Steps that were timed, which tells those of the same rows apart.
static STEPS: AtomicU32 = AtomicU32::new(0);

/// Seconds of `operations`, and whether they ran as a graph: a step whose rows stand at `spans`.
pub(super) fn step(
    cuda: &mut CudaBackend,
    spans: &[&[Span]],
    rounds: u32,
    operations: Operations<'_>,
) -> Result<(f64, bool), BenchError> {
    let number = STEPS.fetch_add(1, Ordering::Relaxed);
    let step = Step { pass: Pass::Forward, spans, lists: &[], fixed: &[&[number]] };
    // The first time launches one by one, the second captures.
    cuda.step(&step, operations)?;
    let before = cuda.captures();
    cuda.step(&step, operations)?;
    let graph = cuda.captures() > before;
    Ok((seconds(cuda, rounds, &mut |cuda| cuda.step(&step, operations))?, graph))
}

/// Seconds of `operations`, launched one by one.
fn seconds(cuda: &mut CudaBackend, rounds: u32, operations: Operations<'_>) -> Result<f64, BenchError> {
    // The first brings clocks up.
    cuda.time(&mut *operations)?;
    let times: Result<Vec<f64>, BackendError> =
        (0..rounds.max(1)).map(|_| cuda.time(&mut *operations)).collect();
    Ok(median(times?).expect("there is a round"))
}

/// Seconds of `operation`, one of several in a row: the host launches the others while the device is at the first.
pub(super) fn each(
    cuda: &mut CudaBackend,
    rounds: u32,
    operation: Operations<'_>,
) -> Result<f64, BenchError> {
    let all = seconds(cuda, rounds, &mut |cuda| (0..IN_A_ROW).try_for_each(|_| operation(cuda)))?;
    Ok(all / f64::from(IN_A_ROW))
}

/// Operations a second of products of tiles that lie in registers, the best of the rounds.
pub(super) fn peak(cuda: &mut CudaBackend, peak: CudaPeak, extent: &Extent) -> Result<f64, BenchError> {
    let mut out = cuda.buffer(cuda.probe_len())?;
    let (mut best, mut operations) = (0.0_f64, 0);
    for _ in 0..=extent.rounds {
        let seconds = cuda.time(|cuda| {
            operations = cuda.probe_peak(&mut out, peak, extent.peak_rounds)?;
            Ok(())
        })?;
        best = best.max(operations as f64 / seconds);
    }
    Ok(best)
}

/// Seconds that an operation of a graph takes where it has nothing to do.
pub(super) fn launch(cuda: &mut CudaBackend, extent: &Extent) -> Result<f64, BenchError> {
    let (mut x, y) = (put(cuda, &[1.0])?, put(cuda, &[1.0])?);
    let span = [Span { slot: 0, start: 0, len: 1 }];
    let mut operations =
        |cuda: &mut CudaBackend| (0..extent.operations).try_for_each(|_| cuda.add(&mut x, &y, 1));
    let (seconds, _) = step(cuda, &[&span], extent.rounds, &mut operations)?;
    Ok(seconds / extent.operations as f64)
}

/// Makes all of `buffer` NaN.
pub(super) fn poison(cuda: &mut CudaBackend, buffer: &mut CudaBuffer, len: usize) -> Result<(), BenchError> {
    Ok(cuda.write(buffer, &vec![f32::NAN; len])?)
}

/// Refuses an output that was not written, or not with numbers.
pub(super) fn written(
    cuda: &mut CudaBackend,
    buffer: &CudaBuffer,
    len: usize,
    what: impl Fn() -> String,
) -> Result<(), BenchError> {
    let mut values = vec![0.0; len];
    cuda.read(buffer, &mut values)?;
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => Err(BenchError::Unwritten { what: what(), at, value: values[at] }),
    }
}
