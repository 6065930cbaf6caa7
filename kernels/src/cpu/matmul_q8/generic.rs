use half::f16;
use muse_format::{Block, Layout, TILE_ROWS};

use super::Activations;
use crate::cpu::quantize::GROUP;

pub(super) fn q8(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run(Layout::Q8 { group: group as u16 }, out, tile, x);
}

pub(super) fn q4(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run(Layout::Q4 { group: group as u16 }, out, tile, x);
}

pub(super) fn q4_asym(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run(Layout::Q4Asym { group: group as u16 }, out, tile, x);
}

pub(super) fn q4_codebook(out: &mut [[f32; TILE_ROWS]], tile: &[u8], group: usize, x: Activations<'_>) {
    run(Layout::Q4Codebook { group: group as u16 }, out, tile, x);
}

fn run(layout: Layout, out: &mut [[f32; TILE_ROWS]], tile: &[u8], x: Activations<'_>) {
    let per_block = layout.group() / GROUP;
    for (t, out) in out.iter_mut().enumerate() {
        *out = [0.0; TILE_ROWS];
        let row = x.row(t);
        for g in 0..x.groups {
            let block =
                Block::new(layout, &tile[g / per_block * layout.block_bytes()..][..layout.block_bytes()]);
            let at = row.at(0, g);
            let quants = &row.quants[at * GROUP..][..GROUP];
            let first = g % per_block * GROUP;
            for (r, out) in out.iter_mut().enumerate() {
                let products =
                    quants.iter().enumerate().map(|(i, q)| block.quant(r, first + i) * i32::from(*q));
                let dot: i32 = products.sum();
                let (scale, offset) = (f16::from_bits(block.scale(r)), f16::from_bits(block.offset(r)));
                *out += row.scales[at] * (scale.to_f32() * dot as f32) + row.totals[at] * offset.to_f32();
            }
        }
    }
}
