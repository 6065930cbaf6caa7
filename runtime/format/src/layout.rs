use std::fmt;

/// Rows that a packed tile interleaves. 16 rows x 4 columns of 8-bit values are one 512-bit vector.
pub const TILE_ROWS: usize = 16;

/// What the nibbles of [`Layout::Q4Codebook`] stand for: the levels of GGUF's IQ4_NL, denser near zero as weights are.
/// Ascending, and without a zero.
pub const CODEBOOK: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

/// Which bytes mean what in a tensor of `rows x cols` (a matrix is `out_features x in_features`).
///
/// `F32`, `F16` and `Bf16` are row-major. The quantized layouts are *tiled*: 16 rows form a tile, and a tile
/// is a sequence of blocks along the columns, each `16 rows x group` weights with its scales in front, so that a
/// kernel that walks one tile reads one sequential stream. Rows and columns are padded to whole blocks.
/// [`crate::Block`] gives the bytes inside one block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layout {
    F32,
    F16,
    Bf16,
    /// 8-bit symmetric: `w = q * scale`, `q` in `-127..=127`, one f16 scale a row and group.
    Q8 {
        group: u16,
    },
    /// 4-bit symmetric: `w = (q - 8) * scale`, `q` in `0..=15`.
    Q4 {
        group: u16,
    },
    /// 4-bit asymmetric: `w = q * scale + offset`, `q` in `0..=15`, f16 scale and offset.
    Q4Asym {
        group: u16,
    },
    /// 4-bit by table: `w = CODEBOOK[q] * scale`, `q` in `0..=15`.
    Q4Codebook {
        group: u16,
    },
}

impl Layout {
    /// Decodes the two numbers of a tensor table entry; `None` for anything this version does not define.
    pub fn from_code(kind: u16, group: u16) -> Option<Self> {
        let layout = match kind {
            1 => Layout::F32,
            2 => Layout::F16,
            3 => Layout::Bf16,
            4 => Layout::Q8 { group },
            5 => Layout::Q4 { group },
            6 => Layout::Q4Asym { group },
            7 => Layout::Q4Codebook { group },
            _ => return None,
        };
        let valid = if layout.is_quantized() { matches!(group, 32 | 64 | 128) } else { group == 0 };
        valid.then_some(layout)
    }

    /// The inverse of [`from_code`](Self::from_code).
    pub fn code(self) -> (u16, u16) {
        match self {
            Layout::F32 => (1, 0),
            Layout::F16 => (2, 0),
            Layout::Bf16 => (3, 0),
            Layout::Q8 { group } => (4, group),
            Layout::Q4 { group } => (5, group),
            Layout::Q4Asym { group } => (6, group),
            Layout::Q4Codebook { group } => (7, group),
        }
    }

    pub fn is_quantized(self) -> bool {
        !matches!(self, Layout::F32 | Layout::F16 | Layout::Bf16)
    }

    /// Weights that share one scale; 1 for the float layouts.
    pub fn group(self) -> usize {
        match self {
            Layout::F32 | Layout::F16 | Layout::Bf16 => 1,
            Layout::Q8 { group }
            | Layout::Q4 { group }
            | Layout::Q4Asym { group }
            | Layout::Q4Codebook { group } => usize::from(group),
        }
    }

    /// Bytes in front of a block's quants: its f16 scales, then its f16 offsets.
    pub fn block_head_bytes(self) -> usize {
        match self {
            Layout::F32 | Layout::F16 | Layout::Bf16 => 0,
            Layout::Q8 { .. } | Layout::Q4 { .. } | Layout::Q4Codebook { .. } => 2 * TILE_ROWS,
            Layout::Q4Asym { .. } => 4 * TILE_ROWS,
        }
    }

    /// Bytes of one block of `16 x group` weights; for a float layout, bytes of one weight.
    pub fn block_bytes(self) -> usize {
        match self {
            Layout::F32 => 4,
            Layout::F16 | Layout::Bf16 => 2,
            Layout::Q8 { .. } => self.block_head_bytes() + TILE_ROWS * self.group(),
            Layout::Q4 { .. } | Layout::Q4Asym { .. } | Layout::Q4Codebook { .. } => {
                self.block_head_bytes() + TILE_ROWS * self.group() / 2
            }
        }
    }

