//! `video_preprocessor_config.json`: what processors of videos say alike. Frames are prepared as images are.

use muse_format::{Video, Vision};

use super::config::Config;
use super::image_processor;
use crate::checkpoint::ImportError;

/// Names of classes, and what is for images, for batches, or for steps that are off.
const HARMLESS: &[&str] = &[
    "video_processor_type",
    "return_metadata",
    "max_image_tokens",
    "max_image_size",
    "max_pixels",
    "min_pixels",
    "max_video_tokens",
    "max_duration",
    "crop_size",
];

/// How many frames of a second are taken, and that all else is as it is for images; see [`image_processor::read`]. What is
/// absent of `video` is as the tower's family has it.
pub(super) fn read(
    config: &Config<'_>,
    vision: &Vision,
    video: &mut Video,
    resampling: (u32, &str),
) -> Result<(), ImportError> {
    config.only("do_sample_frames", &[true.into()], "only the whole of the steps is supported")?;
    config.only("do_center_crop", &[false.into()], "frames are not cut")?;
    config.only("cap_pixels_per_frame", &[false.into()], "a bound on each frame is not supported")?;
    if let Some(rate) = config.f64("fps")? {
        video.rate = rate;
    }
    let mut of_videos = vision.clone();
    (of_videos.pixels.mean, of_videos.pixels.deviation) = ([0.5; 3], [0.5; 3]);
    image_processor::read_with(config, &mut of_videos, resampling, HARMLESS)?;
    for (key, own, of_images) in [
        ("image_mean", of_videos.pixels.mean, vision.pixels.mean),
        ("image_std", of_videos.pixels.deviation, vision.pixels.deviation),
    ] {
        if own != of_images {
            return Err(config.refuse(key, format!("it must be that of images, {of_images:?}")));
        }
    }
    Ok(())
}
