//! The weights of a tower. Matrices are `(out_features, in_features)`.

use muse_format::{CLIPS, Join, Vision};
use muse_kernels::{Backend, BackendError, Linear};

use crate::model::{Affine, Loader};

pub(super) struct TowerWeights<W> {
    pub(super) patch: Affine<W>, // (dim, values)
    pub(super) rope: Option<W>,  // (frequencies)
    pub(super) pre_norm: Option<Norm<W>>,
    pub(super) blocks: Vec<Block<W>>,
    pub(super) post_norm: Option<Norm<W>>,
    pub(super) mean_norm: Option<W>,            // (dim)
    pub(super) mean_scale: Option<W>,           // (dim)
    pub(super) adapter_up: Option<Affine<W>>,   // (adapter_dim, merge * merge * dim)
    pub(super) adapter_down: Option<Affine<W>>, // (adapter_dim, adapter_dim)
    pub(super) projection: Affine<W>,           // (dim of the language model, adapter_dim)
    pub(super) norm: Option<W>,                 // (dim of the language model)
}

pub(super) struct Block<W> {
    pub(super) attn_norm: Norm<W>,
    pub(super) q: Product<W>,              // (dim, dim)
    pub(super) k: Product<W>,              // (dim, dim)
    pub(super) v: Product<W>,              // (dim, dim)
    pub(super) head_norms: Option<[W; 3]>, // (head_dim) each: of queries, keys and values
    pub(super) out: Product<W>,            // (dim, dim)
    pub(super) attn_post_norm: Option<Norm<W>>,
    pub(super) ffn_norm: Norm<W>,
    pub(super) gate: Option<Product<W>>, // (ffn_dim, dim)
    pub(super) up: Product<W>,           // (ffn_dim, dim)
    pub(super) down: Product<W>,         // (dim, ffn_dim)
    pub(super) ffn_post_norm: Option<Norm<W>>,
}

/// A norm by mean and variance, or an RMS norm, which has no bias.
pub(super) struct Norm<W> {
    weight: W,       // (dim)
    bias: Option<W>, // (dim)
}

impl<W> Norm<W> {
    fn load<B: Backend<Weight = W>>(
        loader: &mut Loader<'_, B>,
        vision: &Vision,
        name: &str,
    ) -> Result<Self, BackendError> {
        let weight = loader.take(name, 1, vision.dim)?;
        let bias = (!vision.rms).then(|| loader.take(&format!("{name}_bias"), 1, vision.dim)).transpose()?;
        Ok(Self { weight, bias })
    }

    fn load_if<B: Backend<Weight = W>>(
        wanted: bool,
        loader: &mut Loader<'_, B>,
        vision: &Vision,
        name: &str,
    ) -> Result<Option<Self>, BackendError> {
        wanted.then(|| Self::load(loader, vision, name)).transpose()
    }

    pub(super) fn run<B: Backend<Weight = W>>(
        &self,
        backend: &mut B,
        x: &mut B::Buffer,
        rows: usize,
        eps: f32,
    ) -> Result<(), BackendError> {
        match &self.bias {
            Some(bias) => backend.layer_norm_in_place(x, &self.weight, bias, rows, eps),
            None => backend.rms_norm_in_place(x, &self.weight, rows, eps),
        }
    }
}

/// A product of a block, and the bounds of what goes into it and of what comes out.
pub(super) struct Product<W> {
    affine: Affine<W>,
    clips: Option<[[f32; 2]; 2]>,
    /// Width of what goes in, and of what comes out.
    widths: [usize; 2],
}

impl<W> Product<W> {
    fn load<B: Backend<Weight = W>>(
        loader: &mut Loader<'_, B>,
        vision: &Vision,
        name: &str,
        rows: u32,
        cols: u32,
    ) -> Result<Self, BackendError> {
        let affine = loader.affine(name, rows, cols, vision.bias)?;
        let bound = |bound: &str| -> Result<f32, BackendError> {
            Ok(loader.mapped.tensor(&format!("{name}_{bound}"), 1, 1)?.f32()[0])
        };
        let clips = match vision.clipped {
            false => None,
            true => {
                let [in_min, in_max, out_min, out_max] = CLIPS.map(bound);
                Some([[in_min?, in_max?], [out_min?, out_max?]])
            }
        };
        Ok(Self { affine, clips, widths: [cols as usize, rows as usize] })
    }
}

