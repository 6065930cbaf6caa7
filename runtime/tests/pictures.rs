//! Files to pixels: what a processor elsewhere makes of the same files (`scripts/golden/pictures.py`), and what becomes of
//! damaged ones.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use half::bf16;
use muse_format::{Fit, Given, Laid, Pixels, Resampling, Vision};
use muse_runtime::{Image, ImageError, Tiles};
use support::seeing;

/// Pixels on a side of a patch.
const PATCH: usize = 4;
const TOKENS_MAX: u32 = 30;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures")
}

fn read(name: &str) -> Vec<u8> {
    fs::read(folder().join(name)).unwrap()
}

/// One frame of values that are the pixels themselves.
fn vision() -> Vision {
    let pixels = Pixels {
        patch: PATCH as u32,
        frames: 1,
        tokens_max: TOKENS_MAX,
        mean: [0.0; 3],
        deviation: [1.0 / 255.0; 3],
        ..Pixels::default()
    };
    Vision { pixels, ..seeing().vision.unwrap() }
}

/// [`vision`], of images that are fit by their area.
fn by_area() -> Vision {
    let fit = Fit::Area { pixels_min: 640, pixels_max: 1920 };
    let pixels = Pixels { fit, resampling: Resampling::Bicubic, ..vision().pixels };
    Vision { pixels, ..vision() }
}

/// [`vision`], of images that are made as large as they may be.
fn filling() -> Vision {
    let pixels = Pixels { fit: Fit::Fill, ..by_area().pixels };
    Vision { pixels, ..vision() }
}

/// [`vision`], of images that are cut into tiles of 16 x 16 pixels.
fn in_tiles() -> Vision {
    let pixels = Pixels {
        resampling: Resampling::Bilinear,
        tiles: Some(6),
        mean: [0.481, 0.458, 0.408],
        deviation: [0.269, 0.261, 0.276],
        rounded: true,
        ..vision().pixels
    };
    Vision { pixels, positions: 4, ..vision() }
}

/// [`vision`], of images that are made 6 patches a side.
fn of_one_size() -> Vision {
    let pixels = Pixels { fit: Fit::Table, resampling: Resampling::Bilinear, ..vision().pixels };
    Vision { pixels, positions: 6, ..vision() }
}

fn decode(bytes: &[u8]) -> Result<Image, ImageError> {
    decode_with(bytes, &vision(), TOKENS_MAX)
}

/// What a picture becomes that is not cut.
fn decode_with(bytes: &[u8], vision: &Vision, limit: u32) -> Result<Image, ImageError> {
    let Tiles { cols, mut images } = Tiles::decode(bytes, vision, limit)?;
    assert_eq!((cols, images.len()), (1, 1));
    Ok(images.remove(0))
}

/// Largest and mean difference of `image` to the pixels of a file.
fn difference(image: &Image, name: &str) -> (f32, f32) {
    let expected = read(name);
    let (grid, expected) = expected.split_at(2);
    let [rows, cols] = [grid[0], grid[1]].map(usize::from);
    assert_eq!(image.tokens(&vision()) as usize, rows * cols / 4, "{name}");
    let line = cols * PATCH;
    let mut differences = Vec::new();
    for patch in 0..rows * cols {
        let mut values = Vec::new();
        image.patch(patch as u32, &vision().pixels, &mut values);
        for (i, value) in values.iter().enumerate() {
            let (channel, y, x) = (i / (PATCH * PATCH), i / PATCH % PATCH, i % PATCH);
            let at = (patch / cols * PATCH + y) * line + patch % cols * PATCH + x;
            differences.push((value - f32::from(expected[at * 3 + channel])).abs());
        }
    }
    assert_eq!(differences.len(), expected.len());
    let mean = differences.iter().sum::<f32>() / differences.len() as f32;
    (differences.into_iter().fold(0.0, f32::max), mean)
}

