//! An image as a tower reads it.

use half::bf16;
use muse_format::{Fit, Given, Pixels, Vision};

use super::decode::Picture;
use super::grid::Grid;
use super::{fit, resize};

/// An image whose patches can be computed. Cloning is not cheap; it is shared by reference.
#[derive(Clone, PartialEq)]
pub struct Image {
    pub(super) grid: Grid,
    values: Values,
    hash: [u8; 32],
}

#[derive(Clone, PartialEq)]
enum Values {
    /// `(patches, values)`, as a processor elsewhere made them.
    Patches(Vec<f32>),
    /// `(frames, rows * patch, cols * patch, 3)`, where one frame stands for all
    Rgb(Vec<u8>),
}

/// Why something is not an image for a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    #[error("an image has {rows} x {cols} patches; each must be a multiple of {merge}, and at least that")]
    Grid { rows: u64, cols: u64, merge: u32 },
    #[error("an image has {rows} x {cols} patches; this model has positions for {limit} a side")]
    Positions { rows: u32, cols: u32, limit: u32 },
    #[error("an image is {tokens} tokens; this model takes {limit} at most")]
    TooLarge { tokens: u64, limit: u32 },
    #[error("the patches of an image are {actual} numbers; {rows} x {cols} of {width} are {expected}")]
    Values { rows: u64, cols: u64, width: u32, actual: u64, expected: u64 },
    #[error("a number of an image's patches is not finite")]
    NotFinite,
    #[error("the image is neither PNG nor JPEG nor WebP")]
    Format,
    #[error("the image is {bytes} bytes; at most {limit} are taken")]
    Bytes { bytes: u64, limit: u64 },
    #[error("the image is {width} x {height} pixels; at most {side} a side and {pixels} in all are taken")]
    Sides { width: u32, height: u32, side: u32, pixels: u64 },
    #[error(
        "the image is {width} x {height} pixels; for this model one side may be {} times the other at most",
        fit::LONGEST
    )]
    Long { width: u32, height: u32 },
    #[error("the image cannot be decoded: {0}")]
    Broken(String),
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} x {} patches)", self.grid.rows, self.grid.cols)
    }
}

impl Image {
    /// All of a picture, resized to as many tokens as its size makes, `limit` at most.
    pub(super) fn resized(picture: Picture, vision: &Vision, limit: u32) -> Result<Self, ImageError> {
        let (Picture { width, height, rgb }, pixels) = (picture, &vision.pixels);
        let patch = pixels.patch;
        let side = patch * vision.merge;
        let fit = match pixels.fit {
            Fit::Shape => Some(fit::tokens(height, width, side, limit)),
            Fit::Fill => Some(fit::fill(height, width, side, limit)),
            Fit::Table => Some((vision.positions / vision.merge, vision.positions / vision.merge)),
            Fit::Area { pixels_min, pixels_max } => {
                let most = u64::from(limit) * u64::from(side) * u64::from(side);
                let most = u32::try_from(most).map_or(pixels_max, |most| most.min(pixels_max));
                fit::area(height, width, side, pixels_min.min(most), most)
            }
        };
        let (rows, cols) = fit.ok_or(ImageError::Long { width, height })?;
        let [rows, cols] = [rows, cols].map(|tokens| u64::from(tokens) * u64::from(vision.merge));
        // Before it is made that large: a long one may have more than it should.
        let Grid { rows, cols } = checked(rows, cols, vision, limit)?;
        let size = [height, width].map(|side| side as usize);
        let new_size = [rows, cols].map(|patches| (patches * patch) as usize);
        let rgb = resize::resize(pixels.resampling, rgb, size, new_size);
        Self::from_rgb(rows.into(), cols.into(), rgb, vision, limit)
    }

