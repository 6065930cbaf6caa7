//! Images and videos whose values another program has computed: a safetensors file with the tensors' names of transformers.

use half::{bf16, f16};
use muse_runtime::{Image, ImageError, Medium, MediumKind, VisionInfo};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

/// The tensors of a kind: the values of patches, and frames, rows and columns of them.
const IMAGES: [&str; 2] = ["pixel_values", "image_grid_thw"];
const VIDEOS: [&str; 2] = ["pixel_values_videos", "video_grid_thw"];

/// Why a file's tensors are no images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputsError {
    #[error(transparent)]
    Format(#[from] safetensors::SafeTensorError),
    #[error("there is no tensor {0}; images are {IMAGES:?}, and videos {VIDEOS:?}")]
    Missing(&'static str),
    #[error("tensor {0} is not supported; images are {IMAGES:?}, and videos {VIDEOS:?}")]
    Unknown(String),
    #[error("{name} is {dtype} {shape:?}; it must be {expected}")]
    Shape { name: &'static str, dtype: String, shape: Vec<usize>, expected: String },
    #[error("image {image} has {frames} frames; a still image has 1")]
    Frames { image: usize, frames: u64 },
    #[error("video {video} has no frames")]
    NoFrames { video: usize },
    #[error("{} counts {counted} patches and {} holds {held}", names[1], names[0])]
    Patches { names: [&'static str; 2], counted: u64, held: u64 },
    #[error("{kind} {index}: {problem}")]
    Image { kind: MediumKind, index: usize, problem: ImageError },
}

/// Reads `pixel_values`, `(patches, values)` floats, and `image_grid_thw`, `(images, 3)` whole numbers; of videos, grid by
/// grid, `pixel_values_videos` and `video_grid_thw`, which counts the grids of each first.
///
/// # Errors
/// [`InputsError`] naming the tensor, the image or the video.
pub fn read(bytes: &[u8], vision: &VisionInfo) -> Result<Vec<Medium>, InputsError> {
    let file = SafeTensors::deserialize(bytes)?;
    let known = [IMAGES, VIDEOS].concat();
    if let Some(name) = file.names().into_iter().find(|name| !known.contains(name)) {
        return Err(InputsError::Unknown(name.to_owned()));
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

fn shape(name: &'static str, tensor: &TensorView<'_>, expected: String) -> InputsError {
    let (dtype, shape) = (format!("{:?}", tensor.dtype()), tensor.shape().to_vec());
    InputsError::Shape { name, dtype, shape, expected }
}

fn floats(tensor: &TensorView<'_>) -> Option<Vec<f32>> {
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
fn whole(tensor: &TensorView<'_>) -> Option<Vec<u64>> {
    let data = tensor.data();
    let (fours, eights) = (data.as_chunks::<4>().0.iter(), data.as_chunks::<8>().0.iter());
    match tensor.dtype() {
        Dtype::I32 => fours.map(|b| u64::try_from(i32::from_le_bytes(*b)).ok()).collect(),
        Dtype::I64 => eights.map(|b| u64::try_from(i64::from_le_bytes(*b)).ok()).collect(),
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
    fn what_is_no_image_is_refused_by_name() {
        let values =
            |rows: usize, cols: usize| ("pixel_values", Dtype::F32, vec![rows, cols], numbers(rows * cols));
        let grid = |sides: &[i64]| ("image_grid_thw", Dtype::I64, vec![sides.len() / 3, 3], grid(sides));
        let video = |rows: usize| ("pixel_values_videos", Dtype::F32, vec![rows, 12], numbers(rows * 12));
        let video_grid = |sides: &[i64]| ("video_grid_thw", Dtype::I64, vec![1, 3], grid(sides).3);
        let mut hole = values(4, 12);
        hole.3[..4].copy_from_slice(&f32::NAN.to_le_bytes());
        let bytes = ("pixel_values", Dtype::U8, vec![4, 12], vec![0; 48]);
        let other = ("input_values", Dtype::F32, vec![1, 1], numbers(1));
        let cases = [
            (vec![values(4, 12)], "there is no tensor image_grid_thw"),
            (vec![grid(&[1, 2, 2])], "there is no tensor pixel_values"),
            (vec![values(4, 12), grid(&[1, 2, 2]), other], "tensor input_values is not supported"),
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
