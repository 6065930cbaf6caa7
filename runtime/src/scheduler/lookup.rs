//! What an answer says next if it repeats its prompt or itself: prompt lookup (Saxena 2023,
//! <https://github.com/apoorvumang/prompt-lookup-decoding>).
//!
//! The occurrence that is being repeated is followed token by token and looked for again only where it ends, as the
//! match models of data compressors do (Mahoney 2007, <https://www.mattmahoney.net/dc/#lpaq>). It reads the tokens
//! of one answer and nothing else.

use super::speculate::Proposer;

/// Tokens in a row whose repetition is looked for, the longest first.
const ORDERS: [usize; 2] = [4, 2];
/// Longer agreement counts as this.
const MATCHED_MAX: u32 = 32;
/// Most entries of a table, which then forgets the oldest of a very long context.
const ENTRIES_MAX: u32 = 1 << 16;

/// An index over one answer's tokens. Its size is set once.
#[derive(Debug)]
pub(super) struct Lookup {
    /// For each order, by hash: the position after the latest occurrence; 0 is none.
    latest: [Vec<u32>; ORDERS.len()],
    /// Tokens read.
    read: usize,
    /// Where the token stands that comes next in the occurrence followed; below `read`.
    next: usize,
    /// Tokens that agree before it; 0 where none is followed.
    matched: u32,
}

impl Lookup {
    /// For answers of up to `context` tokens, prompt included.
    pub(super) fn new(context: u32) -> Self {
        let entries = context.min(ENTRIES_MAX).next_power_of_two() as usize;
        Self { latest: ORDERS.map(|_| vec![0; entries]), read: 0, next: 0, matched: 0 }
    }

    /// Tokens that agree before the one that is expected; 0 where none is.
    pub(super) fn matched(&self) -> u32 {
        self.matched
    }

    /// Enters the last tokens, and follows an earlier occurrence of them where none is followed.
    fn index(&mut self, tokens: &[u32]) {
        for (order, table) in ORDERS.into_iter().zip(&mut self.latest) {
            let Some(start) = tokens.len().checked_sub(order) else { continue };
            let entry = hash(&tokens[start..]) & (table.len() - 1);
            let found = std::mem::replace(&mut table[entry], tokens.len() as u32) as usize;
            if self.matched == 0 && found > 0 {
                let same = agreement(&tokens[..found], tokens);
                if same >= order as u32 {
                    (self.next, self.matched) = (found, same);
                }
            }
        }
    }
}

impl Proposer for Lookup {
    fn restart(&mut self, tokens: &[u32]) {
        self.latest.iter_mut().for_each(|table| table.fill(0));
        (self.read, self.matched) = (0, 0);
        self.read(tokens, &mut |_, _| {});
    }

    /// Tokens that agreed.
    fn read(&mut self, tokens: &[u32], tell: &mut dyn FnMut(u32, bool)) {
        while self.read < tokens.len() {
            if self.matched > 0 {
                let came = tokens[self.next] == tokens[self.read];
                tell(self.matched, came);
                self.next += 1;
                self.matched = if came { MATCHED_MAX.min(self.matched + 1) } else { 0 };
            }
            self.read += 1;
            self.index(&tokens[..self.read]);
        }
    }

    /// A repetition that reaches the end of `tokens` goes on in what it repeats.
    fn propose(&self, tokens: &[u32], count: u32, out: &mut Vec<u32>) {
        debug_assert!(self.matched > 0 && self.read == tokens.len());
        let first = out.len();
        for at in self.next..self.next + count as usize {
            let token = tokens.get(at).copied().unwrap_or_else(|| out[first + at - tokens.len()]);
            out.push(token);
        }
    }
}

/// How many of the last tokens are the same.
fn agreement(a: &[u32], b: &[u32]) -> u32 {
    let pairs = a.iter().rev().zip(b.iter().rev());
    pairs.take(MATCHED_MAX as usize).take_while(|(a, b)| a == b).count() as u32
}

/// Fibonacci hashing of each token in turn.
fn hash(tokens: &[u32]) -> usize {
    let mix = |hash: u64, token: &u32| (hash ^ u64::from(*token)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let hash = tokens.iter().fold(0, |hash, token| mix(hash, token).rotate_right(29));
    hash as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{prop, prop_assert, prop_assert_eq, proptest};

    use super::{Lookup, MATCHED_MAX, Proposer};

    fn read(tokens: &[u32]) -> Lookup {
        let mut lookup = Lookup::new(64);
        lookup.restart(tokens);
        lookup
    }

    fn proposal(tokens: &[u32], count: u32) -> Vec<u32> {
        let mut out = vec![99];
        read(tokens).propose(tokens, count, &mut out);
        out.split_off(1)
    }

    #[test]
    fn what_followed_before_is_proposed() {
        assert_eq!(proposal(&[1, 2, 3, 4, 5, 1, 2], 3), [3, 4, 5]);
        assert_eq!(proposal(&[1, 2, 3, 1, 2, 4, 1, 2], 1), [4], "the latest occurrence");
        assert_eq!(proposal(&[1, 2, 3, 4, 5, 9, 3, 4, 6, 1, 2, 3, 4], 1), [5], "the longer one");
        assert_eq!(proposal(&[7, 8, 7, 8], 5), [7, 8, 7, 8, 7], "a loop goes round");
        assert_eq!(read(&[1, 2, 3, 4, 5, 6]).matched(), 0);
        assert_eq!(read(&[1, 2, 3, 4, 1, 2, 3]).matched(), 3);
    }

    #[test]
    fn an_occurrence_is_followed_until_it_ends() {
        let mut lookup = read(&[1, 2, 3, 4, 1, 2]);
        let mut told = Vec::new();
        lookup.read(&[1, 2, 3, 4, 1, 2, 3, 9, 5, 1, 2], &mut |matched, came| told.push((matched, came)));
        assert_eq!(told, [(2, true), (3, false)]);
        assert_eq!(lookup.matched(), 2);
        lookup.restart(&[5]);
        assert_eq!(lookup.matched(), 0, "nothing is left of the answer before");
        lookup.restart(&[5, 1, 2]);
        assert_eq!(lookup.matched(), 0);
    }

    proptest! {
        /// However tokens come, what is followed did occur, agrees for as long as it says, and nothing grows.
        #[test]
        fn what_is_followed_is_there(
            tokens in prop::collection::vec(0u32..4, 1..200),
            step in 1usize..9,
        ) {
            let mut lookup = Lookup::new(16);
            lookup.restart(&[]);
            for end in (1..=tokens.len()).step_by(step) {
                let tokens = &tokens[..end];
                lookup.read(tokens, &mut |matched, _| assert!(matched >= 2));
                prop_assert_eq!(lookup.read, end);
                if lookup.matched == 0 {
                    continue;
                }
                prop_assert!(lookup.next < end && (2..=MATCHED_MAX).contains(&lookup.matched));
                let same = lookup.matched as usize;
                prop_assert_eq!(&tokens[lookup.next - same..lookup.next], &tokens[end - same..]);
            }
            prop_assert!(lookup.latest.iter().all(|table| table.len() == 16));
        }
    }
}
