//! Resampling by Lanczos' windowed sinc, by cubic convolution or by a triangle, bit for bit as PyTorch does it with 8 bits a
//! channel on x86-64: weights rounded to 16 bits, columns first, each pass rounded to 8 bits. Turkowski 1990, "Filters for
//! common resampling tasks"; Keys 1981, "Cubic convolution interpolation for digital image processing".

use std::borrow::Cow;
use std::f64::consts::PI;

use muse_format::Resampling;

/// Channels of a pixel.
const CHANNELS: usize = 3;
/// Lobes of Lanczos' filter to either side.
const LOBES: f64 = 3.0;

/// `rgb`, `(height, width, 3)`, as `(new_height, new_width, 3)`.
pub(super) fn resize<'a>(
    resampling: Resampling,
    rgb: impl Into<Cow<'a, [u8]>>,
    [height, width]: [usize; 2],
    [new_height, new_width]: [usize; 2],
) -> Vec<u8> {
    let mut rgb = rgb.into();
    if new_width != width {
        let taps = Taps::new(resampling, width, new_width);
        let mut out = vec![0; height * new_width * CHANNELS];
        let rows = rgb.chunks_exact(width * CHANNELS).zip(out.chunks_exact_mut(new_width * CHANNELS));
        rows.for_each(|(row, out)| taps.along(row, out));
        rgb = out.into();
    }
    if new_height != height {
        let taps = Taps::new(resampling, height, new_height);
        let line = new_width * CHANNELS;
        let mut out = vec![0; new_height * line];
        let mut sums = vec![0; line];
        for (i, out) in out.chunks_exact_mut(line).enumerate() {
            taps.across(i, &rgb, &mut sums, out);
        }
        rgb = out.into();
    }
    rgb.into_owned()
}

/// What each new element is a sum of.
struct Taps {
    /// The first element, and where its weight is, of each; one more for the end.
    first: Vec<(usize, usize)>,
    weights: Vec<i32>,
    /// Bits behind the point of a weight.
    precision: u32,
}

impl Taps {
    fn new(resampling: Resampling, len: usize, new_len: usize) -> Self {
        let (filter, reach): (fn(f64) -> f64, _) = match resampling {
            Resampling::Lanczos => (lanczos, LOBES),
            Resampling::Bicubic => (cubic, 2.0),
            Resampling::Bilinear => (triangle, 1.0),
        };
        let scale = len as f64 / new_len as f64;
        // Where there are fewer, the filter is as wide as what an element stands for.
        let stretch = scale.max(1.0);
        let support = reach * stretch;
        let (mut first, mut weights) = (Vec::with_capacity(new_len + 1), Vec::new());
        for i in 0..new_len {
            let center = scale * (i as f64 + 0.5);
            let begin = (center - support + 0.5).max(0.0) as usize;
            let end = ((center + support + 0.5) as usize).min(len);
            let at = weights.len();
            first.push((begin, at));
            weights.extend((begin..end).map(|j| filter((j as f64 - center + 0.5) * (1.0 / stretch))));
            let total: f64 = weights[at..].iter().sum();
            weights[at..].iter_mut().for_each(|weight| *weight /= total);
        }
        first.push((len, weights.len()));
        let largest = weights.iter().copied().fold(0.0, f64::max);
        let fits = |bits: &u32| ((0.5 + largest * f64::from(1 << (bits + 1))) as i32) < 1 << 15;
        let precision = (0..22).take_while(fits).count() as u32;
        let one = f64::from(1 << precision);
        // Half away from zero.
        let weights = weights.iter().map(|weight| (weight * one).round() as i32).collect();
        Self { first, weights, precision }
    }

    /// The first element and the weights of a new one.
    fn of(&self, i: usize) -> (usize, &[i32]) {
        let (begin, at) = self.first[i];
        (begin, &self.weights[at..self.first[i + 1].1])
    }

    fn rounded(&self, sum: i32) -> u8 {
        (sum >> self.precision).clamp(0, 255) as u8
    }

    fn half(&self) -> i32 {
        1 << (self.precision - 1)
    }

    /// The pixels of a row.
    fn along(&self, row: &[u8], out: &mut [u8]) {
        for (i, out) in out.as_chunks_mut::<CHANNELS>().0.iter_mut().enumerate() {
            let (begin, weights) = self.of(i);
            let mut sums = [self.half(); CHANNELS];
            for (pixel, weight) in row.as_chunks::<CHANNELS>().0[begin..].iter().zip(weights) {
                sums.iter_mut().zip(pixel).for_each(|(sum, value)| *sum += weight * i32::from(*value));
            }
            *out = sums.map(|sum| self.rounded(sum));
        }
    }