    /// An image of which `values`, `(rows * cols, values)`, were computed elsewhere and lie as [`Pixels::given`] says;
    /// `limit` is the most tokens it may take.
    ///
    /// # Errors
    /// [`ImageError`] where the numbers do not fit together.
    pub fn from_patches(
        rows: u64,
        cols: u64,
        values: Vec<f32>,
        vision: &Vision,
        limit: u32,
    ) -> Result<Self, ImageError> {
        let grid = checked(rows, cols, vision, limit)?;
        let width = vision.pixels.values();
        let expected = u64::from(grid.len()) * u64::from(width);
        if values.len() as u64 != expected {
            return Err(ImageError::Values { rows, cols, width, actual: values.len() as u64, expected });
        }
        if !values.iter().all(|value| value.is_finite()) {
            return Err(ImageError::NotFinite);
        }
        let values = match vision.pixels.given {
            Given::Rows => values,
            Given::Squares => from_squares(&values, grid, vision),
            Given::Padded => from_pixels(&values, &vision.pixels),
            Given::Planes => from_planes(&values, grid, &vision.pixels),
        };
        let mut hasher = hasher(grid);
        for value in &values {
            hasher.update(&value.to_le_bytes());
        }
        Ok(Self { grid, values: Values::Patches(values), hash: hasher.finalize().into() })
    }

    /// An image of `rows x cols` patches of pixels, `rgb` row by row, of one frame or of as many as a patch has.
    ///
    /// # Errors
    /// As [`from_patches`](Self::from_patches).
    pub fn from_rgb(
        rows: u64,
        cols: u64,
        rgb: Vec<u8>,
        vision: &Vision,
        limit: u32,
    ) -> Result<Self, ImageError> {
        let grid = checked(rows, cols, vision, limit)?;
        let width = 3 * vision.pixels.patch * vision.pixels.patch;
        let expected = u64::from(grid.len()) * u64::from(width);
        let actual = rgb.len() as u64;
        if actual != expected && actual != expected * u64::from(vision.pixels.frames) {
            return Err(ImageError::Values { rows, cols, width, actual, expected });
        }
        let mut hasher = hasher(grid);
        hasher.update(&rgb);
        Ok(Self { grid, values: Values::Rgb(rgb), hash: hasher.finalize().into() })
    }

    /// Of the patches and where they lie: what two images with the same vectors share, and others do not.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Vectors that a tower makes of it.
    pub fn tokens(&self, vision: &Vision) -> u32 {
        self.grid.len() / vision.merged()
    }

    /// Rows and columns of those vectors.
    pub fn area(&self, vision: &Vision) -> [u32; 2] {
        [self.grid.rows / vision.merge, self.grid.cols / vision.merge]
    }

    /// Adds the values of a patch to `out`.
    pub fn patch(&self, patch: u32, pixels: &Pixels, out: &mut Vec<f32>) {
        let width = pixels.values() as usize;
        let rgb = match &self.values {
            Values::Patches(values) => {
                return out.extend_from_slice(&values[patch as usize * width..][..width]);
            }
            Values::Rgb(rgb) => rgb,
        };
        let [row, col] = self.grid.place(patch).map(|place| place as usize);
        let (side, line) = (pixels.patch as usize, (self.grid.cols * pixels.patch) as usize);
        let frame_len = 3 * self.grid.len() as usize * side * side;
        for frame in 0..pixels.frames as usize {
            let frame = if rgb.len() == frame_len { rgb } else { &rgb[frame * frame_len..][..frame_len] };
            for channel in 0..3 {
                // In one step, as the reference implementation does: (x - 255 mean) / (255 deviation).
                let (mean, deviation) = (255.0 * pixels.mean[channel], 255.0 * pixels.deviation[channel]);
                for y in 0..side {
                    let start = (row * side + y) * line + col * side;
                    let values = frame[3 * start..][..3 * side].iter().skip(channel).step_by(3);
                    match pixels.rounded {
                        false => out.extend(values.map(|value| (f32::from(*value) - mean) / deviation)),
                        true => out.extend(values.map(|value| rounded(*value, channel, pixels))),
                    }
                }
            }
        }
    }
}

