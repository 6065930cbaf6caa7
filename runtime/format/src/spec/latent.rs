//! A layer's mixer whose cache holds one vector a position, from which every head's key and value would follow.

use serde::{Deserialize, Serialize};

use super::{Sparse, Spec, bounded, finite_positive, is_false};
use crate::{FormatError, Role};

/// Widest vector of a position in the cache.
const KEPT_MAX: u32 = 4096;

/// Multi-head latent attention: a position keeps `norm(latent(x))` and one rotated part of keys for all heads. Of head
/// `h`, the key is `key_up[h]^T * kept` beside the rotated part, the value `value_up[h] * kept`. Neither is ever made:
/// queries are multiplied by `key_up[h]`, so that they meet what is kept, and what they read of it by `value_up[h]`.
/// DeepSeek-AI 2024, <https://arxiv.org/abs/2405.04434>.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LatentAttention {
    pub heads: u32,
    /// Width that queries are made of: `q(norm(q_down(x)))`; of `x` itself where there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query_rank: Option<u32>,
    /// Width of what a position keeps beside its rotated part.
    pub rank: u32,
    /// Width of the part of a head's query and key that is not rotated.
    pub key_dim: u32,
    /// Width of the part that is, in the half-split order.
    pub rope_dim: u32,
    /// Width of a head's value.
    pub value_dim: u32,
    /// Multiplies `q . k`.
    pub scale: f32,
    /// Index of the rotation table.
    pub rope: u32,
    /// Epsilon of the norms of `q_down` and `latent`.
    pub norm_eps: f32,
    /// Biases on `q_down`, `latent`, `k_rope` and the output projection.
    #[serde(default, skip_serializing_if = "is_false")]
    pub bias: bool,
    /// Which positions queries meet, where not all before them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparse: Option<Sparse>,
}

impl LatentAttention {
    /// Width of what a position keeps, and of a query that meets it.
    pub fn kept(&self) -> u32 {
        self.rank + self.rope_dim
    }

    /// Checks what layer `i` of `spec` says of itself.
    pub(super) fn validate(&self, i: usize, spec: &Spec) -> Result<(), FormatError> {
        let field = |name: &str| format!("layers[{i}].latent.{name}");
        let bounds = [
            ("heads", self.heads, 4096),
            ("query_rank", self.query_rank.unwrap_or(1), 1 << 16),
            ("rank", self.rank, KEPT_MAX),
            ("key_dim", self.key_dim, 4096),
            ("rope_dim", self.rope_dim, KEPT_MAX),
            ("value_dim", self.value_dim, 4096),
        ];
        for (name, value, max) in bounds {
            bounded(field(name), value, max)?;
        }
        finite_positive(field("scale"), self.scale)?;
        finite_positive(field("norm_eps"), self.norm_eps)?;
        let (name, value, rule) = match () {
            () if self.kept() > KEPT_MAX => {
                ("rank", self.kept(), "rank and rope_dim are at most 4096 together")
            }
            () if !self.rope_dim.is_multiple_of(2) => ("rope_dim", self.rope_dim, "rope_dim must be even"),
            () if self.rope >= spec.ropes => ("rope", self.rope, "rope must name a rotation table"),
            () => {
                let sparse = self.sparse.as_ref();
                return sparse.map_or(Ok(()), |s| s.validate(i, spec, self.query_rank, self.rope_dim));
            }
        };
        Err(FormatError::Spec { field: field(name), value: value.to_string(), rule })
    }

