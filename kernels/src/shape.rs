//! What operations are told besides their operands: rows of sequences, caches and attention.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use crate::TILE_POSITIONS;

/// Consecutive rows of a batch that belong to one sequence.
///
/// A batch is `tokens` rows of activations; its spans cover the rows in order, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The sequence's place in every [`Backend::Cache`].
    pub slot: u32,
    /// Position of the first row in its sequence.
    pub start: u32,
    /// Rows, at least 1.
    pub len: u32,
}

/// Fewest rows of a span that are a prompt's, whose attention may be rounded: more than one step proposes to an answer, whose
/// tokens do not depend on how many of them a step computes.
pub(crate) const PROMPT_ROWS: u32 = 32;

/// Which of a row's three numbers frequency `i` turns by; see [`Backend::rope_axes`](crate::Backend::rope_axes).
pub(crate) fn axis(i: usize, axes: [u32; 2]) -> usize {
    match i % 3 {
        axis @ (1 | 2) if i < 3 * axes[axis - 1] as usize => axis,
        _ => 0,
    }
}

/// How keys and values are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheDtype {
    F32,
    F16,
    /// 8 bits a number and one f32 scale for each position's key or value of a head: `scale = max|x| / 127`,
    /// `q = round_ties_even(x * (127 / max|x|))`.
    Int8,
    /// Keys as in [`Int8`](Self::Int8) and values as in [`Int4`](Self::Int4), which lose less by it.
    Int8Int4,
    /// 4 bits a number and one f32 scale for each position's key or value of a head. `y`, the head's numbers, every `n`
    /// of them multiplied by the Walsh-Hadamard matrix over `sqrt(n)`, `n` the largest power of two up to 256 that
    /// divides `head_dim`; `scale = max(max|y|, 2.7326 * rms(y)) / 127`; `q` the index of the nearest of 16 levels
    /// (6, 18, 31, 44, 58, 75, 96, 127 and their negatives, of two the lower) to `round_ties_even(y / scale)`.
    Int4,
}

impl CacheDtype {
    /// Every one, the most exact first.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Int8, Self::Int8Int4, Self::Int4];

    /// Bytes of the key and of the value of one position and head. Halves of bytes are rounded up to tiles of keys and to
    /// 32 numbers of a value.
    fn bytes(self, head_dim: u64) -> [u64; 2] {
        let half = |numbers: u64| 16 * numbers.div_ceil(32);
        match self {
            Self::F32 => [4 * head_dim; 2],
            Self::F16 => [2 * head_dim; 2],
            Self::Int8 => [head_dim + 4; 2],
            Self::Int8Int4 => [head_dim + 4, half(head_dim) + 4],
            Self::Int4 => [head_dim.div_ceil(2) + 4, half(head_dim) + 4],
        }
    }

    /// Whether keys are kept rotated.
    pub(crate) fn rotates_keys(self) -> bool {
        self == Self::Int4
    }

    /// Whether values are kept rotated.
    pub(crate) fn rotates_values(self) -> bool {
        matches!(self, Self::Int4 | Self::Int8Int4)
    }
}

impl fmt::Display for CacheDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Int8 => "int8",
            Self::Int8Int4 => "int8-int4",
            Self::Int4 => "int4",
        })
    }
}

/// A name that is none of [`CacheDtype::ALL`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a cache is f32, f16, int8, int8-int4 or int4, not '{0}'")]
pub struct UnknownCacheDtype(String);

impl FromStr for CacheDtype {
    type Err = UnknownCacheDtype;

    fn from_str(name: &str) -> Result<Self, UnknownCacheDtype> {
        let found = Self::ALL.into_iter().find(|dtype| dtype.to_string() == name);
        found.ok_or_else(|| UnknownCacheDtype(name.to_owned()))
    }
}

/// The keys and values of one layer, for every slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CacheShape {
    pub dtype: CacheDtype,
    pub slots: u32,
    /// Positions kept a slot. Position `p` lives at `p % capacity`: a layer with a window, or chunks, is a ring of at
    /// least `window + batch_tokens - 1`, any other holds the whole context. Rounded up to whole tiles of
    /// [`TILE_POSITIONS`].
    pub capacity: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Whether values are kept; what is stored as values is dropped where not.
    pub values: bool,
}

impl CacheShape {
    /// Bytes of keys and values together.
    pub fn byte_len(&self) -> u64 {
        let capacity = u64::from(self.capacity).next_multiple_of(TILE_POSITIONS as u64);
        u64::from(self.slots) * capacity * self.position_bytes()
    }

    /// Bytes of the keys and values of one position of one slot.
    pub fn position_bytes(&self) -> u64 {
        let [key, value] = self.dtype.bytes(u64::from(self.head_dim));
        u64::from(self.kv_heads) * if self.values { key + value } else { key }
    }
}

/// What attention needs beyond its buffers. Queries are `(tokens, heads * head_dim)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    /// Multiplies `q . k`.
    pub scale: f32,
    /// Positions a query sees, itself included; `None` for all before it.
    pub window: Option<u32>,
    /// A query sees what lies before it in its own chunk of so many positions, counted from the first; in place of a window,
    /// and of attention to what lies before only.
    pub chunk: Option<u32>,
    /// `cap * tanh(score / cap)` before the softmax.
    pub softcap: Option<f32>,
    /// A query also sees the positions after it, as far as its window reaches to either side and its span goes: a span
    /// ends with its sequence.
    pub bidirectional: bool,
    /// The last position that every query sees, the window counted back from it, where that is not by its own: the
    /// patches of an image, a part of them at a time.
    pub until: Option<u32>,
}

impl AttentionShape {
    /// The positions that a query at `position` of `span` sees. Neither end decreases from one position to the next.
    pub fn sees(&self, span: &Span, position: u32) -> RangeInclusive<u32> {
        let before = self.window.map_or(u32::MAX, |window| window.saturating_sub(1));
        if let Some(last) = self.until {
            return last.saturating_sub(before)..=last;
        }
        let last = match self.bidirectional {
            false => position,
            true => (span.start + (span.len - 1)).min(position.saturating_add(before)),
        };
        let first = match self.chunk {
            None => position.saturating_sub(before),
            Some(chunk) => position - position % chunk,
        };
        first..=last
    }

    /// [`sees`](Self::sees), and where rows of a span are `joint`, also those of it that lie behind.
    pub fn sees_jointly(&self, span: &Span, position: u32, joint: bool) -> RangeInclusive<u32> {
        let seen = self.sees(span, position);
        let last = if joint { span.start + (span.len - 1) } else { *seen.end() };
        *seen.start()..=last.max(*seen.end())
    }
}

/// Vectors of several heads a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadsShape {
    pub heads: usize,
    /// Numbers of each.
    pub cols: usize,
}

/// What choosing positions needs beyond its buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexShape {
    pub heads: u32,
    pub head_dim: u32,
    /// Positions that a row chooses, at most.
    pub top: u32,
}
