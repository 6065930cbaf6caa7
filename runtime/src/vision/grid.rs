//! Where the patches of an image lie: the order in which a tower reads them, which of them see each other, and how the
//! table of positions is resampled for them.

use std::ops::Range;

use muse_format::Laid;

/// Patches of an image, row by row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    pub rows: u32,
    pub cols: u32,
}

impl Grid {
    pub fn len(self) -> u32 {
        self.rows * self.cols
    }

    /// Row and column of a patch.
    pub fn place(self, patch: u32) -> [u32; 2] {
        [patch / self.cols, patch % self.cols]
    }

    /// Windows of at most `side` patches a side, the first in the corner, row by row: rows and columns of each.
    fn windows(self, side: u32) -> impl Iterator<Item = [Range<u32>; 2]> {
        let cut = move |len: u32| {
            (0..len.div_ceil(side)).map(move |i| i * side..len.min((i + 1).saturating_mul(side)))
        };
        cut(self.rows).flat_map(move |rows| cut(self.cols).map(move |cols| [rows.clone(), cols]))
    }

    /// Every patch, window after window and row by row in each, so that a window's patches lie together.
    pub fn order(self, window: Option<u32>, order: &mut Vec<u32>) {
        order.clear();
        for [rows, cols] in self.windows(window.unwrap_or(u32::MAX)) {
            order.extend(rows.flat_map(|row| cols.clone().map(move |col| row * self.cols + col)));
        }
    }

    /// Ranges of [`order`](Self::order) whose patches see each other where the window is `seen`, a tower's window or
    /// none.
    pub fn groups(self, seen: Option<u32>) -> impl Iterator<Item = Range<u32>> {
        self.windows(seen.unwrap_or(u32::MAX)).scan(0, |start, [rows, cols]| {
            let group = *start..*start + (rows.end - rows.start) * (cols.end - cols.start);
            *start = group.end;
            Some(group)
        })
    }

    /// Adds to `out` the vector of a patch's position: bilinear between the four nearest of a square `table` of `side`
    /// rows of `side` vectors, as wide as `out`, or one of each of two tables of `side` vectors.
    pub fn add_position(self, patch: u32, table: &[f32], side: u32, laid: Laid, out: &mut [f32]) {
        let mut add = |entry: u32, weight: f32| {
            let at = entry as usize * out.len();
            out.iter_mut().zip(&table[at..]).for_each(|(out, t)| *out += weight * t);
        };
        let Self { rows, cols } = match laid {
            Laid::EdgesAcross => Self { rows: self.cols, cols: self.rows },
            Laid::Edges | Laid::Corners => self,
            Laid::Axes => {
                let [row, col] = self.place(patch);
                add(col, 1.0);
                return add(side + row, 1.0);
            }
        };
        let [row, col] = [patch / cols, patch % cols];
        for (y, high) in taps(row, rows, side, laid) {
            for (x, wide) in taps(col, cols, side, laid) {
                add(y * side + x, high * wide);
            }
        }
    }
}

/// The entries of a table of `side` that entry `index` of `len` lies between, those that exist, and their weights.
fn taps(index: u32, len: u32, side: u32, laid: Laid) -> impl Iterator<Item = (u32, f32)> {
    let (of, len_of_table) = (index as f32, side as f32);
    let at = match laid {
        Laid::Edges | Laid::EdgesAcross => (of + 0.5) * len_of_table / len as f32 - 0.5,
        Laid::Corners => of * (len_of_table - 1.0) / (len.max(2) - 1) as f32,
        Laid::Axes => of,
    };
    let low = at.floor();
    let tap = move |offset: f32| {
        let (tap, weight) = (low + offset, (1.0 - (at - low - offset).abs()).max(0.0));
        (tap >= 0.0 && tap < len_of_table).then_some((tap as u32, weight))
    };
    [0.0, 1.0].into_iter().filter_map(tap)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_are_read_one_after_another() {
        let grid = Grid { rows: 3, cols: 5 };
        let mut order = Vec::new();
        grid.order(Some(2), &mut order);
        assert_eq!(order, [0, 1, 5, 6, 2, 3, 7, 8, 4, 9, 10, 11, 12, 13, 14]);
        assert_eq!(grid.groups(Some(2)).collect::<Vec<_>>(), [0..4, 4..8, 8..10, 10..12, 12..14, 14..15]);
        assert!(grid.groups(None).eq(std::iter::once(0..15)));
        grid.order(None, &mut order);
        assert!(order.iter().copied().eq(0..15));
        // As many windows as fit, and no empty one.
        assert_eq!(Grid { rows: 2, cols: 4 }.groups(Some(2)).collect::<Vec<_>>(), [0..4, 4..8]);
    }

    #[test]
    fn positions_are_laid_edge_to_edge() {
        // A table of 2 x 2 vectors of 1 over images of 2 x 2, 1 x 1 and 4 x 4 patches.
        let table = [1.0, 2.0, 3.0, 4.0];
        let at = |rows, cols, patch| {
            let mut out = [0.0];
            Grid { rows, cols }.add_position(patch, &table, 2, Laid::Edges, &mut out);
            out[0]
        };
        assert_eq!([0, 1, 2, 3].map(|patch| at(2, 2, patch)), table);
        assert_eq!(at(1, 1, 0), 2.5);
        // A quarter of a patch beyond the corner: the table's 1 weighs 3/4 each way, what is outside nothing.
        assert_eq!(at(4, 4, 0), 0.5625);
        assert_eq!(at(4, 4, 5), 0.5625 + 2.0 * 0.1875 + 3.0 * 0.1875 + 4.0 * 0.0625);
    }

    #[test]
    fn positions_are_laid_corner_to_corner() {
        let table = [1.0, 2.0, 3.0, 4.0];
        let at = |rows, cols, laid, patch| {
            let mut out = [0.0];
            Grid { rows, cols }.add_position(patch, &table, 2, laid, &mut out);
            out[0]
        };
        let corners: [f32; 6] = std::array::from_fn(|patch| at(2, 3, Laid::Corners, patch as u32));
        assert_eq!(corners, [1.0, 1.5, 2.0, 3.0, 3.5, 4.0]);
        assert_eq!(at(1, 1, Laid::Corners, 0), 1.0);
        // Patches of 2 x 3 take, in turn, what those of 3 x 2 take.
        for patch in 0..6 {
            assert_eq!(at(2, 3, Laid::EdgesAcross, patch), at(3, 2, Laid::Edges, patch), "{patch}");
        }
        assert_eq!(at(4, 4, Laid::EdgesAcross, 6), at(4, 4, Laid::Edges, 6));
    }

    #[test]
    fn positions_of_two_tables_are_added() {
        // Entries of 3 columns and 3 rows, of which an image of 2 x 3 patches takes 3 and 2.
        let table = [1.0, 2.0, 3.0, 10.0, 20.0, 30.0];
        let sums: [f32; 6] = std::array::from_fn(|patch| {
            let mut out = [0.5];
            Grid { rows: 2, cols: 3 }.add_position(patch as u32, &table, 3, Laid::Axes, &mut out);
            out[0]
        });
        assert_eq!(sums, [11.5, 12.5, 13.5, 21.5, 22.5, 23.5]);
    }
}
