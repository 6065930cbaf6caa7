use super::*;
use crate::reference::quantize_row;
use crate::test_data::Random;

/// Integers and scales are defined bit for bit, so every variant equals the definition exactly.
#[test]
fn every_variant_finds_the_same_integers() {
    let mut random = Random::new(1);
    let mut pool = Pool::new(2);
    for quantize in Quantize::all(Features::detect()) {
        for (tokens, cols) in
            [(1, 1), (1, 5), (2, 16), (3, 31), (15, 32), (16, 33), (17, 64), (40, 172), (5, 5760)]
        {
            for size in [1.0, 1e-20, 1e-36, 1e-38, 0.0, 1e30] {
                let x: Vec<f32> = random.normal(tokens * cols).iter().map(|x| x * size).collect();
                let mut scratch = Scratch::default();
                quantize.run(&mut pool, &mut scratch, &x, cols);
                let batch = scratch.view(tokens, cols);
                for (t, x) in x.chunks(cols).enumerate() {
                    let case = format!("{} row {t} of {tokens}, {cols} columns of {size}", quantize.name());
                    let expected = quantize_row(x);
                    let row = batch.block(t / BLOCK * BLOCK).row(t % BLOCK);
                    row.assert_rows(1);
                    for (g, quants) in expected.quants.chunks(GROUP).enumerate() {
                        let at = row.at(0, g);
                        assert_eq!(&row.quants[at * GROUP..][..GROUP], quants, "{case}");
                        assert_eq!(row.scales[at], expected.scales[g], "{case}");
                        let sum: i32 = quants.iter().map(|q| i32::from(*q)).sum();
                        assert_eq!(row.corrections[at], -8 * sum, "{case}");
                        assert_eq!(row.totals[at], sum as f32 * expected.scales[g], "{case}");
                    }
                }
            }
        }
    }
}

#[test]
fn ties_go_to_even_and_what_is_not_finite_stays_so() {
    let mut pool = Pool::new(1);
    for quantize in Quantize::all(Features::detect()) {
        let mut row = |x: &[f32]| {
            let mut scratch = Scratch::default();
            quantize.run(&mut pool, &mut scratch, x, x.len());
            (scratch.quants, scratch.scales[0])
        };
        let (quants, scale) = row(&[127.0, 2.5, -3.5, 0.5, -126.5, -127.0]);
        assert_eq!((&quants[..6], scale), (&[127, 2, -4, 0, -126, -127][..], 1.0), "{}", quantize.name());
        for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(!row(&[1.0, bad, 2.0]).1.is_finite(), "{} {bad}", quantize.name());
        }
    }
}
