//! From one rate to another: a windowed sinc (Smith, Digital Audio Resampling, <https://ccrma.stanford.edu/~jos/resample/>).

use std::f64::consts::PI;

/// Zeros of the sinc on either side.
const ZEROS: usize = 64;
/// Entries of the table from one zero to the next: linear interpolation between them errs by 2e-6 at most.
const STEPS: usize = 512;
/// Where the filter has half its strength, of the lower of both rates' highest frequency.
const ROLLOFF: f64 = 0.95;
/// Of the Kaiser window: what is mirrored is 100 dB down, from the highest frequency on.
const BETA: f64 = 10.0;

/// How many samples `len` become, rounded to the nearest, half of one up.
pub(super) fn resampled_len(len: u64, from: u32, to: u32) -> u64 {
    let (exact, from) = (u128::from(len) * u128::from(to), u128::from(from));
    u64::try_from((2 * exact + from) / (2 * from)).unwrap_or(u64::MAX)
}

/// `samples` at the rate `to`; outside of them there is silence.
pub(super) fn resample(samples: Vec<f32>, from: u32, to: u32) -> Vec<f32> {
    if from == to {
        return samples;
    }
    let ratio = f64::from(to) / f64::from(from);
    let scale = ROLLOFF * ratio.min(1.0);
    let table = table();
    let reach = (ZEROS as f64 / scale).floor() as i64;
    let (last, step) = (samples.len() as i64 - 1, scale * STEPS as f64);
    let one = |n: u64| {
        // Between which samples it lies: exact, however long the sound.
        let at = n * u64::from(from);
        let (whole, part) = ((at / u64::from(to)) as i64, (at % u64::from(to)) as f64 / f64::from(to));
        let (first, end) = ((whole - reach).max(0), (whole + 1 + reach).min(last));
        let inputs = (first..=end).zip(samples.get(first as usize..=end as usize).unwrap_or_default());
        let sum: f64 = inputs
            .map(|(k, x)| {
                let place = ((k - whole) as f64 - part).abs() * step;
                let entry = place as usize;
                match table.get(entry..entry + 2) {
                    Some(&[low, high]) => (low + (place - entry as f64) * (high - low)) * f64::from(*x),
                    _ => 0.0,
                }
            })
            .sum();
        (scale * sum) as f32
    };
    (0..resampled_len(samples.len() as u64, from, to)).map(one).collect()
}

/// Half of the windowed sinc, from its middle on.
fn table() -> Vec<f64> {
    let whole = bessel(BETA);
    let entry = |i: usize| {
        let x = i as f64 / STEPS as f64;
        let window = bessel(BETA * (1.0 - (x / ZEROS as f64).powi(2)).max(0.0).sqrt()) / whole;
        let sinc = if i == 0 { 1.0 } else { (PI * x).sin() / (PI * x) };
        sinc * window
    };
    (0..=ZEROS * STEPS).map(entry).collect()
}

/// The modified Bessel function of the first kind and order 0, by its series.
fn bessel(x: f64) -> f64 {
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..64 {
        term *= (x / 2.0 / f64::from(k)).powi(2);
        sum += term;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hertz: f64, rate: u32, len: usize) -> Vec<f32> {
        (0..len).map(|i| (2.0 * PI * hertz * i as f64 / f64::from(rate)).sin() as f32).collect()
    }

    /// Largest difference away from the ends, where there is silence behind.
    fn error(actual: &[f32], expected: &[f32], edge: usize) -> f32 {
        assert!(actual.len() == expected.len() && actual.len() > 2 * edge);
        let middle = edge..actual.len() - edge;
        let differences = actual[middle.clone()].iter().zip(&expected[middle]).map(|(a, e)| (a - e).abs());
        differences.fold(0.0, |most, x| if x > most || x.is_nan() { x } else { most })
    }

    #[test]
    fn tones_below_the_lower_rate_stay_and_those_above_go() {
        for (from, to) in
            [(44_100, 24_000), (48_000, 24_000), (8_000, 24_000), (24_001, 24_000), (11_025, 16_000)]
        {
            let (len, lower) = (from as usize / 2, f64::from(from.min(to)));
            let new_len = resampled_len(len as u64, from, to) as usize;
            // A filter's reach in the new samples.
            let edge = (80 * to / from.min(to)) as usize;
            for of_lower in [0.001, 0.11, 0.3, 0.44] {
                let hertz = of_lower * lower;
                let actual = resample(tone(hertz, from, len), from, to);
                let worst = error(&actual, &tone(hertz, to, new_len), edge);
                assert!(worst <= 1e-4, "{from} to {to}: {hertz} Hz is off by {worst}");
            }
            if from > to {
                let above = tone(0.51 * lower, from, len);
                // Not above its own highest frequency.
                if 0.51 * lower < 0.5 * f64::from(from) {
                    let worst = error(&resample(above, from, to), &vec![0.0; new_len], edge);
                    assert!(worst <= 1e-4, "{from} to {to}: {worst} is left");
                }
            }
        }
        let kept = tone(440.0, 24_000, 100);
        assert_eq!(resample(kept.clone(), 24_000, 24_000), kept);
        assert_eq!(resample(Vec::new(), 8_000, 24_000), Vec::<f32>::new());
        assert_eq!([100, 101, 102].map(|len| resampled_len(len, 44_100, 24_000)), [54, 55, 56]);
        assert_eq!([101, 102].map(|len| resampled_len(len, 48_000, 24_000)), [51, 51]);
        assert_eq!(resampled_len(u64::MAX, 4_000, 24_000), u64::MAX);
    }
}
