//! The storage types of GGUF and their decoding to f32. Facts: ggml's block definitions (`ggml-common.h`); every
//! decoder is compared with the `gguf` Python package on random blocks.
//!
//! Sums are in f32 and in the order that ggml uses, so that values are equal to the last bit.
#![allow(clippy::indexing_slicing)] // blocks are arrays of a fixed size, walked by constant loops

use half::{bf16, f16};
use muse_format::CODEBOOK;

use crate::checkpoint::{Group, GroupKind, Native};

/// A storage type that we read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(non_camel_case_types)] // the names that people know
pub(super) enum Kind {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
}

/// How many weights share a block, and its size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) weights: usize,
    pub(super) bytes: usize,
}

/// Names of types that exist but that we do not read.
const OTHERS: [(u32, &str); 22] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
    (42, "Q2_0"),
];

impl Kind {
    /// The type by its number in a file, or the name of one that is not read.
    pub(super) fn from_code(code: u32) -> Result<Self, String> {
        Ok(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            12 => Self::Q4_K,
            13 => Self::Q5_K,
            14 => Self::Q6_K,
            20 => Self::IQ4_NL,
            23 => Self::IQ4_XS,
            30 => Self::BF16,
            _ => {
                let known = OTHERS.iter().find(|(other, _)| *other == code);
                return Err(known.map_or(format!("number {code}"), |(_, name)| (*name).into()));
            }
        })
    }

    pub(super) fn block(self) -> Block {
        let (weights, bytes) = match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q4_K => (256, 144),
            Self::Q5_K => (256, 176),
            Self::Q6_K => (256, 210),
            Self::IQ4_NL => (32, 18),
            Self::IQ4_XS => (256, 136),
        };
        Block { weights, bytes }
    }

    pub(super) fn native(self) -> Native {
        match self {
            Self::F32 => Native::F32,
            Self::F16 => Native::F16,
            Self::BF16 => Native::Bf16,
            Self::Q4_0 => Native::Groups(GroupKind::Q4),
            // Q4_K's integers stay too; its two levels of scales become one f16 each.
            Self::Q4_1 | Self::Q4_K => Native::Groups(GroupKind::Q4Asym),
            // Five-bit integers with one scale are eight-bit integers with that scale.
            Self::Q8_0 | Self::Q5_0 => Native::Groups(GroupKind::Q8),
            // The same holds of IQ4_XS and IQ4_NL as of Q4_K and Q4_1.
            Self::IQ4_NL | Self::IQ4_XS => Native::Groups(GroupKind::Q4Codebook),
            Self::Q5_1 => Native::Other("Q5_1"),
            Self::Q5_K => Native::Other("Q5_K"),
            Self::Q6_K => Native::Other("Q6_K"),
        }
    }

    /// Decodes whole blocks.
    ///
    /// # Panics
    /// If `bytes` and `out` are not the same number of whole blocks.
    pub(super) fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        match self {
            Self::F32 => each(bytes, out, |b, o| *o = [f32::from_le_bytes(*b)]),
            Self::F16 => each(bytes, out, |b, o| *o = [f16::from_le_bytes(*b).to_f32()]),
            Self::BF16 => each(bytes, out, |b, o| *o = [bf16::from_le_bytes(*b).to_f32()]),
            Self::Q4_0 => each(bytes, out, |b, o| write_group(q4_0(b), o)),
            Self::Q4_1 => each(bytes, out, |b, o| write_group(q4_1(b), o)),
            Self::Q8_0 => each(bytes, out, |b, o| write_group(q8_0(b), o)),
            Self::Q5_0 => each(bytes, out, |b, o| write_group(q5_0(b), o)),
            Self::Q5_1 => each(bytes, out, q5_1),
            Self::Q4_K => each(bytes, out, q4_k),
            Self::Q5_K => each(bytes, out, q5_k),
            Self::Q6_K => each(bytes, out, q6_k),
            Self::IQ4_NL => each(bytes, out, |b, o| write_group(iq4_nl(b), o)),
            Self::IQ4_XS => each(bytes, out, iq4_xs),
        }
    }

    /// The groups of whole blocks, integers unchanged; only for the types whose [`native`](Self::native) is groups.
    /// Scales and offsets are unchanged too, but for Q4_K and IQ4_XS, where the products that they are are rounded to f16.
    ///
    /// # Panics
    /// For any other type: [`Native::Groups`] is what a caller must see first.
    pub(super) fn groups(self, bytes: &[u8]) -> Vec<Group> {
        match self {
            Self::Q4_0 => bytes.as_chunks().0.iter().map(q4_0).collect(),
            Self::Q4_1 => bytes.as_chunks().0.iter().map(q4_1).collect(),
            Self::Q8_0 => bytes.as_chunks().0.iter().map(q8_0).collect(),
            Self::Q5_0 => bytes.as_chunks().0.iter().map(q5_0).collect(),
            Self::Q4_K => bytes.as_chunks().0.iter().flat_map(q4_k_groups).collect(),
            Self::IQ4_NL => bytes.as_chunks().0.iter().map(iq4_nl).collect(),
            Self::IQ4_XS => bytes.as_chunks().0.iter().flat_map(iq4_xs_groups).collect(),
            other => panic!("{other:?} has no groups"),
        }
    }
}

