//! Whether to verify several tokens of an answer in one step, and how many.
//!
//! A proposal costs rows, and each row that is right saves a step. What a row costs is measured (`costs.rs`); how
//! often it is right is counted for each answer, also where nothing was proposed: every expected token either came
//! or did not. So an answer that does not repeat anything is never slowed down to find that out.
//!
//! A drafter's blocks cost time of their own, of a chain for each token, which is measured too, and what would have come of a block is known only
//! where it was asked for. So an answer begins with what those before it saw, and where that does not pay, a block is
//! tried now and then.
//!
//! Verification is exact (Leviathan et al. 2023, <https://arxiv.org/abs/2211.17192>; Chen et al. 2023,
//! <https://arxiv.org/abs/2302.01318>). The proposal is deterministic, so their rejection rule can be had by
//! drawing every token from its own row, as without a proposal, and going on while it is the proposed one: the draw
//! that differs is itself the next token. One draw a token leaves the random numbers where they would have been.

use super::costs::Costs;
use super::drafting::Drafting;
use crate::plan::PROPOSED_MAX;

/// How much better than a step without proposals a step must promise to be.
const GAIN_MIN: f64 = 1.04;
/// What an answer keeps at least of its speed while another's proposals make its steps longer.
const SHARE_MIN: f64 = 0.97;
/// A token is not proposed where it and all before it come less often than this.
const CHANCE_MIN: f64 = 0.15;

/// What expects the next tokens of one answer.
pub(super) trait Proposer {
    /// Forgets everything; the answer has `tokens`.
    fn restart(&mut self, tokens: &[u32]);

    /// Reads what came to `tokens`. `tell` hears of each token that was expected, by which evidence, and whether it came.
    fn read(&mut self, tokens: &[u32], tell: &mut dyn FnMut(u32, bool));

    /// Appends the `count` tokens that are expected after `tokens`, all of which were read.
    fn propose(&self, tokens: &[u32], count: u32, out: &mut Vec<u32>);
}

/// Evidence from which a class starts, and the share of expected tokens that come there before any was seen.
type Classes = [(u32, f32); 6];
/// By how many tokens agreed before.
const REPEATS: Classes = [(0, 0.25), (3, 0.35), (4, 0.5), (6, 0.6), (9, 0.75), (16, 0.85)];
/// By the place in a block, where all before it came.
const BLOCKS: Classes = [(0, 0.75), (1, 0.7), (2, 0.7), (4, 0.65), (6, 0.65), (9, 0.65)];
/// Expected tokens that the shares above weigh.
const PRIOR: f32 = 3.0;
/// How much older tokens weigh beside each newer one.
const KEPT: f32 = 0.97;
/// An answer's tokens without a block after which one is tried.
const TRIED_AFTER: u32 = 256;

/// How often an answer went on as expected, by the evidence for it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Acceptance {
    classes: &'static Classes,
    /// Of each class: tokens that came and tokens expected, older ones counting less.
    seen: [(f32, f32); 6],
}

impl Acceptance {
    fn of(classes: &'static Classes) -> Self {
        Self { classes, seen: classes.map(|(_, share)| (PRIOR * share, PRIOR)) }
    }

    /// Of what an answer repeats.
    pub(super) fn of_repeats() -> Self {
        Self::of(&REPEATS)
    }

    /// Of what a drafter expects.
    pub(super) fn of_blocks() -> Self {
        Self::of(&BLOCKS)
    }

    /// What another answer begins with.
    pub(super) fn again(&self) -> Self {
        Self { seen: self.seen.map(|(hits, expected)| (PRIOR * hits / expected, PRIOR)), ..*self }
    }

    /// As before anything was seen, after so many tokens without a block.
    pub(super) fn tried_after(self, tokens: u32) -> Self {
        if tokens < TRIED_AFTER { self } else { Self::of(self.classes) }
    }

    /// A token was expected by `evidence`.
    pub(super) fn note(&mut self, evidence: u32, came: bool) {
        let (hits, expected) = &mut self.seen[class(self.classes, evidence)];
        *hits = *hits * KEPT + f32::from(u8::from(came));
        *expected = *expected * KEPT + 1.0;
    }

