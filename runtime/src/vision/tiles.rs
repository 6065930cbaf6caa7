//! How a picture is cut into square tiles: a canvas of whole tiles that it fits best, on which it lies in the corner, scaled
//! and not distorted, and where that is more than one tile, all of it once more in one.

use muse_format::{Resampling, Vision};

use super::decode::{self, Picture};
use super::image::{Image, ImageError, checked};
use super::resize::resize;

/// The images that a picture becomes: one, or tiles row by row and behind several all of it in one.
#[derive(Debug, Clone, PartialEq)]
pub struct Tiles {
    /// Tiles of a row.
    pub cols: u32,
    pub images: Vec<Image>,
}

impl Tiles {
    /// A PNG, JPEG or WebP, resized to as many tokens as its size makes, or cut; `limit` is the most tokens of an image.
    ///
    /// # Errors
    /// [`ImageError`] where it is none, is damaged, or is too large.
    pub fn decode(bytes: &[u8], vision: &Vision, limit: u32) -> Result<Self, ImageError> {
        let limit = limit.min(vision.pixels.tokens_max);
        let Some(tiles_max) = vision.pixels.tiles else {
            let image = Image::resized(decode::decode(bytes)?, vision, limit)?;
            return Ok(Self { cols: 1, images: vec![image] });
        };
        let patches = u64::from(vision.positions);
        // Before anything is made that large.
        checked(patches, patches, vision, limit)?;
        let side = vision.tile();
        let picture = decode::decode(bytes)?;
        let canvas = canvas(picture.height, picture.width, side, tiles_max);
        let tiles = cut(picture, canvas, side, vision.pixels.resampling).into_iter();
        let images = tiles.map(|rgb| Image::from_rgb(patches, patches, rgb, vision, limit));
        Ok(Self { cols: canvas.cols, images: images.collect::<Result<_, _>>()? })
    }
}

/// A canvas of `rows x cols` tiles, and the size that a picture has on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Canvas {
    rows: u32,
    cols: u32,
    /// Pixels of the picture on it.
    height: u32,
    width: u32,
}

/// The canvas of at most `tiles_max` tiles of `side` pixels a side for `height x width` pixels: the one that makes the
/// picture least larger, or where each makes it smaller, least smaller; of several that do, the smallest. A picture that is
/// smaller than a tile is made as large as one, and no larger one is enlarged.
fn canvas(height: u32, width: u32, side: u32, tiles_max: u32) -> Canvas {
    // In the arithmetic of the reference implementation, which compares quotients that are rounded to f32.
    let scale = |&(rows, cols): &(u32, u32)| {
        let of = |tiles: u32, len: u32| (tiles * side) as f32 / len as f32;
        of(rows, height).min(of(cols, width))
    };
    let all = canvases(tiles_max);
    let scales = || all.iter().map(scale);
    let larger = scales().filter(|scale| *scale >= 1.0).fold(f32::INFINITY, f32::min);
    let chosen = if larger.is_finite() { larger } else { scales().fold(0.0, f32::max) };
    let fitting = all.iter().filter(|canvas| scale(canvas) == chosen);
    // The first of the smallest.
    let (rows, cols) = *fitting.min_by_key(|(rows, cols)| rows * cols).expect("one has the chosen scale");
    let target = |tiles: u32, len: u32| f64::from(len.max(side).min(tiles * side));
    let [target_height, target_width] = [target(rows, height), target(cols, width)];
    let (by_height, by_width) = (target_height / f64::from(height), target_width / f64::from(width));
    let (height, width) = if by_width < by_height {
        ((f64::from(height) * by_width).floor().min(target_height), target_width)
    } else {
        (target_height, (f64::from(width) * by_height).floor().min(target_width))
    };
    Canvas { rows, cols, height: height.max(1.0) as u32, width: width.max(1.0) as u32 }
}

/// Rows and columns of every canvas, those of one shape together, the larger first.
fn canvases(tiles_max: u32) -> Vec<(u32, u32)> {
    let mut shapes: Vec<Vec<(u32, u32)>> = Vec::new();
    for tiles in (1..=tiles_max).rev() {
        for rows in (1..=tiles).filter(|rows| tiles.is_multiple_of(*rows)) {
            let canvas = (rows, tiles / rows);
            let same = |shape: &&mut Vec<(u32, u32)>| shape[0].0 * canvas.1 == shape[0].1 * canvas.0;
            match shapes.iter_mut().find(same) {
                Some(shape) => shape.push(canvas),
                None => shapes.push(vec![canvas]),
            }
        }
    }
    shapes.concat()
}

