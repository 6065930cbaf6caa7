//! How many tokens, row by row, an image of some size becomes.

/// Most that one side of an image may be times the other, where it is fit by its area.
pub(super) const LONGEST: f64 = 200.0;

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

/// Rows and columns of tokens for `height x width` pixels, a token of `side` pixels a side: each side rounded to whole
/// tokens, both scaled by one factor, and rounded down, where the image has more than `pixels_max` pixels then, or up where
/// it has fewer than `pixels_min`. `None` where one side is more than 200 times the other.
pub(super) fn area(
    height: u32,
    width: u32,
    side: u32,
    pixels_min: u32,
    pixels_max: u32,
) -> Option<(u32, u32)> {
    if f64::from(height.max(width)) / f64::from(height.min(width)) > LONGEST {
        return None;
    }
    let bounds = [pixels_min, pixels_max].map(f64::from);
    Some(scaled([1.0; 2], [height, width].map(f64::from), side.into(), bounds))
}

/// As [`area`], for frames of a video, whose pixels are counted together: how many there are, in grids of how many. A side
/// below one token is made as long as one first. `tokens_max` of a grid are another bound.
pub(super) fn area_of_frames(
    [frames, of_grid]: [u32; 2],
    [height, width]: [u32; 2],
    side: u32,
    [pixels_min, pixels_max]: [u32; 2],
    tokens_max: u32,
) -> Option<(u32, u32)> {
    let side = f64::from(side);
    let mut sides = [height, width].map(f64::from);
    if sides.iter().any(|len| *len < side) {
        let factor = (side / sides[0]).max(side / sides[1]);
        sides = sides.map(|len| (len * factor).trunc());
    }
    if sides[0].max(sides[1]) / sides[0].min(sides[1]) > LONGEST {
        return None;
    }
    let (frames, of_grid) = (f64::from(frames), f64::from(of_grid));
    let whole = (frames / of_grid).round_ties_even() * of_grid;
    let most = f64::from(pixels_max).min(f64::from(tokens_max) * side * side * whole);
    Some(scaled([frames, whole], sides, side, [f64::from(pixels_min).min(most), most]))
}

/// Each of two sides rounded to whole tokens, both scaled where their pixels are out of bounds: `whole` times those of the
/// rounded sides, by a factor that makes `frames` times their own fit.
fn scaled(
    [frames, whole]: [f64; 2],
    [height, width]: [f64; 2],
    side: f64,
    [least, most]: [f64; 2],
) -> (u32, u32) {
    let mut sides = [height, width].map(|len| (len / side).round_ties_even());
    let pixels = whole * (sides[0] * side) * (sides[1] * side);
    if pixels > most {
        let factor = (frames * height * width / most).sqrt();
        sides = [height, width].map(|len| (len / factor / side).floor().max(1.0));
    } else if pixels < least {
        let factor = (least / (frames * height * width)).sqrt();
        sides = [height, width].map(|len| (len * factor / side).ceil());
    }
    (sides[0] as u32, sides[1] as u32)
}

