//! A file's bytes to samples of one channel, within bounds. Files come from anybody: their format, channels, rate and
//! length are checked before a sample is decoded, and one is decoded at a time.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use claxon::{FlacReader, FlacReaderOptions};
use hound::{SampleFormat, WavReader};

use super::SoundError;

/// Bytes of a file.
const BYTES_MAX: usize = 64 << 20;
const CHANNELS_MAX: u32 = 8;
/// Samples of a second, of each channel.
const RATES: [u32; 2] = [4_000, 384_000];
/// Samples of a channel: 153 MiB as f32.
const SAMPLES_MAX: u64 = 40_000_000;

/// Samples of one channel, the mean of all.
pub(super) struct Recording {
    pub(super) rate: u32,
    pub(super) samples: Vec<f32>,
}

/// Whether so many samples at a rate are taken.
type Check<'a> = &'a dyn Fn(u64, u32) -> Result<(), SoundError>;

/// Decodes WAV or FLAC, of which `check` allows the length.
pub(super) fn decode(bytes: &[u8], check: Check<'_>) -> Result<Recording, SoundError> {
    // So that memory is bounded by one sound, however many are asked for.
    static ONE: Mutex<()> = Mutex::new(());
    if bytes.len() > BYTES_MAX {
        return Err(SoundError::Bytes { bytes: bytes.len() as u64, limit: BYTES_MAX as u64 });
    }
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    let check = |samples: u64, rate: u32| match samples > SAMPLES_MAX {
        true => Err(SoundError::Samples { samples, limit: SAMPLES_MAX }),
        false => check(samples, rate),
    };
    let decode = || match bytes {
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'A', b'V', b'E', ..] => wav(bytes, &check),
        [b'f', b'L', b'a', b'C', ..] => flac(bytes, &check),
        _ => Err(SoundError::Format),
    };
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err(broken("the decoder failed")))
}

fn broken(problem: impl ToString) -> SoundError {
    SoundError::Broken(problem.to_string())
}

fn check_shape(channels: u32, rate: u32) -> Result<(), SoundError> {
    let [low, high] = RATES;
    if !(1..=CHANNELS_MAX).contains(&channels) || !(low..=high).contains(&rate) {
        return Err(SoundError::Shape { channels, rate, channels_max: CHANNELS_MAX, low, high });
    }
    Ok(())
}

fn wav(bytes: &[u8], check: Check<'_>) -> Result<Recording, SoundError> {
    let reader = WavReader::new(Cursor::new(bytes)).map_err(broken)?;
    let (spec, frames) = (reader.spec(), reader.duration());
    let (channels, rate) = (u32::from(spec.channels), spec.sample_rate);
    check_shape(channels, rate)?;
    check(frames.into(), rate)?;
    // A sample takes a byte at least, so that a length that the file does not have allocates nothing.
    let mut samples = Vec::with_capacity((frames as usize).min(bytes.len()));
    match spec.sample_format {
        SampleFormat::Int => {
            let full = 2_f64.powi(i32::from(spec.bits_per_sample) - 1);
            mix(
                reader.into_samples::<i32>().map(|x| Ok(f64::from(x.map_err(broken)?) / full)),
                channels,
                &mut samples,
            )?;
        }
        SampleFormat::Float => {
            mix(reader.into_samples::<f32>().map(|x| Ok(x.map_err(broken)?.into())), channels, &mut samples)?;
        }
    }
    Ok(Recording { rate, samples })
}

fn flac(bytes: &[u8], check: Check<'_>) -> Result<Recording, SoundError> {
    let options = FlacReaderOptions { metadata_only: false, read_vorbis_comment: false };
    let mut reader = FlacReader::new_ext(Cursor::new(bytes), options).map_err(broken)?;
    let info = reader.streaminfo();
    let (channels, rate) = (info.channels, info.sample_rate);
    check_shape(channels, rate)?;
    check(info.samples.unwrap_or(0), rate)?;
    let full = 2_f64.powi(info.bits_per_sample as i32 - 1);
    let (mut samples, mut buffer) = (Vec::new(), Vec::new());
    let mut blocks = reader.blocks();
    while let Some(block) = blocks.read_next_or_eof(buffer).map_err(broken)? {
        if block.channels() != channels {
            return Err(broken(format!(
                "a block of {} channels among those of {channels}",
                block.channels()
            )));
        }
        // The file may not say how long it is, or say it wrongly.
        check(samples.len() as u64 + u64::from(block.duration()), rate)?;
        let all = (0..block.duration()).flat_map(|i| (0..channels).map(move |channel| (channel, i)));
        mix(all.map(|(channel, i)| Ok(f64::from(block.sample(channel, i)) / full)), channels, &mut samples)?;
        buffer = block.into_buffer();
    }
    if info.samples.is_some_and(|said| said != samples.len() as u64) {
        return Err(broken(format!("it holds {} samples of {}", samples.len(), info.samples.unwrap_or(0))));
    }
    Ok(Recording { rate, samples })
}

/// Adds the mean of every `channels` values to `out`.
fn mix(
    mut values: impl Iterator<Item = Result<f64, SoundError>>,
    channels: u32,
    out: &mut Vec<f32>,
) -> Result<(), SoundError> {
    while let Some(first) = values.next() {
        let mut sum = first?;
        for _ in 1..channels {
            sum += values.next().ok_or_else(|| broken("it ends within a sample of all channels"))??;
        }
        out.push((sum / f64::from(channels)) as f32);
    }
    Ok(())
}