    /// The integers that multiply a scale, ascending; empty for the float layouts. An 8-bit weight of a file may also
    /// be -128, which kernels take and no quantizer here writes.
    pub fn levels(self) -> &'static [i8] {
        const Q8: [i8; 255] = count_from(-127);
        const Q4: [i8; 16] = count_from(-8);
        const Q4_ASYM: [i8; 16] = count_from(0);
        match self {
            Layout::F32 | Layout::F16 | Layout::Bf16 => &[],
            Layout::Q8 { .. } => &Q8,
            Layout::Q4 { .. } => &Q4,
            Layout::Q4Asym { .. } => &Q4_ASYM,
            Layout::Q4Codebook { .. } => &CODEBOOK,
        }
    }

    /// Bytes of a `rows x cols` tensor, padding included; `None` where that overflows.
    pub fn byte_len(self, rows: u64, cols: u64) -> Option<u64> {
        let units = if self.is_quantized() {
            rows.div_ceil(TILE_ROWS as u64).checked_mul(cols.div_ceil(self.group() as u64))?
        } else {
            rows.checked_mul(cols)?
        };
        units.checked_mul(self.block_bytes() as u64)
    }

    /// Stored bits per weight, scales included, padding not.
    pub fn bits_per_weight(self) -> f64 {
        let weights = if self.is_quantized() { TILE_ROWS * self.group() } else { 1 };
        self.block_bytes() as f64 * 8.0 / weights as f64
    }
}

/// `N` whole numbers from `first` on.
#[allow(clippy::indexing_slicing, clippy::cast_possible_truncation)] // evaluated by the compiler: an error would be one
const fn count_from<const N: usize>(first: i16) -> [i8; N] {
    let mut numbers = [0; N];
    let mut i = 0;
    while i < N {
        numbers[i] = (first + i as i16) as i8;
        i += 1;
    }
    numbers
}

impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Layout::F32 => f.write_str("f32"),
            Layout::F16 => f.write_str("f16"),
            Layout::Bf16 => f.write_str("bf16"),
            Layout::Q8 { group } => write!(f, "q8g{group}"),
            Layout::Q4 { group } => write!(f, "q4g{group}"),
            Layout::Q4Asym { group } => write!(f, "q4ag{group}"),
            Layout::Q4Codebook { group } => write!(f, "q4cg{group}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_round_trip_and_unknown_ones_are_refused() {
        let of = |group| {
            [
                Layout::Q8 { group },
                Layout::Q4 { group },
                Layout::Q4Asym { group },
                Layout::Q4Codebook { group },
            ]
        };
        let floats = [Layout::F32, Layout::F16, Layout::Bf16];
        for layout in floats.into_iter().chain([32, 64, 128].into_iter().flat_map(of)) {
            let (kind, group) = layout.code();
            assert_eq!(Layout::from_code(kind, group), Some(layout));
        }
        for code in [(0, 0), (8, 32), (1, 32), (5, 0), (5, 33), (7, 0), (7, 48), (u16::MAX, u16::MAX)] {
            assert_eq!(Layout::from_code(code.0, code.1), None, "{code:?}");
        }
    }

    #[test]
    fn lengths_count_padding_and_refuse_overflow() {
        assert_eq!(Layout::Q4 { group: 32 }.byte_len(16, 32), Some(288));
        assert_eq!(Layout::Q4 { group: 32 }.byte_len(17, 33), Some(4 * 288));
        assert_eq!(Layout::Q8 { group: 64 }.byte_len(1, 1), Some(32 + 1024));
        assert_eq!(Layout::Q4Asym { group: 128 }.byte_len(16, 172), Some(2 * (64 + 1024)));
        assert_eq!(Layout::Q4Codebook { group: 64 }.byte_len(33, 65), Some(6 * (32 + 512)));
        assert_eq!(Layout::F16.byte_len(3, 5), Some(30));
        assert_eq!(Layout::F32.byte_len(u64::MAX, 2), None);
        assert_eq!(Layout::Q8 { group: 32 }.byte_len(u64::MAX, u64::MAX), None);
    }
    #[test]
    fn levels_ascend_over_the_range_of_the_layout() {
        let of = |layout: Layout| {
            let levels = layout.levels();
            assert!(levels.is_sorted_by(|a, b| a < b), "{layout}");
            (levels.len(), levels.first().copied(), levels.last().copied())
        };
        assert_eq!(of(Layout::Q8 { group: 32 }), (255, Some(-127), Some(127)));
        assert_eq!(of(Layout::Q4 { group: 32 }), (16, Some(-8), Some(7)));
        assert_eq!(of(Layout::Q4Asym { group: 32 }), (16, Some(0), Some(15)));
        assert_eq!(of(Layout::Q4Codebook { group: 32 }), (16, Some(-127), Some(113)));
        assert_eq!(of(Layout::F16), (0, None, None));
    }
}