#[test]
fn pixels_are_those_of_the_reference_implementation() {
    // Half a unit of rounding where a value is divided and multiplied again.
    for name in [
        "first.png",
        "second.png",
        "wide.png",
        "square.png",
        "tiny.png",
        "alpha.png",
        "gray.png",
        "palette.png",
        "lossless.webp",
    ] {
        let (largest, _) = difference(&decode(&read(name)).unwrap(), &format!("{name}.rgb"));
        assert!(largest < 0.01, "{name}: {largest}");
    }
    for name in ["wide.png", "tiny.png", "lossless.webp", "alpha.png", "gray.png", "first.png"] {
        let image = decode_with(&read(name), &by_area(), TOKENS_MAX).unwrap();
        let (largest, _) = difference(&image, &format!("{name}.area.rgb"));
        assert!(largest < 0.01, "{name} by area: {largest}");
    }
    for name in ["wide.png", "tiny.png", "gray.png"] {
        let image = decode_with(&read(name), &filling(), TOKENS_MAX).unwrap();
        let (largest, _) = difference(&image, &format!("{name}.fill.rgb"));
        assert!(largest < 0.01, "{name} filled: {largest}");
    }
    for name in ["wide.png", "square.png", "tiny.png", "lossless.webp", "alpha.png", "gray.png"] {
        let image = decode_with(&read(name), &of_one_size(), TOKENS_MAX).unwrap();
        let (largest, _) = difference(&image, &format!("{name}.table.rgb"));
        assert!(largest < 0.01, "{name} of one size: {largest}");
    }
    // It cannot be made smaller: 9 tokens, where 8 are allowed.
    let few = decode_with(&read("tiny.png"), &of_one_size(), 8).unwrap_err();
    assert_eq!(few, ImageError::TooLarge { tokens: 9, limit: 8 });
    // Decoders of lossy files round their transforms, and smooth colors, each in its own way.
    for name in ["lossy.webp", "plain.jpg", "turned.jpg"] {
        let (largest, mean) = difference(&decode(&read(name)).unwrap(), &format!("{name}.rgb"));
        println!("{name}: {largest} at most, {mean} in the mean");
        assert!(largest <= 12.0 && mean <= 1.5, "{name}: {largest} at most, {mean} in the mean");
    }
}

/// Every value of every tile, to the last bit.
#[test]
fn values_of_tiles_are_those_of_the_reference_implementation() {
    for name in ["wide.png", "square.png", "tiny.png", "lossless.webp", "alpha.png", "gray.png"] {
        let Tiles { cols, images } = Tiles::decode(&read(name), &in_tiles(), TOKENS_MAX).unwrap();
        let expected = read(&format!("{name}.tiles.bf16"));
        let (sides, expected) = expected.split_at(2);
        let tiles = usize::from(sides[0]) * usize::from(sides[1]);
        assert_eq!((cols, images.len()), (sides[1].into(), tiles + usize::from(tiles > 1)), "{name}");
        let expected: Vec<f32> =
            expected.as_chunks::<2>().0.iter().map(|bytes| bf16::from_le_bytes(*bytes).to_f32()).collect();
        let planes = Vision { pixels: Pixels { given: Given::Planes, ..in_tiles().pixels }, ..in_tiles() };
        let others = expected.chunks_exact(3 * 16 * 16);
        assert_eq!(others.len(), images.len(), "{name}");
        for (tile, (image, other)) in images.iter().zip(others).enumerate() {
            let other = Image::from_patches(4, 4, other.to_vec(), &planes, TOKENS_MAX).unwrap();
            let of = |image: &Image| {
                let mut values = Vec::new();
                (0..16).for_each(|patch| image.patch(patch, &planes.pixels, &mut values));
                values
            };
            assert_eq!(of(image), of(&other), "{name}, tile {tile}");
        }
    }
}

#[test]
fn tiles_are_as_large_as_their_tower_has_them() {
    // 4 tokens each, where 3 are allowed: they cannot be made smaller.
    let few = Tiles::decode(&read("wide.png"), &in_tiles(), 3).unwrap_err();
    assert_eq!(few, ImageError::TooLarge { tokens: 4, limit: 3 });
    // A thread on a canvas of one column, all of it in a square.
    let mut long = std::io::Cursor::new(Vec::new());
    let white = image::RgbImage::from_pixel(1, 16_384, image::Rgb([255; 3]));
    white.write_to(&mut long, image::ImageFormat::Png).unwrap();
    let long = Tiles::decode(long.get_ref(), &in_tiles(), TOKENS_MAX).unwrap();
    assert_eq!((long.cols, long.images.len()), (1, 7));
    assert_ne!(long.images[0].hash(), long.images[6].hash());
    assert_eq!(long.images[1].hash(), long.images[2].hash());
}