/// The tiles of `picture` as pixels, row by row, and behind them all of it in one where there are several.
fn cut(picture: Picture, canvas: Canvas, side: u32, resampling: Resampling) -> Vec<Vec<u8>> {
    let size = [picture.height as usize, picture.width as usize];
    let side = side as usize;
    let Canvas { rows, cols, height, width } = canvas;
    let [height, width] = [height, width].map(|len| len as usize);
    let whole = (rows * cols > 1).then(|| resize(resampling, &picture.rgb[..], size, [side; 2]));
    let scaled = resize(resampling, picture.rgb, size, [height, width]);
    let mut tiles = Vec::with_capacity((rows * cols) as usize + 1);
    for row in 0..rows as usize {
        for col in 0..cols as usize {
            // Black where the picture ends.
            let mut tile = vec![0; side * side * 3];
            let (left, right) = ((col * side).min(width), ((col + 1) * side).min(width));
            for (y, line) in tile.chunks_exact_mut(side * 3).enumerate() {
                let y = row * side + y;
                if y < height && left < right {
                    let from = &scaled[(y * width + left) * 3..(y * width + right) * 3];
                    line[..from.len()].copy_from_slice(from);
                }
            }
            tiles.push(tile);
        }
    }
    tiles.extend(whole);
    tiles
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Height, width, pixels of a tile's side, most tiles, and of transformers 5.23's processor of Llama 4 the rows and
    /// columns of tiles, height and width of the picture.
    type Case = (u32, u32, u32, u32, [u32; 4]);
    const CASES: [Case; 36] = [
        (336, 336, 336, 16, [1, 1, 336, 336]),
        (1, 1, 336, 16, [1, 1, 336, 336]),
        (200, 300, 336, 16, [1, 1, 224, 336]),
        (1080, 1920, 336, 16, [3, 5, 945, 1680]),
        (4000, 3000, 336, 16, [4, 3, 1344, 1008]),
        (10, 5000, 336, 16, [1, 15, 10, 5000]),
        (5000, 10, 336, 16, [15, 1, 5000, 10]),
        (16384, 1, 336, 16, [16, 1, 5376, 1]),
        (337, 336, 336, 16, [2, 1, 337, 336]),
        (672, 672, 336, 4, [2, 2, 672, 672]),
        (1344, 1344, 336, 16, [4, 4, 1344, 1344]),
        (700, 1000, 448, 1, [1, 1, 313, 448]),
        (3000, 2000, 448, 5, [2, 2, 896, 597]),
        (2, 1, 4, 5, [1, 1, 4, 2]),
        (1927, 1529, 16, 16, [4, 4, 64, 50]),
        (1002, 1643, 336, 1, [1, 1, 204, 336]),
        (69, 70, 16, 16, [4, 4, 63, 64]),
        (2268, 2866, 4, 2, [1, 2, 4, 5]),
        (2809, 361, 336, 16, [8, 2, 2688, 345]),
        (371, 820, 448, 4, [1, 2, 371, 820]),
        (385, 808, 448, 4, [1, 2, 385, 808]),
        (603, 206, 336, 1, [1, 1, 336, 114]),
        (528, 590, 336, 5, [2, 2, 528, 590]),
        (8, 20, 4, 16, [2, 5, 8, 20]),
        (2414, 490, 448, 4, [4, 1, 1792, 363]),
        (2152, 816, 4, 12, [6, 2, 21, 8]),
        (1098, 1280, 4, 12, [3, 4, 12, 13]),
        (29, 18, 16, 5, [2, 2, 29, 18]),
        (52, 774, 16, 16, [1, 15, 16, 238]),
        (1364, 2285, 16, 1, [1, 1, 9, 16]),
        (1081, 798, 336, 4, [2, 2, 672, 496]),
        (2002, 221, 336, 2, [2, 1, 672, 74]),
        (1630, 394, 16, 5, [5, 1, 66, 16]),
        (618, 687, 448, 2, [1, 2, 448, 498]),
        (314, 2117, 448, 5, [1, 5, 314, 2117]),
        (1676, 352, 448, 5, [4, 1, 1676, 352]),
    ];

    #[test]
    fn canvases_are_those_of_the_reference_implementation() {
        let wrong: Vec<_> = CASES
            .into_iter()
            .map(|(height, width, side, most, expected)| {
                let Canvas { rows, cols, height: high, width: wide } = canvas(height, width, side, most);
                ((height, width, side, most), [rows, cols, high, wide], expected)
            })
            .filter(|(_, actual, expected)| actual != expected)
            .collect();
        assert!(wrong.is_empty(), "{wrong:?}");
    }

    #[test]
    fn a_picture_lies_in_the_corner_and_once_more_in_one_tile() {
        // Three by two pixels of their own color, on tiles of 2: the last column is black but for one.
        let rgb: Vec<u8> = (1..=6).flat_map(|i| [i, 10 * i, 20 * i]).collect();
        let canvas = Canvas { rows: 1, cols: 2, height: 2, width: 3 };
        let tiles = cut(Picture { width: 3, height: 2, rgb }, canvas, 2, Resampling::Bilinear);
        let pixel = |i: u8| [i, 10 * i, 20 * i];
        assert_eq!(tiles[0], [pixel(1), pixel(2), pixel(4), pixel(5)].concat());
        assert_eq!(tiles[1], [pixel(3), [0; 3], pixel(6), [0; 3]].concat());
        assert_eq!((tiles.len(), tiles[2].len()), (3, 12));
    }
}
