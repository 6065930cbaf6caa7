//! The forms in which a cache holds numbers.

use half::f16;
use half::slice::HalfFloatSliceExt;

use super::TILE_POSITIONS;
use super::rotate::{ROTATED_MAX, rotate, rotated_len};
use crate::reference::TINY;

/// A form of numbers. A run of them is a tile of keys or the row of a value.
pub(crate) trait Number: Copy + Default + std::fmt::Debug + Send + Sync + 'static {
    /// Whether a row of them is multiplied by a scale.
    const SCALED: bool = false;
    /// Whether they are of the row after [`rotate`].
    const ROTATED: bool = false;

    /// Whether an element holds more than one of them.
    const PACKED: bool = false;

    /// Elements that hold a run of `len` numbers.
    fn elements(len: usize) -> usize {
        len
    }

    /// Number `at` of a run, exactly, without its scale.
    fn get(run: &[Self], at: usize) -> f32;

    /// Writes number `at` of a run as [`narrow`](Self::narrow) made it.
    fn set(run: &mut [Self], at: usize, number: Self) {
        run[at] = number;
    }

    /// The largest magnitude that a row's numbers are to reach: 127 times the scale.
    fn reach(row: &[f32]) -> f32 {
        let _ = row;
        127.0
    }

    /// Up to [`ROTATED_MAX`] numbers of a row of `len` that reaches `reach`.
    fn narrow(out: &mut [Self], x: &[f32], len: usize, reach: f32);
}

/// Writes `rows`, each `stride` behind the one before in `x` and `len` long, to a run of `TILE` rows, number `i` of row `t`
/// as number `i * TILE + place + t`, and of each its scale, where there are any. Where a row holds a NaN or an infinity, so
/// does the scale, and no product with it is finite.
///
/// # Panics
/// If they are more than fit behind `place`.
pub(super) fn put<const TILE: usize, N: Number>(
    run: &mut [N],
    place: usize,
    (x, stride, len): (&[f32], usize, usize),
    scales: &mut [f32],
    rows: usize,
) {
    assert!(place + rows <= TILE);
    // An answer's row needs little room, and numbers that are not rotated can come in short pieces.
    match (rows, N::PACKED) {
        (1, true) => put_rows::<TILE, 1, ROTATED_MAX, N>(run, place, (x, stride, len), scales, rows),
        (1, false) => put_rows::<TILE, 1, 64, N>(run, place, (x, stride, len), scales, rows),
        (_, true) => put_rows::<TILE, TILE, ROTATED_MAX, N>(run, place, (x, stride, len), scales, rows),
        (_, false) => put_rows::<TILE, TILE, 64, N>(run, place, (x, stride, len), scales, rows),
    }
}

/// [`put`] of up to `ROWS` rows, `PIECE` numbers of each at a time.
fn put_rows<const TILE: usize, const ROWS: usize, const PIECE: usize, N: Number>(
    run: &mut [N],
    place: usize,
    (x, stride, len): (&[f32], usize, usize),
    scales: &mut [f32],
    rows: usize,
) {
    let row = |t: usize| &x[t * stride..][..len];
    let mut reaches = [0.0; ROWS];
    for (t, reach) in reaches[..rows].iter_mut().enumerate() {
        *reach = N::reach(row(t));
    }
    for (scale, reach) in scales.iter_mut().zip(reaches) {
        *scale = if reach < TINY { 0.0 } else { reach / 127.0 };
    }
    let mut numbers = [[N::default(); PIECE]; ROWS];
    let numbers = &mut numbers[..rows];
    for first in (0..len).step_by(PIECE) {
        let count = PIECE.min(len - first);
        for (t, (numbers, reach)) in numbers.iter_mut().zip(reaches).enumerate() {
            N::narrow(&mut numbers[..count], &row(t)[first..first + count], len, reach);
        }
        if N::PACKED {
            for (t, numbers) in numbers.iter().enumerate() {
                for (i, number) in (first..).zip(&numbers[..count]) {
                    N::set(run, i * TILE + place + t, *number);
                }
            }
            continue;
        }
        let run = &mut run[first * TILE..][..count * TILE];
        for (i, out) in run.chunks_exact_mut(TILE).enumerate() {
            for (out, numbers) in out[place..].iter_mut().zip(numbers.iter()) {
                *out = numbers[i];
            }
        }
    }
}

impl Number for f32 {
    fn get(run: &[Self], at: usize) -> f32 {
        run[at]
    }

