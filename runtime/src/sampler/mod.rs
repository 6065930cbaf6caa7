//! Logits, parameters, seed and history to one token. Pure: the same four give the same token on every machine.
//!
//! A token is drawn from all logits of a row or, where an engine gives no more, from the best of them, and is the same: where
//! the best do not say what all would, all are asked for.
//!
//! The order is that of Hugging Face `generate`: repetition penalty, temperature, top-k, top-p, min-p, draw.

use muse_format::Generation;
use muse_kernels::Best;

use crate::{GenerateOptions, Refusal};

/// Parameters with every default filled in and every bound checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SamplerOptions {
    /// 0 is greedy: the largest logit, the lowest id among equals.
    pub temperature: f32,
    /// Keep the `top_k` largest logits; 0 is off.
    pub top_k: u32,
    /// Keep the smallest set of most probable tokens whose probabilities sum to `top_p`; 1 is off.
    /// Holtzman et al. 2020, <https://arxiv.org/abs/1904.09751>.
    pub top_p: f32,
    /// Keep tokens at least `min_p` times as probable as the most probable one; 0 is off.
    /// Nguyen et al. 2024, <https://arxiv.org/abs/2407.01082>.
    pub min_p: f32,
    /// Divides positive and multiplies negative logits of tokens in the history; 1 is off.
    /// Keskar et al. 2019, <https://arxiv.org/abs/1909.05858>.
    pub repetition_penalty: f32,
    pub seed: u64,
}

impl SamplerOptions {
    pub const GREEDY: Self =
        Self { temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 };

    /// The caller's options, then the model's, then greedy.
    ///
    /// # Errors
    /// [`Refusal::Option`] for a value outside its range, NaN included.
    pub fn resolve(options: &GenerateOptions, model: &Generation, seed: u64) -> Result<Self, Refusal> {
        let off = Self::GREEDY;
        let this = Self {
            temperature: options.temperature.or(model.temperature).unwrap_or(off.temperature),
            top_k: options.top_k.or(model.top_k).unwrap_or(off.top_k),
            top_p: options.top_p.or(model.top_p).unwrap_or(off.top_p),
            min_p: options.min_p.or(model.min_p).unwrap_or(off.min_p),
            repetition_penalty: options
                .repetition_penalty
                .or(model.repetition_penalty)
                .unwrap_or(off.repetition_penalty),
            seed: options.seed.unwrap_or(seed),
        };
        let check = |good: bool, name, value: f32, rule| {
            if good { Ok(()) } else { Err(Refusal::Option { name, value: value.to_string(), rule }) }
        };
        check(
            (0.0..=100.0).contains(&this.temperature),
            "temperature",
            this.temperature,
            "it must be from 0 (greedy) to 100",
        )?;
        check(
            this.top_p > 0.0 && this.top_p <= 1.0,
            "top_p",
            this.top_p,
            "it must be above 0 and at most 1",
        )?;
        check((0.0..=1.0).contains(&this.min_p), "min_p", this.min_p, "it must be from 0 to 1")?;
        check(
            (0.01..=100.0).contains(&this.repetition_penalty),
            "repetition_penalty",
            this.repetition_penalty,
            "it must be from 0.01 to 100, 1 is off",
        )?;
        Ok(this)
    }
}

/// Why no token could be drawn: the model computed something that is not a distribution.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SampleError {
    #[error("logit {index} is {value}: the model's weights or cache are damaged")]
    NotFinite { index: usize, value: f32 },
    #[error("all {0} logits are -inf: there is no token to choose")]
    Empty(usize),
}

#[derive(Debug, Clone, Copy)]
struct Candidate {
    id: u32,
    logit: f32,
}

/// One answer's sampler: its parameters, its random state and scratch space.
#[derive(Debug, Clone)]
pub struct Sampler {
    options: SamplerOptions,
    random: SplitMix64,
    candidates: Vec<Candidate>,
    /// One bit a token of the vocabulary.
    seen: Vec<u64>,
}

impl Sampler {
    pub fn new(options: &SamplerOptions) -> Self {
        Self { options: *options, random: SplitMix64(options.seed), candidates: Vec::new(), seen: Vec::new() }
    }

