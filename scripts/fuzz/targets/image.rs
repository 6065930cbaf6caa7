//! Any bytes: a typed error, or an image of as many tokens as are allowed, whose every patch can be read, and of another
//! tower its tiles; the same as the frames of a video, cut where the first byte says.
#![no_main]

use muse_format::{Fit, Pixels, Taken, Vision};
use muse_runtime::{Tiles, Video};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let pixels = Pixels { patch: 4, frames: 2, tokens_max: 30, ..Pixels::default() };
    let video = muse_format::Video {
        token: 0,
        rate: 1.0,
        frames_min: 2,
        frames_max: 5,
        taken: Taken::Nearest,
        fit: Fit::Area { pixels_min: 64, pixels_max: 7680 },
        tokens_max: 30,
    };
    let vision = Vision { pixels, merge: 2, video: Some(video), ..Vision::default() };
    if let Some((first, rest)) = bytes.split_first() {
        let first = rest.len() as u64 * u64::from(*first) / 256;
        let video = Video::new(rest.into(), &[first, rest.len() as u64 - first], 2.0).unwrap();
        for grid in video.grids(&vision, 30).unwrap().map_while(Result::ok) {
            assert!((1..=30).contains(&grid.image.tokens(&vision)));
            grid.image.patch(0, &vision.pixels, &mut Vec::new());
        }
    }
    let Ok(Tiles { images, .. }) = Tiles::decode(bytes, &vision, 30) else { return };
    let image = &images[0];
    let tokens = image.tokens(&vision);
    assert!((1..=30).contains(&tokens));
    let mut values = Vec::new();
    (0..4 * tokens).for_each(|patch| image.patch(patch, &vision.pixels, &mut values));
    assert!(values.len() == 4 * tokens as usize * 96 && values.iter().all(|value| value.is_finite()));
    let pixels = Pixels { frames: 1, tiles: Some(5), rounded: true, ..vision.pixels };
    let vision = Vision { pixels, positions: 4, ..vision };
    let Tiles { cols, images } = Tiles::decode(bytes, &vision, 30).unwrap();
    let tiles = images.len() - usize::from(images.len() > 1);
    assert!((1..=5).contains(&tiles) && tiles.is_multiple_of(cols as usize));
    let mut values = Vec::new();
    images.iter().for_each(|image| image.patch(15, &vision.pixels, &mut values));
    assert!(values.len() == images.len() * 48 && values.iter().all(|value| value.is_finite()));
    let pixels = Pixels { fit: Fit::Table, tiles: None, ..vision.pixels };
    let vision = Vision { pixels, ..vision };
    let Tiles { cols, images } = Tiles::decode(bytes, &vision, 30).unwrap();
    assert_eq!((cols, images.len(), images[0].tokens(&vision)), (1, 1, 4));
});
