//! Frames to grids of patches: what a processor elsewhere makes of the same frames (`scripts/golden/pictures.py`).

mod support;

use std::path::Path;

use muse_format::{Fit, Pixels, Resampling, Taken, Vision};
use muse_runtime::{ImageError, Video, VideoError};
use support::seeing;

/// Pixels on a side of a patch.
const PATCH: usize = 4;

fn read(name: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/pictures").join(name)).unwrap()
}

/// Grids of two frames of values that are the pixels themselves.
fn vision(fit: Fit, taken: Taken) -> Vision {
    let resampling = if fit == Fit::Shape { Resampling::Lanczos } else { Resampling::Bicubic };
    let video =
        muse_format::Video { token: 11, rate: 3.0, frames_min: 2, frames_max: 5, taken, fit, tokens_max: 6 };
    let pixels = Pixels {
        resampling,
        patch: PATCH as u32,
        tokens_max: 30,
        mean: [0.0; 3],
        deviation: [1.0 / 255.0; 3],
        ..seeing().vision.unwrap().pixels
    };
    Vision { pixels, video: Some(video), ..seeing().vision.unwrap() }
}

fn by_shape() -> Vision {
    vision(Fit::Shape, Taken::Before)
}

fn by_area() -> Vision {
    vision(Fit::Area { pixels_min: 640, pixels_max: 1920 }, Taken::Nearest)
}

fn video(names: &[&str], rate: f64) -> Video {
    let files: Vec<_> = names.iter().map(|name| read(name)).collect();
    let sizes: Vec<_> = files.iter().map(|file| file.len() as u64).collect();
    Video::new(files.concat().into(), &sizes, rate).unwrap()
}

/// Largest difference of a video's values to the pixels of a file.
fn difference(vision: &Vision, name: &str) -> f32 {
    let expected = read(name);
    let (sides, expected) = expected.split_at(3);
    let [grids, rows, cols] = [sides[0], sides[1], sides[2]].map(usize::from);
    let video = video(&["first.png", "second.png", "second.png", "first.png", "second.png"], 1.0);
    let made: Vec<_> = video.grids(vision, 30).unwrap().map(Result::unwrap).collect();
    assert_eq!(made.len(), grids, "{name}");
    let (line, mut largest, mut count) = (cols * PATCH, 0.0_f32, 0);
    for (grid, made) in made.iter().enumerate() {
        assert_eq!(made.image.area(vision), [rows as u32 / 2, cols as u32 / 2], "{name}");
        for patch in 0..rows * cols {
            let mut values = Vec::new();
            made.image.patch(patch as u32, &vision.pixels, &mut values);
            for (i, value) in values.iter().enumerate() {
                let plane = PATCH * PATCH;
                let (frame, channel, y, x) = (i / plane / 3, i / plane % 3, i / PATCH % PATCH, i % PATCH);
                let frame = (grid * 2 + frame) * rows * PATCH;
                let at = (frame + patch / cols * PATCH + y) * line + patch % cols * PATCH + x;
                largest = largest.max((value - f32::from(expected[at * 3 + channel])).abs());
                count += 1;
            }
        }
    }
    assert_eq!(count, expected.len());
    largest
}

#[test]
fn pixels_are_those_of_the_reference_implementation() {
    // Half a unit of rounding where a value is divided and multiplied again.
    for (vision, name) in [(by_shape(), "video.rgb"), (by_area(), "video.area.rgb")] {
        let largest = difference(&vision, name);
        assert!(largest < 0.01, "{name}: {largest}");
    }
}

#[test]
fn grids_have_the_times_of_their_frames() {
    let names = ["first.png"; 12];
    let times = |vision: &Vision, count: usize, rate: f64| -> Vec<[f64; 2]> {
        let video = video(&names[..count], rate);
        video.grids(vision, 30).unwrap().map(|grid| grid.unwrap().times).collect()
    };
    assert_eq!(times(&by_shape(), 1, 4.0), [[0.0, 0.0]]);
    // Five frames at most, of which four are whole grids.
    assert_eq!(times(&by_shape(), 12, 4.0), [[0.0, 0.75], [1.75, 2.75]]);
    assert_eq!(times(&by_area(), 12, 4.0), [[0.0, 0.75], [1.5, 2.0], [2.75, 2.75]]);
    assert_eq!(times(&by_area(), 2, 4.0), [[0.0, 0.25]]);
}

