//! Whether to verify several tokens of an answer in one step, and how many.
//!
//! A proposal costs rows, and each row that is right saves a step. What a row costs is measured (`costs.rs`); how
//! often it is right is counted for each answer, also where nothing was proposed: every expected token either came
//! or did not. So an answer that does not repeat anything is never slowed down to find that out.
//!
//! Verification is exact (Leviathan et al. 2023, <https://arxiv.org/abs/2211.17192>; Chen et al. 2023,
//! <https://arxiv.org/abs/2302.01318>). The proposal is deterministic, so their rejection rule can be had by
//! drawing every token from its own row, as without a proposal, and going on while it is the proposed one: the draw
//! that differs is itself the next token. One draw a token leaves the random numbers where they would have been.

use super::costs::Costs;
use crate::plan::PROPOSED_MAX;

/// How much better than a step without proposals a step must promise to be.
const GAIN_MIN: f64 = 1.04;
/// What an answer keeps at least of its speed while another's proposals make its steps longer.
const SHARE_MIN: f64 = 0.97;
/// A token is not proposed where it and all before it come less often than this.
const CHANCE_MIN: f64 = 0.15;

/// Matched tokens from which the next class starts, and the share of expected tokens that come there before any
/// was seen.
const CLASSES: [(u32, f32); 6] = [(0, 0.25), (3, 0.35), (4, 0.5), (6, 0.6), (9, 0.75), (16, 0.85)];
/// Expected tokens that the shares above weigh.
const PRIOR: f32 = 3.0;
/// How much older tokens weigh beside each newer one.
const KEPT: f32 = 0.97;

/// How often an answer went on as expected, by how many tokens agreed before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acceptance {
    /// Of each class: tokens that came and tokens expected, older ones counting less.
    classes: [(f32, f32); CLASSES.len()],
}

impl Acceptance {
    pub(super) fn new() -> Self {
        Self { classes: CLASSES.map(|(_, share)| (PRIOR * share, PRIOR)) }
    }

    /// A token was expected after `matched` that agreed.
    pub(super) fn note(&mut self, matched: u32, came: bool) {
        let (hits, expected) = &mut self.classes[class(matched)];
        *hits = *hits * KEPT + f32::from(u8::from(came));
        *expected = *expected * KEPT + 1.0;
    }

    /// Tokens that a proposal of 1, 2 and so on adds on average, where `matched` agree now; not longer than
    /// `length_max`, nor than pays.
    pub(super) fn gains(&self, matched: u32, length_max: u32) -> Gains {
        let mut gains = Gains::default();
        let mut chance = 1.0;
        while matched > 0 && gains.length < length_max.min(PROPOSED_MAX) {
            let (hits, expected) = self.classes[class(matched + gains.length)];
            chance *= f64::from(hits / expected);
            if chance < CHANCE_MIN {
                break;
            }
            gains.tokens[gains.length as usize + 1] = gains.of(gains.length) + chance;
            gains.length += 1;
        }
        gains
    }
}

fn class(matched: u32) -> usize {
    CLASSES.iter().rposition(|(from, _)| *from <= matched).expect("the first class starts at 0")
}

/// What proposals of one answer promise.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Gains {
    /// Longest proposal; 0 for none.
    length: u32,
    /// Proposed whatever it costs.
    always: bool,
    /// By length.
    tokens: [f64; PROPOSED_MAX as usize + 1],
}

impl Gains {
    /// A proposal of `length_max` tokens, whatever it costs.
    pub(super) fn always(length_max: u32) -> Self {
        Self { length: length_max.min(PROPOSED_MAX), always: true, ..Self::default() }
    }

    /// The length of a proposal of at most `most`.
    fn length(&self, most: u32) -> u32 {
        self.length.min(most)
    }

    /// Tokens that a proposal of at most `most` adds.
    fn of(&self, most: u32) -> f64 {
        self.tokens[self.length(most) as usize]
    }
}

/// How many tokens to propose for each answer of a step that gives every one a row and has room for `room` more.
pub(super) fn lengths(answers: &[Gains], mut room: u32, costs: &Costs) -> Vec<u32> {
    if answers.iter().any(|gains| gains.always) {
        let take = |gains: &Gains| {
            let length = if gains.always { gains.length(room) } else { 0 };
            room -= length;
            length
        };
        return answers.iter().map(take).collect();
    }
    let most = longest(answers, room, costs);
    answers.iter().map(|gains| gains.length(most)).collect()
}