    /// Shows `add` the role, name, rows and columns of one tensor after another until it fails.
    pub(crate) fn try_each_tensor<E>(
        &self,
        dim: u32,
        add: &mut impl FnMut(Role, &str, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        let heads = self.heads;
        let mut product = |name: &str, rows, cols, bias: bool| {
            add(Role::Matrix, name, rows, cols)?;
            if bias { add(Role::Vector, &format!("{name}_bias"), 1, rows) } else { Ok(()) }
        };
        if let Some(rank) = self.query_rank {
            product("attn.q_down", rank, dim, self.bias)?;
        }
        product("attn.latent", self.rank, dim, self.bias)?;
        product("attn.k_rope", self.rope_dim, dim, self.bias)?;
        let width = self.query_rank.unwrap_or(dim);
        product("attn.q", heads * self.key_dim, width, false)?;
        product("attn.q_rope", heads * self.rope_dim, width, false)?;
        product("attn.key_up", heads * self.rank, self.key_dim, false)?;
        product("attn.value_up", heads * self.value_dim, self.rank, false)?;
        product("attn.out", dim, heads * self.value_dim, self.bias)?;
        if let Some(rank) = self.query_rank {
            add(Role::Vector, "attn.q_down_norm", 1, rank)?;
        }
        add(Role::Vector, "attn.latent_norm", 1, self.rank)?;
        match &self.sparse {
            Some(Sparse::Own(indexer)) => indexer.try_each_tensor(dim, width, add),
            Some(Sparse::Earlier) | None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activation, Ffn, Indexer, Layer, Mixer};

    const LATENT: LatentAttention = LatentAttention {
        heads: 3,
        query_rank: Some(7),
        rank: 10,
        key_dim: 5,
        rope_dim: 4,
        value_dim: 6,
        scale: 0.3,
        rope: 0,
        norm_eps: 1e-6,
        bias: true,
        sparse: None,
    };

    fn spec(latent: LatentAttention) -> Spec {
        let ffn = Some(Ffn { dim: 20, activation: Activation::Silu, bias: false });
        let layers = vec![Layer { ffn, ..Layer::of(Mixer::Latent(latent)) }];
        Spec {
            dim: 16,
            vocab: 40,
            context: 64,
            norm_eps: 1e-6,
            ropes: 1,
            tied_head: true,
            layers,
            ..Spec::default()
        }
    }

    fn tensors(latent: LatentAttention) -> Vec<(String, u64, u64)> {
        let tensors = spec(latent).tensors().into_iter();
        let own = tensors.filter(|t| t.name.starts_with("l0.attn.")).skip(1);
        own.map(|t| (t.name["l0.attn.".len()..].to_owned(), t.rows, t.cols)).collect()
    }

    #[test]
    fn a_layer_asks_for_the_tensors_of_its_mixer() {
        let expected = [
            ("q_down", 7, 16),
            ("q_down_bias", 1, 7),
            ("latent", 10, 16),
            ("latent_bias", 1, 10),
            ("k_rope", 4, 16),
            ("k_rope_bias", 1, 4),
            ("q", 15, 7),
            ("q_rope", 12, 7),
            ("key_up", 30, 5),
            ("value_up", 18, 10),
            ("out", 16, 18),
            ("out_bias", 1, 16),
            ("q_down_norm", 1, 7),
            ("latent_norm", 1, 10),
        ];
        let owned = |all: &[(&str, u64, u64)]| -> Vec<_> {
            all.iter().map(|(name, rows, cols)| ((*name).to_owned(), *rows, *cols)).collect()
        };
        assert_eq!(tensors(LATENT), owned(&expected));
        let expected = [
            ("latent", 10, 16),
            ("k_rope", 4, 16),
            ("q", 15, 16),
            ("q_rope", 12, 16),
            ("key_up", 30, 5),
            ("value_up", 18, 10),
            ("out", 16, 18),
            ("latent_norm", 1, 10),
        ];
        assert_eq!(tensors(LatentAttention { query_rank: None, bias: false, ..LATENT }), owned(&expected));
        let json = serde_json::to_string(&spec(LATENT)).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), spec(LATENT));
        assert!(json.contains(r#""mixer":{"latent":{"heads":3,"query_rank":7,"#), "{json}");
    }

    #[test]
    fn positions_are_chosen_by_a_layer_or_by_one_before_it() {
        let indexer = Indexer { heads: 2, head_dim: 6, top: 3, norm_eps: 1e-6 };
        let own = LatentAttention { sparse: Some(Sparse::Own(indexer)), ..LATENT };
        let added: Vec<_> = tensors(own.clone()).into_iter().skip(14).collect();
        let expected = [
            ("index.q", 12, 7),
            ("index.k", 6, 16),
            ("index.k_norm", 1, 6),
            ("index.k_norm_bias", 1, 6),
            ("index.weight", 2, 16),
        ];
        assert_eq!(added, expected.map(|(name, rows, cols)| (name.to_owned(), rows, cols)));
        let mut both = spec(own.clone());
        let later = LatentAttention { sparse: Some(Sparse::Earlier), ..LATENT };
        both.layers.push(Layer { mixer: Mixer::Latent(later.clone()), ..both.layers[0].clone() });
        both.validate().unwrap();
        let json = serde_json::to_string(&both).unwrap();
        assert_eq!(serde_json::from_str::<Spec>(&json).unwrap(), both);
        assert!(json.contains(r#""sparse":"earlier""#), "{json}");
        let changed = |indexer: Indexer| LatentAttention { sparse: Some(Sparse::Own(indexer)), ..LATENT };
        let cases = [
            ("", later),
            ("", LatentAttention { query_rank: None, ..own }),
            (".heads", changed(Indexer { heads: 0, ..indexer })),
            (".head_dim", changed(Indexer { head_dim: 3, ..indexer })),
            (".head_dim", changed(Indexer { head_dim: u32::MAX, ..indexer })),
            (".top", changed(Indexer { top: 0, ..indexer })),
            (".norm_eps", changed(Indexer { norm_eps: f32::NAN, ..indexer })),
        ];
        for (name, latent) in cases {
            let error = spec(latent.clone()).validate().unwrap_err();
            let expected = format!("layers[0].latent.sparse{name}");
            assert!(
                matches!(&error, FormatError::Spec { field, .. } if *field == expected),
                "{latent:?}: {error}"
            );
        }
    }

    #[test]
    fn sizes_out_of_bounds_are_refused_by_field() {
        spec(LATENT).validate().unwrap();
        let cases = [
            ("heads", LatentAttention { heads: 0, ..LATENT }),
            ("heads", LatentAttention { heads: 4097, ..LATENT }),
            ("query_rank", LatentAttention { query_rank: Some(0), ..LATENT }),
            ("query_rank", LatentAttention { query_rank: Some(u32::MAX), ..LATENT }),
            ("rank", LatentAttention { rank: 0, ..LATENT }),
            ("rank", LatentAttention { rank: 4094, ..LATENT }),
            ("rank", LatentAttention { rank: u32::MAX, ..LATENT }),
            ("key_dim", LatentAttention { key_dim: 0, ..LATENT }),
            ("rope_dim", LatentAttention { rope_dim: 3, ..LATENT }),
            ("rope_dim", LatentAttention { rope_dim: u32::MAX, ..LATENT }),
            ("value_dim", LatentAttention { value_dim: 4097, ..LATENT }),
            ("scale", LatentAttention { scale: f32::NAN, ..LATENT }),
            ("norm_eps", LatentAttention { norm_eps: 0.0, ..LATENT }),
            ("rope", LatentAttention { rope: 1, ..LATENT }),
        ];
        for (name, latent) in cases {
            let error = spec(latent.clone()).validate().unwrap_err();
            let expected = format!("layers[0].latent.{name}");
            assert!(
                matches!(&error, FormatError::Spec { field, .. } if *field == expected),
                "{latent:?}: {error}"
            );
        }
        let most = LatentAttention { heads: 4096, rank: 4092, key_dim: 4096, value_dim: 4096, ..LATENT };
        spec(most).validate().unwrap();
    }
}
