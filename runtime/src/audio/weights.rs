//! The weights of a tower over sounds. Matrices are `(out_features, in_features)`.

use muse_format::Audio;
use muse_kernels::{Backend, BackendError};

use crate::model::{Affine, Loader};

pub(super) struct TowerWeights<W> {
    pub(super) stages: Vec<Stage<W>>,
    pub(super) norm: W,                // (dim of the last stage)
    pub(super) projection: Affine<W>,  // (dim of the language model, dim of the last stage)
    pub(super) post_norm: W,           // (dim of the language model)
    pub(super) vector_norm: Option<W>, // (dim of the language model)
}

pub(super) struct Stage<W> {
    pub(super) patch: Affine<W>, // (dim, width of a patch)
    pub(super) norm: W,          // (dim)
    pub(super) blocks: Vec<Block<W>>,
}

pub(super) struct Block<W> {
    pub(super) conv: W,         // (taps, dim)
    pub(super) conv_bias: W,    // (dim)
    pub(super) norm: W,         // (dim)
    pub(super) up: Affine<W>,   // (ffn_dim, dim)
    pub(super) down: Affine<W>, // (dim, ffn_dim)
}

impl<W> TowerWeights<W> {
    pub(super) fn load<B: Backend<Weight = W>>(
        loader: &mut Loader<'_, B>,
        audio: &Audio,
        dim: u32,
    ) -> Result<Self, BackendError> {
        let stages = (0..audio.stages.len()).map(|i| Stage::load(loader, audio, i));
        let stages = stages.collect::<Result<_, _>>()?;
        let last = audio.stages.last().map_or(0, |stage| stage.dim);
        Ok(Self {
            stages,
            norm: loader.take("audio.norm", 1, last)?,
            projection: loader.affine("audio.projection", dim, last, true)?,
            post_norm: loader.take("audio.post_norm", 1, dim)?,
            vector_norm: match audio.vector_norm {
                true => Some(loader.take("audio.vector_norm", 1, dim)?),
                false => None,
            },
        })
    }
}

impl<W> Stage<W> {
    fn load<B: Backend<Weight = W>>(
        loader: &mut Loader<'_, B>,
        audio: &Audio,
        index: usize,
    ) -> Result<Self, BackendError> {
        let stage = &audio.stages[index];
        let (dim, ffn_dim) = (stage.dim, stage.ffn_dim);
        let block = |loader: &mut Loader<'_, B>, j: u32| {
            let name = |part: &str| format!("audio.s{index}.b{j}.{part}");
            Ok(Block {
                conv: loader.take(&name("conv"), audio.taps, dim)?,
                conv_bias: loader.take(&name("conv_bias"), 1, dim)?,
                norm: loader.take(&name("norm"), 1, dim)?,
                up: loader.affine(&name("up"), ffn_dim, dim, true)?,
                down: loader.affine(&name("down"), dim, ffn_dim, true)?,
            })
        };
        Ok(Self {
            patch: loader.affine(&format!("audio.s{index}.patch"), dim, audio.patch_width(index), true)?,
            norm: loader.take(&format!("audio.s{index}.norm"), 1, dim)?,
            blocks: (0..stage.blocks).map(|j| block(loader, j)).collect::<Result<_, BackendError>>()?,
        })
    }
}
