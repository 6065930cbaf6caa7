use super::*;
use crate::reference::quantize_row;
use crate::test_data::Random;

/// Integers and scales are defined bit for bit, so every variant equals the definition exactly.
#[test]
fn every_variant_finds_the_same_integers() {
    let mut random = Random::new(1);
    for quantize in Quantize::all(Features::detect()) {
        for cols in [1, 5, 16, 31, 32, 33, 64, 172, 576] {
            for size in [1.0, 1e-20, 1e-36, 1e-38, 0.0, 1e30] {
                let x: Vec<f32> = random.normal(cols).iter().map(|x| x * size).collect();
                let expected = quantize_row(&x);
                let groups = cols.div_ceil(GROUP);
                let (mut quants, mut scales) = (vec![99; groups * GROUP], vec![f32::NAN; groups]);
                let mut corrections = vec![99; groups];
                quantize.row(&mut quants, &mut scales, &mut corrections, &x);
                let case = format!("{} {cols} columns of {size}", quantize.name());
                assert_eq!(quants, expected.quants, "{case}");
                assert_eq!(scales, expected.scales, "{case}");
                let sums = quants.chunks(GROUP).map(|q| q.iter().map(|q| -8 * i32::from(*q)).sum::<i32>());
                assert!(corrections.iter().copied().eq(sums), "{case}");
            }
        }
    }
}

#[test]
fn ties_go_to_even_and_what_is_not_finite_stays_so() {
    for quantize in Quantize::all(Features::detect()) {
        let row = |x: &[f32]| {
            let (mut quants, mut scales, mut corrections) = ([0; GROUP], [0.0], [0]);
            quantize.row(&mut quants, &mut scales, &mut corrections, x);
            (quants, scales[0])
        };
        let (quants, scale) = row(&[127.0, 2.5, -3.5, 0.5, -126.5, -127.0]);
        assert_eq!((&quants[..6], scale), (&[127, 2, -4, 0, -126, -127][..], 1.0), "{}", quantize.name());
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!row(&[1.0, bad, 2.0]).1.is_finite(), "{} {bad}", quantize.name());
        }
    }
}
