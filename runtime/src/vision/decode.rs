//! A file's bytes to pixels, within bounds. Files come from anybody: their format, their sides and what decoding may
//! allocate are checked before a pixel is decoded, and one is decoded at a time.

use std::io::Cursor;
use std::panic::catch_unwind;
use std::sync::{Mutex, PoisonError};

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits};

use super::ImageError;

/// Bytes of a file.
pub(super) const BYTES_MAX: usize = 32 << 20;
/// Pixels on a side.
const SIDE_MAX: u32 = 16_384;
/// Pixels of an image: 150 MiB as red, green and blue.
const PIXELS_MAX: u64 = 50_000_000;
/// Bytes that a decoder may take beside its output.
const ALLOC_MAX: u64 = 512 << 20;

/// Pixels, row by row, red, green and blue.
pub(super) struct Picture {
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) rgb: Vec<u8>,
}

/// Decodes PNG, JPEG or WebP, turned as its metadata says, transparent parts on white.
pub(super) fn decode(bytes: &[u8]) -> Result<Picture, ImageError> {
    // So that memory is bounded by one picture, however many are asked for.
    static ONE: Mutex<()> = Mutex::new(());
    if bytes.len() > BYTES_MAX {
        return Err(ImageError::Bytes { bytes: bytes.len() as u64, limit: BYTES_MAX as u64 });
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    catch_unwind(|| pixels(bytes)).unwrap_or_else(|_| Err(broken("the decoder failed")))
}

fn broken(problem: impl ToString) -> ImageError {
    ImageError::Broken(problem.to_string())
}

fn pixels(bytes: &[u8]) -> Result<Picture, ImageError> {
    let format = image::guess_format(bytes).ok();
    let known =
        |format: &ImageFormat| matches!(format, ImageFormat::Png | ImageFormat::Jpeg | ImageFormat::WebP);
    let format = format.filter(known).ok_or(ImageError::Format)?;
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::default();
    limits.max_image_width = Some(SIDE_MAX);
    limits.max_image_height = Some(SIDE_MAX);
    limits.max_alloc = Some(ALLOC_MAX);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(broken)?;
    let (width, height) = decoder.dimensions();
    let pixels = u64::from(width) * u64::from(height);
    if width == 0 || height == 0 || width.max(height) > SIDE_MAX || pixels > PIXELS_MAX {
        return Err(ImageError::Sides { width, height, side: SIDE_MAX, pixels: PIXELS_MAX });
    }
    let turned = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let mut picture = DynamicImage::from_decoder(decoder).map_err(broken)?;
    picture.apply_orientation(turned);
    let (width, height) = (picture.width(), picture.height());
    let rgb = if picture.color().has_alpha() {
        let rgba = picture.into_rgba8().into_raw();
        rgba.as_chunks::<4>().0.iter().flat_map(|pixel| on_white(*pixel)).collect()
    } else {
        picture.into_rgb8().into_raw()
    };
    Ok(Picture { width, height, rgb })
}

/// A pixel on white, rounded as Pillow does.
fn on_white([red, green, blue, alpha]: [u8; 4]) -> [u8; 3] {
    let alpha = u32::from(alpha);
    [red, green, blue].map(|value| ((u32::from(value) * alpha + 255 * (255 - alpha) + 127) / 255) as u8)
}