/// The longest proposal that promises most tokens a second: 0 unless it is clearly more than without, and unless
/// every answer stays as fast as it was.
fn longest(answers: &[Gains], room: u32, costs: &Costs) -> u32 {
    let plain = answers.len() as u32;
    let Some(before) = costs.seen(plain) else { return 0 };
    let mut best = (GAIN_MIN, 0);
    for most in 1..=answers.iter().map(|gains| gains.length).max().unwrap_or(0) {
        let added: u32 = answers.iter().map(|gains| gains.length(most)).sum();
        let Some(seconds) = costs.expect(plain, plain + added).filter(|_| added <= room) else { break };
        let slower = seconds / before;
        let tokens = f64::from(plain) + answers.iter().map(|gains| gains.of(most)).sum::<f64>();
        let least = answers.iter().map(|gains| 1.0 + gains.of(most)).fold(f64::INFINITY, f64::min);
        let gain = tokens / f64::from(plain) / slower;
        if gain > best.0 && least / slower >= SHARE_MIN {
            best = (gain, most);
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Costs of an engine whose step takes `base + row * rows` ms, seen at 1, 2, 4, 8 and 13 rows.
    fn costs(base: u64, row: u64) -> Costs {
        let mut costs = Costs::new(16);
        for rows in [1, 2, 4, 8, 13] {
            costs.note(rows, Duration::from_millis(base + row * u64::from(rows)));
        }
        costs
    }

    /// An answer that went on as expected `hits` times of `all`, after any number of agreeing tokens.
    fn seen(hits: u32, all: u32) -> Acceptance {
        let mut acceptance = Acceptance::new();
        for at in 0..all {
            let came = at * hits / all != (at + 1) * hits / all;
            (0..40).for_each(|matched| acceptance.note(matched, came));
        }
        acceptance
    }

    #[test]
    fn proposals_are_made_where_they_pay_and_not_elsewhere() {
        let choose = |acceptance: Acceptance, costs: &Costs| {
            lengths(&[acceptance.gains(4, PROPOSED_MAX)], PROPOSED_MAX, costs)[0]
        };
        let (copy, edit, chat) = (seen(98, 100), seen(60, 100), seen(20, 100));
        assert_eq!(choose(copy, &costs(100, 0)), PROPOSED_MAX, "rows are free");
        assert_eq!(choose(copy, &costs(0, 100)), 0, "a row costs a step");
        assert!(choose(copy, &costs(75, 25)) > 5);
        assert!((1..5).contains(&choose(edit, &costs(75, 25))));
        assert_eq!(choose(chat, &costs(75, 25)), 0, "0.2 tokens for a quarter of a step");
        assert!((1..3).contains(&choose(chat, &costs(100, 1))));
        assert_eq!(choose(copy, &Costs::new(16)), 0, "no step was seen yet");
    }

    #[test]
    fn what_an_answer_repeats_is_learned_and_unlearned() {
        let mut acceptance = Acceptance::new();
        let promised = |acceptance: &Acceptance| acceptance.gains(8, 4).of(4);
        let fresh = promised(&acceptance);
        (0..50).for_each(|_| (0..32).for_each(|matched| acceptance.note(matched, true)));
        let good = promised(&acceptance);
        assert!(good > 3.5 && good > fresh, "{good} of 4, {fresh} before");
        (0..50).for_each(|_| (0..32).for_each(|matched| acceptance.note(matched, false)));
        assert!(promised(&acceptance) < 0.5, "{}", promised(&acceptance));
        assert_eq!(acceptance.gains(0, 4).length, 0, "nothing is expected");
        assert_eq!(seen(1, 1).gains(8, 0).length, 0, "no token is left");
    }

    #[test]
    fn an_answer_is_not_slowed_down_by_anothers_proposals() {
        let (copy, chat) = (seen(98, 100).gains(8, 12), seen(0, 100).gains(8, 12));
        let costs = |row| {
            let mut costs = Costs::new(16);
            for rows in [2, 4, 8, 16] {
                costs.note(rows, Duration::from_millis(200 + row * u64::from(rows)));
            }
            costs
        };
        assert_eq!(
            lengths(&[copy, chat], 14, &costs(20)),
            [0, 0],
            "it would be worth it for the first alone"
        );
        assert!(lengths(&[copy, copy], 14, &costs(20))[0] > 2);
        assert_eq!(lengths(&[copy, chat], 14, &costs(0)), [12, 0]);
        assert_eq!(lengths(&[copy, chat], 5, &costs(0)), [5, 0], "room for five");
        assert_eq!(lengths(&[copy, copy], 5, &costs(0)), [2, 2]);
        let always = Gains::always(7);
        assert_eq!(lengths(&[always, copy, always], 10, &costs(500)), [7, 0, 3]);
    }
}