    /// Draws the next token from `logits`, `(vocab)`, which the repetition penalty changes in place. `history` is
    /// the prompt and what was generated so far.
    ///
    /// # Errors
    /// [`SampleError`] for NaN or +inf, or where nothing is left to choose from.
    ///
    /// # Panics
    /// If `logits` is empty.
    pub fn sample(&mut self, logits: &mut [f32], history: &[u32]) -> Result<u32, SampleError> {
        assert!(!logits.is_empty());
        let best = largest(logits)?;
        if self.options.repetition_penalty == 1.0 {
            return Ok(self.choose(logits, best));
        }
        self.penalise(logits, history);
        let best = largest(logits)?;
        Ok(self.choose(logits, best))
    }

    /// The temperature that [`sample_best`](Self::sample_best) needs the sum of a row for, or 0; `None` where it draws from no
    /// row's best.
    pub fn temperature_of_best(&self) -> Option<f32> {
        let SamplerOptions { temperature, top_k, top_p, min_p, repetition_penalty, .. } = self.options;
        if repetition_penalty != 1.0 {
            return None;
        }
        match top_k as usize {
            _ if temperature == 0.0 => Some(0.0),
            0 if top_p < 1.0 => Some(temperature),
            0 if min_p > 0.0 => Some(0.0),
            0 => None,
            top_k => (top_k <= Best::COUNT).then_some(0.0),
        }
    }

    /// What [`sample`](Self::sample) draws from all logits of a row, from the best of them. `None` where they do not say: then
    /// nothing was drawn.
    pub fn sample_best(&mut self, row: Best<'_>) -> Option<u32> {
        self.temperature_of_best()?;
        let (logit, id) = row.pairs().next().filter(|(logit, _)| logit.is_finite())?;
        let best = Candidate { id: id as u32, logit };
        if self.options.temperature == 0.0 {
            return Some(best.id);
        }
        self.filter_best(row, best)?;
        Some(self.draw(best))
    }

    fn choose(&mut self, logits: &[f32], best: Candidate) -> u32 {
        if self.options.temperature == 0.0 {
            return best.id;
        }
        self.filter(logits, best);
        self.draw(best)
    }

    fn penalise(&mut self, logits: &mut [f32], history: &[u32]) {
        let penalty = self.options.repetition_penalty;
        self.seen.clear();
        self.seen.resize(logits.len().div_ceil(64), 0);
        for &id in history {
            let (word, bit) = (id as usize / 64, 1 << (id % 64));
            let Some(logit) = logits.get_mut(id as usize) else { continue };
            if self.seen[word] & bit == 0 {
                self.seen[word] |= bit;
                *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
            }
        }
    }

    /// [`filter`](Self::filter) of the best of a row, where all that is kept is among them.
    fn filter_best(&mut self, row: Best<'_>, best: Candidate) -> Option<()> {
        let SamplerOptions { temperature, top_k, top_p, min_p, .. } = self.options;
        let pairs = row.pairs().take(if top_k > 0 { top_k as usize } else { usize::MAX });
        let candidates = pairs.take_while(|(logit, _)| logit.is_finite());
        self.candidates.clear();
        self.candidates.extend(candidates.map(|(logit, id)| Candidate { id: id as u32, logit }));
        match (top_k, self.candidates.last()) {
            (1.., _) => self.keep_probable(best),
            (0, _) if top_p < 1.0 => {
                // The sum is known within bounds; where both cut behind the same token, so does what lies between.
                let cuts = [1.0 - 2.0 * Best::SUM_ERROR, 1.0 + 2.0 * Best::SUM_ERROR].map(|bound| {
                    let part = f64::from(top_p) * (f64::from(row.sum()) * bound);
                    front(&self.candidates, best, temperature, 0.0, part).1
                });
                let keep = cuts[0].filter(|keep| cuts[1] == Some(*keep))?;
                self.candidates.truncate(keep);
                self.keep_near(best);
            }
            // A bound that no rounding of a power reaches.
            (0, Some(last)) if weight(last.logit, best, temperature) < f64::from(min_p) * (1.0 - 1e-9) => {
                self.keep_probable(best);
            }
            _ => return None,
        }
        Some(())
    }

    /// Leaves in `candidates` the tokens that top-k, top-p and min-p keep. Never empty: each of them keeps `best`.
    fn filter(&mut self, logits: &[f32], best: Candidate) {
        let top_k = self.options.top_k as usize;
        let all = logits.iter().zip(0..).filter(|(logit, _)| logit.is_finite());
        self.candidates.clear();
        // -0 is 0, and equals are in the order of their ids.
        self.candidates.extend(all.map(|(&logit, id)| Candidate { id, logit: logit + 0.0 }));
        if top_k > 0 {
            if top_k < self.candidates.len() {
                self.candidates.select_nth_unstable_by(top_k - 1, most_probable_first);
                self.candidates.truncate(top_k);
            }
            // Sums depend on the order.
            self.candidates.sort_unstable_by(most_probable_first);
        }
        self.keep_probable(best);
    }

