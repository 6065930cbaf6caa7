//! Every supported variant against f64 sums of the same integers, on shapes at the edges of every variant.
//!
//! Integer products are exact. With `g` groups of 32 a variant rounds the two conversions and three products of a
//! group and adds `g` numbers in f32, so it errs by at most `(g + 6) * eps * sum |terms|`, where the terms are those
//! of the symmetric and the offset part.

use half::f16;
use muse_format::{Block, BlockMut};

use super::*;
use crate::cpu::quantize::GROUP;
use crate::test_data::{Random, quantized_bytes};

/// 32 columns of a row: integers, scale, offset.
type Weights = ([i32; GROUP], f64, f64);

/// Row `r` of a tile.
fn unpacked(layout: Layout, tile: &[u8], groups: usize, r: usize) -> Vec<Weights> {
    let per_block = layout.group() / GROUP;
    let group = |g: usize| {
        let block = Block::new(layout, &tile[g / per_block * layout.block_bytes()..][..layout.block_bytes()]);
        let quants = std::array::from_fn(|i| block.quant(r, g % per_block * GROUP + i));
        (quants, f16::from_bits(block.scale(r)).to_f64(), f16::from_bits(block.offset(r)).to_f64())
    };
    (0..groups).map(group).collect()
}

fn expected(row: &[Weights], x: Activations<'_>) -> (f64, f64) {
    let (mut sum, mut magnitude) = (0.0, 0.0);
    for (g, (weights, scale, offset)) in row.iter().enumerate() {
        let at = x.at(0, g);
        let quants = &x.quants[at * GROUP..][..GROUP];
        let dot: i32 = quants.iter().zip(weights).map(|(q, w)| w * i32::from(*q)).sum();
        let total: i32 = quants.iter().map(|q| i32::from(*q)).sum();
        let x_scale = f64::from(x.scales[at]);
        let scaled = x_scale * scale * f64::from(dot);
        let offset = x_scale * offset * f64::from(total);
        sum += scaled + offset;
        magnitude += scaled.abs() + offset.abs();
    }
    (sum, magnitude)
}

fn assert_agrees(matmul: MatmulQ8, layout: Layout, tiles: &[u8], x: Activations<'_>, tokens: usize) {
    let len = (x.groups * GROUP).div_ceil(layout.group()) * layout.block_bytes();
    let mut out = vec![[f32::NAN; TILE_ROWS]; tiles.len() / len * tokens];
    matmul.run(layout, &mut out, tiles, x, tokens);
    let case = format!("{} {layout} {} groups, {tokens} tokens", matmul.name(), x.groups);
    for (tile, (out, bytes)) in out.chunks_exact(tokens).zip(tiles.chunks_exact(len)).enumerate() {
        for r in 0..TILE_ROWS {
            let row = unpacked(layout, bytes, x.groups, r);
            for (t, out) in out.iter().enumerate() {
                let actual = out[r];
                let (sum, magnitude) = expected(&row, x.row(t));
                let bound = (x.groups + 6) as f64 * f64::from(f32::EPSILON) * magnitude;
                let error = (f64::from(actual) - sum).abs();
                assert!(error <= bound, "{case}: ({tile}, {t}, {r}) is {actual}, not {sum}; bound {bound}");
            }
        }
    }
}

fn layouts() -> impl Iterator<Item = Layout> {
    let of = |group| {
        [Layout::Q8 { group }, Layout::Q4 { group }, Layout::Q4Asym { group }, Layout::Q4Codebook { group }]
    };
    [32, 64, 128].into_iter().flat_map(of)
}

#[test]
fn every_variant_agrees() {
    let mut random = Random::new(2);
    for matmul in MatmulQ8::all(Features::detect()) {
        for layout in layouts() {
            for (groups, tiles) in [(1, 1), (2, 4), (3, 3), (6, 2), (18, 7)] {
                let tiles = quantized_bytes(layout, tiles, groups * GROUP, &mut random);
                for tokens in [1, 2, 3, 4, 5, 8, 9, 10, 11, 12, 15, 16, 17, 33] {
                    let quants: Vec<i8> =
                        (0..tokens * groups * GROUP).map(|_| random.int(-127, 127) as i8).collect();
                    let scales: Vec<f32> = random.normal(tokens * groups).iter().map(|s| s.abs()).collect();
                    let corrections = corrections(&quants);
                    let stride = tokens;
                    let x = Activations {
                        groups,
                        stride,
                        quants: &quants,
                        scales: &scales,
                        corrections: &corrections,
                        totals: &totals(&corrections, &scales),
                    };
                    assert_agrees(matmul, layout, &tiles, x, tokens);
                }
            }
        }
    }
}

fn corrections(quants: &[i8]) -> Vec<i32> {
    quants.chunks(GROUP).map(|q| q.iter().map(|q| -8 * i32::from(*q)).sum()).collect()
}

fn totals(corrections: &[i32], scales: &[f32]) -> Vec<f32> {
    corrections.iter().zip(scales).map(|(correction, scale)| scale * (correction / -8) as f32).collect()
}

/// The largest integers that the types allow: no variant may saturate or wrap on the way.
#[test]
fn extreme_integers_do_not_saturate() {
    for matmul in MatmulQ8::all(Features::detect()) {
        for layout in layouts() {
            let levels = layout.levels();
            let end = |level: Option<&i8>| i32::from(*level.expect("a quantized layout has levels"));
            let high = end(levels.last());
            let low = if matches!(layout, Layout::Q8 { .. }) { -128 } else { end(levels.first()) };
            for (w, q) in [(low, 127_i8), (high, 127), (low, -127), (high, -127)] {
                let mut tile = vec![0; layout.block_bytes()];
                let mut block = BlockMut::new(layout, &mut tile);
                for r in 0..TILE_ROWS {
                    block.set_scale(r, f16::ONE.to_bits());
                    (0..layout.group()).for_each(|c| block.set_quant(r, c, w));
                }
                let groups = layout.group() / GROUP;
                let (quants, scales) = (vec![q; layout.group() * 2], vec![1.0; groups * 2]);
                let corrections = corrections(&quants);
                let totals = &totals(&corrections, &scales);
                let (quants, scales, corrections) = (&quants[..], &scales[..], &corrections[..]);
                let x = Activations { groups, stride: 2, quants, scales, corrections, totals };
                assert_agrees(matmul, layout, &tile, x, 2);
            }
        }
    }
}

#[test]
#[should_panic]
fn a_short_tile_is_refused() {
    let (scales, totals) = (&[0.0; 2], &[0.0; 2]);
    let x = Activations { groups: 2, stride: 1, quants: &[0; 64], scales, corrections: &[0; 2], totals };
    let layout = Layout::Q4 { group: 32 };
    MatmulQ8::best(Features::detect()).run(layout, &mut [[0.0; TILE_ROWS]], &[0; 288], x, 1);
}