    /// Tokens that a proposal of 1, 2 and so on adds on average, where `evidence` is for the first; not longer than
    /// `length_max`, nor than pays.
    pub(super) fn gains(&self, evidence: u32, length_max: u32) -> Gains {
        let mut gains = Gains::default();
        let mut chance = 1.0;
        while gains.length < length_max.min(PROPOSED_MAX) {
            let (hits, expected) = self.seen[class(self.classes, evidence + gains.length)];
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

fn class(classes: &Classes, evidence: u32) -> usize {
    classes.iter().rposition(|(from, _)| *from <= evidence).expect("the first class starts at 0")
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

/// Who proposes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// The answer's own tokens.
    Repeats,
    Drafter,
}

/// What is proposed for one answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Proposal {
    pub(super) source: Source,
    /// 0 for none.
    pub(super) length: u32,
}

impl Proposal {
    pub(super) const NONE: Self = Self { source: Source::Repeats, length: 0 };
}

/// What may be proposed for one answer by each source.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Offers {
    pub(super) repeats: Gains,
    pub(super) drafter: Gains,
}

impl Offers {
    /// The one that promises more.
    fn better(&self) -> (Source, Gains) {
        if self.drafter.of(PROPOSED_MAX) > self.repeats.of(PROPOSED_MAX) {
            (Source::Drafter, self.drafter)
        } else {
            (Source::Repeats, self.repeats)
        }
    }

    /// What is proposed whatever it costs.
    fn always(&self) -> (Source, Gains) {
        if self.repeats.always { (Source::Repeats, self.repeats) } else { (Source::Drafter, self.drafter) }
    }
}

/// What to propose for each answer of a step that gives every one a row and has room for `room` more.
pub(super) fn choose(answers: &[Offers], mut room: u32, costs: &Costs, drafts: &Drafting) -> Vec<Proposal> {
    let proposal = |(source, gains): &(Source, Gains), most: u32| Proposal {
        source: *source,
        length: gains.length(most),
    };
    let always: Vec<_> = answers.iter().map(Offers::always).collect();
    if always.iter().any(|(_, gains)| gains.always) {
        let take = |offer: &(Source, Gains)| {
            let taken = proposal(offer, if offer.1.always { room } else { 0 });
            room -= taken.length;
            taken
        };
        return always.iter().map(take).collect();
    }
    let repeats: Vec<_> = answers.iter().map(|offers| (Source::Repeats, offers.repeats)).collect();
    let better: Vec<_> = answers.iter().map(Offers::better).collect();
    let [alone, with] = [&repeats, &better].map(|offers| longest(offers, room, costs, drafts));
    let (offers, most) = if with.0 > alone.0 { (better, with.1) } else { (repeats, alone.1) };
    offers.iter().map(|offer| proposal(offer, most)).collect()
}

/// The longest proposal that promises most tokens a second, and how many times as many as without: 0 unless it is clearly
/// more, and unless every answer stays as fast as it was.
fn longest(answers: &[(Source, Gains)], room: u32, costs: &Costs, drafts: &Drafting) -> (f64, u32) {
    let plain = answers.len() as u32;
    let mut best = (GAIN_MIN, 0);
    let Some(before) = costs.seen(plain) else { return best };
    let gains = || answers.iter().map(|(_, gains)| gains);
    let drafted = answers.iter().filter(|(source, gains)| *source == Source::Drafter && gains.length > 0);
    let drafted = drafted.map(|(_, gains)| gains.length);
    let (count, most_drafted) = (drafted.clone().count() as u32, drafted.max().unwrap_or(0));
    for most in 1..=gains().map(|gains| gains.length).max().unwrap_or(0) {
        let added: u32 = gains().map(|gains| gains.length(most)).sum();
        let Some(seconds) = costs.expect(plain, plain + added).filter(|_| added <= room) else { break };
        let slower = (seconds + drafts.expect(count, most.min(most_drafted))) / before;
        let tokens = f64::from(plain) + gains().map(|gains| gains.of(most)).sum::<f64>();
        let least = gains().map(|gains| 1.0 + gains.of(most)).fold(f64::INFINITY, f64::min);
        let gain = tokens / f64::from(plain) / slower;
        if gain > best.0 && least / slower >= SHARE_MIN {
            best = (gain, most);
        }
    }
    best
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
        let mut acceptance = Acceptance::of_repeats();
        for at in 0..all {
            let came = at * hits / all != (at + 1) * hits / all;
            (0..40).for_each(|matched| acceptance.note(matched, came));
        }
        acceptance
    }

    /// Lengths where there is no drafter.
    fn lengths(answers: &[Gains], room: u32, costs: &Costs) -> Vec<u32> {
        let offers: Vec<_> =
            answers.iter().map(|repeats| Offers { repeats: *repeats, ..Offers::default() }).collect();
        choose(&offers, room, costs, &Drafting::new(4, false))
            .iter()
            .map(|proposal| proposal.length)
            .collect()
    }