fn each<const B: usize, const N: usize>(bytes: &[u8], out: &mut [f32], decode: fn(&[u8; B], &mut [f32; N])) {
    let (blocks, bytes_left) = bytes.as_chunks();
    let (outs, out_left) = out.as_chunks_mut();
    assert!(bytes_left.is_empty() && out_left.is_empty() && blocks.len() == outs.len());
    for (block, out) in blocks.iter().zip(outs) {
        decode(block, out);
    }
}

fn float(bytes: [u8; 2]) -> f32 {
    f16::from_le_bytes(bytes).to_f32()
}

fn write_group(group: Group, out: &mut [f32; 32]) {
    let (scale, offset) = (f16::from_bits(group.scale).to_f32(), f16::from_bits(group.offset).to_f32());
    for (out, q) in out.iter_mut().zip(group.quants) {
        *out = f32::from(q) * scale + offset;
    }
}

/// Byte `j` holds weight `j` in its low half and weight `j + 16` in its high half.
fn nibbles(bytes: &[u8; 16]) -> [u8; 32] {
    std::array::from_fn(|i| if i < 16 { bytes[i] & 15 } else { bytes[i - 16] >> 4 })
}

fn q4_0(block: &[u8; 18]) -> Group {
    let [d0, d1, quants @ ..] = block;
    let quants = nibbles(quants).map(|q| q as i8 - 8);
    Group { scale: u16::from_le_bytes([*d0, *d1]), offset: 0, quants }
}

fn q4_1(block: &[u8; 20]) -> Group {
    let [d0, d1, m0, m1, quants @ ..] = block;
    let quants = nibbles(quants).map(|q| q as i8);
    Group { scale: u16::from_le_bytes([*d0, *d1]), offset: u16::from_le_bytes([*m0, *m1]), quants }
}

fn q8_0(block: &[u8; 34]) -> Group {
    let [d0, d1, quants @ ..] = block;
    let quants = quants.map(|q| i8::from_le_bytes([q]));
    Group { scale: u16::from_le_bytes([*d0, *d1]), offset: 0, quants }
}

/// Five-bit integers: four bits in `low`, the fifth in bit `i` of `high`.
fn five_bits(high: [u8; 4], low: &[u8; 16]) -> [u8; 32] {
    let high = u32::from_le_bytes(high);
    let mut quants = nibbles(low);
    for (i, q) in quants.iter_mut().enumerate() {
        *q |= u8::from(high >> i & 1 == 1) << 4;
    }
    quants
}

fn q5_0(block: &[u8; 22]) -> Group {
    let [d0, d1, h0, h1, h2, h3, low @ ..] = block;
    let quants = five_bits([*h0, *h1, *h2, *h3], low).map(|q| q as i8 - 16);
    Group { scale: u16::from_le_bytes([*d0, *d1]), offset: 0, quants }
}

fn q5_1(block: &[u8; 24], out: &mut [f32; 32]) {
    let [d0, d1, m0, m1, h0, h1, h2, h3, low @ ..] = block;
    let (d, m) = (float([*d0, *d1]), float([*m0, *m1]));
    *out = five_bits([*h0, *h1, *h2, *h3], low).map(|q| f32::from(q) * d + m);
}

/// Eight 6-bit scales and eight 6-bit minima in 12 bytes: the low six bits of the first four of each, whose top two
/// bits complete the four-bit halves of the last four.
fn k_scales(packed: &[u8; 12]) -> [(f32, f32); 8] {
    std::array::from_fn(|j| {
        let (scale, min) = if j < 4 {
            (packed[j] & 63, packed[j + 4] & 63)
        } else {
            let halves = packed[j + 4];
            (halves & 15 | packed[j - 4] >> 6 << 4, halves >> 4 | packed[j] >> 6 << 4)
        };
        (f32::from(scale), f32::from(min))
    })
}

