//! `preprocessor_config.json`: what processors of images say alike. What is absent is as the tower's family has it.

use muse_format::Vision;
use serde_json::json;

use super::config::Config;
use crate::checkpoint::ImportError;

/// Names of classes, and what is for other processors or for batches.
const HARMLESS: &[&str] = &[
    "image_processor_type",
    "processor_class",
    "feature_extractor_type",
    "data_format",
    "input_data_format",
    "return_tensors",
    "disable_grouping",
    "device",
    "default_to_square",
    // Of a feature extractor, whose settings may lie in the same file.
    "feature_size",
    "padding_side",
    "padding_value",
    "return_attention_mask",
    "samples_per_token",
    "sampling_rate",
];

const WHOLE: &str = "only the whole of the steps is supported";

/// Means and deviations; a step that is left out, or is of another kind or size than the tower's, is refused, and so is a
/// key that nobody has read. `resampling` is the number of the one that is supported, and what people call it.
pub(super) fn read(
    config: &Config<'_>,
    vision: &mut Vision,
    resampling: (u32, &str),
) -> Result<(), ImportError> {
    read_with(config, vision, resampling, &[])
}

/// [`read`] of a config that has other `harmless` keys too.
pub(super) fn read_with(
    config: &Config<'_>,
    vision: &mut Vision,
    resampling: (u32, &str),
    harmless: &[&str],
) -> Result<(), ImportError> {
    config.only("do_normalize", &[true.into()], WHOLE)?;
    let pixels = &mut vision.pixels;
    let three = |key: &str, values: Option<Vec<f64>>, default: [f32; 3]| match values.as_deref() {
        None => Ok(default),
        Some([red, green, blue]) => Ok([*red, *green, *blue].map(|value| value as f32)),
        Some(_) => Err(config.refuse(key, "it must hold three numbers")),
    };
    pixels.mean = three("image_mean", config.numbers_from_zero("image_mean")?, pixels.mean)?;
    pixels.deviation = three("image_std", config.numbers("image_std")?, pixels.deviation)?;
    steps(config, vision, resampling, harmless)
}

/// Refuses a size of images, or of their tiles, other than the tower's.
pub(super) fn only_size(config: &Config<'_>, side: u32) -> Result<(), ImportError> {
    let Some(size) = config.object("size")? else { return Ok(()) };
    let rule = format!("it must be the tower's image_size, {side}");
    for key in ["height", "width"] {
        size.only(key, &[side.into()], &rule)?;
    }
    size.finish(&[])
}

/// [`read`] of a processor that leaves values between 0 and 1.
pub(super) fn read_unmoved(
    config: &Config<'_>,
    vision: &Vision,
    resampling: (u32, &str),
) -> Result<(), ImportError> {
    config.only("do_normalize", &[false.into()], "values stay from 0 to 1")?;
    for (key, value) in [("image_mean", 0), ("image_std", 1)] {
        let same =
            [json!([f64::from(value), f64::from(value), f64::from(value)]), json!([value, value, value])];
        config.only(key, &same, "values stay from 0 to 1")?;
    }
    steps(config, vision, resampling, &[])
}

fn steps(
    config: &Config<'_>,
    vision: &Vision,
    resampling: (u32, &str),
    harmless: &[&str],
) -> Result<(), ImportError> {
    let pixels = &vision.pixels;
    for step in ["do_resize", "do_rescale", "do_convert_rgb"] {
        config.only(step, &[true.into()], WHOLE)?;
    }
    let (number, name) = resampling;
    config.only("resample", &[number.into()], &format!("only {number}, which is {name}, is supported"))?;
    config.only("rescale_factor", &[(1.0 / 255.0).into()], "only 1 / 255 is supported")?;
    for (key, size) in
        [("patch_size", pixels.patch), ("temporal_patch_size", pixels.frames), ("merge_size", vision.merge)]
    {
        config.only(key, &[size.into()], &format!("it must be the tower's, {size}"))?;
    }
    config.finish(&[HARMLESS, harmless].concat())
}
