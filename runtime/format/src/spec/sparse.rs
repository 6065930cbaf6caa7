//! Which positions a query of latent attention meets, where it does not meet all.

use serde::{Deserialize, Serialize};

use super::{Layer, Spec, bounded, finite_positive};
use crate::{FormatError, Role};

/// Longest context in which positions are chosen: f32 tells them apart.
const CONTEXT_MAX: u32 = 1 << 24;

/// Who chooses the positions that a layer's queries meet.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Sparse {
    Own(Indexer),
    /// The last layer before it that chooses by itself, with the same positions.
    Earlier,
}

/// Small heads that score positions: those up to the query's own with the `top` highest
/// `sum over h of weight(x)[h] * max(q(y)[h] . layer_norm(k(x)), 0)`, where `y` is what the layer's queries are made of and
/// the first [`LatentAttention::rope_dim`](super::LatentAttention::rope_dim) numbers of `q` and `k` are rotated.
/// DeepSeek-AI 2025, <https://arxiv.org/abs/2512.02556>.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Indexer {
    pub heads: u32,
    pub head_dim: u32,
    pub top: u32,
    /// Epsilon of the layer norm of keys.
    pub norm_eps: f32,
}

impl Sparse {
    /// Checks what layer `i` of `spec`, whose heads rotate `rope_dim` numbers, says of itself.
    pub(super) fn validate(
        &self,
        i: usize,
        spec: &Spec,
        query_rank: Option<u32>,
        rope_dim: u32,
    ) -> Result<(), FormatError> {
        let field = |name: &str| format!("layers[{i}].latent.sparse{name}");
        let refuse =
            |name: &str, value: String, rule| Err(FormatError::Spec { field: field(name), value, rule });
        let Self::Own(own) = self else {
            let earlier = spec.layers.iter().take(i).any(|layer| layer.indexer().is_some());
            let rule = "an earlier layer must choose by itself";
            return if earlier { Ok(()) } else { refuse("", "earlier".into(), rule) };
        };
        bounded(field(".heads"), own.heads, 4096)?;
        bounded(field(".head_dim"), own.head_dim, 4096)?;
        bounded(field(".top"), own.top, CONTEXT_MAX)?;
        finite_positive(field(".norm_eps"), own.norm_eps)?;
        if own.head_dim < rope_dim {
            return refuse(".head_dim", own.head_dim.to_string(), "rope_dim of it are rotated");
        }
        if spec.context > CONTEXT_MAX {
            let rule = "positions are chosen in contexts of at most 2^24";
            return refuse("", format!("a context of {}", spec.context), rule);
        }
        if query_rank.is_none() {
            return refuse("", "without query_rank".into(), "heads that score positions need query_rank");
        }
        Ok(())
    }
}

impl Indexer {
    /// Shows `add` the role, name, rows and columns of one tensor after another until it fails.
    pub(super) fn try_each_tensor<E>(
        &self,
        dim: u32,
        query: u32,
        add: &mut impl FnMut(Role, &str, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        add(Role::Matrix, "attn.index.q", self.heads * self.head_dim, query)?;
        add(Role::Matrix, "attn.index.k", self.head_dim, dim)?;
        add(Role::Vector, "attn.index.k_norm", 1, self.head_dim)?;
        add(Role::Vector, "attn.index.k_norm_bias", 1, self.head_dim)?;
        add(Role::Router, "attn.index.weight", self.heads, dim)
    }
}

impl Layer {
    /// What chooses the positions of this layer's queries, where it does so by itself.
    pub fn indexer(&self) -> Option<&Indexer> {
        match &self.latent()?.sparse {
            Some(Sparse::Own(indexer)) => Some(indexer),
            Some(Sparse::Earlier) | None => None,
        }
    }
}
