//! How many tokens, row by row, an image of some size becomes.

/// Rows and columns of tokens for `height x width` pixels, a token of `side` pixels a side: the grid nearest to the
/// image's shape among those of about its size, which is cut down to `tokens_max` tokens first where it has more.
///
/// An image so long that it has more tokens with a single column is given that many.
pub(super) fn tokens(height: u32, width: u32, side: u32, tokens_max: u32) -> (u32, u32) {
    let (height, width, most) = (f64::from(height), f64::from(width), f64::from(tokens_max));
    let (mut rows, mut cols) = (height / f64::from(side), width / f64::from(side));
    if rows * cols > most {
        let ratio = cols / rows;
        rows = (most / ratio).sqrt();
        cols = rows * ratio;
    }
    let near = [rows.floor(), rows.ceil()]
        .into_iter()
        .flat_map(|rows| [cols.floor(), cols.ceil()].map(|cols| (rows as u32, cols as u32)));
    let fits = |(rows, cols): &(u32, u32)| {
        *rows >= 1 && *cols >= 1 && u64::from(*rows) * u64::from(*cols) <= u64::from(tokens_max)
    };
    let off = |(rows, cols): &(u32, u32)| (f64::from(*rows) / f64::from(*cols) - height / width).abs();
    let best = in_order_of_a_set(near).into_iter().filter(fits).min_by(|a, b| off(a).total_cmp(&off(b)));
    best.unwrap_or_else(|| (rows.round_ties_even().max(1.0) as u32, cols.round_ties_even().max(1.0) as u32))
}

/// The order in which CPython walks a set of up to four pairs of small numbers, put into it in turn. The reference
/// implementation keeps its candidates in a set and takes the first of equals: a square image fits two grids equally.
fn in_order_of_a_set(pairs: impl Iterator<Item = (u32, u32)>) -> Vec<(u32, u32)> {
    let mut slots = [None; 8];
    for pair in pairs {
        let hash = hash(pair);
        let (mut slot, mut perturb) = (hash % 8, hash);
        while slots[slot as usize].is_some_and(|taken| taken != pair) {
            perturb >>= 5;
            slot = (slot * 5 + 1 + perturb) % 8;
        }
        slots[slot as usize] = Some(pair);
    }
    slots.into_iter().flatten().collect()
}

/// CPython's hash of a tuple of two small numbers, by xxHash's primes.
fn hash((first, second): (u32, u32)) -> u64 {
    const PRIMES: [u64; 3] = [0x9E37_79B1_85EB_CA87, 0xC2B2_AE3D_27D4_EB4F, 0x27D4_EB2F_1656_67C5];
    let mix = |sum: u64, number: u32| {
        let sum = sum.wrapping_add(u64::from(number).wrapping_mul(PRIMES[1]));
        sum.rotate_left(31).wrapping_mul(PRIMES[0])
    };
    mix(mix(PRIMES[2], first), second).wrapping_add(2 ^ PRIMES[2] ^ 3_527_539)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Height, width, side, most tokens, and the grid of transformers 5.23's `smart_resize`.
    type Case = (u32, u32, u32, u32, (u32, u32));
    const CASES: [Case; 48] = [
        (512, 512, 28, 4096, (19, 19)),
        (1024, 1024, 28, 4096, (37, 37)),
        (42, 42, 28, 4096, (1, 1)),
        (1080, 1920, 28, 4096, (39, 69)),
        (4000, 3000, 28, 4096, (73, 55)),
        (1, 1, 28, 4096, (1, 1)),
        (10, 500, 28, 4096, (1, 18)),
        (3000, 3, 28, 4096, (108, 1)),
        (640, 480, 28, 100, (11, 8)),
        (333, 333, 28, 64, (8, 8)),
        (28, 28, 28, 1, (1, 1)),
        (100, 100, 28, 1, (1, 1)),
        (56, 57, 28, 4096, (2, 2)),
        (5000, 5000, 28, 4096, (64, 64)),
        (16384, 16384, 28, 4096, (64, 64)),
        (700, 50, 28, 3, (6, 1)),
        (975, 2428, 28, 4096, (35, 87)),
        (1516, 2474, 9, 12, (2, 4)),
        (2380, 269, 28, 4096, (85, 10)),
        (1922, 1063, 28, 4096, (69, 38)),
        (786, 2938, 9, 12, (2, 6)),
        (2252, 1952, 9, 12, (3, 3)),
        (617, 950, 28, 4096, (22, 34)),
        (2143, 1598, 28, 4096, (74, 55)),
        (2751, 263, 4, 12, (11, 1)),
        (176, 1234, 4, 256, (6, 42)),
        (1937, 2437, 28, 256, (14, 18)),
        (2926, 1749, 9, 12, (4, 2)),
        (2364, 1822, 4, 256, (18, 14)),
        (400, 147, 4, 256, (26, 9)),
        (889, 1057, 28, 256, (14, 17)),
        (2567, 1234, 9, 12, (4, 2)),
        (1581, 2352, 9, 12, (3, 4)),
        (2397, 1670, 28, 4096, (76, 53)),
        (1380, 2794, 4, 256, (11, 22)),
        (2482, 2750, 28, 4096, (60, 67)),
        (2862, 1337, 28, 12, (5, 2)),
        (2332, 427, 28, 12, (8, 1)),
        (865, 2593, 28, 256, (9, 27)),
        (1168, 510, 4, 256, (24, 10)),
        (1749, 1749, 28, 4096, (63, 63)),
        (1309, 1309, 28, 4096, (47, 47)),
        (991, 991, 28, 4096, (36, 36)),
        (182, 182, 28, 4096, (6, 6)),
        (705, 705, 28, 4096, (25, 25)),
        (1640, 1640, 28, 4096, (59, 59)),
        (137, 137, 28, 4096, (4, 4)),
        (841, 841, 28, 4096, (30, 30)),
    ];

    #[test]
    fn grids_are_those_of_the_reference_implementation() {
        let wrong: Vec<_> = CASES
            .into_iter()
            .map(|(height, width, side, most, grid)| {
                ((height, width), tokens(height, width, side, most), grid)
            })
            .filter(|(_, actual, expected)| actual != expected)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }
}
