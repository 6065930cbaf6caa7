//! The layers of BERT.

use serde::{Deserialize, Serialize};

use super::{Attention, Layer, Spec, bounded};
use crate::{FormatError, Role};

/// The layers are those of BERT (Devlin et al. 2018, <https://arxiv.org/abs/1810.04805>), told from those of decoders by:
///
/// - the sum of what goes into a half of a layer and what comes out is normalised, not what goes in, and there is no norm
///   after the last: `x = norm(x + attention(x))`, then `x = norm(x + down(activation(up(x))))`;
/// - norms subtract the mean and have a bias;
/// - the feed-forward has no gate;
/// - a token's embedding is the sum of rows of three tables, `embed` by id, `positions` by position and `types`, whose row
///   0 is that of every token of a single text, and is normalised.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Encoder {
    /// Rows of the table of positions, at least the context.
    pub positions: u32,
    /// Rows of the table of types.
    pub types: u32,
}

impl Encoder {
    /// Shows `add` the role, name, rows and columns of every tensor but `embed` until it fails.
    pub(crate) fn try_each_tensor<E>(
        &self,
        dim: u32,
        layers: &[Layer],
        add: &mut impl FnMut(Role, String, u32, u32) -> Result<(), E>,
    ) -> Result<(), E> {
        add(Role::Table, "positions".into(), self.positions, dim)?;
        add(Role::Table, "types".into(), self.types, dim)?;
        add(Role::Vector, "embed_norm".into(), 1, dim)?;
        add(Role::Vector, "embed_norm_bias".into(), 1, dim)?;
        for (i, layer) in layers.iter().enumerate() {
            let inner = layer.attention().map_or(0, |a| a.heads * a.head_dim);
            let ffn = layer.ffn.as_ref().map_or(0, |ffn| ffn.dim);
            for (role, part, rows, cols) in [
                (Role::Matrix, "attn.q", inner, dim),
                (Role::Matrix, "attn.k", inner, dim),
                (Role::Matrix, "attn.v", inner, dim),
                (Role::Matrix, "attn.out", dim, inner),
                (Role::Vector, "attn.norm", 1, dim),
                (Role::Matrix, "ffn.up", ffn, dim),
                (Role::Matrix, "ffn.down", dim, ffn),
                (Role::Vector, "ffn.norm", 1, dim),
            ] {
                add(role, format!("l{i}.{part}"), rows, cols)?;
                let outputs = if role == Role::Vector { cols } else { rows };
                add(Role::Vector, format!("l{i}.{part}_bias"), 1, outputs)?;
            }
        }
        Ok(())
    }

    pub(super) fn validate(&self, spec: &Spec) -> Result<(), FormatError> {
        bounded("encoder.positions", self.positions, 1 << 24)?;
        bounded("encoder.types", self.types, 1 << 16)?;
        let refuse =
            |field: &str, value: String, rule| Err(FormatError::Spec { field: field.into(), value, rule });
        if spec.context > self.positions {
            let value = format!("{}, of {} positions", spec.context, self.positions);
            return refuse("context", value, "an encoder has a row for every position");
        }
        if spec.embedding.is_none() {
            return refuse("embedding", "absent".into(), "an encoder embeds texts");
        }
        if spec.per_layer.is_some() || spec.ropes > 0 || spec.embed_norm || spec.embed_scale != 1.0 {
            let value = "with what decoders do to embeddings".into();
            return refuse("encoder", value, "an encoder has no rotation, scale or RMS norm of embeddings");
        }
        for (i, layer) in spec.layers.iter().enumerate() {
            let plain = |a: &Attention| Attention {
                qkv_bias: true,
                out_bias: true,
                bidirectional: true,
                scale: a.scale,
                ..Attention::new(a.heads, a.heads, a.head_dim)
            };
            let expected =
                layer.attention().map(|a| Layer { ffn: layer.ffn.clone(), ..Layer::new(plain(a)) });
            let fits = expected.as_ref() == Some(layer) && layer.ffn.as_ref().is_some_and(|ffn| ffn.bias);
            if !fits {
                let rule =
                    "an encoder's layers have plain attention to both sides, a feed-forward and all biases";
                return refuse(&format!("layers[{i}]"), "of another kind".into(), rule);
            }
        }
        Ok(())
    }
}
