//! Sounds whose samples another program has prepared: a safetensors file with the tensors' names of transformers.

use muse_runtime::{AudioInfo, Sound, SoundError};
use safetensors::SafeTensors;

use crate::images::{InputsError, floats, shape, whole};

const VALUES: &str = "input_values";
const MASK: &str = "input_values_mask";
/// Of a file of sounds.
pub const NAMES: [&str; 2] = [VALUES, MASK];

/// Why tensors are no sounds.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SoundsError {
    #[error(transparent)]
    Tensors(#[from] InputsError),
    #[error("there is no tensor {VALUES}, of which {MASK} says how much is sound")]
    Missing,
    #[error("row {sound} of {MASK} is not ones and then zeros")]
    Mask { sound: usize },
    #[error("sound {sound}: {problem}")]
    Sound { sound: usize, problem: SoundError },
}

/// Takes `input_values`, `(sounds, samples)` floats, and `input_values_mask`, whole numbers of the same shape: 1 for each
/// sample and 0 behind the last. Without a mask all are samples.
///
/// # Errors
/// [`SoundsError`] naming the tensor or the sound.
pub fn read(file: &SafeTensors<'_>, audio: &AudioInfo) -> Result<Vec<Sound>, SoundsError> {
    let values = file.tensor(VALUES).map_err(|_| SoundsError::Missing)?;
    let numbers = floats(&values).filter(|_| matches!(values.shape(), [_, width] if *width > 0));
    let numbers = numbers.ok_or_else(|| shape(VALUES, &values, "floats, (sounds, samples)".into()))?;
    let width = values.shape()[1];
    let lens = match file.tensor(MASK) {
        Err(_) => vec![width; values.shape()[0]],
        Ok(mask) => {
            let ones = whole(&mask).filter(|_| mask.shape() == values.shape());
            let expected = || format!("whole numbers, {:?}", values.shape());
            let ones = ones.ok_or_else(|| shape(MASK, &mask, expected()))?;
            let len = |(sound, row): (usize, &[u64])| {
                let len = row.iter().take_while(|one| **one == 1).count();
                let padded = row[len..].iter().all(|zero| *zero == 0);
                if padded { Ok(len) } else { Err(SoundsError::Mask { sound }) }
            };
            ones.chunks_exact(width).enumerate().map(len).collect::<Result<_, _>>()?
        }
    };
    let sound = |(sound, (row, len)): (usize, (&[f32], usize))| {
        // What a vector ends with is heard, whatever it is.
        let heard = len.next_multiple_of(audio.spec.samples() as usize).min(width);
        Sound::from_samples(row[..heard].to_vec(), &audio.spec, audio.audio_tokens)
            .map_err(|problem| SoundsError::Sound { sound, problem })
    };
    numbers.chunks_exact(width).zip(lens).enumerate().map(sound).collect()
}

#[cfg(test)]
mod tests {
    use muse_format::{Activation, Audio, AudioStage};
    use safetensors::Dtype;
    use safetensors::tensor::TensorView;

    use super::*;

    /// Vectors of 4 samples, at most 3 of them.
    fn audio() -> AudioInfo {
        let spec = Audio {
            token: 1,
            blank_tokens: vec![1],
            rate: 100,
            taps: 2,
            activation: Activation::Gelu,
            norm_eps: 1e-5,
            vector_norm: true,
            stages: vec![AudioStage { patch: 4, dim: 8, ffn_dim: 8, blocks: 1 }],
        };
        AudioInfo { spec, audio_tokens: 3 }
    }

    type Tensor = (&'static str, Dtype, Vec<usize>, Vec<u8>);

    fn read_of(tensors: &[Tensor]) -> Result<Vec<Sound>, SoundsError> {
        let view = |(name, dtype, shape, data): &'_ Tensor| {
            (*name, TensorView::new(*dtype, shape.clone(), data).unwrap().data().to_vec())
        };
        let data: Vec<_> = tensors.iter().map(view).collect();
        let views = tensors.iter().zip(&data).map(|((_, dtype, shape, _), (name, data))| {
            (*name, TensorView::new(*dtype, shape.clone(), data).unwrap())
        });
        let bytes = safetensors::serialize(views.collect::<Vec<_>>(), None).unwrap();
        read(&SafeTensors::deserialize(&bytes).unwrap(), &audio())
    }

    fn values(shape: [usize; 2]) -> Tensor {
        let data = (0..shape[0] * shape[1]).flat_map(|i| (i as f32 / 7.0).to_le_bytes()).collect();
        (VALUES, Dtype::F32, shape.to_vec(), data)
    }

    fn mask(shape: [usize; 2], ones: &[i32]) -> Tensor {
        let data = ones.iter().flat_map(|one| one.to_le_bytes()).collect();
        (MASK, Dtype::I32, shape.to_vec(), data)
    }

    #[test]
    fn sounds_are_rows_up_to_the_vector_that_their_mask_ends_in() {
        let of = |first: usize, len: usize| {
            let samples = (first..first + len).map(|i| i as f32 / 7.0).collect();
            Sound::from_samples(samples, &audio().spec, 3).unwrap()
        };
        let ones = [[1; 10], [1, 1, 1, 1, 1, 0, 0, 0, 0, 0]].concat();
        let sounds = read_of(&[values([2, 10]), mask([2, 10], &ones)]).unwrap();
        assert_eq!(sounds, [of(0, 10), of(10, 8)]);
        assert_eq!(sounds.iter().map(|sound| sound.tokens(&audio().spec)).collect::<Vec<_>>(), [3, 2]);
        assert_eq!(read_of(&[values([2, 10])]).unwrap(), [of(0, 10), of(10, 10)]);
    }

    #[test]
    fn what_is_no_sound_is_refused_by_name() {
        let mut hole = values([1, 8]);
        hole.3[4..8].copy_from_slice(&f32::INFINITY.to_le_bytes());
        let bytes = (VALUES, Dtype::U8, vec![1, 8], vec![0; 8]);
        let flat = (VALUES, Dtype::F32, vec![8], values([1, 8]).3);
        let cases = [
            (vec![mask([1, 4], &[1; 4])], "there is no tensor input_values"),
            (vec![bytes], "input_values is U8 [1, 8]"),
            (vec![flat], "input_values is F32 [8]"),
            (vec![values([2, 0])], "input_values is F32 [2, 0]"),
            (
                vec![values([1, 8]), mask([1, 4], &[1; 4])],
                "input_values_mask is I32 [1, 4]; it must be whole",
            ),
            (vec![values([1, 4]), mask([1, 4], &[1, 1, 0, 1])], "row 0 of input_values_mask"),
            (vec![values([1, 4]), mask([1, 4], &[1, 2, 0, 0])], "row 0 of input_values_mask"),
            (vec![values([1, 4]), mask([1, 4], &[1, -1, 0, 0])], "input_values_mask is I32 [1, 4]"),
            (vec![values([1, 4]), mask([1, 4], &[0; 4])], "sound 0: the sound has no samples"),
            (vec![values([1, 13])], "sound 0: a sound is 4 tokens; this model takes 3 at most"),
            (vec![hole], "sound 0: sample 1 of the sound is not a number"),
        ];
        let mut wrong = Vec::new();
        for (tensors, expected) in cases {
            match read_of(&tensors) {
                Err(error) if error.to_string().contains(expected) => {}
                other => wrong.push(format!("{expected}: {other:?}")),
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