/// Bytes 16 to 24 of a PNG are its sides, behind them a checksum.
fn png_of(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = read("tiny.png");
    bytes[16..20].copy_from_slice(&width.to_be_bytes());
    bytes[20..24].copy_from_slice(&height.to_be_bytes());
    let checksum = crc32(&bytes[12..29]);
    bytes[29..33].copy_from_slice(&checksum.to_be_bytes());
    bytes
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xEDB8_8320 & (crc & 1).wrapping_neg()))
    })
}

#[test]
fn what_is_no_picture_is_an_error() {
    type Is = fn(&ImageError) -> bool;
    let broken: Is = |e| matches!(e, ImageError::Broken(_));
    let format: Is = |e| matches!(e, ImageError::Format);
    let sides: Is = |e| matches!(e, ImageError::Sides { .. } | ImageError::Broken(_));
    let cut = |name: &str, len: usize| read(name)[..len].to_vec();
    let mut flipped = read("wide.png");
    flipped[60] ^= 0x55;
    let cases: Vec<(&str, Vec<u8>, Is)> = vec![
        ("nothing", Vec::new(), format),
        ("text", b"no picture".to_vec(), format),
        ("another format", b"GIF89a\x01\x00\x01\x00\x00\x00\x00;".to_vec(), format),
        ("a signature", cut("wide.png", 8), broken),
        ("a header", cut("wide.png", 33), broken),
        ("half a PNG", cut("wide.png", read("wide.png").len() / 2), broken),
        ("half a WebP", cut("lossless.webp", read("lossless.webp").len() / 2), broken),
        ("the head of a JPEG", cut("plain.jpg", 100), broken),
        ("a changed byte", flipped, broken),
        ("a wide one", png_of(1 << 20, 1), sides),
        ("a huge one", png_of(16_000, 16_000), sides),
        ("the largest", png_of(u32::MAX, u32::MAX), sides),
        ("no width", png_of(0, 5), sides),
        ("more rows than there are", png_of(5, 4), broken),
        ("too many bytes", vec![0; (32 << 20) + 1], |e| matches!(e, ImageError::Bytes { .. })),
        // 200 x 1 tokens.
        ("a thread", png_of(1, 1600), |e| matches!(e, ImageError::TooLarge { .. } | ImageError::Broken(_))),
    ];
    let mut wrong = Vec::new();
    for (name, bytes, is) in cases {
        match decode(&bytes) {
            Err(error) if is(&error) => {}
            other => wrong.push(format!("{name}: {other:?}")),
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_model_may_take_fewer_tokens_and_no_long_images() {
    let decode = |bytes: &[u8], limit| decode_with(bytes, &by_area(), limit);
    // 61 x 97 pixels are 8 x 12 tokens of 8 x 8 pixels, or as many as are allowed.
    for (limit, area) in [(TOKENS_MAX, [4, 6]), (10, [2, 3]), (1, [1, 1])] {
        let image = decode(&read("wide.png"), limit).unwrap();
        assert_eq!(image.area(&by_area()), area, "{limit}");
    }
    let mut long = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(1, 201).write_to(&mut long, image::ImageFormat::Png).unwrap();
    let refused = decode(long.get_ref(), TOKENS_MAX).unwrap_err();
    assert_eq!(refused, ImageError::Long { width: 1, height: 201 });
}

#[test]
fn values_that_come_by_squares_are_put_in_rows() {
    // Squares of 2 x 2 patches of one pixel, two frames: a value says its square, patch, channel and frame.
    let pixels = Pixels { patch: 1, frames: 2, tokens_max: 6, ..Pixels::default() };
    let rows = Vision { pixels, merge: 2, ..Vision::default() };
    let squares = Vision { pixels: Pixels { given: Given::Squares, ..rows.pixels.clone() }, ..rows.clone() };
    let given: Vec<f32> = (0..2 * 4 * 6).map(|i| i as f32).collect();
    let image = Image::from_patches(2, 4, given.clone(), &squares, 6).unwrap();
    let patch = |image: &Image, patch| {
        let mut values = Vec::new();
        image.patch(patch, &rows.pixels, &mut values);
        values
    };
    // The patch below the first is the third of its square; its channels' first frames come before their second.
    assert_eq!(patch(&image, 4), [12.0, 14.0, 16.0, 13.0, 15.0, 17.0]);
    // The third of the first row begins the second square.
    assert_eq!(patch(&image, 2), [24.0, 26.0, 28.0, 25.0, 27.0, 29.0]);
    let plain = Image::from_patches(2, 4, given, &rows, 6).unwrap();
    assert_eq!(patch(&plain, 4), [24.0, 25.0, 26.0, 27.0, 28.0, 29.0]);
}

#[test]
fn values_that_come_as_planes_are_put_in_rows() {
    let pixels = Pixels { patch: 2, given: Given::Planes, tokens_max: 6, ..Pixels::default() };
    let vision = Vision { pixels, merge: 1, ..Vision::default() };
    // 2 x 3 patches; a value says its channel, row and column.
    let pixel = |i: usize| (100 * (i / 24) + 10 * (i / 6 % 4) + i % 6) as f32;
    let image = Image::from_patches(2, 3, (0..72).map(pixel).collect(), &vision, 6).unwrap();
    let mut values = Vec::new();
    image.patch(5, &vision.pixels, &mut values);
    assert_eq!(values, [24, 25, 34, 35, 124, 125, 134, 135, 224, 225, 234, 235].map(|i| i as f32));
}

#[test]
fn values_that_come_by_pixels_are_put_in_planes() {
    let pixels = Pixels {
        patch: 2,
        given: Given::Padded,
        tokens_max: 6,
        mean: [0.5; 3],
        deviation: [0.25; 3],
        ..Pixels::default()
    };
    let vision = Vision { pixels, merge: 1, ..Vision::default() };
    // Two patches of four pixels; a value says its place and channel, in quarters from 1/2.
    let given: Vec<f32> = (0..24).map(|i| 0.5 + 0.25 * i as f32).collect();
    let image = Image::from_patches(1, 2, given, &vision, 6).unwrap();
    let mut values = Vec::new();
    image.patch(1, &vision.pixels, &mut values);
    assert_eq!(values, [12, 15, 18, 21, 13, 16, 19, 22, 14, 17, 20, 23].map(|i| i as f32));
}

#[test]
fn an_image_is_no_longer_than_the_positions_of_its_tower() {
    let vision = Vision { laid: Laid::Axes, positions: 8, ..filling() };
    let sides = |rows, cols| Image::from_patches(rows, cols, Vec::new(), &vision, TOKENS_MAX).unwrap_err();
    assert_eq!(sides(10, 2), ImageError::Positions { rows: 10, cols: 2, limit: 8 });
    assert!(matches!(sides(8, 2), ImageError::Values { .. }));
    let tall = decode_with(&read("gray.png"), &vision, TOKENS_MAX).unwrap_err();
    assert!(matches!(tall, ImageError::Positions { limit: 8, .. }), "{tall}");
}

/// Whatever is cut off or changed: a picture or an error.
#[test]
fn damage_never_panics() {
    for entry in fs::read_dir(folder()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rgb" || extension == "bf16") {
            continue;
        }
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 60 + 1) {
            let _ = decode(&whole[..at]);
            let mut changed = whole.clone();
            changed[at] ^= 0xA5;
            if let Ok(image) = decode(&changed) {
                assert!((1..=TOKENS_MAX).contains(&image.tokens(&vision())), "{} at {at}", path.display());
                let tiles = Tiles::decode(&changed, &in_tiles(), TOKENS_MAX).unwrap().images;
                assert!(tiles.len() == 1 || (3..=7).contains(&tiles.len()), "{} at {at}", path.display());
            }
        }
    }
}
