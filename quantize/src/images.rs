//! Images whose values another program has computed: a safetensors file with the tensors' names of transformers.

use half::{bf16, f16};
use muse_runtime::{Image, ImageError, VisionInfo};
use safetensors::tensor::TensorView;
use safetensors::{Dtype, SafeTensors};

use crate::sounds;

const VALUES: &str = "pixel_values";
const GRID: &str = "image_grid_thw";

/// Why a file's tensors are no images.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputsError {
    #[error(transparent)]
    Format(#[from] safetensors::SafeTensorError),
    #[error("there is no tensor {0}; images are {VALUES} and {GRID}")]
    Missing(&'static str),
    #[error("tensor {0} is not supported; images are {VALUES} and {GRID}")]
    Unknown(String),
    #[error("{name} is {dtype} {shape:?}; it must be {expected}")]
    Shape { name: &'static str, dtype: String, shape: Vec<usize>, expected: String },
    #[error("image {image} has {frames} frames; a still image has 1, and videos are not supported")]
    Frames { image: usize, frames: u64 },
    #[error("{GRID} counts {counted} patches and {VALUES} holds {held}")]
    Patches { counted: u64, held: u64 },
    #[error("image {image}: {problem}")]
    Image { image: usize, problem: ImageError },
}

/// Reads `pixel_values`, `(patches, values)` floats, and `image_grid_thw`, `(images, 3)` whole numbers.
///
/// # Errors
/// [`InputsError`] naming the tensor or the image.
pub fn read(bytes: &[u8], vision: &VisionInfo) -> Result<Vec<Image>, InputsError> {
    let file = SafeTensors::deserialize(bytes)?;
    // Sounds beside them are read by themselves.
    let known = |name: &&str| [VALUES, GRID].contains(name) || sounds::NAMES.contains(name);
    if let Some(name) = file.names().into_iter().find(|name| !known(name)) {
        return Err(InputsError::Unknown(name.to_owned()));
    }
    let tensor = |name| file.tensor(name).map_err(|_| InputsError::Missing(name));
    let (values, grid) = (tensor(VALUES)?, tensor(GRID)?);
    let width = vision.spec.pixels.values() as usize;
    let numbers = floats(&values).filter(|_| matches!(*values.shape(), [_, cols] if cols == width));
    let numbers = numbers.ok_or_else(|| shape(VALUES, &values, format!("floats, (patches, {width})")))?;
    let sides = whole(&grid).filter(|_| matches!(*grid.shape(), [_, 3]));
    let sides = sides.ok_or_else(|| shape(GRID, &grid, "whole numbers, (images, 3)".into()))?;
    let (grids, held) = (sides.as_chunks::<3>().0, (numbers.len() / width) as u64);
    let patches = |[_, rows, cols]: &[u64; 3]| rows.saturating_mul(*cols);
    let counted = grids.iter().map(patches).fold(0, u64::saturating_add);
    if counted != held {
        return Err(InputsError::Patches { counted, held });
    }
    let mut rest = numbers.as_slice();
    let image = |(image, grid): (usize, &[u64; 3])| {
        let [frames, rows, cols] = *grid;
        if frames != 1 {
            return Err(InputsError::Frames { image, frames });
        }
        // The sum of all is what `numbers` holds, so each fits.
        let (own, others) = rest.split_at(patches(grid) as usize * width);
        rest = others;
        Image::from_patches(rows, cols, own.to_vec(), &vision.spec, vision.image_tokens)
            .map_err(|problem| InputsError::Image { image, problem })
    };
    grids.iter().enumerate().map(image).collect()
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
        assert_eq!(images.iter().map(|image| image.tokens(&vision().spec)).collect::<Vec<_>>(), [2, 1]);
        let mut patch = Vec::new();
        images[1].patch(0, &vision().spec.pixels, &mut patch);
        assert_eq!(patch, (96..108).map(|i| i as f32 / 7.0).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_no_image_is_refused_by_name() {
        let values =
            |rows: usize, cols: usize| ("pixel_values", Dtype::F32, vec![rows, cols], numbers(rows * cols));
        let grid = |sides: &[i64]| ("image_grid_thw", Dtype::I64, vec![sides.len() / 3, 3], grid(sides));
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
            (vec![values(8, 12), grid(&[2, 4, 2])], "image 0 has 2 frames"),
            (vec![values(4, 12), grid(&[1, 1, 4])], "image 0: an image has 1 x 4 patches"),
            (vec![values(32, 12), grid(&[1, 8, 4])], "image 0: an image is 8 tokens"),
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