/// The integers of the eight runs of 32 of a Q4_K block, and what scales and shifts each: `q * scale - min`.
fn q4_k_runs(block: &[u8; 144]) -> [([u8; 32], f32, f32); 8] {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (packed, quants) = rest.split_first_chunk().expect("140 bytes are more than 12");
    let (d, min) = (float([*d0, *d1]), float([*m0, *m1]));
    let scales = k_scales(packed);
    std::array::from_fn(|j| {
        let run = std::array::from_fn(|l| quants[j / 2 * 32 + l] >> (j % 2 * 4) & 15);
        (run, d * scales[j].0, min * scales[j].1)
    })
}

fn q4_k(block: &[u8; 144], out: &mut [f32; 256]) {
    for (out, (quants, scale, min)) in out.chunks_exact_mut(32).zip(q4_k_runs(block)) {
        for (out, q) in out.iter_mut().zip(quants) {
            *out = scale * f32::from(q) - min;
        }
    }
}

fn q4_k_groups(block: &[u8; 144]) -> [Group; 8] {
    q4_k_runs(block).map(|(quants, scale, min)| Group {
        scale: f16::from_f32(scale).to_bits(),
        offset: f16::from_f32(-min).to_bits(),
        quants: quants.map(|q| q as i8),
    })
}

fn q5_k(block: &[u8; 176], out: &mut [f32; 256]) {
    let [d0, d1, m0, m1, rest @ ..] = block;
    let (packed, rest) = rest.split_first_chunk().expect("172 bytes are more than 12");
    let (high, quants) = rest.split_at(32);
    let (d, min) = (float([*d0, *d1]), float([*m0, *m1]));
    for (j, (scale, low)) in k_scales(packed).into_iter().enumerate() {
        for l in 0..32 {
            let q = quants[j / 2 * 32 + l] >> (j % 2 * 4) & 15 | (high[l] >> j & 1) << 4;
            out[j * 32 + l] = d * scale * f32::from(q) - min * low;
        }
    }
}

/// Two halves of 128; in each, four runs of 32 take their low four bits from 64 bytes of `low` (two runs a byte) and
/// their high two from 32 bytes of `high` (four runs a byte). A scale serves 16 weights.
fn q6_k(block: &[u8; 210], out: &mut [f32; 256]) {
    let (low, rest) = block.split_at(128);
    let (high, rest) = rest.split_at(64);
    let (scales, d) = rest.split_at(16);
    let d = float([d[0], d[1]]);
    for (i, out) in out.iter_mut().enumerate() {
        let (half, run, l) = (i / 128, i % 128 / 32, i % 32);
        let four = low[half * 64 + run % 2 * 32 + l] >> (run / 2 * 4) & 15;
        let two = high[half * 32 + l] >> (run * 2) & 3;
        let q = f32::from(four | two << 4) - 32.0;
        *out = d * f32::from(i8::from_le_bytes([scales[i / 16]])) * q;
    }
}

/// Indices into the codebook, as [`nibbles`] has them.
fn levels(bytes: &[u8; 16]) -> [i8; 32] {
    nibbles(bytes).map(|index| CODEBOOK[usize::from(index)])
}

fn iq4_nl(block: &[u8; 18]) -> Group {
    let [d0, d1, indices @ ..] = block;
    Group { scale: u16::from_le_bytes([*d0, *d1]), offset: 0, quants: levels(indices) }
}

/// The levels of the eight runs of 32 of an IQ4_XS block and the scale of each: six bits, 32 too high, of which four
/// bytes hold the low four and a word the high two.
fn iq4_xs_runs(block: &[u8; 136]) -> [([i8; 32], f32); 8] {
    let [d0, d1, h0, h1, rest @ ..] = block;
    let (low, indices) = rest.split_first_chunk::<4>().expect("132 bytes are more than 4");
    let (high, indices) = (u16::from_le_bytes([*h0, *h1]), indices.as_chunks::<16>().0);
    let d = float([*d0, *d1]);
    std::array::from_fn(|j| {
        let scale = low[j / 2] >> (j % 2 * 4) & 15 | ((high >> (2 * j) & 3) as u8) << 4;
        (levels(&indices[j]), d * (f32::from(scale) - 32.0))
    })
}

fn iq4_xs(block: &[u8; 136], out: &mut [f32; 256]) {
    for (out, (levels, scale)) in out.chunks_exact_mut(32).zip(iq4_xs_runs(block)) {
        for (out, level) in out.iter_mut().zip(levels) {
            *out = scale * f32::from(level);
        }
    }
}

fn iq4_xs_groups(block: &[u8; 136]) -> [Group; 8] {
    iq4_xs_runs(block).map(|(quants, scale)| Group {
        scale: f16::from_f32(scale).to_bits(),
        offset: 0,
        quants,
    })
}
