//! The weights of multi-head latent attention.

use muse_format::{Indexer, LatentAttention, Sparse};
use muse_kernels::{Backend, BackendError};

use super::loader::Loader;
use super::{IndexWeights, LatentAttentionWeights, NormedProduct};

impl<B: Backend> Loader<'_, B> {
    /// Those of layer `i` of a model `dim` wide.
    pub(super) fn latent(
        &mut self,
        i: usize,
        dim: u32,
        a: &LatentAttention,
    ) -> Result<LatentAttentionWeights<B::Weight>, BackendError> {
        let name = |part: &str| format!("l{i}.attn.{part}");
        let mut normed = |part: &str, rows| {
            let product = self.affine(&name(part), rows, dim, a.bias)?;
            let norm = self.take(&name(&format!("{part}_norm")), 1, rows)?;
            Ok::<_, BackendError>(NormedProduct { product, norm })
        };
        let q_down = a.query_rank.map(|rank| normed("q_down", rank)).transpose()?;
        let latent = normed("latent", a.rank)?;
        let query = a.query_rank.unwrap_or(dim);
        let index = match &a.sparse {
            Some(Sparse::Own(indexer)) => Some(self.index(i, dim, query, indexer)?),
            Some(Sparse::Earlier) | None => None,
        };
        Ok(LatentAttentionWeights {
            q_down,
            q: self.take(&name("q"), a.heads * a.key_dim, query)?,
            q_rope: self.take(&name("q_rope"), a.heads * a.rope_dim, query)?,
            latent,
            k_rope: self.affine(&name("k_rope"), a.rope_dim, dim, a.bias)?,
            key_up: self.take(&name("key_up"), a.heads * a.rank, a.key_dim)?,
            value_up: self.take(&name("value_up"), a.heads * a.value_dim, a.rank)?,
            out: self.affine(&name("out"), dim, a.heads * a.value_dim, a.bias)?,
            index,
        })
    }

    fn index(
        &mut self,
        i: usize,
        dim: u32,
        query: u32,
        indexer: &Indexer,
    ) -> Result<IndexWeights<B::Weight>, BackendError> {
        let name = |part: &str| format!("l{i}.attn.index.{part}");
        let width = indexer.head_dim;
        Ok(IndexWeights {
            q: self.take(&name("q"), indexer.heads * width, query)?,
            k: self.take(&name("k"), width, dim)?,
            k_norm: [self.take(&name("k_norm"), 1, width)?, self.take(&name("k_norm_bias"), 1, width)?],
            weight: self.take(&name("weight"), indexer.heads, dim)?,
        })
    }
}