/// Each product of `rows` rows of `x`, all products cut to bounds or none. `spare` is as wide as `x`; what is in it is
/// lost.
pub(super) fn products<B: Backend, const N: usize>(
    backend: &mut B,
    x: &B::Buffer,
    spare: &mut B::Buffer,
    own: &[u32],
    outs: [(&mut B::Buffer, &Product<B::Weight>); N],
) -> Result<(), BackendError> {
    let rows = own.len();
    if outs.iter().all(|(_, product)| product.clips.is_none()) {
        let mut all = outs.map(|(out, product)| linear(out, &product.affine));
        return backend.linear(x, rows, &mut all);
    }
    for (out, product) in outs {
        let (clips, [cols, width]) = (product.clips.unwrap_or([[f32::MIN, f32::MAX]; 2]), product.widths);
        backend.gather(spare, x, own, cols)?;
        backend.clip(spare, rows * cols, clips[0])?;
        backend.linear(spare, rows, &mut [linear(out, &product.affine)])?;
        backend.clip(out, rows * width, clips[1])?;
    }
    Ok(())
}

/// A product as backends take it.
pub(super) fn linear<'a, B: Backend>(out: &'a mut B::Buffer, affine: &'a Affine<B::Weight>) -> Linear<'a, B> {
    Linear { out, weight: &affine.weight, bias: affine.bias.as_ref() }
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
        let up = vision.adapter();
        let up = up.then(|| loader.affine("vision.adapter.up", adapter, inner * vision.merged(), bias));
        let down = vision.adapter_down;
        let down = down.then(|| loader.affine("vision.adapter.down", adapter, adapter, bias));
        let turns = vision.frequencies > 0;
        let (mean, standardized) = match vision.join {
            Join::Beside => (false, false),
            Join::Mean { standardized, .. } => (true, standardized),
        };
        Ok(Self {
            pre_norm: Norm::load_if(vision.pre_norm, loader, vision, "vision.pre_norm")?,
            blocks,
            adapter_up: up.transpose()?,
            adapter_down: down.transpose()?,
            patch: loader.affine("vision.patch", inner, vision.pixels.values(), vision.patch_bias)?,
            rope: turns.then(|| loader.take("vision.rope", 1, vision.frequencies)).transpose()?,
            post_norm: Norm::load_if(vision.post_norm, loader, vision, "vision.post_norm")?,
            mean_norm: mean.then(|| loader.take("vision.mean_norm", 1, inner)).transpose()?,
            mean_scale: standardized.then(|| loader.take("vision.mean_scale", 1, inner)).transpose()?,
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
        let (dim, ffn_dim, head_dim) = (vision.dim, vision.ffn_dim, vision.head_dim());
        let name = |part: &str| format!("vision.l{index}.{part}");
        let head_norms = match vision.head_norms {
            false => None,
            true => Some([
                loader.take(&name("attn.q_norm"), 1, head_dim)?,
                loader.take(&name("attn.k_norm"), 1, head_dim)?,
                loader.take(&name("attn.v_norm"), 1, head_dim)?,
            ]),
        };
        let gate = vision
            .gated
            .then(|| Product::load(loader, vision, &name("ffn.gate"), ffn_dim, dim))
            .transpose()?;
        Ok(Self {
            attn_norm: Norm::load(loader, vision, &name("attn.norm"))?,
            q: Product::load(loader, vision, &name("attn.q"), dim, dim)?,
            k: Product::load(loader, vision, &name("attn.k"), dim, dim)?,
            v: Product::load(loader, vision, &name("attn.v"), dim, dim)?,
            head_norms,
            out: Product::load(loader, vision, &name("attn.out"), dim, dim)?,
            attn_post_norm: Norm::load_if(vision.post_norms, loader, vision, &name("attn.post_norm"))?,
            ffn_norm: Norm::load(loader, vision, &name("ffn.norm"))?,
            gate,
            up: Product::load(loader, vision, &name("ffn.up"), ffn_dim, dim)?,
            down: Product::load(loader, vision, &name("ffn.down"), dim, ffn_dim)?,
            ffn_post_norm: Norm::load_if(vision.post_norms, loader, vision, &name("ffn.post_norm"))?,
        })
    }
}
