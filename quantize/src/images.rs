//! Images and videos whose values another program has computed: a safetensors file with the tensors' names of transformers.

use half::{bf16, f16};
use muse_format::Given;
use muse_runtime::{Image, ImageError, Medium, MediumKind, VisionInfo};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::sounds;

/// The tensors of a kind: the values of patches, and frames, rows and columns of them.
const IMAGES: [&str; 2] = ["pixel_values", "image_grid_thw"];
const VIDEOS: [&str; 2] = ["pixel_values_videos", "video_grid_thw"];
/// Those of images with empty patches behind: the values of patches, and column and row of each.
const PADDED: [&str; 2] = ["pixel_values", "image_position_ids"];

/// Why a file's tensors are no images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputsError {
    #[error(transparent)]
    Format(#[from] safetensors::SafeTensorError),
    #[error(
        "there is no tensor {0}; images are {IMAGES:?}, of some models {PADDED:?} or the first alone, and videos {VIDEOS:?}"
    )]
    Missing(&'static str),
    #[error(
        "tensor {0} is not supported; images are {IMAGES:?}, of some models {PADDED:?} or the first alone, and videos {VIDEOS:?}"
    )]
    Unknown(String),
    #[error("{name} is {dtype} {shape:?}; it must be {expected}")]
    Shape { name: &'static str, dtype: String, shape: Vec<usize>, expected: String },
    #[error("image {image} has {frames} frames; a still image has 1")]
    Frames { image: usize, frames: u64 },
    #[error("video {video} has no frames")]
    NoFrames { video: usize },
    #[error("{} counts {counted} patches and {} holds {held}", names[1], names[0])]
    Patches { names: [&'static str; 2], counted: u64, held: u64 },
    #[error("image {image}: {} must count patches row by row, and be -1 behind them", PADDED[1])]
    Positions { image: usize },
    #[error("{kind} {index}: {problem}")]
    Image { kind: MediumKind, index: usize, problem: ImageError },
}

/// Reads `pixel_values`, `(patches, values)` floats, and `image_grid_thw`, `(images, 3)` whole numbers; of videos, grid by
/// grid, `pixel_values_videos` and `video_grid_thw`, which counts the grids of each first. Of models whose images have empty
/// patches behind, `pixel_values`, `(images, patches, values)`, and `image_position_ids`, `(images, patches, 2)`. Of models
/// that look at tiles `pixel_values` alone, `(tiles, 3, side, side)`.
///
/// # Errors
/// [`InputsError`] naming the tensor, the image or the video.
pub fn read(bytes: &[u8], vision: &VisionInfo) -> Result<Vec<Medium>, InputsError> {
    let file = SafeTensors::deserialize(bytes)?;
    if vision.spec.pixels.given == Given::Planes {
        return tiles(&file, vision);
    }
    let padded = vision.spec.pixels.given == Given::Padded;
    let known = if padded { PADDED.to_vec() } else { [IMAGES, VIDEOS].concat() };
    // Sounds beside them are read by themselves.
    let known = [known, sounds::NAMES.to_vec()].concat();
    if let Some(name) = file.names().into_iter().find(|name| !known.contains(name)) {
        return Err(InputsError::Unknown(name.to_owned()));
    }
    if padded {
        let tensor = |name| file.tensor(name).map_err(|_| InputsError::Missing(name));
        return padded_images(&tensor(PADDED[0])?, &tensor(PADDED[1])?, vision);
    }
    let has = |names: [&str; 2]| names.iter().any(|name| file.names().contains(name));
    let videos = has(VIDEOS);
    let mut media = Vec::new();
    if has(IMAGES) || !videos {
        media = read_kind(&file, MediumKind::Image, vision)?;
    }
    if videos {
        media.extend(read_kind(&file, MediumKind::Video, vision)?);
    }
    Ok(media)
}

fn read_kind(
    file: &SafeTensors<'_>,
    kind: MediumKind,
    vision: &VisionInfo,
) -> Result<Vec<Medium>, InputsError> {
    let names = if kind == MediumKind::Video { VIDEOS } else { IMAGES };
    let tensor = |name| file.tensor(name).map_err(|_| InputsError::Missing(name));
    let (values, grid) = (tensor(names[0])?, tensor(names[1])?);
    let width = vision.spec.pixels.values() as usize;
    let numbers = floats(&values).filter(|_| matches!(*values.shape(), [_, cols] if cols == width));
    let numbers = numbers.ok_or_else(|| shape(names[0], &values, format!("floats, (patches, {width})")))?;
    let sides = whole(&grid).filter(|_| matches!(*grid.shape(), [_, 3]));
    let sides = sides.ok_or_else(|| shape(names[1], &grid, format!("whole numbers, ({kind}s, 3)")))?;
    let (grids, held) = (sides.as_chunks::<3>().0, (numbers.len() / width) as u64);
    let patches = |[_, rows, cols]: &[u64; 3]| rows.saturating_mul(*cols);
    let all = |grid: &[u64; 3]| patches(grid).saturating_mul(grid[0]);
    let counted = grids.iter().map(all).fold(0, u64::saturating_add);
    if counted != held {
        return Err(InputsError::Patches { names, counted, held });
    }
    let (mut rest, mut media) = (numbers.as_slice(), Vec::new());
    for (index, grid) in grids.iter().enumerate() {
        let [frames, rows, cols] = *grid;
        if kind == MediumKind::Image && frames != 1 {
            return Err(InputsError::Frames { image: index, frames });
        }
        if frames == 0 {
            return Err(InputsError::NoFrames { video: index });
        }
        // An empty grid is refused at its first.
        for _ in 0..if patches(grid) == 0 { 1 } else { frames } {
            // The sum of all is what `numbers` holds, so each fits.
            let (own, others) = rest.split_at(patches(grid) as usize * width);
            rest = others;
            let image = Image::from_patches(rows, cols, own.to_vec(), &vision.spec, vision.image_tokens)
                .map_err(|problem| InputsError::Image { kind, index, problem })?;
            media.push(match kind {
                MediumKind::Video => Medium::Video(image),
                _ => Medium::Image(image),
            });
        }
    }
    Ok(media)
}

/// Tiles of the tower's size, each an image.
fn tiles(file: &SafeTensors<'_>, vision: &VisionInfo) -> Result<Vec<Medium>, InputsError> {
    let name = IMAGES[0];
    let unknown = |other: &&str| *other != name && !sounds::NAMES.contains(other);
    if let Some(other) = file.names().into_iter().find(unknown) {
        return Err(InputsError::Unknown(other.to_owned()));
    }
    let values = file.tensor(name).map_err(|_| InputsError::Missing(name))?;
    let (sides, side) = (u64::from(vision.spec.positions), vision.spec.tile() as usize);
    let numbers =
        floats(&values).filter(|_| matches!(*values.shape(), [_, 3, y, x] if y == side && x == side));
    let numbers =
        numbers.ok_or_else(|| shape(name, &values, format!("floats, (tiles, 3, {side}, {side})")))?;
    let image = |(index, own): (usize, &[f32])| {
        Image::from_patches(sides, sides, own.to_vec(), &vision.spec, vision.image_tokens)
            .map(Medium::from)
            .map_err(|problem| InputsError::Image { kind: MediumKind::Image, index, problem })
    };
    numbers.chunks_exact(3 * side * side).enumerate().map(image).collect()
}

/// Images of as many patches each, empty ones behind their own.
fn padded_images(
    values: &TensorView<'_>,
    positions: &TensorView<'_>,
    vision: &VisionInfo,
) -> Result<Vec<Medium>, InputsError> {
    let width = vision.spec.pixels.values() as usize;
    let numbers = floats(values).filter(|_| matches!(*values.shape(), [_, _, cols] if cols == width));
    let numbers =
        numbers.ok_or_else(|| shape(PADDED[0], values, format!("floats, (images, patches, {width})")))?;
    let (images, patches) = (values.shape()[0], values.shape()[1]);
    let places = signed(positions).filter(|_| *positions.shape() == [images, patches, 2]);
    let places = places
        .ok_or_else(|| shape(PADDED[1], positions, format!("whole numbers, ({images}, {patches}, 2)")))?;
    let image = |image: usize| {
        let places = &places.as_chunks::<2>().0[image * patches..][..patches];
        let count = places.iter().position(|place| *place == [-1; 2]).unwrap_or(patches);
        let (own, empty) = places.split_at(count);
        let cols = own.iter().map(|[col, _]| *col).max().map_or(0, |last| last.saturating_add(1));
        let cols = usize::try_from(cols).ok().filter(|cols| *cols > 0 && count.is_multiple_of(*cols));
        let in_order = |cols: &usize| {
            let counted = (0..count).map(|i| [(i % cols) as i64, (i / cols) as i64]);
            own.iter().copied().eq(counted) && empty.iter().all(|place| *place == [-1; 2])
        };
        let cols = cols.filter(in_order).ok_or(InputsError::Positions { image })?;
        let own = numbers[image * patches * width..][..count * width].to_vec();
        Image::from_patches((count / cols) as u64, cols as u64, own, &vision.spec, vision.image_tokens)
            .map(Medium::from)
            .map_err(|problem| InputsError::Image { kind: MediumKind::Image, index: image, problem })
    };
    (0..images).map(image).collect()
}

pub(crate) fn shape(name: &'static str, tensor: &TensorView<'_>, expected: String) -> InputsError {
    let (dtype, shape) = (format!("{:?}", tensor.dtype()), tensor.shape().to_vec());
    InputsError::Shape { name, dtype, shape, expected }
}

pub(crate) fn floats(tensor: &TensorView<'_>) -> Option<Vec<f32>> {
    let data = tensor.data();
    let halves = || data.as_chunks::<2>().0.iter();
    Some(match tensor.dtype() {
        Dtype::F32 => data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        Dtype::F16 => halves().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        Dtype::BF16 => halves().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => return None,
    })
}

/// Numbers that are not negative.
pub(crate) fn whole(tensor: &TensorView<'_>) -> Option<Vec<u64>> {
    signed(tensor)?.into_iter().map(|number| u64::try_from(number).ok()).collect()
}

fn signed(tensor: &TensorView<'_>) -> Option<Vec<i64>> {
    let data = tensor.data();
    let (fours, eights) = (data.as_chunks::<4>().0.iter(), data.as_chunks::<8>().0.iter());
    match tensor.dtype() {
        Dtype::I32 => Some(fours.map(|b| i32::from_le_bytes(*b).into()).collect()),
        Dtype::I64 => Some(eights.map(|b| i64::from_le_bytes(*b)).collect()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
