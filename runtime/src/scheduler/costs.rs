//! How long a step takes by its rows, as this engine's own steps say.

use std::time::Duration;

/// Steps after which a time is out of date: caches have filled, clocks and neighbours have changed.
const STEPS_VALID: u64 = 1024;
/// What a row is taken to add to a step while no larger step was seen, as a share of it. Low, so that it is tried.
const ROW_SHARE: f64 = 0.1;
/// Weight of a new time beside what is known.
const NEW_SHARE: f64 = 0.2;

#[derive(Debug, Clone, Copy)]
struct Known {
    seconds: f64,
    /// The step that it was last seen in.
    step: u64,
}

/// Times of steps in which every row is one token of an answer and its logits are wanted.
#[derive(Debug)]
pub(super) struct Costs {
    /// By rows.
    known: Vec<Option<Known>>,
    steps: u64,
}

impl Costs {
    /// For steps of up to `rows_max` rows.
    pub(super) fn new(rows_max: u32) -> Self {
        Self { known: vec![None; rows_max as usize + 1], steps: 0 }
    }

    /// A step of `rows` rows took `time`.
    pub(super) fn note(&mut self, rows: u32, time: Duration) {
        self.steps += 1;
        let step = self.steps;
        let before = self.seen(rows);
        let Some(known) = self.known.get_mut(rows as usize) else { return };
        // A step that was held up counts as twice as long at most.
        let time = time.as_secs_f64();
        let seconds = before.map_or(time, |old| old + NEW_SHARE * (time.min(2.0 * old) - old));
        *known = Some(Known { seconds, step });
    }

    /// Seconds of a step of `rows` rows, where one was seen lately.
    pub(super) fn seen(&self, rows: u32) -> Option<f64> {
        let known = (*self.known.get(rows as usize)?)?;
        (self.steps < known.step + STEPS_VALID).then_some(known.seconds)
    }

    /// Seconds of a step of `rows` rows, where any was seen: by the nearest below, or else by the nearest above. None for 0.
    pub(super) fn about(&self, rows: u32) -> Option<f64> {
        let below = (1..=rows).find(|rows| self.seen(*rows).is_some());
        match below {
            Some(base) => self.expect(base, rows),
            None if rows > 0 => (rows..self.known.len() as u32).find_map(|rows| self.seen(rows)),
            None => None,
        }
    }

    /// Seconds of a step of `rows` rows where one of `base`, fewer, was seen: seen too, or on the line between the
    /// steps seen next to it, or a little above the largest.
    pub(super) fn expect(&self, base: u32, rows: u32) -> Option<f64> {
        let near = |rows: u32| self.seen(rows).map(|seconds| (f64::from(rows), seconds));
        self.seen(base)?;
        let (below, seconds) = (base..=rows).rev().find_map(near)?;
        let further = f64::from(rows) - below;
        let slope = match (rows + 1..self.known.len() as u32).find_map(near) {
            Some((above, longer)) => (longer - seconds) / (above - below),
            None => ROW_SHARE * seconds,
        };
        Some(seconds + further * slope.max(0.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(time: u64) -> Duration {
        Duration::from_millis(time)
    }

    fn close(actual: Option<f64>, expected: f64) {
        let actual = actual.expect("known");
        assert!((actual - expected).abs() < 1e-9, "{actual} is not {expected}");
    }

    #[test]
    fn what_was_not_seen_is_between_what_was() {
        let mut costs = Costs::new(16);
        assert_eq!(costs.expect(1, 4), None, "nothing is known of a plain step");
        costs.note(1, ms(10));
        close(costs.expect(1, 1), 0.010);
        close(costs.expect(1, 4), 0.013);
        costs.note(8, ms(24));
        close(costs.expect(1, 8), 0.024);
        close(costs.expect(1, 4), 0.016);
        close(costs.expect(1, 10), 0.024 * 1.2);
        costs.note(6, ms(9));
        close(costs.expect(1, 4), 0.010);
        costs.note(17, ms(9));
        assert_eq!(costs.expect(17, 17), None, "more rows than a step has");
        close(costs.about(1), 0.010);
        close(costs.about(4), 0.010);
        let mut costs = Costs::new(4);
        assert_eq!(costs.about(2), None);
        costs.note(3, ms(30));
        close(costs.about(2), 0.030);
        assert_eq!((costs.about(0), costs.about(9)), (None, costs.expect(3, 9)));
    }

    #[test]
    fn one_slow_step_is_soon_forgotten_and_old_times_at_once() {
        let mut costs = Costs::new(4);
        costs.note(1, ms(10));
        costs.note(1, ms(5000));
        close(costs.seen(1), 0.012);
        (0..30).for_each(|_| costs.note(1, ms(10)));
        assert!(costs.seen(1).unwrap() < 0.01001);
        costs.note(2, ms(50));
        (1..STEPS_VALID).for_each(|_| costs.note(1, ms(10)));
        assert!(costs.seen(2).is_some());
        costs.note(1, ms(10));
        assert_eq!(costs.seen(2), None);
        costs.note(2, ms(11));
        close(costs.seen(2), 0.011);
    }
}
