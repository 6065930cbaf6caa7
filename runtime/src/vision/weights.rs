//! The weights of a tower. Matrices are `(out_features, in_features)`.

use muse_format::Vision;
use muse_kernels::{Backend, BackendError};

use crate::model::{Affine, Loader};

pub(super) struct TowerWeights<W> {
    pub(super) patch: Affine<W>, // (dim, values)
    pub(super) rope: W,          // (frequencies)
    pub(super) pre_norm: Option<Norm<W>>,
    pub(super) blocks: Vec<Block<W>>,
    pub(super) post_norm: Norm<W>,
    pub(super) adapter_up: Affine<W>, // (adapter_dim, merge * merge * dim)
    pub(super) adapter_down: Option<Affine<W>>, // (adapter_dim, adapter_dim)
    pub(super) projection: Affine<W>, // (dim of the language model, adapter_dim)
    pub(super) norm: Option<W>,       // (dim of the language model)
}

pub(super) struct Block<W> {
    pub(super) attn_norm: Norm<W>,
    pub(super) q: Affine<W>,   // (dim, dim)
    pub(super) k: Affine<W>,   // (dim, dim)
    pub(super) v: Affine<W>,   // (dim, dim)
    pub(super) out: Affine<W>, // (dim, dim)
    pub(super) ffn_norm: Norm<W>,
    pub(super) up: Affine<W>,   // (ffn_dim, dim)
    pub(super) down: Affine<W>, // (dim, ffn_dim)
}

/// A norm by mean and variance.
pub(super) struct Norm<W> {
    weight: W, // (dim)
    bias: W,   // (dim)
}

impl<W> Norm<W> {
    fn load<B: Backend<Weight = W>>(
        loader: &mut Loader<'_, B>,
        name: &str,
        dim: u32,
    ) -> Result<Self, BackendError> {
        Ok(Self { weight: loader.take(name, 1, dim)?, bias: loader.take(&format!("{name}_bias"), 1, dim)? })
    }

    pub(super) fn run<B: Backend<Weight = W>>(
        &self,
        backend: &mut B,
        x: &mut B::Buffer,
        rows: usize,
        eps: f32,
    ) -> Result<(), BackendError> {
        backend.layer_norm_in_place(x, &self.weight, &self.bias, rows, eps)
    }
}

impl<W> TowerWeights<W> {
    pub(super) fn load<B: Backend<Weight = W>>(
        loader: &mut Loader<'_, B>,
        vision: &Vision,
        dim: u32,
    ) -> Result<Self, BackendError> {
        let (inner, adapter, bias) = (vision.dim, vision.adapter_dim, vision.adapter_bias);
        let blocks = (0..vision.layers.len()).map(|i| Block::load(loader, vision, i));
        let blocks = blocks.collect::<Result<_, BackendError>>()?;
        let pre_norm = vision.pre_norm.then(|| Norm::load(loader, "vision.pre_norm", inner));
        let down = vision.adapter_down;
        let down = down.then(|| loader.affine("vision.adapter.down", adapter, adapter, bias));
        Ok(Self {
            pre_norm: pre_norm.transpose()?,
            blocks,
            adapter_down: down.transpose()?,
            patch: loader.affine("vision.patch", inner, vision.pixels.values(), vision.patch_bias)?,
            rope: loader.take("vision.rope", 1, vision.frequencies)?,
            post_norm: Norm::load(loader, "vision.post_norm", inner)?,
            adapter_up: loader.affine("vision.adapter.up", adapter, inner * vision.merged(), bias)?,
            projection: loader.affine("vision.projection", dim, adapter, bias)?,
            norm: vision.vector_norm.then(|| loader.take("vision.norm", 1, dim)).transpose()?,
        })
    }
}

impl<W> Block<W> {
    fn load<B: Backend<Weight = W>>(
        loader: &mut Loader<'_, B>,
        vision: &Vision,
        index: usize,
    ) -> Result<Self, BackendError> {
        let (dim, ffn_dim) = (vision.dim, vision.ffn_dim);
        let name = |part: &str| format!("vision.l{index}.{part}");
        Ok(Self {
            attn_norm: Norm::load(loader, &name("attn.norm"), dim)?,
            q: loader.affine(&name("attn.q"), dim, dim, true)?,
            k: loader.affine(&name("attn.k"), dim, dim, true)?,
            v: loader.affine(&name("attn.v"), dim, dim, true)?,
            out: loader.affine(&name("attn.out"), dim, dim, true)?,
            ffn_norm: Norm::load(loader, &name("ffn.norm"), dim)?,
            up: loader.affine(&name("ffn.up"), ffn_dim, dim, true)?,
            down: loader.affine(&name("ffn.down"), dim, ffn_dim, true)?,
        })
    }
}
