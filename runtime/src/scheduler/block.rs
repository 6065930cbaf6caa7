//! What an answer says next if a drafter is right: the last block that it proposed.

use super::speculate::Proposer;

/// The tokens of one block. Its size is set once.
#[derive(Debug)]
pub(super) struct Block {
    /// Where the answer's next token stands that the block expects.
    at: usize,
    tokens: Vec<u32>,
    /// How many of them came.
    came: usize,
}

impl Block {
    /// For up to `length_max` tokens.
    pub(super) fn new(length_max: u32) -> Self {
        Self { at: 0, tokens: Vec::with_capacity(length_max as usize), came: 0 }
    }

    /// Expects `tokens` behind the `len` that an answer has.
    pub(super) fn expect(&mut self, len: usize, tokens: &[u32]) {
        self.tokens.clear();
        self.tokens.extend_from_slice(tokens);
        (self.at, self.came) = (len, 0);
    }
}

impl Proposer for Block {
    fn restart(&mut self, _tokens: &[u32]) {
        self.expect(0, &[]);
    }

    /// The place in the block; it ends with the first token that did not come.
    fn read(&mut self, tokens: &[u32], tell: &mut dyn FnMut(u32, bool)) {
        while let Some(expected) = self.tokens.get(self.came)
            && let Some(token) = tokens.get(self.at + self.came)
        {
            let came = expected == token;
            tell(self.came as u32, came);
            if came {
                self.came += 1;
            } else {
                self.tokens.clear();
            }
        }
    }

    fn propose(&self, tokens: &[u32], count: u32, out: &mut Vec<u32>) {
        debug_assert_eq!(self.at + self.came, tokens.len());
        out.extend_from_slice(&self.tokens[self.came..][..count as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_followed_until_a_token_does_not_come() {
        let mut block = Block::new(4);
        block.expect(2, &[7, 8, 9]);
        let mut out = vec![1];
        block.propose(&[5, 6], 2, &mut out);
        assert_eq!(out, [1, 7, 8]);
        let mut told = Vec::new();
        block.read(&[5, 6], &mut |place, came| told.push((place, came)));
        assert_eq!(told, [], "nothing came yet");
        block.read(&[5, 6, 7], &mut |place, came| told.push((place, came)));
        block.read(&[5, 6, 7, 8, 4, 9], &mut |place, came| told.push((place, came)));
        assert_eq!(told, [(0, true), (1, true), (2, false)]);
        block.read(&[5, 6, 7, 8, 4, 9, 9], &mut |place, came| panic!("{place} {came}"));
        block.expect(1, &[3]);
        block.restart(&[1, 2]);
        block.read(&[1, 3], &mut |place, came| panic!("{place} {came}"));
    }
}
