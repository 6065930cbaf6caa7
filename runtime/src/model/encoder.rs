//! The weights of an encoder.

use muse_format::Spec;
use muse_kernels::{Backend, BackendError};

use super::Affine;
use super::loader::Loader;

/// The weights of an encoder. Matrices are `(out_features, in_features)`.
pub struct EncoderWeights<W> {
    pub embed: W,            // (vocab, dim)
    pub positions: W,        // (positions, dim)
    pub types: W,            // (types, dim)
    pub embed_norm: Norm<W>, // (dim)
    pub layers: Vec<EncoderLayerWeights<W>>,
}

/// One layer.
pub struct EncoderLayerWeights<W> {
    pub qkv: [Affine<W>; 3],   // (heads * head_dim, dim) each
    pub out: Affine<W>,        // (dim, heads * head_dim)
    pub attention: Norm<W>,    // (dim)
    pub up: Affine<W>,         // (ffn_dim, dim)
    pub down: Affine<W>,       // (dim, ffn_dim)
    pub feed_forward: Norm<W>, // (dim)
}

/// What a norm by mean and variance multiplies by and adds.
pub struct Norm<W> {
    pub weight: W, // (dim)
    pub bias: W,   // (dim)
}

impl<B: Backend> Loader<'_, B> {
    fn norm(&mut self, name: &str, dim: u32) -> Result<Norm<B::Weight>, BackendError> {
        Ok(Norm { weight: self.take(name, 1, dim)?, bias: self.take(&format!("{name}_bias"), 1, dim)? })
    }

    /// The weights of a spec that says `encoder`.
    ///
    /// # Panics
    /// If it does not.
    pub fn encoder(&mut self, spec: &Spec) -> Result<EncoderWeights<B::Weight>, BackendError> {
        let (encoder, dim) = (spec.encoder.as_ref().expect("the caller asked"), spec.dim);
        let layer = |(i, layer): (usize, &muse_format::Layer)| {
            let name = |part: &str| format!("l{i}.{part}");
            let inner = layer.attention().map_or(0, |a| a.heads * a.head_dim);
            let ffn = layer.ffn.as_ref().map_or(0, |ffn| ffn.dim);
            Ok(EncoderLayerWeights {
                qkv: [
                    self.affine(&name("attn.q"), inner, dim, true)?,
                    self.affine(&name("attn.k"), inner, dim, true)?,
                    self.affine(&name("attn.v"), inner, dim, true)?,
                ],
                out: self.affine(&name("attn.out"), dim, inner, true)?,
                attention: self.norm(&name("attn.norm"), dim)?,
                up: self.affine(&name("ffn.up"), ffn, dim, true)?,
                down: self.affine(&name("ffn.down"), dim, ffn, true)?,
                feed_forward: self.norm(&name("ffn.norm"), dim)?,
            })
        };
        let layers = spec.layers.iter().enumerate().map(layer).collect::<Result<_, BackendError>>()?;
        Ok(EncoderWeights {
            embed: self.take("embed", spec.vocab, dim)?,
            positions: self.take("positions", encoder.positions, dim)?,
            types: self.take("types", encoder.types, dim)?,
            embed_norm: self.norm("embed_norm", dim)?,
            layers,
        })
    }
}