    /// Of `candidates` in their order leaves what top-p and min-p keep.
    fn keep_probable(&mut self, best: Candidate) {
        let SamplerOptions { temperature, top_p, .. } = self.options;
        if top_p < 1.0 {
            let keep = nucleus(&mut self.candidates, best, temperature, f64::from(top_p));
            self.candidates.truncate(keep);
        } else {
            // The draw walks the candidates in order, so their order is part of the result.
            self.candidates.sort_unstable_by_key(|c| c.id);
        }
        self.keep_near(best);
    }

    /// Leaves what min-p keeps.
    fn keep_near(&mut self, best: Candidate) {
        let SamplerOptions { temperature, min_p, .. } = self.options;
        if min_p > 0.0 {
            let floor = f64::from(min_p);
            self.candidates.retain(|c| weight(c.logit, best, temperature) >= floor);
        }
    }

    fn draw(&mut self, best: Candidate) -> u32 {
        let temperature = self.options.temperature;
        let total: f64 = self.candidates.iter().map(|c| weight(c.logit, best, temperature)).sum();
        let mut left = self.random.unit() * total;
        let mut chosen = best.id;
        for candidate in &self.candidates {
            let weight = weight(candidate.logit, best, temperature);
            if weight > 0.0 {
                chosen = candidate.id;
                left -= weight;
                if left < 0.0 {
                    break;
                }
            }
        }
        chosen
    }
}

/// Probability relative to the best token's, so in `0..=1` and never overflowing.
fn weight(logit: f32, best: Candidate, temperature: f32) -> f64 {
    ((f64::from(logit) - f64::from(best.logit)) / f64::from(temperature)).exp()
}

fn most_probable_first(a: &Candidate, b: &Candidate) -> std::cmp::Ordering {
    b.logit.total_cmp(&a.logit).then(a.id.cmp(&b.id))
}

/// Sorts the front of `candidates` and returns how many of them sum to `top_p` of the whole. Most distributions are
/// decided by a few tokens, so only as much is sorted as is needed.
fn nucleus(candidates: &mut [Candidate], best: Candidate, temperature: f32, top_p: f64) -> usize {
    let total: f64 = candidates.iter().map(|c| weight(c.logit, best, temperature)).sum();
    let (mut sorted, mut sum) = (0, 0.0);
    while sorted < candidates.len() {
        let rest = &mut candidates[sorted..];
        let chunk = rest.len().min((4 * sorted).max(256));
        if chunk < rest.len() {
            rest.select_nth_unstable_by(chunk - 1, most_probable_first);
        }
        rest[..chunk].sort_unstable_by(most_probable_first);
        let (until, keep) = front(&rest[..chunk], best, temperature, sum, top_p * total);
        if let Some(keep) = keep {
            return sorted + keep;
        }
        (sorted, sum) = (sorted + chunk, until);
    }
    sorted
}

/// Adds the weights of `sorted` to `sum` until it is `part`; the sum, and how many it took.
fn front(
    sorted: &[Candidate],
    best: Candidate,
    temperature: f32,
    mut sum: f64,
    part: f64,
) -> (f64, Option<usize>) {
    for (candidate, taken) in sorted.iter().zip(1..) {
        sum += weight(candidate.logit, best, temperature);
        if sum >= part {
            return (sum, Some(taken));
        }
    }
    (sum, None)
}

fn largest(logits: &[f32]) -> Result<Candidate, SampleError> {
    let mut best = Candidate { id: 0, logit: f32::NEG_INFINITY };
    for (index, &logit) in logits.iter().enumerate() {
        if logit.is_nan() || logit == f32::INFINITY {
            return Err(SampleError::NotFinite { index, value: logit });
        }
        if logit > best.logit {
            best = Candidate { id: index as u32, logit };
        }
    }
    if best.logit == f32::NEG_INFINITY {
        return Err(SampleError::Empty(logits.len()));
    }
    Ok(best)
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014,
/// <https://doi.org/10.1145/2660193.2660195>; 64 bits of state are plenty for one answer.
#[derive(Debug, Clone)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `[0, 1)`, 53 bits.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests;
