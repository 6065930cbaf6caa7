//! What rows of a sequence turn by, in models where an image's vectors turn by their row and column: Wang et al. 2024,
//! <https://arxiv.org/abs/2409.12191>.

use super::Place;

/// Time, row and column of `position`. `areas` are the media of a sequence, first to last, with the rows and columns of
/// their vectors.
///
/// An area's rows and columns are counted from where it begins, which is its time; what follows goes on behind the largest.
pub fn turn(areas: impl IntoIterator<Item = (Place, [u32; 2])>, position: u32) -> [u32; 3] {
    // How much later a position is than what it turns by.
    let mut late = 0;
    for (Place { at, len, .. }, [rows, cols]) in areas {
        if position < at {
            break;
        }
        if position < at + len {
            let (begin, index) = (at - late, position - at);
            return [begin, begin + index / cols, begin + index % cols];
        }
        late += len - rows.max(cols);
    }
    [position - late; 3]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_turn_by_rows_and_columns_and_text_goes_on_behind() {
        let place = |at, len| Place { at, len, joint: false };
        let areas = [(place(2, 6), [2, 3]), (place(9, 4), [4, 1])];
        let turns: Vec<_> = (0..15).map(|position| turn(areas, position)).collect();
        assert_eq!(turns[..2], [[0; 3], [1; 3]]);
        assert_eq!(turns[2..8], [[2, 2, 2], [2, 2, 3], [2, 2, 4], [2, 3, 2], [2, 3, 3], [2, 3, 4]]);
        assert_eq!(turns[8], [5; 3]);
        assert_eq!(turns[9..13], [[6, 6, 6], [6, 7, 6], [6, 8, 6], [6, 9, 6]]);
        assert_eq!(turns[13..], [[10; 3], [11; 3]]);
        assert_eq!(turn([], 7), [7; 3]);
    }
}