/// Patches that come square by square, channel by channel in each, as they lie here.
fn from_squares(given: &[f32], grid: Grid, vision: &Vision) -> Vec<f32> {
    let (merge, pixels) = (vision.merge, &vision.pixels);
    let (frames, plane) = (pixels.frames as usize, (pixels.patch * pixels.patch) as usize);
    let mut values = Vec::with_capacity(given.len());
    for patch in 0..grid.len() {
        let [row, col] = grid.place(patch);
        let square = row / merge * (grid.cols / merge) + col / merge;
        let came = square * vision.merged() + row % merge * merge + col % merge;
        let of_patch = &given[came as usize * 3 * frames * plane..][..3 * frames * plane];
        for frame in 0..frames {
            for channel in 0..3 {
                values.extend_from_slice(&of_patch[(channel * frames + frame) * plane..][..plane]);
            }
        }
    }
    values
}

/// Patches that come pixel by pixel, from 0 to 1, as they lie here.
fn from_pixels(given: &[f32], pixels: &Pixels) -> Vec<f32> {
    let plane = (pixels.patch * pixels.patch) as usize;
    let mut values = Vec::with_capacity(given.len());
    for of_patch in given.chunks_exact(3 * plane) {
        for (channel, (mean, deviation)) in pixels.mean.iter().zip(pixels.deviation).enumerate() {
            let of_channel = of_patch.iter().skip(channel).step_by(3);
            values.extend(of_channel.map(|value| (value - mean) / deviation));
        }
    }
    values
}

/// A value that is rounded to bf16 after each step: from 0 to 1, moved, scaled.
fn rounded(value: u8, channel: usize, pixels: &Pixels) -> f32 {
    let round = |x: f32| bf16::from_f32(x).to_f32();
    let (mean, deviation) = (round(pixels.mean[channel]), round(pixels.deviation[channel]));
    let value = round(f32::from(value) * (1.0 / 255.0));
    round(round(value - mean) / deviation)
}

/// Pixels that come row by row, channel by channel, as they lie here.
fn from_planes(given: &[f32], grid: Grid, pixels: &Pixels) -> Vec<f32> {
    let (side, line) = (pixels.patch as usize, (grid.cols * pixels.patch) as usize);
    let plane = line * (grid.rows * pixels.patch) as usize;
    let mut values = Vec::with_capacity(given.len());
    for patch in 0..grid.len() {
        let [row, col] = grid.place(patch).map(|place| place as usize * side);
        for channel in 0..3 {
            for y in row..row + side {
                values.extend_from_slice(&given[channel * plane + y * line + col..][..side]);
            }
        }
    }
    values
}

/// The grid of an image of `rows` and `cols` patches, where it is one that `vision` takes.
pub(super) fn checked(rows: u64, cols: u64, vision: &Vision, limit: u32) -> Result<Grid, ImageError> {
    let merge = vision.merge;
    let tokens = (rows / u64::from(merge)).saturating_mul(cols / u64::from(merge));
    if tokens > u64::from(limit) {
        return Err(ImageError::TooLarge { tokens, limit });
    }
    let whole = |len: u64| len > 0 && len.is_multiple_of(merge.into());
    let narrow = u32::try_from(rows).ok().zip(u32::try_from(cols).ok());
    let grid = narrow.filter(|_| whole(rows) && whole(cols));
    let (rows, cols) = grid.ok_or(ImageError::Grid { rows, cols, merge })?;
    match vision.side_max().filter(|limit| rows.max(cols) > *limit) {
        Some(limit) => Err(ImageError::Positions { rows, cols, limit }),
        None => Ok(Grid { rows, cols }),
    }
}

fn hasher(grid: Grid) -> blake3::Hasher {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&grid.rows.to_le_bytes()).update(&grid.cols.to_le_bytes());
    hasher
}