/// Rows and columns of tokens for `height x width` pixels, a token of `side` pixels a side: the image scaled to the size of
/// `tokens_max` tokens, and each side rounded down. Where one side is less than a token it is one, and the other as many as
/// the one is times the other.
pub(super) fn fill(height: u32, width: u32, side: u32, tokens_max: u32) -> (u32, u32) {
    let pixels = f64::from(height) * f64::from(width);
    let factor = (f64::from(tokens_max) * f64::from(side) * f64::from(side) / pixels).sqrt();
    let tokens = |len: u32| (factor * f64::from(len) / f64::from(side)).floor() as u32;
    let times = |long: u32, short: u32| (long / short).min(tokens_max);
    match (tokens(height), tokens(width)) {
        // Of one token, where rounding leaves less.
        (0, 0) => (1, 1),
        (0, _) => (1, times(width, height)),
        (_, 0) => (times(height, width), 1),
        sides => sides,
    }
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

    /// Height, width, side, fewest and most pixels, and the grid of transformers 5.23's `smart_resize` of Qwen.
    type AreaCase = (u32, u32, u32, u32, u32, (u32, u32));
    const AREA_CASES: [AreaCase; 33] = [
        (512, 512, 32, 65536, 16777216, (16, 16)),
        (1, 1, 32, 65536, 16777216, (8, 8)),
        (10, 500, 32, 65536, 16777216, (2, 57)),
        (1000, 5, 32, 65536, 16777216, (114, 1)),
        (16000, 3000, 32, 65536, 16777216, (295, 55)),
        (8000, 8000, 28, 3136, 1003520, (35, 35)),
        (48, 80, 32, 1024, 4096, (2, 2)),
        (33, 33, 4, 64, 480, (5, 5)),
        (3, 5, 8, 256, 1920, (2, 3)),
        (2552, 1047, 32, 3136, 16777216, (80, 33)),
        (2671, 2172, 4, 3136, 100000, (87, 71)),
        (2659, 213, 4, 256, 1003520, (665, 53)),
        (1922, 1010, 28, 65536, 100000, (15, 8)),
        (2351, 1022, 4, 65536, 100000, (119, 52)),
        (1672, 1145, 4, 3136, 100000, (95, 65)),
        (295, 569, 32, 65536, 1003520, (9, 18)),
        (519, 542, 4, 256, 100000, (77, 80)),
        (883, 680, 4, 3136, 1003520, (221, 170)),
        (815, 2209, 32, 65536, 100000, (6, 16)),
        (745, 2829, 4, 3136, 1003520, (128, 488)),
        (89, 1480, 28, 256, 100000, (2, 46)),
        (1081, 267, 28, 3136, 16777216, (39, 10)),
        (2401, 14, 32, 65536, 16777216, (105, 1)),
        (1385, 271, 28, 3136, 1003520, (49, 10)),
        (1970, 2853, 28, 256, 1003520, (29, 43)),
        (1936, 2887, 4, 256, 1003520, (205, 305)),
        (94, 1465, 28, 256, 16777216, (3, 52)),
        (1716, 1500, 28, 65536, 100000, (12, 10)),
        (1855, 192, 32, 256, 16777216, (58, 6)),
        (805, 488, 4, 3136, 1003520, (201, 122)),
        (2100, 1454, 32, 3136, 1003520, (37, 26)),
        (443, 2416, 32, 3136, 1003520, (13, 73)),
        (151, 1774, 4, 256, 1003520, (38, 444)),
    ];

    #[test]
    fn areas_are_those_of_the_reference_implementation() {
        let wrong: Vec<_> = AREA_CASES
            .into_iter()
            .map(|(height, width, side, least, most, grid)| {
                ((height, width), area(height, width, side, least, most), Some(grid))
            })
            .filter(|(_, actual, expected)| actual != expected)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        assert_eq!((area(1, 201, 4, 16, 1 << 20), area(201, 1, 4, 16, 1 << 20)), (None, None));
    }

    /// Frames, height, width, side, fewest and most pixels, and the grid of transformers 5.23's `smart_resize` of Qwen's
    /// videos, of 2 frames each.
    type FramesCase = (u32, u32, u32, u32, [u32; 2], Option<(u32, u32)>);
    const FRAMES_CASES: [FramesCase; 22] = [
        (5, 594, 59, 32, [4096, 25165824], Some((19, 2))),
        (768, 17, 1986, 28, [640, 19200], Some((1, 1))),
        (4, 681, 48, 4, [640, 19200], Some((65, 4))),
        (2, 187, 1647, 28, [640, 19200], Some((1, 10))),
        (768, 9, 616, 4, [131072, 786432], Some((1, 66))),
        (96, 1011, 177, 32, [640, 19200], Some((1, 1))),
        (4, 45, 924, 28, [4096, 25165824], Some((2, 33))),
        (3, 31, 332, 4, [4096, 25165824], Some((8, 83))),
        (7, 28, 244, 32, [640, 19200], Some((1, 4))),
        (16, 36, 3, 4, [4096, 25165824], Some((14, 2))),
        (2, 1730, 40, 32, [4096, 25165824], Some((54, 1))),
        (96, 480, 1033, 28, [131072, 786432], Some((2, 4))),
        (7, 36, 1760, 4, [131072, 786432], Some((9, 440))),
        (4, 1421, 1504, 32, [131072, 786432], Some((13, 14))),
        (16, 12, 1572, 28, [131072, 786432], Some((1, 90))),
        (3, 50, 20, 32, [131072, 786432], Some((11, 5))),
        (5, 827, 42, 32, [131072, 786432], Some((23, 2))),
        (5, 1907, 15, 32, [4096, 25165824], Some((127, 1))),
        (16, 811, 410, 32, [4096, 25165824], Some((25, 13))),
        (96, 2183, 1478, 28, [131072, 786432], Some((3, 2))),
        (96, 3, 79, 32, [640, 19200], Some((1, 2))),
        (4, 2, 500, 4, [640, 19200], None),
    ];

    #[test]
    fn areas_of_frames_are_those_of_the_reference_implementation() {
        let wrong: Vec<_> = FRAMES_CASES
            .into_iter()
            .map(|(frames, height, width, side, bounds, grid)| {
                let actual = area_of_frames([frames, 2], [height, width], side, bounds, u32::MAX);
                ((frames, height, width), actual, grid)
            })
            .filter(|(_, actual, expected)| actual != expected)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        // 4 frames of 64 x 64 pixels are 4 tokens of 32 a grid, or one where no more are allowed.
        let of = |tokens_max| area_of_frames([4, 2], [64, 64], 32, [1024, 1 << 20], tokens_max);
        assert_eq!([of(4), of(3), of(1)], [Some((2, 2)), Some((1, 1)), Some((1, 1))]);
    }

    /// Height, width, side, most tokens, and the grid of transformers 5.23's `get_aspect_ratio_preserving_size`.
    const FILL_CASES: [Case; 30] = [
        (512, 512, 48, 280, (16, 16)),
        (1, 1, 48, 280, (16, 16)),
        (1080, 1920, 48, 280, (12, 22)),
        (10, 5000, 48, 70, (1, 70)),
        (5000, 10, 48, 70, (70, 1)),
        (16384, 1, 48, 1120, (1120, 1)),
        (1, 16384, 8, 280, (1, 280)),
        (48, 48, 48, 1120, (33, 33)),
        (354, 2671, 42, 1120, (12, 91)),
        (42, 213, 4, 1120, (14, 75)),
        (127, 1560, 4, 140, (3, 41)),
        (1, 2995, 6, 1120, (1, 1120)),
        (59, 1596, 32, 140, (2, 61)),
        (2530, 1823, 2, 140, (13, 10)),
        (14, 883, 4, 140, (1, 93)),
        (102, 2209, 8, 140, (2, 55)),
        (58, 1570, 12, 140, (2, 61)),
        (85, 597, 4, 280, (6, 44)),
        (309, 2401, 4, 280, (6, 46)),
        (182, 1254, 14, 70, (3, 21)),
        (242, 2887, 14, 560, (6, 81)),
        (48, 1465, 4, 140, (2, 65)),
        (188, 1542, 6, 560, (8, 67)),
        (46, 742, 4, 1120, (8, 134)),
        (60, 1894, 4, 1120, (5, 188)),
        (398, 1896, 42, 280, (7, 36)),
        (28, 374, 28, 70, (2, 30)),
        (1486, 608, 42, 140, (18, 7)),
        (378, 1280, 42, 280, (9, 30)),
        (41, 610, 14, 280, (4, 64)),
    ];

    #[test]
    fn filled_grids_are_those_of_the_reference_implementation() {
        let wrong: Vec<_> = FILL_CASES
            .into_iter()
            .map(|(height, width, side, most, grid)| ((height, width), fill(height, width, side, most), grid))
            .filter(|(_, actual, expected)| actual != expected)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
        // Of one token something is left of every shape.
        for (height, width) in [(7, 7), (7, 5), (1, 16384), (16384, 1)] {
            let (rows, cols) = fill(height, width, 48, 1);
            assert_eq!(rows * cols, 1, "{height} x {width}");
        }
    }
}
