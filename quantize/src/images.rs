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
mod tests {
    use muse_format::{Pixels, Vision, VisionLayer};

    use super::*;

    /// Patches of 12 numbers, squares of 4 patches, at most 6 squares.
    fn vision() -> VisionInfo {
        let pixels = Pixels { patch: 2, tokens_max: 6, ..Pixels::default() };
        let spec = Vision {
            token: 1,
            blank_tokens: vec![1],
            pixels,
            dim: 8,
            heads: 1,
            ffn_dim: 8,
            positions: 2,
            frequencies: 2,
            merge: 2,
            adapter_dim: 8,
            layers: vec![VisionLayer { window: None }],
            ..Vision::default()
        };
        VisionInfo { spec, image_tokens: 6 }
    }

    type Tensors<'a> = &'a [(&'a str, Dtype, &'a [usize], Vec<u8>)];

    fn file(tensors: Tensors<'_>) -> Vec<u8> {
        let view = |(name, dtype, shape, data): &'_ (&'_ str, Dtype, &'_ [usize], Vec<u8>)| {
            (name.to_string(), TensorView::new(*dtype, shape.to_vec(), data).unwrap().clone().data().to_vec())
        };
        let data: Vec<_> = tensors.iter().map(view).collect();
        let views = tensors.iter().zip(&data).map(|((_, dtype, shape, _), (name, data))| {
            (name.clone(), TensorView::new(*dtype, shape.to_vec(), data).unwrap())
        });
        safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap()
    }

    fn numbers(count: usize) -> Vec<u8> {
        (0..count).flat_map(|i| (i as f32 / 7.0).to_le_bytes()).collect()
    }

    fn grid(sides: &[i64]) -> Vec<u8> {
        sides.iter().flat_map(|side| side.to_le_bytes()).collect()
    }

    #[test]
    fn images_are_cut_from_one_tensor() {
        let values = ("pixel_values", Dtype::F32, &[12, 12][..], numbers(144));
        let bytes = file(&[values, ("image_grid_thw", Dtype::I64, &[2, 3], grid(&[1, 2, 4, 1, 2, 2]))]);
        let images = read(&bytes, &vision()).unwrap();
        let [Medium::Image(first), Medium::Image(second)] = &images[..] else { panic!("{images:?}") };
        assert_eq!([first, second].map(|image| image.tokens(&vision().spec)), [2, 1]);
        let mut patch = Vec::new();
        second.patch(0, &vision().spec.pixels, &mut patch);
        assert_eq!(patch, (96..108).map(|i| i as f32 / 7.0).collect::<Vec<_>>());
    }

    #[test]
    fn videos_are_cut_into_grids() {
        let values = ("pixel_values_videos", Dtype::F32, &[20, 12][..], numbers(240));
        let sides = ("video_grid_thw", Dtype::I64, &[2, 3][..], grid(&[3, 2, 2, 1, 2, 4]));
        let videos = read(&file(&[values.clone(), sides.clone()]), &vision()).unwrap();
        let tokens = videos.iter().map(|medium| match medium {
            Medium::Video(grid) => grid.tokens(&vision().spec),
            other => panic!("{other:?}"),
        });
        assert_eq!(tokens.collect::<Vec<_>>(), [1, 1, 1, 2]);
        let Medium::Video(third) = &videos[2] else { unreachable!() };
        let mut patch = Vec::new();
        third.patch(0, &vision().spec.pixels, &mut patch);
        assert_eq!(patch, (96..108).map(|i| i as f32 / 7.0).collect::<Vec<_>>());
        // Images beside them come first.
        let image = ("pixel_values", Dtype::F32, &[4, 12][..], numbers(48));
        let of_image = ("image_grid_thw", Dtype::I64, &[1, 3][..], grid(&[1, 2, 2]));
        let both = read(&file(&[values, sides, image, of_image]), &vision()).unwrap();
        assert_eq!(both.iter().map(Medium::kind).filter(|kind| *kind == MediumKind::Image).count(), 1);
        assert_eq!((both[0].kind(), both.len()), (MediumKind::Image, 5));
    }

    #[test]
    fn images_with_empty_patches_behind_are_cut_from_one_tensor() {
        let mut seeing = vision();
        seeing.spec.pixels.given = Given::Padded;
        // Of 2 x 4 and of 2 x 2 patches, in room for 9.
        let places = |sides: &[[i64; 2]]| -> Vec<i64> {
            let image = |[rows, cols]: &[i64; 2]| {
                let (rows, cols) = (*rows, *cols);
                let own = (0..rows).flat_map(move |row| (0..cols).flat_map(move |col| [col, row]));
                own.chain(std::iter::repeat(-1)).take(18).collect::<Vec<_>>()
            };
            sides.iter().flat_map(image).collect()
        };
        let read = |values: (Dtype, &[usize], Vec<u8>), places: &[i64], shape: &[usize]| {
            let values = ("pixel_values", values.0, values.1, values.2);
            read(&file(&[values, ("image_position_ids", Dtype::I64, shape, grid(places))]), &seeing)
        };
        let values = || (Dtype::F32, &[2, 9, 12][..], numbers(216));
        let images = read(values(), &places(&[[2, 4], [2, 2]]), &[2, 9, 2]).unwrap();
        let of = |medium: Medium| match medium {
            Medium::Image(image) => image,
            other => panic!("{other:?}"),
        };
        let images: Vec<_> = images.into_iter().map(of).collect();
        assert_eq!(images.iter().map(|image| image.tokens(&seeing.spec)).collect::<Vec<_>>(), [2, 1]);
        let mut patch = Vec::new();
        images[1].patch(1, &seeing.spec.pixels, &mut patch);
        // Of the second patch of the second image, red, green and blue of its four pixels.
        let at = |i: usize| (9 * 12 + 12 + i) as f32 / 7.0;
        let in_planes: Vec<f32> = (0..3).flat_map(|c| (0..4).map(move |i| at(3 * i + c))).collect();
        assert_eq!(patch, in_planes);

        let good = places(&[[2, 4], [2, 2]]);
        let changed = |at: usize, value: i64| {
            let mut places = good.clone();
            places[at] = value;
            places
        };
        let cases = [
            (read(values(), &changed(0, 1), &[2, 9, 2]), "image 0: image_position_ids must count"),
            (read(values(), &changed(2, i64::MAX), &[2, 9, 2]), "image 0: image_position_ids must count"),
            (read(values(), &changed(35, 0), &[2, 9, 2]), "image 1: image_position_ids must count"),
            (read(values(), &[-1; 36], &[2, 9, 2]), "image 0: image_position_ids must count"),
            (read(values(), &good, &[4, 9, 1]), "image_position_ids is I64 [4, 9, 1]"),
            (read(values(), &places(&[[3, 3], [2, 2]]), &[2, 9, 2]), "image 0: an image has 3 x 3 patches"),
            (read((Dtype::F32, &[18, 12], numbers(216)), &good, &[2, 9, 2]), "pixel_values is F32 [18, 12]"),
        ];
        for (result, expected) in cases {
            let error = result.expect_err(expected).to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        let other = ("image_grid_thw", Dtype::I64, &[1, 3][..], grid(&[1, 2, 2]));
        let error = super::read(&file(&[other]), &seeing).unwrap_err().to_string();
        assert!(
            error.contains("image_grid_thw is not supported") && error.contains("image_position_ids"),
            "{error}"
        );
    }

    #[test]
    fn tiles_are_cut_from_one_tensor() {
        let mut seeing = vision();
        // 2 x 2 patches of 2 x 2 pixels.
        seeing.spec.pixels.given = Given::Planes;
        let values =
            |shape: &'static [usize]| ("pixel_values", Dtype::F32, shape, numbers(shape.iter().product()));
        let read = |tensors: Tensors<'_>| super::read(&file(tensors), &seeing);
        let tiles = read(&[values(&[2, 3, 4, 4])]).unwrap();
        let [_, Medium::Image(second)] = &tiles[..] else { panic!("{tiles:?}") };
        assert_eq!(second.tokens(&seeing.spec), 1);
        let mut patch = Vec::new();
        second.patch(1, &seeing.spec.pixels, &mut patch);
        let at = |i: usize| (48 + i) as f32 / 7.0;
        let expected = (0..3).flat_map(|c| [2, 3, 6, 7].map(|i| at(16 * c + i)));
        assert_eq!(patch, expected.collect::<Vec<_>>());
        assert!(read(&[values(&[0, 3, 4, 4])]).unwrap().is_empty());

        let grid = ("image_grid_thw", Dtype::I64, &[1, 3][..], grid(&[1, 2, 2]));
        let mut hole = values(&[1, 3, 4, 4]);
        hole.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let cases = [
            (read(&[]), "there is no tensor pixel_values"),
            (read(&[values(&[1, 3, 4, 4]), grid]), "tensor image_grid_thw is not supported"),
            (
                read(&[values(&[1, 3, 4, 5])]),
                "pixel_values is F32 [1, 3, 4, 5]; it must be floats, (tiles, 3, 4, 4)",
            ),
            (read(&[values(&[3, 4, 4])]), "pixel_values is F32 [3, 4, 4]"),
            (read(&[("pixel_values", Dtype::U8, &[1, 3, 4, 4], vec![0; 48])]), "pixel_values is U8"),
            (read(&[hole]), "image 0: a number of an image's patches is not finite"),
        ];
        for (result, expected) in cases {
            let error = result.expect_err(expected).to_string();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    #[test]
    fn what_is_no_image_is_refused_by_name() {
        let values =
            |rows: usize, cols: usize| ("pixel_values", Dtype::F32, vec![rows, cols], numbers(rows * cols));
        let grid = |sides: &[i64]| ("image_grid_thw", Dtype::I64, vec![sides.len() / 3, 3], grid(sides));
        let video = |rows: usize| ("pixel_values_videos", Dtype::F32, vec![rows, 12], numbers(rows * 12));
        let video_grid = |sides: &[i64]| ("video_grid_thw", Dtype::I64, vec![1, 3], grid(sides).3);
        let mut hole = values(4, 12);
        hole.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let bytes = ("pixel_values", Dtype::U8, vec![4, 12], vec![0; 48]);
        let other = ("input_features", Dtype::F32, vec![1, 1], numbers(1));
        let cases = [
            (vec![values(4, 12)], "there is no tensor image_grid_thw"),
            (vec![grid(&[1, 2, 2])], "there is no tensor pixel_values"),
            (vec![values(4, 12), grid(&[1, 2, 2]), other], "tensor input_features is not supported"),
            (vec![values(4, 11), grid(&[1, 2, 2])], "pixel_values is F32 [4, 11]"),
            (vec![bytes, grid(&[1, 2, 2])], "pixel_values is U8 [4, 12]"),
            (vec![values(4, 12), grid(&[1, -2, 2])], "image_grid_thw is I64 [1, 3]"),
            (vec![values(4, 12), grid(&[1, 2, 3])], "counts 6 patches and pixel_values holds 4"),
            (vec![values(4, 12), grid(&[1, i64::MAX, 4])], "patches and pixel_values holds 4"),
            (vec![values(16, 12), grid(&[2, 4, 2])], "image 0 has 2 frames"),
            (vec![values(8, 12), grid(&[2, 4, 2])], "image_grid_thw counts 16 patches"),
            (vec![values(4, 12), grid(&[1, 1, 4])], "image 0: an image has 1 x 4 patches"),
            (vec![values(32, 12), grid(&[1, 8, 4])], "image 0: an image is 8 tokens"),
            (vec![video(4), grid(&[1, 2, 2])], "there is no tensor pixel_values;"),
            (vec![video(4)], "there is no tensor video_grid_thw"),
            (
                vec![video(4), video_grid(&[2, 2, 2])],
                "video_grid_thw counts 8 patches and pixel_values_videos holds 4",
            ),
            (vec![video(4), video_grid(&[4, 1, 1])], "video 0: an image has 1 x 1 patches"),
            (vec![video(0), video_grid(&[i64::MAX, 0, 2])], "video 0: an image has 0 x 2 patches"),
            (vec![video(0), video_grid(&[0, 2, 2])], "video 0 has no frames"),
            (vec![hole, grid(&[1, 2, 2])], "image 0: a number of an image's patches is not finite"),
        ];
        let mut wrong = Vec::new();
        for (tensors, expected) in cases {
            let tensors: Vec<_> = tensors
                .iter()
                .map(|(name, dtype, shape, data)| (*name, *dtype, &shape[..], data.clone()))
                .collect();
            match read(&file(&tensors), &vision()) {
                Err(error) if error.to_string().contains(expected) => {}
                other => wrong.push(format!("{expected}: {other:?}")),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
        assert!(matches!(read(b"nothing", &vision()), Err(InputsError::Format(_))));
    }
}