#[test]
fn a_model_may_take_fewer_tokens() {
    let video = video(&["wide.png", "wide.png"], 1.0);
    let area = |vision: &Vision, limit| {
        video.grids(vision, limit).unwrap().next().unwrap().map(|grid| grid.image.area(vision))
    };
    for (vision, limit, expected) in
        [(by_shape(), 30, [2, 3]), (by_shape(), 2, [1, 2]), (by_area(), 30, [1, 3]), (by_area(), 2, [1, 1])]
    {
        assert_eq!(area(&vision, limit), Ok(expected), "{limit}");
    }
}

#[test]
fn what_is_no_video_is_an_error() {
    let new = |len: usize, sizes: &[u64], rate| Video::new(vec![0; len].into(), sizes, rate).unwrap_err();
    assert_eq!(new(0, &[], 1.0), VideoError::Frames { frames: 0 });
    assert_eq!(new(0, &vec![0; (1 << 16) + 1], 1.0), VideoError::Frames { frames: (1 << 16) + 1 });
    assert_eq!(new(5, &[2, 2], 1.0), VideoError::Bytes { sum: 4, bytes: 5 });
    assert_eq!(new(5, &[u64::MAX, 6], 1.0), VideoError::Bytes { sum: u64::MAX, bytes: 5 });
    for rate in [0.0, -1.0, 1001.0, f64::INFINITY, f64::NAN] {
        assert!(matches!(new(5, &[2, 3], rate), VideoError::Rate { .. }), "{rate}");
    }
    let first =
        |names: &[&str], vision: &Vision| video(names, 1.0).grids(vision, 30).unwrap().next().unwrap();
    assert_eq!(
        first(&["first.png", "wide.png"], &by_shape()).unwrap_err(),
        VideoError::Size { frame: 1, width: 97, height: 61, first: [26, 22] }
    );
    assert_eq!(
        first(&["first.png", "wide.png.rgb"], &by_shape()).unwrap_err(),
        VideoError::Frame { frame: 1, problem: ImageError::Format }
    );
    let mut long = std::io::Cursor::new(Vec::new());
    image::RgbImage::new(9, 2000).write_to(&mut long, image::ImageFormat::Png).unwrap();
    let len = long.get_ref().len() as u64;
    let long =
        Video::new([long.get_ref().clone(), long.into_inner()].concat().into(), &[len, len], 1.0).unwrap();
    let refused = |vision: &Vision| long.grids(vision, 30).unwrap().next().unwrap().unwrap_err();
    let problem = ImageError::Long { width: 9, height: 2000 };
    assert_eq!(refused(&by_area()), VideoError::Frame { frame: 0, problem });
    assert!(matches!(refused(&by_shape()), VideoError::Frame { problem: ImageError::TooLarge { .. }, .. }));
    let one = video(&["first.png"], 1.0);
    assert_eq!(one.grids(&by_area(), 30).unwrap_err(), VideoError::Short { frames: 1, least: 2 });
}

#[test]
fn a_folder_of_frames_is_a_video() {
    let folder = tempfile::tempdir().unwrap();
    for (name, of) in [("b.png", "second.png"), ("a.png", "first.png"), (".hidden", "wide.png")] {
        std::fs::write(folder.path().join(name), read(of)).unwrap();
    }
    assert_eq!(Video::open(folder.path(), 2.0).unwrap(), video(&["first.png", "second.png"], 2.0));
    let empty = tempfile::tempdir().unwrap();
    assert!(Video::open(empty.path(), 2.0).unwrap_err().to_string().contains("0 frames"));
    assert!(Video::open(&empty.path().join("none"), 2.0).is_err());
}
