//! Which experts a row chooses, and with what weight: one rule for every backend, so that all read the same weights.

use muse_format::Score;

use crate::Routing;

/// An expert that a row runs through.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Choice {
    pub expert: u32,
    pub weight: f32,
    /// What it was chosen by.
    key: f64,
}

/// Fills `chosen` with the experts of one row, in the order of their indices. `logits` are the router's products, one
/// an expert; `bias` is added to the scores to choose by, `scales` multiply the weights. Of equal scores the lower index is chosen. Where scores are
/// NaN the choice is any, of experts that differ.
///
/// # Panics
/// If there are fewer logits than places in `chosen`, or another number of biases or scales.
pub(crate) fn choose(
    chosen: &mut [Choice],
    logits: &[f32],
    [bias, scales]: [Option<&[f32]>; 2],
    routing: &Routing,
) {
    let fits = |vector: Option<&[f32]>| vector.is_none_or(|vector| vector.len() == logits.len());
    assert!(chosen.len() <= logits.len() && fits(bias) && fits(scales));
    let score = scores(logits, routing.score);
    let key = |e: usize| score(logits[e]) + bias.map_or(0.0, |bias| f64::from(bias[e]));
    let mut found = 0;
    for e in 0..logits.len() {
        let key = key(e);
        let better = chosen[..found].iter().position(|other| key > other.key).unwrap_or(found);
        if better < chosen.len() {
            found = (found + 1).min(chosen.len());
            chosen[better..found].rotate_right(1);
            chosen[better] = Choice { expert: e as u32, weight: 0.0, key };
        }
    }
    chosen.sort_unstable_by_key(|choice| choice.expert);
    let weight = |choice: &Choice| score(logits[choice.expert as usize]);
    let total: f64 = if routing.normalise { chosen.iter().map(weight).sum() } else { 1.0 };
    let scale = f64::from(routing.scale) / total;
    for choice in chosen {
        let own = scales.map_or(1.0, |scales| f64::from(scales[choice.expert as usize]));
        choice.weight = (scale * weight(choice) * own) as f32;
    }
}

/// Tells which experts rows will run through in [`Backend::experts`](crate::Backend::experts), before they do.
#[derive(Debug)]
pub struct Chooser {
    /// One row's.
    chosen: Vec<Choice>,
    routing: Routing,
}

impl Chooser {
    /// For mixtures of which each row runs through `used` experts.
    pub fn new(used: usize, routing: Routing) -> Self {
        Self { chosen: vec![Choice::default(); used], routing }
    }

    /// Sets the marks of the experts that any row of `logits`, `(rows, experts)`, chooses; `bias` is
    /// [`Mixture::choice_bias`](crate::Mixture::choice_bias).
    ///
    /// # Panics
    /// If there are fewer experts than a row runs through, or another number of biases.
    pub fn mark(&mut self, marks: &mut [bool], logits: &[f32], bias: Option<&[f32]>) {
        for logits in logits.chunks_exact(marks.len()) {
            choose(&mut self.chosen, logits, [bias, None], &self.routing);
            self.chosen.iter().for_each(|choice| marks[choice.expert as usize] = true);
        }
    }
}

/// The score of a logit among `logits`.
fn scores(logits: &[f32], kind: Score) -> impl Fn(f32) -> f64 {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp = move |x: f32| f64::from(x - max).exp();
    let total: f64 = if kind == Score::Softmax { logits.iter().map(|x| exp(*x)).sum() } else { 0.0 };
    move |x| match kind {
        Score::Softmax => exp(x) / total,
        Score::Sigmoid => 1.0 / (1.0 + (-f64::from(x)).exp()),
    }
}

#[cfg(test)]
mod tests {
    use muse_format::Activation;

    use super::*;

    const SOFTMAX: Routing = Routing {
        score: Score::Softmax,
        normalise: false,
        scale: 1.0,
        weigh_input: false,
        activation: Activation::Silu,
    };

    fn chosen(used: usize, logits: &[f32], bias: Option<&[f32]>, routing: &Routing) -> Vec<(u32, f32)> {
        let mut chosen = vec![Choice::default(); used];
        choose(&mut chosen, logits, [bias, None], routing);
        chosen.iter().map(|choice| (choice.expert, choice.weight)).collect()
    }

    #[test]
    fn the_best_are_chosen_and_weighted_by_the_rule() {
        // exp gives 1, 3, 2, 4 of 10.
        let logits = [1.0_f32, 3.0, 2.0, 4.0].map(f32::ln);
        let normalised = Routing { normalise: true, scale: 2.0, ..SOFTMAX };
        let sigmoid = Routing { score: Score::Sigmoid, ..SOFTMAX };
        let bias = [0.0, 0.0, 0.5, -9.0];
        let cases = [
            ("softmax", chosen(2, &logits, None, &SOFTMAX), [(1, 0.3), (3, 0.4)]),
            ("normalised", chosen(2, &logits, None, &normalised), [(1, 6.0 / 7.0), (3, 8.0 / 7.0)]),
            ("sigmoid", chosen(2, &logits, None, &sigmoid), [(1, 0.75), (3, 0.8)]),
            ("a bias chooses only", chosen(2, &logits, Some(&bias), &sigmoid), [(1, 0.75), (2, 2.0 / 3.0)]),
            ("equals", chosen(2, &[1.0, 1.0, 1.0, 1.0], None, &SOFTMAX), [(0, 0.25), (1, 0.25)]),
        ];
        for (name, actual, expected) in cases {
            for (a, e) in actual.iter().zip(&expected) {
                let close = (a.1 - e.1).abs() <= 2.0 * f32::EPSILON;
                assert!(a.0 == e.0 && close, "{name}: {actual:?}, not {expected:?}");
            }
        }
        let all = chosen(4, &logits, None, &SOFTMAX);
        assert_eq!(all.iter().map(|c| c.0).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn marks_are_of_the_experts_of_all_rows() {
        let mut marks = [false; 4];
        let rows = [0.1, 0.9, 0.2, 0.3, 0.9, 0.1, 0.3, 0.2];
        Chooser::new(1, SOFTMAX).mark(&mut marks, &rows, None);
        assert_eq!(marks, [true, true, false, false]);
        Chooser::new(1, SOFTMAX).mark(&mut marks, &rows, Some(&[0.0, 0.0, 9.0, 0.0]));
        assert_eq!(marks, [true, true, true, false]);
    }

    #[test]
    fn any_numbers_choose_experts_that_differ() {
        for logits in [
            [f32::NAN; 5],
            [f32::NAN, 1.0, f32::NAN, 2.0, f32::INFINITY],
            [f32::NEG_INFINITY; 5],
            [f32::MAX, -f32::MAX, f32::INFINITY, 0.0, 1.0],
        ] {
            for score in [Score::Softmax, Score::Sigmoid] {
                let routing = Routing { score, normalise: true, ..SOFTMAX };
                let chosen = chosen(3, &logits, None, &routing);
                assert!(chosen.is_sorted_by(|a, b| a.0 < b.0) && chosen[2].0 < 5, "{logits:?}: {chosen:?}");
            }
        }
    }
}
