//! Media that another program has prepared: a safetensors file with the tensors' names of transformers.

use muse_runtime::{Medium, MediumKind, ModelInfo, PlaceError};
use safetensors::SafeTensors;

use crate::images::{self, InputsError};
use crate::sounds::{self, SoundsError};

/// Why a file's tensors are no media for a model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaError {
    #[error(transparent)]
    NoTower(#[from] PlaceError),
    #[error(transparent)]
    Images(#[from] InputsError),
    #[error(transparent)]
    Sounds(#[from] SoundsError),
}

/// Reads images and videos, see [`images::read`], and sounds, see [`sounds::read`], of one file.
///
/// # Errors
/// [`MediaError`] naming the tensor or the medium.
pub fn read(bytes: &[u8], info: &ModelInfo) -> Result<Vec<Medium>, MediaError> {
    let file = SafeTensors::deserialize(bytes).map_err(InputsError::from)?;
    let (of_sounds, others): (Vec<_>, Vec<_>) =
        file.names().into_iter().partition(|name| sounds::NAMES.contains(name));
    let mut media = Vec::new();
    if !others.is_empty() || of_sounds.is_empty() {
        let vision = info.vision.as_ref().ok_or(PlaceError::NoTower { kind: MediumKind::Image })?;
        media.extend(images::read(bytes, vision)?);
    }
    if !of_sounds.is_empty() {
        let audio = info.audio.as_ref().ok_or(PlaceError::NoTower { kind: MediumKind::Sound })?;
        media.extend(sounds::read(&file, audio)?.into_iter().map(Medium::from));
    }
    Ok(media)
}
