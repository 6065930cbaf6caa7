//! A sound as a tower hears it.

use muse_format::Audio;

use super::decode::{self, Recording};
use super::resample::{resample, resampled_len};

/// What no sample of a recording is beyond, so that nothing computed from it overflows.
const SAMPLE_MAX: f32 = 65_536.0;

/// A sound of one channel, at the rate of the tower that hears it. Cloning is not cheap; it is shared by reference.
#[derive(Clone, PartialEq)]
pub struct Sound {
    samples: Vec<f32>,
    hash: [u8; 32],
}

/// Why something is not a sound for a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SoundError {
    #[error("the sound has no samples")]
    Empty,
    #[error("a sound is {tokens} tokens; this model takes {limit} at most")]
    TooLong { tokens: u64, limit: u32 },
    #[error(
        "sample {sample} of the sound is not a number from -{SAMPLE_MAX} to {SAMPLE_MAX}; a full scale is 1"
    )]
    Range { sample: usize },
    #[error("the sound is neither WAV nor FLAC")]
    Format,
    #[error("the sound is {bytes} bytes; at most {limit} are taken")]
    Bytes { bytes: u64, limit: u64 },
    #[error(
        "the sound has {channels} channels of {rate} samples a second; 1 to {channels_max} of {low} to {high} are taken"
    )]
    Shape { channels: u32, rate: u32, channels_max: u32, low: u32, high: u32 },
    #[error("the sound has {samples} samples a channel; at most {limit} are taken")]
    Samples { samples: u64, limit: u64 },
    #[error("the sound cannot be decoded: {0}")]
    Broken(String),
}

impl std::fmt::Debug for Sound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sound({} samples)", self.samples.len())
    }
}

impl Sound {
    /// A WAV or FLAC, its channels mixed to one, at the rate of the tower.
    ///
    /// # Errors
    /// [`SoundError`] where it is none, is damaged, or is too long.
    pub fn decode(bytes: &[u8], audio: &Audio, limit: u32) -> Result<Self, SoundError> {
        let check =
            |samples: u64, rate: u32| check_len(resampled_len(samples, rate, audio.rate), audio, limit);
        // A file that does not say how long it is says 0.
        let known = |samples: u64, rate: u32| if samples == 0 { Ok(()) } else { check(samples, rate) };
        let Recording { rate, samples } = decode::decode(bytes, &known)?;
        Self::from_samples(resample(samples, rate, audio.rate), audio, limit)
    }

    /// A sound of `samples` at [`Audio::rate`], from -1 to 1; `limit` is the most tokens it may take.
    ///
    /// # Errors
    /// [`SoundError`] where they are none, too many or not numbers.
    pub fn from_samples(samples: Vec<f32>, audio: &Audio, limit: u32) -> Result<Self, SoundError> {
        check_len(samples.len() as u64, audio, limit)?;
        if let Some(sample) = samples.iter().position(|sample| !(-SAMPLE_MAX..=SAMPLE_MAX).contains(sample)) {
            return Err(SoundError::Range { sample });
        }
        let mut hasher = blake3::Hasher::new();
        for sample in &samples {
            hasher.update(&sample.to_le_bytes());
        }
        let hash = hasher.finalize().into();
        Ok(Self { samples, hash })
    }

    /// Of the samples: what two sounds with the same vectors share, and others do not.
    pub fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Vectors that a tower makes of it.
    pub fn tokens(&self, audio: &Audio) -> u32 {
        u32::try_from(audio.tokens(self.samples.len() as u64)).expect("they are no more than their limit")
    }

    /// At [`Audio::rate`].
    pub fn samples(&self) -> &[f32] {
        &self.samples
    }

    /// Those of `len` samples from `start` on that there are: a sound is silent behind its end.
    pub(super) fn part(&self, start: usize, len: usize) -> &[f32] {
        let of = |at: usize| at.min(self.samples.len());
        &self.samples[of(start)..of(start + len)]
    }
}

fn check_len(samples: u64, audio: &Audio, limit: u32) -> Result<(), SoundError> {
    match audio.tokens(samples) {
        0 => Err(SoundError::Empty),
        tokens if tokens > u64::from(limit) => Err(SoundError::TooLong { tokens, limit }),
        _ => Ok(()),
    }
}