    fn narrow(out: &mut [Self], x: &[f32], _: usize, _: f32) {
        out.copy_from_slice(x);
    }
}

impl Number for f16 {
    fn get(run: &[Self], at: usize) -> f32 {
        run[at].to_f32()
    }

    fn narrow(out: &mut [Self], x: &[f32], _: usize, _: f32) {
        out.convert_from_f32_slice(x);
    }
}

impl Number for i8 {
    const SCALED: bool = true;

    fn get(run: &[Self], at: usize) -> f32 {
        run[at].into()
    }

    fn reach(row: &[f32]) -> f32 {
        largest(row)
    }

    fn narrow(out: &mut [Self], x: &[f32], _: usize, reach: f32) {
        // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the low bits.
        const ROUND: f32 = 12_582_912.0;
        if reach < TINY {
            return out.fill(0);
        }
        let inverse = 127.0 / reach;
        for (q, x) in out.iter_mut().zip(x) {
            *q = (x * inverse + ROUND).to_bits() as i8;
        }
    }
}

/// The largest magnitude; NaN where there is one.
fn largest(x: &[f32]) -> f32 {
    // As integers, the bits of magnitudes order like the magnitudes, infinity next to last and NaN last.
    f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0))
}

/// Two 4-bit numbers, indices of [`LEVELS`]: byte `16 * c + j` of a run holds number `32 * c + j` in its low half and
/// number `32 * c + 16 + j` in its high one, so that 16 numbers are one half of 16 bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Nibbles(pub(crate) u8);

/// What 4 bits stand for, times the scale: the 16 levels that are nearest to a normal distribution (Max 1960, Lloyd
/// 1982), which is about what rotated numbers have, rounded to integers so that 127 is the largest.
pub(crate) const LEVELS: [i8; 16] = [-127, -96, -75, -58, -44, -31, -18, -6, 6, 18, 31, 44, 58, 75, 96, 127];

/// The largest level over the standard deviation that the levels are for.
const LARGEST_LEVEL: f32 = 2.7326;

/// The index of the level nearest to an integer of 8 bits, counted from -128; of two, the lower.
const NEAREST: [u8; 256] = {
    let mut table = [0; 256];
    let mut q = 0;
    while q < 256 {
        let mut i = 1;
        while i < 16 {
            let nearest = LEVELS[table[q] as usize] as i32;
            if (LEVELS[i] as i32 + 128 - q as i32).abs() < (nearest + 128 - q as i32).abs() {
                table[q] = i as u8;
            }
            i += 1;
        }
        q += 1;
    }
    table
};

impl Nibbles {
    /// Elements of every 16 numbers of a run.
    const HALF: usize = TILE_POSITIONS;

    /// The element of a run that holds number `at`, and the bit that it begins with.
    pub(crate) fn place(at: usize) -> (usize, u32) {
        (at / (2 * Self::HALF) * Self::HALF + at % Self::HALF, (at / Self::HALF % 2 * 4) as u32)
    }
}

impl Number for Nibbles {
    const SCALED: bool = true;
    const ROTATED: bool = true;
    const PACKED: bool = true;

    fn elements(len: usize) -> usize {
        len.div_ceil(2 * Self::HALF) * Self::HALF
    }

    fn get(run: &[Self], at: usize) -> f32 {
        let (element, bit) = Self::place(at);
        LEVELS[usize::from(run[element].0 >> bit & 15)].into()
    }

    fn set(run: &mut [Self], at: usize, number: Self) {
        let (element, bit) = Self::place(at);
        run[element].0 = run[element].0 & !(15 << bit) | number.0 << bit;
    }

    /// Of the rotated row, and no less than the levels reach for numbers of its size: [`LARGEST_LEVEL`] times their root
    /// mean square.
    fn reach(row: &[f32]) -> f32 {
        let n = rotated_len(row.len());
        let mut block = [0.0; ROTATED_MAX];
        let max = |max: f32, x: &[f32]| {
            let block = &mut block[..n];
            block.copy_from_slice(x);
            rotate(block, n);
            largest(&[max, largest(block)])
        };
        let max = row.chunks_exact(n).fold(0.0, max);
        let squares: f32 = row.iter().map(|x| x * x).sum();
        let usual = LARGEST_LEVEL * (squares / row.len() as f32).sqrt();
        if usual > max { usual } else { max }
    }