    /// Row `i` of the new rows, as wide as `sums` and `out`.
    fn across(&self, i: usize, rows: &[u8], sums: &mut [i32], out: &mut [u8]) {
        let (begin, weights) = self.of(i);
        sums.fill(self.half());
        for (row, weight) in rows.chunks_exact(out.len()).skip(begin).zip(weights) {
            sums.iter_mut().zip(row).for_each(|(sum, value)| *sum += weight * i32::from(*value));
        }
        out.iter_mut().zip(sums).for_each(|(out, sum)| *out = self.rounded(*sum));
    }
}

fn lanczos(x: f64) -> f64 {
    if (-LOBES..LOBES).contains(&x) { sinc(x) * sinc(x / LOBES) } else { 0.0 }
}

fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    match x {
        _ if x < 1.0 => ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0,
        _ if x < 2.0 => (((x - 5.0) * x + 8.0) * x - 4.0) * A,
        _ => 0.0,
    }
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 { 1.0 } else { (x * PI).sin() / (x * PI) }
}

#[cfg(test)]
mod tests {
    use super::*;

    use Resampling::{Bicubic, Bilinear, Lanczos};

    #[test]
    fn the_same_size_and_one_color_stay() {
        let noise: Vec<u8> = (0..5 * 7 * 3).map(|i| (i * 89 % 251) as u8).collect();
        for by in [Lanczos, Bicubic, Bilinear] {
            assert_eq!(resize(by, noise.clone(), [5, 7], [5, 7]), noise);
            for size in [[1, 1], [3, 20], [40, 2]] {
                let one = resize(by, vec![77; 5 * 7 * 3], [5, 7], size);
                assert!(one.iter().all(|value| *value == 77), "{by:?} {size:?}");
            }
        }
    }

    /// What torchvision 0.29 (PyTorch 2.15, x86-64) makes of the same noise.
    #[test]
    fn pixels_are_those_of_the_reference_implementation() {
        let noise = |height: usize, width: usize| -> Vec<u8> {
            (0..height * width * 3).map(|i| ((i * i * 31 + i * 7) % 257 % 256) as u8).collect()
        };
        let small = resize(Lanczos, noise(5, 4), [5, 4], [2, 3]);
        assert_eq!(
            small,
            [89, 76, 46, 134, 48, 131, 108, 136, 190, 77, 103, 116, 131, 94, 153, 124, 113, 165]
        );
        let wide = resize(Lanczos, noise(2, 3), [2, 3], [3, 4]);
        assert_eq!(
            wide,
            [
                0, 36, 138, 1, 1, 48, 72, 0, 122, 135, 23, 255, 0, 58, 199, 63, 91, 70, 137, 86, 58, 135, 50,
                175, 0, 80, 255, 124, 180, 92, 201, 177, 0, 134, 76, 74
            ]
        );
        // Larger ones by the sum of each value times its place.
        let sum =
            |rgb: Vec<u8>| rgb.iter().zip(1_u64..).map(|(value, at)| u64::from(*value) * at).sum::<u64>();
        assert_eq!(sum(resize(Lanczos, noise(300, 200), [300, 200], [84, 56])), 11949766118);
        assert_eq!(sum(resize(Lanczos, noise(57, 91), [57, 91], [84, 140])), 74886599178);
        assert_eq!(sum(resize(Lanczos, noise(123, 40), [123, 40], [112, 56])), 21250815940);
        assert_eq!(sum(resize(Lanczos, noise(64, 480), [64, 480], [56, 28])), 1328048219);
        let small = resize(Bicubic, noise(5, 4), [5, 4], [2, 3]);
        assert_eq!(
            small,
            [91, 80, 55, 128, 52, 130, 109, 134, 184, 75, 101, 118, 128, 91, 153, 122, 110, 167]
        );
        assert_eq!(sum(resize(Bicubic, noise(300, 200), [300, 200], [84, 56])), 11949084751);
        assert_eq!(sum(resize(Bicubic, noise(57, 91), [57, 91], [84, 140])), 74740639387);
        assert_eq!(sum(resize(Bicubic, noise(123, 40), [123, 40], [112, 56])), 21256072091);
        let small = resize(Bilinear, noise(5, 4), [5, 4], [2, 3]);
        assert_eq!(
            small,
            [94, 84, 65, 126, 60, 131, 112, 129, 176, 80, 98, 119, 127, 89, 153, 122, 109, 167]
        );
        assert_eq!(sum(resize(Bilinear, noise(300, 200), [300, 200], [84, 56])), 11953267581);
        assert_eq!(sum(resize(Bilinear, noise(57, 91), [57, 91], [84, 140])), 74714587658);
        assert_eq!(sum(resize(Bilinear, noise(123, 40), [123, 40], [112, 56])), 21256114285);
    }
}