    /// Times of one block, of a drafter that was seen.
    fn drafting(ms: u64) -> Drafting {
        let mut drafting = Drafting::new(4, false);
        drafting.note(1, 6, Duration::from_millis(ms));
        drafting
    }

    /// A drafter's blocks of which `hits` of `all` tokens came at every place.
    fn drafted(hits: u32, all: u32) -> Acceptance {
        Acceptance { classes: &BLOCKS, ..seen(hits, all) }
    }

    #[test]
    fn a_block_is_asked_for_where_it_pays_and_the_answer_repeats_less() {
        let one = |offers: Offers, costs: &Costs, drafts: &Drafting| choose(&[offers], 12, costs, drafts)[0];
        let (good, bad) = (drafted(90, 100).gains(0, 12), drafted(10, 100).gains(0, 12));
        let (copy, chat) = (seen(98, 100).gains(4, 12), seen(20, 100).gains(4, 12));
        let steps = costs(75, 5);
        let of = |repeats, drafter| Offers { repeats, drafter };
        let drafts = one(of(chat, good), &steps, &drafting(20));
        assert!(drafts.source == Source::Drafter && drafts.length > 4, "{drafts:?}");
        assert_eq!(one(of(copy, good), &steps, &drafting(20)).source, Source::Repeats, "costs nothing");
        assert_eq!(one(of(Gains::default(), good), &steps, &drafting(2000)).length, 0, "dear blocks");
        assert_eq!(one(of(Gains::default(), bad), &steps, &drafting(20)).length, 0, "wrong blocks");
        assert!(one(of(Gains::default(), good), &steps, &Drafting::new(4, false)).length > 0, "to be seen");
        assert_eq!(one(of(Gains::default(), good), &Costs::new(16), &drafting(20)).length, 0);
        // Where a block would slow down an answer that gets none.
        let both = [of(Gains::default(), good), Offers::default()];
        let slow = choose(&both, 12, &costs(100, 20), &drafting(100));
        assert!(slow.iter().all(|proposal| proposal.length == 0), "{slow:?}");
        let always = Gains::always(6);
        let lengths = |offers: Offers| one(offers, &Costs::new(16), &Drafting::new(4, false));
        assert_eq!(lengths(of(Gains::default(), always)), Proposal { source: Source::Drafter, length: 6 });
        assert_eq!(lengths(of(always, always)).source, Source::Repeats);
    }

    #[test]
    fn a_chain_is_as_long_as_its_passes_pay() {
        let offers = [Offers { drafter: drafted(70, 100).gains(0, 4), ..Offers::default() }];
        let length = |ms: u64| {
            let mut drafts = Drafting::new(4, true);
            drafts.note(1, 2, Duration::from_millis(2 * ms));
            choose(&offers, 12, &costs(95, 5), &drafts)[0].length
        };
        // Tokens promise 0.7, 0.49, 0.34 and 0.24 of a step of 100 ms more, for a row and a pass each.
        assert_eq!([1, 20, 35, 70].map(length), [4, 3, 2, 0]);
        let mut block = Drafting::new(4, false);
        block.note(1, 4, Duration::from_millis(20));
        assert_eq!(choose(&offers, 12, &costs(95, 5), &block)[0].length, 4, "one pass for all");
    }

    #[test]
    fn an_answer_begins_with_what_others_saw_and_tries_again() {
        let seen = drafted(5, 100);
        let next = seen.again();
        assert!(next.gains(0, 12).of(1) < 0.15, "{next:?}");
        let tried = next.tried_after(TRIED_AFTER);
        assert!(next.tried_after(TRIED_AFTER - 1).gains(0, 12).length == 0 && tried.gains(0, 12).length > 2);
        let mut next = next;
        (0..20).for_each(|_| next.note(0, true));
        assert!(next.gains(0, 12).of(1) > 0.8, "what others saw weighs little: {next:?}");
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
        let mut acceptance = Acceptance::of_repeats();
        let promised = |acceptance: &Acceptance| acceptance.gains(8, 4).of(4);
        let fresh = promised(&acceptance);
        (0..50).for_each(|_| (0..32).for_each(|matched| acceptance.note(matched, true)));
        let good = promised(&acceptance);
        assert!(good > 3.5 && good > fresh, "{good} of 4, {fresh} before");
        (0..50).for_each(|_| (0..32).for_each(|matched| acceptance.note(matched, false)));
        assert!(promised(&acceptance) < 0.5, "{}", promised(&acceptance));
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