    fn narrow(out: &mut [Self], x: &[f32], len: usize, reach: f32) {
        let mut rotated = [0.0; ROTATED_MAX];
        let rotated = &mut rotated[..x.len()];
        rotated.copy_from_slice(x);
        rotate(rotated, rotated_len(len));
        let mut bytes = [0; ROTATED_MAX];
        let bytes = &mut bytes[..x.len()];
        i8::narrow(bytes, rotated, len, reach);
        for (out, q) in out.iter_mut().zip(bytes) {
            *out = Self(NEAREST[(i32::from(*q) + 128) as usize]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantize<N: Number>(row: &[f32]) -> (f32, Vec<f32>) {
        let (mut run, mut scale) = (vec![N::default(); N::elements(row.len())], 0.0);
        put::<1, N>(&mut run, 0, (row, row.len(), row.len()), std::slice::from_mut(&mut scale), 1);
        (scale, (0..row.len()).map(|i| N::get(&run, i)).collect())
    }

    #[test]
    fn eight_bits_round_to_even_and_keep_what_is_not_finite() {
        let of = quantize::<i8>;
        assert_eq!(
            of(&[254.0, -254.0, 1.0, 3.0, -5.0, 0.0]),
            (2.0, vec![127.0, -127.0, 0.0, 2.0, -2.0, 0.0])
        );
        assert_eq!(of(&[1e-38; 6]), (0.0, vec![0.0; 6]));
        assert!(of(&[1.0, f32::NAN, 2.0]).0.is_nan());
        assert_eq!(of(&[1.0, f32::NEG_INFINITY]).0, f32::INFINITY);
    }

    #[test]
    fn four_bits_are_the_nearest_levels_of_the_rotated_row() {
        // An odd row is not rotated; this one's largest number is above 2.7326 times the root mean square.
        let mut row = [0.0; 15];
        (row[0], row[1], row[9]) = (2.54, 0.36, -1.0);
        let (scale, levels) = quantize::<Nibbles>(&row);
        assert_eq!((scale, levels[0], levels[1], levels[2], levels[9]), (0.02, 127.0, 18.0, -6.0, -44.0));
        // One large number is spread over all 16.
        let mut row = [0.0; 16];
        row[5] = 4.0;
        let (scale, levels) = quantize::<Nibbles>(&row);
        assert!((scale - 2.7326 / 127.0).abs() < 1e-6, "{scale}");
        assert!(levels.iter().all(|level| level.abs() == 44.0), "{levels:?}");
        for (i, level) in LEVELS.iter().enumerate() {
            assert_eq!(usize::from(NEAREST[(i32::from(*level) + 128) as usize]), i);
        }
    }

    #[test]
    fn four_bits_keep_what_is_not_finite_and_no_more() {
        assert!(!quantize::<Nibbles>(&[1.0, f32::NAN]).0.is_finite());
        assert!(!quantize::<Nibbles>(&[1.0, f32::NEG_INFINITY, 0.0, 0.0]).0.is_finite());
        assert_eq!(quantize::<Nibbles>(&[1e-39; 64]).0, 0.0);
    }

    /// What the loss tables of the documentation rest on: the mean square of the error of normal numbers.
    #[test]
    fn four_bits_err_by_less_than_a_hundredth_of_the_square() {
        let row = crate::test_data::Random::new(9).normal(64 * 200);
        let mut squares = [0.0; 2];
        for row in row.chunks(64) {
            let (scale, levels) = quantize::<Nibbles>(row);
            let mut rotated = row.to_vec();
            rotate(&mut rotated, 64);
            for (x, level) in rotated.iter().zip(levels) {
                squares[0] += f64::from(x - scale * level).powi(2);
                squares[1] += f64::from(*x).powi(2);
            }
        }
        let share = squares[0] / squares[1];
        assert!((0.005..0.0105).contains(&share), "{share}");
    }

    #[test]
    fn nibbles_lie_where_a_vector_of_16_finds_them() {
        let mut run = [Nibbles(0xff); 32];
        Nibbles::set(&mut run, 37, Nibbles(3));
        assert_eq!((run[21], Nibbles::get(&run, 37)), (Nibbles(0xf3), -58.0));
        Nibbles::set(&mut run, 53, Nibbles(2));
        assert_eq!((run[21], Nibbles::get(&run, 53)), (Nibbles(0x23), -75.0));
        assert_eq!([0, 1, 32, 33, 80].map(Nibbles::elements), [0, 16, 16, 32, 48]);
    }
}
